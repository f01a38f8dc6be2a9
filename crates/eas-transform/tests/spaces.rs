//! What the built-in spaces start from, and what they take and refuse.

use std::path::Path;

use eas_ir::{Shape, cost};
use eas_transform::{ConvNet, Edit, Problem, Refusal, SearchSpace, spaces, transforms};
use toml::de::{DeTable, DeValue};

pub(crate) fn problem(directory: &Path) -> Problem {
    let input = Shape::Image { channels: 3, height: 32, width: 32 };
    Problem { input, classes: 10, directory: directory.to_owned() }
}

pub(crate) fn build(name: &str, options: &str) -> anyhow::Result<Box<dyn SearchSpace>> {
    let options = DeTable::parse(options)?;
    let (span, table) = (options.span(), options.into_inner());
    let value = toml::Spanned::new(span, DeValue::Table(table));
    Ok(spaces()?.get(name)?.build(value)?.implementation)
}

#[test]
fn the_presets_start_from_the_papers_networks() {
    // Trainable parameters and multiply-accumulates of Cai et al. 2018, table 1, and of the network
    // released with its code, counted by hand.
    for (space, parameters, macs, depth) in
        [(ConvNet::paper(), 133_530, 4_016_640, 6), (ConvNet::small(), 710, 159_088, 6)]
    {
        let network = space.start(&problem(Path::new(""))).unwrap();
        let (shapes, found) = space.admits(&network, 64).unwrap();
        assert_eq!((found.parameters, found.macs, network.depth()), (parameters, macs, depth));
        assert_eq!(found, cost(&network, &shapes, 64));
        // A token a layer and pooling; the classifier has none, so that it is never edited.
        let tokens: Vec<String> = space
            .tokens(&network)
            .iter()
            .map(|token| space.vocabulary()[token.id].clone())
            .collect();
        let [a, b, c, d, units] =
            if parameters == 710 { [4, 4, 4, 4, 8] } else { [16, 32, 64, 128, 256] };
        let expected = format!(
            "conv-{a}-3 pool conv-{b}-3 pool conv-{c}-3 pool conv-{d}-3 pool linear-{units}"
        );
        assert_eq!(tokens.join(" "), expected);
    }
}

#[test]
fn every_key_of_the_plain_space_can_be_set() {
    let space = build(
        "convnet",
        r#"preset = "small"
        start = ["conv 8 5", "average_pool", "conv 12", "pool 3 2", "flatten", "linear 16"]
        filters = [8, 12, 20]
        units = [16, 24]
        kernels = [1, 3, 5, 7]
        batch_norm = false
        dropout = { conv = 0.1, linear = 0.5 }
        limits = { depth = 9, parameters = "200k", macs = "5M", memory = "1GiB", blocks = 3, layers = 4 }"#,
    )
    .unwrap();
    let network = space.start(&problem(Path::new(""))).unwrap();
    let text = network.to_string();
    for expected in [
        "conv 8 5x5 bias",
        "average_pool 2x2 stride 2",
        "max_pool 3x3 stride 2",
        "flatten",
        "dropout 0.1",
        "dropout 0.5",
    ] {
        assert!(text.contains(expected), "expected `{expected}` in\n{text}");
    }
    assert!(!text.contains("batch_norm"), "{text}");
    assert_eq!(space.limits().depth, 9);
    assert_eq!(space.kernels(), [1, 3, 5, 7]);
}

#[test]
fn what_exceeds_a_limit_is_refused_by_name() {
    for (limit, expected) in [
        ("depth = 5", "depth: expected at most 5, found 6"),
        ("parameters = \"100k\"", "parameters: expected at most 100k, found 134k"),
        ("macs = 4000000", "macs: expected at most 4M, found 4.02M"),
        ("memory = \"10MiB\"", "memory: expected at most 10MiB, found "),
    ] {
        let space = build("convnet", &format!("limits = {{ {limit} }}")).unwrap();
        let refusal = space.admits(&space.start(&problem(Path::new(""))).unwrap(), 64).unwrap_err();
        assert!(matches!(refusal, Refusal::Limit { .. }));
        assert!(refusal.to_string().starts_with(expected), "{refusal}");
    }
}

#[test]
fn any_network_file_can_be_a_start_with_its_labelled_layers() {
    let folder = tempfile::tempdir().unwrap();
    let network = ConvNet::small().start(&problem(Path::new(""))).unwrap();
    std::fs::write(folder.path().join("mine.toml"), network.to_toml()).unwrap();
    let options = "start = \"mine.toml\"\nfilters = [4, 6, 9]\nunits = [8, 11]";
    let space = build("network", options).unwrap();
    let start = space.start(&problem(folder.path())).unwrap();
    assert_eq!(start, network);
    let all = transforms().unwrap();
    let mut offered = Vec::new();
    for name in ["widen", "deepen"] {
        let empty = DeValue::parse("{}").unwrap();
        let transform = all.get(name).unwrap().build(empty).unwrap().implementation;
        for candidate in transform.edits(&start, space.as_ref()) {
            let (site, target) = (candidate.site, candidate.target);
            offered.push(Edit { transform: name.to_owned(), site, target }.to_string());
        }
    }
    for expected in ["widen n1 to 6", "deepen n1 with kernel 5"] {
        assert!(offered.iter().any(|edit| edit == expected), "{offered:?}");
    }
    let labels = network.to_toml().replace("label = \"linear4.0\"", "label = \"linear3.0\"");
    assert_ne!(labels, network.to_toml());
    std::fs::write(folder.path().join("labels.toml"), labels).unwrap();
    let space = build("network", "start = \"labels.toml\"").unwrap();
    let error = format!("{:#}", space.start(&problem(folder.path())).unwrap_err());
    assert!(error.contains("found conv3.0 and linear3.0"), "{error}");
    let space = build("network", options).unwrap();
    let wrong = Problem { classes: 9, ..problem(folder.path()) };
    let error = format!("{:#}", space.start(&wrong).unwrap_err());
    assert!(error.contains("10") && error.contains('9'), "{error}");
    let missing = build("network", "start = \"other.toml\"").unwrap();
    let error = format!("{:#}", missing.start(&problem(folder.path())).unwrap_err());
    assert!(error.contains("other.toml"), "{error}");
    std::fs::write(folder.path().join("other.toml"), "format = 1\n[[node]]\n").unwrap();
    assert!(missing.start(&problem(folder.path())).is_err());
}

#[test]
fn the_start_of_every_space_can_be_the_file_of_another_search() {
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [("convnet", ""), ("densenet", "preset = \"small\""), ("residual", "")] {
        let network = build(name, options).unwrap().start(&problem(Path::new(""))).unwrap();
        std::fs::write(folder.path().join("start.toml"), network.to_toml()).unwrap();
        let space = build("network", "start = \"start.toml\"").unwrap();
        assert_eq!(space.start(&problem(folder.path())).unwrap(), network, "{name}");
    }
}

#[test]
fn an_edit_is_read_as_it_is_written() {
    for text in ["widen n3 to 64", "deepen n5 with kernel 3", "replicate n9", "mine n0 option 2"] {
        assert_eq!(text.parse::<Edit>().unwrap().to_string(), text);
    }
    for text in
        ["", "widen", "widen 3 to 64", "widen n3 to", "widen n3 64", "widen n3 to -1", "a n1 b"]
    {
        let error = text.parse::<Edit>().unwrap_err().to_string();
        assert!(error.ends_with(&format!("found `{text}`")), "{error}");
    }
}
