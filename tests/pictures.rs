//! `eas show` draws networks, `eas diff` says in which layers two differ.

use crate::harness::{Folder, root};

/// Two convolutions of one value that are read twice: no branches apart from one another.
const WEB: &str = r#"format = 1
next = 8

[[node]]
id = "n0"
op = { input = { shape = { image = { channels = 2, height = 4, width = 4 } } } }

[[node]]
id = "n1"
op = { conv = { filters = 2, kernel = 3, padding = 1 } }
inputs = ["n0"]

[[node]]
id = "n2"
op = { conv = { filters = 2, kernel = 1, padding = 0 } }
inputs = ["n0"]

[[node]]
id = "n3"
op = "add"
inputs = ["n1", "n2"]

[[node]]
id = "n4"
op = "add"
inputs = ["n2", "n3"]

[[node]]
id = "n5"
op = "concat"
inputs = ["n4", "n0", "n4"]

[[node]]
id = "n6"
op = "global_pool"
inputs = ["n5"]

[[node]]
id = "n7"
op = { linear = { units = 2 } }
inputs = ["n6"]
"#;

/// A folder with networks of all kinds, and their names: plain, dense, residual, neither.
fn networks() -> (Folder, [&'static str; 5]) {
    let folder = Folder::new();
    folder.write("web.toml", WEB);
    let residual = std::fs::read(root().join("tests/networks/residual.toml")).unwrap();
    folder.write("residual.toml", residual);
    (folder, ["paper", "found", "densenet", "residual.toml", "web.toml"])
}

#[test]
fn a_picture_tells_every_block_in_a_line() {
    let (folder, names) = networks();
    let mut golden = String::new();
    for name in names {
        golden += &format!("# {name}\n{}\n", folder.eas(["show", name]).exits(0).stdout);
    }
    golden += &folder.eas(["show", "residual.toml", "--nodes"]).exits(0).stdout;
    check_width(&golden);
    insta::assert_snapshot!(golden);
}

/// What is shown fits a terminal of 100 columns.
fn check_width(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn a_picture_is_a_graph_for_graphviz() {
    let (folder, _) = networks();
    let draw = |name| folder.eas(["show", name, "--format", "dot"]).exits(0).stdout;
    insta::assert_snapshot!(draw("residual.toml") + &draw("web.toml"));
}

/// The value of an attribute of an SVG element.
fn attribute(element: &str, name: &str) -> Option<f64> {
    let (_, rest) = element.split_once(&format!(" {name}=\""))?;
    rest.split_once('"')?.0.parse().ok()
}

#[test]
fn all_that_is_drawn_lies_within_the_drawing() {
    let (folder, names) = networks();
    for name in names {
        let out = format!("{name}.svg");
        folder.eas(["show", name, "--format", "svg", "--out", &out]).exits(0);
        let drawn = folder.read(&out);
        let mut elements = drawn.lines();
        let drawing = elements.next().unwrap();
        let size = ["width", "height"].map(|side| attribute(drawing, side).expect(drawing));
        let mut rectangles = 0;
        for element in elements.filter(|element| element.starts_with("<rect")) {
            for ((place, side), whole) in [("x", "width"), ("y", "height")].into_iter().zip(size) {
                let start = attribute(element, place).unwrap_or(0.0);
                let end = start + attribute(element, side).expect(element);
                assert!(start >= 0.0 && end <= whole, "{name}: {element} in {size:?}");
            }
            rectangles += 1;
        }
        assert!(rectangles > 5, "{name}: {drawn}");
        let again = folder.eas(["show", name, "--format", "svg", "--out", &out]).exits(2);
        assert!(again.stderr.contains("this already exists"), "{}", again.stderr);
    }
}

#[test]
fn a_difference_is_told_layer_by_layer() {
    let (folder, _) = networks();
    let paper = std::fs::read_to_string(root().join("benches/networks/paper.toml")).unwrap();
    folder.write("paper.toml", &paper);
    folder.write("wider.toml", paper.replace("filters = 32", "filters = 48"));
    // The second sum of the first reads n2, of the second n1.
    let crossed = WEB.replace("inputs = [\"n2\", \"n3\"]", "inputs = [\"n1\", \"n3\"]");
    folder.write("crossed.toml", crossed);
    let mut golden = String::new();
    for [first, second] in [
        ["paper.toml", "wider.toml"],
        ["paper", "paper.toml"],
        ["web.toml", "crossed.toml"],
        ["paper", "residual.toml"],
    ] {
        golden += &folder.eas(["diff", first, second]).exits(0).stdout;
        golden += "\n";
    }
    check_width(&golden);
    insta::assert_snapshot!(golden);
}

#[test]
fn an_episode_is_told_by_what_it_made_of_its_parent() {
    let folder = Folder::with_tiny_run();
    let edits = ["--apply", "widen n1 to 7", "--apply", "deepen n5 with kernel 3"];
    let model = "run/trials/0000/model";
    folder.eas(["transform", model, "--out", "child"].into_iter().chain(edits)).exits(0);
    insta::assert_snapshot!(folder.eas(["diff", model, "child"]).exits(0).stdout);

    let json = folder.eas(["diff", "run", "--trial", "1", "--json"]).exits(0).json();
    let trial = folder.eas(["show", "run", "--trial", "1", "--json"]).exits(0).json();
    assert_eq!(trial, folder.eas(["show", "run", "1", "--json"]).exits(0).json());
    assert_eq!(json["second"]["fingerprint"], trial["fingerprint"]);
    assert_eq!(json["steps"], trial["result"]["steps"]);
    assert_eq!(json["same"], false);
    let both = ["diff", "run", "--trial", "0", "--trial", "1", "--json"];
    assert_eq!(folder.eas(both).exits(0).json()["changes"], json["changes"]);
    let best = folder.eas(["diff", "run", "run/best", "--json"]).exits(0).json();
    assert_eq!((&best["same"], &best["changes"]), (&true.into(), &serde_json::json!([])));
}

#[test]
fn what_cannot_be_shown_or_compared_is_refused() {
    let folder = Folder::with_tiny_run();
    folder.write("broken.toml", "format = 1\n");
    let network = "run/best/network.toml";
    for (command, why) in [
        (
            &["show", "missing.toml"][..],
            "expected a network file, a model's folder, a run or one of released, paper",
        ),
        (&["show", "broken.toml"], "expected between 1 and 10000 nodes, found 0"),
        (&["show", network, "--trial", "1"], "only a run has trials"),
        (&["show", network, "--nodes", "--format", "dot"], "cannot be used with"),
        (&["show", network, "--out", "no/such/folder"], "can't write no/such/folder"),
        (&["diff", network], "expected a second network to compare it with, or a run"),
        (&["diff", network, "broken.toml"], "expected between 1 and 10000 nodes, found 0"),
        (
            &["diff", network, "missing.toml"],
            "expected a network file, a model's folder, a run or one of released, paper",
        ),
        (&["diff", network, network, "--trial", "1"], "cannot be used with"),
        (&["diff", "run", "--trial", "0"], "trial 0000 has no parent"),
        (&["diff", "run", "--trial", "99"], "no finished trial 0099; there are 0 to 7"),
        (&["diff", "run", "--trial", "0", "--trial", "1", "--trial", "2"], "one --trial or two"),
    ] {
        let done = folder.eas(command.iter().copied()).exits(2);
        assert!(done.stderr.contains(why) && done.stdout.is_empty(), "{command:?}: {done:?}");
    }
}
