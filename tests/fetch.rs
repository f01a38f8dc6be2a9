//! `eas data fetch`, as a person uses it: the published files of Fashion-MNIST from a server on this
//! machine.

#[path = "../crates/eas-cli/src/fetch/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Done, Folder, TINY};
use server::{Reply, Server, Then};

/// The four files, and the seconds in their headers. Debian has the same compressed bytes, under headers
/// without a name and time (`gzip -n`); with these they have the published sums again.
const FILES: [(&str, u32); 4] = [
    ("train-images-idx3-ubyte", 1_504_176_606),
    ("train-labels-idx1-ubyte", 1_504_176_606),
    ("t10k-images-idx3-ubyte", 1_504_176_627),
    ("t10k-labels-idx1-ubyte", 1_504_176_627),
];

/// The files of Debian's package by name, where `EAS_FASHION_MNIST` names its folder.
fn debian(test: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let Some(folder) = std::env::var_os("EAS_FASHION_MNIST") else {
        // Past the capture of tests that pass, which would hide it.
        let text = format!("{test}: skipped, because EAS_FASHION_MNIST names no folder\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return None;
    };
    let names = FILES.map(|(name, _)| format!("{name}.gz"));
    Some(
        names
            .map(|name| (name.clone(), std::fs::read(Path::new(&folder).join(name)).unwrap()))
            .into(),
    )
}

/// The files as they were published.
fn published(test: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut files = debian(test)?;
    for (name, time) in FILES {
        let file = files.get_mut(&format!("{name}.gz")).unwrap();
        let mut whole = vec![0x1f, 0x8b, 8, 8];
        whole.extend(time.to_le_bytes());
        whole.extend(&file[8..10]);
        whole.extend(name.as_bytes());
        whole.push(0);
        whole.extend(&file[10..]);
        *file = whole;
    }
    Some(files)
}

fn serve(
    files: BTreeMap<String, Vec<u8>>,
    change: impl Fn(&server::Request, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    Server::new(move |request| {
        match request.path.rsplit('/').next().and_then(|name| files.get(name)) {
            Some(file) => change(request, Reply::of(file, request)),
            None => Reply::status("404 Not Found"),
        }
    })
}

/// A command that asks the server itself.
fn command<'a>(
    folder: &Folder,
    arguments: impl IntoIterator<Item = &'a str>,
) -> std::process::Command {
    let mut command = folder.command(arguments);
    command.env("NO_PROXY", "127.0.0.1");
    command
}

fn eas<'a>(folder: &Folder, arguments: impl IntoIterator<Item = &'a str>) -> Done {
    command(folder, arguments).output().unwrap().into()
}

#[test]
fn what_was_fetched_is_where_a_spec_without_a_path_looks() {
    let Some(files) = published("fetching Fashion-MNIST") else { return };
    let folder = Folder::new();
    let spec = TINY.replace(
        "[data.synthetic]\nimages = 80\nheight = 8\nwidth = 8",
        "[data.fashion_mnist]\ntrain = 64",
    );
    assert_ne!(spec, TINY);
    folder.write("spec.toml", spec);
    let check = ["check", "spec.toml", "--no-forecast"];
    let told = eas(&folder, check).exits(2).stderr;
    let advice = "expected `path`, the folder of the data; fetch it with `eas data fetch \
        fashion_mnist`, or set the variable EAS_DATA";
    assert!(told.contains(advice), "{told}");
    let told = eas(&folder, ["data", "inspect", "fashion_mnist"]).exits(2).stderr;
    assert!(told.contains(advice), "{told}");

    let server = serve(files, |_, reply| reply);
    let mirror = format!("{}/mirror/", server.url);
    let fetch = ["data", "fetch", "fashion_mnist", "--mirror", &mirror];
    let told = eas(&folder, fetch).exits(0).stdout;
    let to = folder.path("cache/eas/data");
    let expected = format!(
        "fashion_mnist is in {}: 29.4MiB fetched. Next: eas data inspect fashion_mnist\n",
        to.display()
    );
    assert_eq!(told, expected);
    assert_eq!(server.requests().len(), 4);
    let told = eas(&folder, fetch).exits(0).stdout;
    assert!(told.contains(": it was there already. Next: "), "{told}");
    assert_eq!(server.requests().len(), 4);

    eas(&folder, check).exits(0);
    let inspected = eas(&folder, ["data", "inspect", "fashion_mnist", "--json"]).exits(0).json();
    assert_eq!(inspected["parts"][0]["images"], 60_000);
    assert_eq!(inspected["parts"][1]["images"], 10_000);

    // Where EAS_DATA names a folder, that is where things go and are looked for.
    let mut elsewhere = command(&folder, fetch);
    Done::from(elsewhere.env("EAS_DATA", "data").output().unwrap()).exits(0);
    assert!(folder.path("data/fashion_mnist/train-images-idx3-ubyte.gz").exists());
}

