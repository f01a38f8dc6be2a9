//! What the README shows is what is there.

use crate::harness::{Folder, cifar10, root};

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

#[test]
fn the_plugin_in_the_readme_is_the_tested_crate() {
    for name in ["src/main.rs", "src/branch.rs"] {
        let source = std::fs::read_to_string(root().join("tests/plugin").join(name)).unwrap();
        let block = format!("```rust\n{source}```");
        assert!(readme().contains(&block), "the README shows another {name}");
    }
}

#[test]
fn the_error_in_the_readme_is_what_a_misspelt_spec_gets() {
    let folder = Folder::new();
    folder.eas(["init", "my.toml"]).exits(0);
    let spec = folder.read("my.toml").replace("\nnetworks = 4", "\nnetwroks = 4");
    folder.write("my.toml", spec);
    let told = folder.eas(["check", "my.toml"]).exits(2).stderr;
    let shown: String = told.lines().map(|line| format!("    {line}\n")).collect();
    assert!(readme().contains(&shown), "the README shows another error than\n{shown}");
}

#[test]
fn the_spec_in_the_readme_is_a_spec() {
    let Some(images) = cifar10("the spec in the README") else { return };
    let readme = readme();
    let (_, behind) = readme.split_once("```toml\n").expect("the README shows a spec");
    let (spec, _) = behind.split_once("```").expect("a block ends");
    let folder = Folder::new();
    folder.write("my.toml", spec);
    let path = format!("data.cifar10.path={images}");
    folder.eas(["check", "my.toml", "--no-forecast", "--set", &path]).exits(0);
}

#[test]
fn every_command_is_in_the_readme() {
    let help = Folder::new().eas(["--help"]).exits(0).stdout;
    let (_, commands) = help.split_once("Commands:\n").expect("the help lists commands");
    let (commands, _) = commands.split_once("\n\n").expect("the list ends");
    for line in commands.lines() {
        let command = line.split_whitespace().next().expect("a line names a command");
        let listed = command == "help" || readme().contains(&format!("\n| `{command}"));
        assert!(listed, "the README's table has no `{command}`");
    }
}
