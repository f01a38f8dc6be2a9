//! Which crate may know what, who may print, exit and be unsafe, and what tests may ask of dependencies.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::harness::{Done, root};

/// Each crate, and those of ours that it may depend on: never more, in no kind of dependency.
const LAYERS: [(&str, &[&str]); 5] = [
    ("eas-ir", &[]),
    ("eas-transform", &["eas-ir"]),
    ("eas-controller", &["eas-ir", "eas-transform"]),
    ("eas-train", &["eas-ir"]),
    ("eas-cli", &["eas-controller", "eas-ir", "eas-train", "eas-transform"]),
];

/// The one crate that may compute by kernels of its own, or on a GPU.
const ENGINES: &str = "eas-train";

/// The one other that may compute by candle: a controller's policy is a small network, for the CPU.
const POLICIES: &str = "eas-controller";

/// Modules of kernels, where `unsafe` is allowed.
const UNSAFE: [&str; 2] = ["crates/eas-train/src/cpu/kernels/", "crates/eas-train/src/cuda/"];

/// The one module that prints.
const PRINTS: &str = "crates/eas-cli/src/print.rs";

/// What a package depends on, in dependencies of every kind and under every condition.
fn dependencies(package: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(package.join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let conditional = targets.into_iter().flatten().filter_map(|(_, table)| table.as_table());
    let tables = std::iter::once(&manifest).chain(conditional).flatten();
    let of_any_kind = tables.filter(|(name, _)| name.ends_with("dependencies"));
    of_any_kind.flat_map(|(_, table)| table.as_table().unwrap().keys().cloned()).collect()
}

#[test]
fn crates_depend_on_the_layers_below_them_alone() {
    let crates = root().join("crates");
    assert_eq!(crates.read_dir().unwrap().count(), LAYERS.len(), "a crate has no layer");
    for (name, allowed) in LAYERS {
        let dependencies = dependencies(&crates.join(name));
        let ours: Vec<&str> = dependencies
            .iter()
            .map(String::as_str)
            .filter(|dependency| dependency.starts_with("eas-"))
            .collect();
        assert_eq!(ours, allowed, "{name}");
        let engines = ["candle", "cudarc", "gemm"];
        let foreign = match name {
            ENGINES => continue,
            POLICIES => &engines[1..],
            _ => &engines,
        };
        let engine = |found: &&String| foreign.iter().any(|engine| found.starts_with(engine));
        assert_eq!(dependencies.iter().find(engine), None, "{name} computes tensors");
    }
}

/// Every Rust file of the crates, by its path in the workspace, without comments.
fn sources() -> Vec<(String, String)> {
    let mut folders = vec![root().join("crates")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
                let code: Vec<String> = text.lines().map(code).collect();
                let path = path.strip_prefix(root()).unwrap().to_str().expect("paths are UTF-8");
                sources.push((path.to_owned(), code.join("\n")));
            }
        }
    }
    assert!(sources.len() > 50, "{sources:?}");
    sources
}

/// Asserts that code which isn't a test's mentions none of these words outside the files allowed.
fn check_absent(words: &[&str], allowed: &[&str]) {
    let sources = sources();
    // Unit tests stand at the end of a file, or in one of their own beside that which names it.
    let is_test = |path: &str| {
        let (folder, file) = path.rsplit_once('/').expect("sources lie in folders");
        let module = format!("#[cfg(test)]\nmod {};", file.trim_end_matches(".rs"));
        let beside = |other: &str| other.rsplit_once('/').is_some_and(|(place, _)| place == folder);
        sources.iter().any(|(other, code)| beside(other) && code.contains(&module))
    };
    for (path, code) in &sources {
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let is_allowed = allowed.iter().any(|prefix| path.starts_with(prefix)) || is_test(path);
        if !is_allowed && path.contains("/src/") {
            for word in words {
                assert!(!code.contains(word), "{path} has `{word}`");
            }
        }
    }
}

#[test]
fn only_training_opens_a_gpu() {
    let words = ["cudarc", "new_cuda", "cuda_if_available", "feature = \"cuda\""];
    check_absent(&words, &[&format!("crates/{ENGINES}/")]);
}

#[test]
fn one_module_prints() {
    let words = ["print!(", "println!(", "dbg!(", "io::stdout", "io::stderr", ".print()"];
    check_absent(&words, &[PRINTS]);
}

#[test]
fn nothing_ends_the_process_but_its_main() {
    check_absent(&["process::exit"], &[]);
}

#[test]
fn only_kernels_are_unsafe() {
    let unsafe_words =
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "expect(unsafe_code"];
    check_absent(&unsafe_words, &UNSAFE);
}

/// What tests ask of dependencies, by dependencies of their own, the program asks of them too: else they and
/// all that stands on them were built twice, once for the tests and once for the `eas` that these run.
#[test]
fn the_program_has_the_dependencies_of_the_tests() {
    let packages = |of: &[&str]| -> BTreeSet<String> {
        let mut tree = Command::new(env!("CARGO"));
        tree.current_dir(root()).args(["tree", "--locked", "--prefix", "none"]);
        tree.args(["--format", "{p} with [{f}]"]).args(of);
        let listed = Done::from(tree.output().unwrap()).exits(0).stdout;
        listed.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
    };
    let program = packages(&["--package", "eas-cli", "--edges", "normal,build"]);
    let tests = packages(&["--workspace", "--edges", "normal,build,dev"]);
    let alone: Vec<&String> = program.difference(&tests).collect();
    assert!(alone.is_empty(), "tests have these with other features: {alone:?}");
}
