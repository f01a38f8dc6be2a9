//! What `eas` says of malformed model folders: the file, the place in it, what was expected.

use crate::harness::Folder;

/// How a model's folder is spoilt.
enum Spoilt {
    /// A part of `network.toml` is replaced.
    Network(&'static str, &'static str),
    /// `network.toml` is another altogether.
    NetworkFile(&'static [u8]),
    /// `weights.safetensors` is another altogether.
    WeightsFile(&'static [u8]),
    /// `weights.safetensors` ends early.
    WeightsCut,
    /// Bytes of the header of `weights.safetensors` are replaced by as many others.
    WeightsHeader(&'static str, &'static str),
    /// A file is missing.
    Missing(&'static str),
}

use Spoilt::{Missing, Network, NetworkFile, WeightsCut, WeightsFile, WeightsHeader};

const CASES: &[(&str, Spoilt)] = &[
    ("no network", Missing("network.toml")),
    ("no weights", Missing("weights.safetensors")),
    ("an empty network", NetworkFile(b"")),
    ("a network without nodes", NetworkFile(b"format = 1\n")),
    ("a network of other bytes than text", NetworkFile(b"format = 1\n\xff\xfe")),
    ("a newer format", Network("format = 1", "format = 2")),
    ("broken syntax", Network("[[node]]", "[[node]")),
    ("an unknown key", Network("[[node]]", "[[node]]\ncolour = \"red\"")),
    ("an unknown operation", Network("relu", "gelu")),
    ("an operation without a size", Network("filters = 4, ", "")),
    ("a layer of no filters", Network("filters = 4", "filters = 0")),
    ("a layer of too many filters", Network("filters = 4", "filters = 99999999")),
    ("an id that is none", Network("id = \"n1\"", "id = \"one\"")),
    ("an id twice", Network("id = \"n1\"", "id = \"n0\"")),
    ("an input that is no node", Network("inputs = [\"n1\"]", "inputs = [\"n99\"]")),
    ("an input that comes later", Network("inputs = [\"n1\"]", "inputs = [\"n7\"]")),
    ("a node that nothing reads", Network("inputs = [\"n2\"]", "inputs = [\"n1\"]")),
    ("a label that is none", Network("label = \"conv0.0\"", "label = \"first layer\"")),
    ("other widths than the weights'", Network("filters = 4", "filters = 5")),
    ("a class too many", Network("classes = [", "classes = [\"more\", ")),
    ("a deviation of 0", Network("deviation = [", "deviation = [0.0] # [")),
    ("a mean for each of two channels", Network("mean = [", "mean = [0.5, ")),
    ("empty weights", WeightsFile(b"")),
    ("weights of something else", WeightsFile(b"<html><body>not found</body></html>")),
    ("weights with a header as long as memory", WeightsFile(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")),
    ("weights that end early", WeightsCut),
    ("a tensor of another name", WeightsHeader("\"n1.weight\"", "\"n1.height\"")),
    ("a tensor of a node that isn't there", WeightsHeader("\"n1.weight\"", "\"n6.weight\"")),
    ("a tensor of another type", WeightsHeader("\"F32\"", "\"I32\"")),
    ("a tensor of another shape", WeightsHeader("[4,1,3,3]", "[1,4,3,3]")),
];

#[test]
fn every_malformed_model_is_refused_with_its_place() {
    let run = Folder::with_tiny_run();
    let network = run.read("run/trials/0000/model/network.toml");
    let weights = std::fs::read(run.path("run/trials/0000/model/weights.safetensors")).unwrap();
    let mut golden = String::new();
    let mut accepted = Vec::new();
    for (title, spoilt) in CASES {
        let folder = Folder::new();
        folder.write("model/network.toml", &network);
        folder.write("model/weights.safetensors", &weights);
        match spoilt {
            Network(part, other) => {
                let text = network.replacen(part, other, 1);
                assert_ne!(text, network, "{title}: the network has no such part");
                folder.write("model/network.toml", text);
            }
            NetworkFile(content) => folder.write("model/network.toml", content),
            WeightsFile(content) => folder.write("model/weights.safetensors", content),
            WeightsCut => folder.write("model/weights.safetensors", &weights[..weights.len() - 1]),
            WeightsHeader(part, other) => {
                let place = weights.windows(part.len()).position(|text| text == part.as_bytes());
                let place = place.unwrap_or_else(|| panic!("{title}: no such part"));
                let mut weights = weights.clone();
                weights[place..place + part.len()].copy_from_slice(other.as_bytes());
                folder.write("model/weights.safetensors", weights);
            }
            Missing(name) => std::fs::remove_file(folder.path("model").join(name)).unwrap(),
        }
        let done = folder.eas(["test", "model", "--data", "synthetic"]);
        if (done.code, done.stdout.as_str()) != (Some(2), "") {
            accepted.push(title);
        }
        golden += &format!("# {title}\n{}\n", done.stderr);
    }
    assert!(accepted.is_empty(), "{accepted:?}\n{golden}");
    insta::assert_snapshot!(golden);
}
