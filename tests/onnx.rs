//! Searches that start from ONNX files, and what commands say of such files.

use std::path::Path;

use eas_ir::onnx::{OnnxOptions, from_bytes, write};
use eas_ir::{Network, SavedModel};

use crate::harness::{Folder, TINY, root};

/// A folder with the files of one of PyTorch's networks, and a spec that starts from one of them.
fn folder_with(name: &str, file: &str) -> Folder {
    let folder = Folder::new();
    for path in [file, "test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb"] {
        let content = std::fs::read(root().join("tests/onnx").join(name).join(path)).unwrap();
        folder.write(path, content);
    }
    let (head, rest) = TINY.split_once("[space.convnet]").unwrap();
    let (_, rest) = rest.split_once("[transform.widen]").unwrap();
    let data = "channels = 3\nheight = 16\nwidth = 16\n";
    let head = head.replace("height = 8\nwidth = 8\n", data);
    let space = format!("[space.network]\nstart = \"{file}\"\nfilters = [5, 6, 7, 8, 10]\n\n");
    folder.write("spec.toml", format!("{head}{space}[transform.widen]{rest}"));
    folder
}

fn load(path: &Path) -> SavedModel {
    SavedModel::load(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_search_grows_a_network_that_pytorch_exported_with_its_weights() {
    let folder = folder_with("vgg", "unfolded.onnx");
    let foreign = load(&folder.path("unfolded.onnx"));
    let checked = folder.eas(["check", "spec.toml", "--no-forecast"]).exits(0).stdout;
    assert!(checked.contains("; its weights come with it"), "{checked}");
    let gentle = ["--set", "start.learning_rate=1e-6", "--set", "child.learning_rate=1e-6"];
    let searched = ["search", "spec.toml", "--run", "run", "--set", "final.learning_rate=1e-6"];
    folder.eas([&searched[..], &gentle].concat()).exits(0);
    folder.eas(["verify", "run"]).exits(0);
    let record = folder.read("run/trials/0000/trial.json");
    assert!(record.contains("\"kind\": \"given\""), "{record}");
    // A rate of next to nothing leaves the weights next to what they were.
    let start = load(&folder.path("run/trials/0000/model"));
    assert_eq!(start.model.network(), foreign.model.network());
    for (id, values) in foreign.model.weights().iter().filter(|(id, _)| id.role.trainable()) {
        let now = &start.model.weights()[id];
        let moved = values.iter().zip(now).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved < 1e-2, "{id} moved by {moved}");
    }
    let best = load(&folder.path("run/best"));
    assert_eq!(best.metadata.normalisation, foreign.metadata.normalisation);
    assert!(best.model.network().nodes().len() >= foreign.model.network().nodes().len());
    let exported = write(&best, &OnnxOptions::default()).unwrap();
    assert_eq!(from_bytes(&exported).unwrap().model, best.model);
    // Another file in its place is noticed.
    let other = root().join("tests/onnx/vgg/script.onnx");
    std::fs::copy(other, folder.path("unfolded.onnx")).unwrap();
    let verified = folder.eas(["verify", "run"]);
    assert_ne!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn a_search_from_scratch_takes_the_architecture_alone() {
    let folder = folder_with("resnet", "dynamo.onnx");
    let searched =
        ["search", "spec.toml", "--run", "run", "--set", "space.network.weights=scratch"];
    folder.eas(searched).exits(0);
    let record = folder.read("run/trials/0000/trial.json");
    assert!(record.contains("\"kind\": \"fresh\""), "{record}");
    let expected = Network::load(&folder.path("dynamo.onnx")).unwrap();
    assert_eq!(load(&folder.path("run/trials/0000/model")).model.network(), &expected);
}

#[test]
fn a_file_that_gives_other_logits_than_it_came_with_is_refused() {
    let folder = folder_with("resnet", "script.onnx");
    let output = folder.path("test_data_set_0/output_0.pb");
    let mut bytes = std::fs::read(&output).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x40;
    std::fs::write(output, bytes).unwrap();
    let found = folder.eas(["search", "spec.toml", "--run", "run"]).exits(2).stderr;
    assert!(found.contains("the model gives other logits than these"), "{found}");
    assert!(!folder.path("run").exists());
}

#[test]
fn an_onnx_file_is_a_model_wherever_one_is_taken() {
    let folder = folder_with("densenet", "unfolded.onnx");
    let shown = folder.eas(["show", "unfolded.onnx"]).exits(0).stdout;
    for block in ["stem2", "dense0", "transition3", "dense1", "classifier4"] {
        assert!(shown.contains(block), "{shown}");
    }
    let edited = folder.eas([
        "transform",
        "unfolded.onnx",
        "--apply",
        "widen_transition n1 to 8",
        "--out",
        "wider",
    ]);
    let edited = edited.exits(0);
    assert!(edited.stderr.contains("agrees with the logits given for 4 images"), "{edited:?}");
    assert!(edited.stdout.contains("function preserved"), "{edited:?}");
    folder.eas(["diff", "unfolded.onnx", "wider"]).exits(0);
    let mut file = std::fs::read(folder.path("unfolded.onnx")).unwrap();
    // Two operators of the same length, so that nothing else of the file changes.
    while let Some(place) = file.windows(4).position(|bytes| bytes == b"Relu") {
        file[place..place + 4].copy_from_slice(b"Gelu");
    }
    folder.write("gelu.onnx", &file);
    let refused = folder.eas(["show", "gelu.onnx"]).exits(2).stderr;
    assert!(refused.contains("Gelu): this operator isn't supported"), "{refused}");
    assert!(refused.matches("isn't supported").count() > 5, "{refused}");
}
