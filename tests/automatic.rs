//! `eas search --data`: a search of data and a time, without a spec.

use crate::harness::Folder;

#[test]
fn a_search_without_a_spec_is_that_of_the_spec_which_it_writes() {
    let folder = Folder::new();
    let search = ["search", "--data", "synthetic", "--budget", "10s", "--run", "run"];
    let done = folder.eas(search).exits(0);
    // What was chosen is said, and stands at the top of the spec.
    let spec = folder.read("run/spec.toml");
    let lines: Vec<&str> = spec.lines().collect();
    assert_eq!(lines[0], "# Chosen for --data synthetic --budget 10s:");
    for label in ["data", "held out", "network", "speed", "search", "controller", "final"] {
        let line = lines.iter().find_map(|line| line.strip_prefix(&format!("# {label} ")));
        let line = line.unwrap_or_else(|| panic!("nothing is said of {label}:\n{spec}"));
        assert!(done.stderr.contains(&format!("{label} {line}\n")), "{done:?}");
    }
    let checked = folder.eas(["check", "run/spec.toml", "--no-forecast", "--json"]).exits(0).json();
    assert_eq!(checked["plan"], folder.read("run/plan.toml"));
    assert!(folder.read("run/plan.toml").contains("deadline = \""));
    assert!(checked["validation_images"].as_u64().unwrap() > 0);
    // The test images were opened once, by the report.
    assert_eq!(folder.read("run/events.jsonl").matches("test_opened").count(), 1);
}

#[test]
fn a_spec_for_data_can_be_looked_at_first() {
    let folder = Folder::new();
    let search = ["search", "--data", "fashion_mnist_subset", "--budget", "1h", "--init"];
    let done = folder.eas(search).exits(0);
    folder.write("my.toml", &done.stdout);
    assert!(!folder.path("runs").exists());
    let checked = folder.eas(["check", "my.toml", "--no-forecast", "--json"]).exits(0).json();
    assert_eq!(checked["name"], "fashion_mnist_subset");
    assert_eq!(checked["validation_images"], 1000);
}

#[test]
fn what_does_not_go_together_is_said() {
    let folder = Folder::new();
    folder.write("notes/readme.txt", "no images");
    for (arguments, expected) in [
        (vec!["search", "--data", "synthetic"], "--budget"),
        (vec!["search", "--budget", "1h"], "--data"),
        (
            vec!["search", "spec.toml", "--data", "synthetic", "--budget", "1h"],
            "cannot be used with",
        ),
        (vec!["search", "--data", "synthetic", "--budget", "soon"], "such as 30m"),
        (
            vec!["search", "--data", "nowhere", "--budget", "1h"],
            "nowhere: expected data or the name",
        ),
        (vec!["search", "--data", "notes", "--budget", "1h"], "found none of them"),
        (
            vec!["search", "--data", "cifar10", "--budget", "1h"],
            "fetch it with `eas data fetch cifar10`",
        ),
        (
            vec!["search", "--data", "synthetic", "--budget", "1h", "--init", "--set", "seed=2"],
            "cannot be used with",
        ),
    ] {
        let done = folder.eas(arguments.clone()).exits(2);
        assert!(done.stderr.contains(expected), "{arguments:?}: {done:?}");
    }
}
