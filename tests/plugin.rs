//! A crate outside the workspace whose plugins are part of its own `eas`.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Done, Folder, TINY, cargo, root};

/// Builds the crate's binary.
fn binary() -> PathBuf {
    cargo("build", ["--manifest-path", "tests/plugin/Cargo.toml"]);
    eas_tests::built().unwrap().join("demo-plugin")
}

/// A folder with a spec of the crate's space and transform, which the paper's controller learns to
/// choose from by what the transform declares.
fn folder() -> Folder {
    let (before, after) = TINY.split_once("[space.convnet]").expect("the spec has a space");
    let (_, after) = after.split_once("[controller.random]").expect("the spec has a controller");
    let chosen = "[space.pyramid]\nbase = 4\ngrowth = 2\n\n\
                  [transform.branch]\n[transform.widen]\n\n[controller.reinforce]";
    let after = after.replace("deepen x1", "branch x2");
    let folder = Folder::new();
    folder.write("spec.toml", format!("{before}{chosen}{after}"));
    folder
}

#[test]
fn a_plugin_is_listed_with_the_place_of_its_declaration() {
    let folder = Folder::new();
    let done: Done = folder.command_of(&binary(), ["list", "--json"]).output().unwrap().into();
    let listed = done.exits(0).json();
    for (kind, name, file) in
        [("transform", "branch", "src/branch.rs"), ("space", "pyramid", "src/pyramid.rs")]
    {
        let named = |plugin: &&Value| plugin["kind"] == kind && plugin["name"] == name;
        let plugin = listed.as_array().unwrap().iter().find(named);
        let source = std::fs::read_to_string(root().join("tests/plugin").join(file)).unwrap();
        let line = source.lines().position(|line| line.contains("Plugin::new(")).unwrap() + 1;
        let declared = plugin.unwrap_or_else(|| panic!("no {name}: {listed}"))["declared"].as_str();
        let expected = format!("{file}:{line}");
        assert!(declared.unwrap().ends_with(&expected), "{declared:?}, expected {expected}");
    }
    let built_in = listed.as_array().unwrap().iter().any(|plugin| plugin["name"] == "widen");
    assert!(built_in, "{listed}");
}

#[test]
fn a_search_uses_a_plugins_space_and_transform() {
    let (binary, folder) = (binary(), folder());
    let eas = |arguments: &[&str]| -> Done {
        let mut command = folder.command_of(&binary, arguments.iter().copied());
        Done::from(command.output().unwrap()).exits(0)
    };
    let checked = eas(&["check", "spec.toml", "--no-forecast"]).stdout;
    assert!(checked.contains("space        pyramid"), "{checked}");
    eas(&["search", "spec.toml", "--run", "run"]);
    let trials = eas(&["trials", "run", "--format", "json"]).json();
    let of = |purpose: &'static str| {
        let trials = trials.as_array().unwrap().iter();
        trials.filter(move |trial| trial["purpose"] == purpose).collect::<Vec<_>>()
    };
    let children = of("child");
    assert_eq!(children.len(), 4, "{trials}");
    for child in children {
        assert!(child["steps"].to_string().contains("branch n"), "{child}");
        assert_eq!(child["certificate"]["verdict"], "preserved", "{child}");
        assert_eq!(child["ending"]["kind"], "trained", "{child}");
    }
    let best = eas(&["show", "run/best"]).stdout;
    assert!(best.contains("add [conv "), "{best}");
    let edit = "branch n3 with kernel 1";
    let model = "run/trials/0000/model";
    let edited = eas(&["transform", model, "--apply", edit, "--out", "child"]).stdout;
    assert!(edited.starts_with(&format!("{edit}: function preserved")), "{edited}");
}

#[test]
fn a_plugins_own_tests_pass() {
    cargo("test", ["--manifest-path", "tests/plugin/Cargo.toml"]);
}

#[test]
fn a_binary_without_the_plugin_says_how_to_link_it() {
    let done = folder().eas(["check", "spec.toml", "--no-forecast"]).exits(2);
    for name in ["no space named `pyramid`", "no transform named `branch`"] {
        let line = done.stderr.lines().find(|line| line.contains(name));
        let hint = "a plugin's crate must be named in the binary: `use my_plugin as _;`";
        assert!(line.is_some_and(|line| line.ends_with(hint)), "{name}: {}", done.stderr);
    }
}