#[test]
fn a_fetch_that_was_killed_goes_on_where_it_was() {
    let Some(files) = published("a killed fetch") else { return };
    let folder = Folder::new();
    const CUT: usize = 5_000_000;
    let server = serve(files, |request, reply| match request.number {
        0 => reply.cut(CUT, Then::Stall),
        _ => reply,
    });
    let fetch = ["data", "fetch", "fashion_mnist", "--to", "data", "--mirror", &server.url];
    let mut first = command(&folder, fetch).spawn().unwrap();
    let part = folder.path("data/fashion_mnist/train-images-idx3-ubyte.gz.part");
    let started = Instant::now();
    while std::fs::metadata(&part).map_or(0, |part| part.len()) < CUT as u64 {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing came");
        std::thread::sleep(Duration::from_millis(20));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let done = eas(&folder, fetch).exits(0);
    assert_eq!(server.ranges(), [None, Some(CUT), None, None, None]);
    assert!(!part.exists());
    assert!(done.stdout.ends_with("Next: eas data inspect fashion_mnist=data\n"), "{done:?}");
    eas(&folder, ["data", "inspect", "fashion_mnist=data"]).exits(0);
}

#[test]
fn a_mirror_with_other_bytes_is_told_apart() {
    // The same images, compressed anew: no published files.
    let Some(files) = debian("a mirror with other bytes") else { return };
    let folder = Folder::new();
    let server = serve(files, |_, reply| reply);
    let fetch = ["data", "fetch", "fashion_mnist", "--to", "data", "--mirror", &server.url];
    let done = eas(&folder, fetch).exits(1);
    let expected = format!(
        "error: can't fetch train-images-idx3-ubyte.gz:\n  \
         {}/train-images-idx3-ubyte.gz: expected 26421880 bytes, found 26421856\n",
        server.url
    );
    assert!(done.stderr.starts_with(&expected), "{done:?}");
    assert_eq!(std::fs::read_dir(folder.path("data/fashion_mnist")).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_fetched_is_said() {
    let folder = Folder::new();
    let server = Server::new(|_| Reply::status("404 Not Found"));
    let endless = Server::new(|_| {
        let whole = Reply::whole(&[7; 1 << 16]);
        Reply { headers: Vec::new(), then: Then::Endless, ..whole }
    });
    let cases = [
        (vec!["data", "fetch", "imagenet"], 2, "possible values: cifar10, cifar100, svhn, mnist"),
        (vec!["data", "fetch", "mnist", "--mirror", "ftp://x"], 2, "such as https://example.org"),
        (vec!["data", "fetch", "mnist", "--extra"], 2, "--extra: mnist has no extra images"),
        (
            vec!["data", "fetch", "mnist", "--to", "data", "--mirror", &server.url],
            1,
            "train-images-idx3-ubyte.gz: found 404 Not Found",
        ),
        (
            vec!["data", "fetch", "mnist", "--to", "data", "--mirror", &endless.url],
            1,
            "train-images-idx3-ubyte.gz: expected 9912422 bytes, found more",
        ),
    ];
    for (arguments, code, expected) in cases {
        let done = eas(&folder, arguments).exits(code);
        assert!(done.stderr.contains(expected), "{done:?}");
    }
}
