//! A search on real images.

use crate::harness::{Done, Folder, cifar10, root};

#[test]
fn a_search_from_the_papers_start_network_on_cifar10_ends() {
    let Some(data) = cifar10("a_search_from_the_papers_start_network_on_cifar10_ends") else {
        return;
    };
    let spec = root().join("specs/c10-quick.toml");
    let folder = Folder::new();
    let mut arguments = vec!["search", spec.to_str().expect("paths are UTF-8"), "--run", "run"];
    for key in [
        "data.cifar10.train=200",
        "data.cifar10.validation=100",
        "start.epochs=1",
        "child.epochs=1",
        "final.epochs=1",
        "final.compare=false",
        "stage.0.batches=1",
        "stage.0.networks=2",
    ] {
        arguments.extend(["--set", key]);
    }
    let mut command = folder.command(arguments);
    Done::from(command.env("EAS_DATA", data).output().unwrap()).exits(0);
    let shown = folder.eas(["show", "run", "--json"]).exits(0).json();
    assert_eq!(shown["children"], 2, "{shown}");
    assert_eq!(shown["report"]["test_images"], 10_000, "{shown}");
    let best = folder.eas(["show", "run/best"]).exits(0).stdout;
    assert!(best.contains("classes airplane, "), "{best}");
}
