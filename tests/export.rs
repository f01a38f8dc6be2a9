//! The model leaves: `eas export` and `eas predict`, as a person uses them.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use eas_ir::{
    Fit, Forward, Metadata, Mode, Model, Network, Normalisation, Probe, Reference, Rng, SavedModel,
    Shape,
};
use eas_train::{Labelled, contact_sheet};
use eas_transform::{Problem, SearchSpace, spaces};
use ndarray::{Array2, Array4};
use toml::de::{DeTable, DeValue};

use crate::harness::{Done, Folder};

/// Every number as `#`, so that a golden text tells what is said and not what a processor found.
fn masked(text: &str) -> String {
    let mut shown = String::new();
    let mut in_number = false;
    for (place, c) in text.char_indices() {
        let inner = in_number && (c == '.' || c == 'e' || c == '-');
        let goes_on = inner && text[place + 1..].starts_with(|next: char| next.is_ascii_digit());
        let is_number = c.is_ascii_digit() || goes_on;
        if !is_number {
            shown.push(c);
        } else if !in_number {
            shown.push('#');
        }
        in_number = is_number;
    }
    shown
}

/// A folder's files, by name.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The start network of a space with these options, as a model with random weights.
fn model_of(space: &str, options: &str, side: usize) -> SavedModel {
    let table = DeTable::parse(options).unwrap();
    let (span, table) = (table.span(), table.into_inner());
    let value = toml::Spanned::new(span, DeValue::Table(table));
    let space: Box<dyn SearchSpace> =
        spaces().unwrap().get(space).unwrap().build(value).unwrap().implementation;
    let input = Shape::Image { channels: 3, height: side, width: side };
    let network = space.start(&Problem { input, classes: 3, directory: "".into() }).unwrap();
    model(network)
}

fn model(network: Network) -> SavedModel {
    let model = Model::initialise(network, &Rng::new(1)).unwrap();
    let normalisation = Normalisation { mean: vec![0.5; 3], deviation: vec![0.25; 3] };
    let classes = ["cat", "dog", "ship"].map(str::to_owned).to_vec();
    let normalisation = Some(normalisation);
    SavedModel { model, metadata: Metadata { classes, normalisation, ..Metadata::default() } }
}

#[test]
fn the_best_of_a_run_is_exported_to_every_form_with_its_story() {
    let folder = Folder::with_tiny_run();
    let mut arguments = vec!["export", "run", "--out", "out"];
    let has_torch = std::env::var_os("EAS_PYTHON").is_some();
    if !has_torch {
        // What is found on a machine is not what a golden text is about.
        arguments.extend(["--format", "safetensors", "--format", "onnx"]);
    }
    // A Python that doesn't look for modules where it is started finds the exported one, too.
    let mut export = folder.command(arguments.iter().copied());
    let done = Done::from(export.env("PYTHONSAFEPATH", "1").output().unwrap()).exits(0);
    let mut expected = vec!["README.md", "export.json", "model.onnx"];
    expected.extend(has_torch.then_some(["model.py", "model.safetensors"]).into_iter().flatten());
    expected.extend(["network.toml", "weights.safetensors"]);
    assert_eq!(files(&folder.path("out")), expected);
    let manifest: serde_json::Value =
        serde_json::from_str(&folder.read("out/export.json")).unwrap();
    for form in manifest["forms"].as_array().unwrap() {
        assert!(form["gap"].as_f64().is_some_and(|gap| gap <= 1e-4), "{form}");
        assert_eq!(form["images"], 4 + 16, "the probe and the validation images: {form}");
    }
    if has_torch {
        let card = masked(&folder.read("out/README.md"));
        insta::assert_snapshot!(format!("{}\n{card}", masked(&done.stdout)));
    }
    // What was exported is a model, and the same.
    let load = |name: &str| SavedModel::load(&folder.path(name)).unwrap();
    assert_eq!(load("out"), load("run/best"));
    let tested = ["test", "out", "--data", "synthetic", "--set", "data.height=8"];
    folder.eas(tested.into_iter().chain(["--set", "data.width=8"])).exits(0);
    // Once more, over the earlier one, another trial in one form.
    let again = ["export", "run", "--trial", "scratch", "--format", "safetensors", "--out", "out"];
    let json = folder.eas(again.into_iter().chain(["--json"])).exits(0).json();
    assert_eq!(json["forms"].as_array().map(Vec::len), Some(1), "{json}");
    assert!(json["model"].as_str().unwrap().contains("(from scratch)"), "{json}");
    let expected = ["README.md", "export.json", "network.toml", "weights.safetensors"];
    assert_eq!(files(&folder.path("out")), expected);
}

#[test]
fn a_bare_model_has_a_card_that_says_so() {
    let folder = Folder::new();
    let options = "start = ['conv 4', 'pool', 'conv 6', 'global_pool']\nfilters = [4, 6]";
    model_of("convnet", options, 8).save(&folder.path("model")).unwrap();
    folder.eas(["export", "model", "--out", "out", "--no-verify"]).exits(0);
    insta::assert_snapshot!(masked(&folder.read("out/README.md")));
}

#[test]
fn code_for_pytorch_reads_like_that_of_a_person() {
    let folder = Folder::new();
    let networks = [
        (
            "plain",
            "convnet",
            "start = ['conv 4', 'conv 8', 'pool', 'conv 6 5', 'global_pool', 'linear 8']\nfilters = [4, 6, 8]\nunits = [8]",
        ),
        ("residual", "residual", "preset = 'resnet20'"),
        ("dense", "densenet", "preset = 'small'"),
    ];
    let mut golden = String::new();
    for (name, space, options) in networks {
        model_of(space, options, 16).save(&folder.path(name)).unwrap();
        let out = format!("{name}-out");
        let export = ["export", name, "--format", "pytorch", "--no-verify", "--out", &out];
        folder.eas(export).exits(0);
        let code = folder.read(&format!("{out}/model.py"));
        // All of it once, of the others what the network changes.
        let shown = match name {
            "plain" => code.as_str(),
            _ => {
                let (_, behind) = code.split_once("FIT = ").unwrap();
                let (_, behind) = behind.split_once("\n\n\n").unwrap();
                behind.split_once("\n\n\ndef picture").unwrap().0
            }
        };
        golden += &format!("# {name}\n{shown}\n\n");
        let long = code.lines().find(|line| line.chars().count() > 120);
        assert_eq!(long, None, "{name}");
    }
    insta::assert_snapshot!(golden);
}

/// A picture of a model's size as a file, and its pixels.
fn picture(seed: u64, side: usize) -> (Vec<u8>, Array4<u8>) {
    let mut rng = Rng::new(seed);
    let pixels = Array4::from_shape_simple_fn((1, 3, side, side), || rng.next_u32() as u8);
    let shape = Shape::Image { channels: 3, height: side, width: side };
    let bytes = pixels.iter().copied().collect();
    let one = Labelled::new(shape, vec!["one".to_owned()], bytes, vec![0]).unwrap();
    (contact_sheet(&one, 1).unwrap(), pixels)
}

/// A PNG's first part, which claims these sides.
fn header_of_png(side: u32) -> Vec<u8> {
    let header =
        [&b"IHDR"[..], &side.to_be_bytes(), &side.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let crc = header.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    });
    [&b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"[..], &header, &(!crc).to_be_bytes()].concat()
}

/// A folder with a model, and pictures some of which aren't.
fn with_pictures() -> Folder {
    let folder = Folder::new();
    let options = "start = ['conv 4', 'pool', 'conv 6', 'global_pool']\nfilters = [4, 6]";
    model_of("convnet", options, 8).save(&folder.path("model")).unwrap();
    for (name, seed, side) in
        [("a.png", 1, 8), ("more/b.png", 2, 8), ("more/deep/c.png", 3, 20), ("more/wide.PNG", 4, 9)]
    {
        folder.write(&format!("pictures/{name}"), picture(seed, side).0);
    }
    folder.write("pictures/notes.txt", "no picture");
    folder.write("broken/cut.png", &picture(5, 8).0[..60]);
    folder.write("broken/huge.png", header_of_png(60_000));
    folder.write("broken/text.jpg", "not a picture at all");
    folder
}

#[test]
fn pictures_are_classified_as_the_network_sees_them() {
    let folder = with_pictures();
    let saved = SavedModel::load(&folder.path("model")).unwrap();
    let json = folder.eas(["predict", "model", "pictures", "--json", "--top", "2"]).exits(0).stdout;
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let images: Vec<&str> = lines.iter().map(|line| line["image"].as_str().unwrap()).collect();
    let expected = [
        "pictures/a.png",
        "pictures/more/b.png",
        "pictures/more/deep/c.png",
        "pictures/more/wide.PNG",
    ];
    assert_eq!(images, expected);
    // Of those that aren't scaled it is known what the network reads.
    for (line, seed) in [(0, 1), (1, 2)] {
        let images = picture(seed, 8).1.mapv(|pixel| (f32::from(pixel) / 255.0 - 0.5) / 0.25);
        let logits = Reference.logits(&saved.model, &images, Mode::Evaluation).unwrap();
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        let probability = |class: usize| logits[(0, class)].exp() / sum;
        let mut order = [0, 1, 2];
        order.sort_by(|a, b| probability(*b).total_cmp(&probability(*a)));
        let classes = lines[line]["classes"].as_array().unwrap();
        assert_eq!(classes.len(), 2);
        for (found, class) in classes.iter().zip(order) {
            assert_eq!(found["class"], saved.metadata.classes[class], "{found}");
            assert_eq!(found["index"], class, "{found}");
            let gap = found["probability"].as_f64().unwrap() - probability(class);
            assert!(gap.abs() < 1e-5, "{found}: {gap}");
        }
    }
    // The same picture from standard input.
    let mut command = folder.command(["predict", "model", "-", "--json", "--top", "2"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&picture(1, 8).0).unwrap();
    let piped = Done::from(child.wait_with_output().unwrap()).exits(0).json();
    assert_eq!(piped["classes"], lines[0]["classes"]);
    assert_eq!(piped["image"], "-");
}

#[test]
fn what_is_no_picture_is_named_and_the_others_are_classified() {
    let folder = with_pictures();
    let command = ["predict", "model", "broken", "pictures", "nothing.png", "model"];
    let done = folder.eas(command).exits(2);
    insta::assert_snapshot!(format!("{}\n{}", masked(&done.stdout), done.stderr));
    let json = folder.eas(command.into_iter().chain(["--json"])).exits(2).stdout;
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed = lines.iter().filter(|line| line["error"].is_string()).count();
    assert_eq!((lines.len(), failed), (9, 5), "{json}");
}

#[test]
fn a_picture_is_stretched_where_the_training_images_were() {
    let folder = Folder::new();
    let options = "start = ['conv 4', 'pool', 'conv 6', 'global_pool']\nfilters = [4, 6]";
    let cropped = model_of("convnet", options, 8);
    let metadata = Metadata { fit: Fit::Stretch, ..cropped.metadata.clone() };
    cropped.save(&folder.path("cropped")).unwrap();
    SavedModel { metadata, ..cropped }.save(&folder.path("stretched")).unwrap();
    let shape = Shape::Image { channels: 3, height: 8, width: 24 };
    let mut rng = Rng::new(1);
    let bytes = (0..3 * 8 * 24).map(|_| rng.next_u32() as u8).collect();
    let wide = Labelled::new(shape, vec!["wide".to_owned()], bytes, vec![0]).unwrap();
    folder.write("wide.png", contact_sheet(&wide, 1).unwrap());
    let of = |model: &str| folder.eas(["predict", model, "wide.png", "--json"]).exits(0).json();
    assert_ne!(of("cropped")["classes"], of("stretched")["classes"]);
}

#[test]
fn what_cannot_be_exported_or_found_is_told() {
    let folder = Folder::with_tiny_run();
    folder.write("mine/notes.txt", "keep");
    folder.write("empty/notes.txt", "no model");
    folder.write("network.toml", folder.read("run/best/network.toml"));
    let earlier = ["export", "run", "--format", "safetensors", "--out", "earlier"];
    folder.eas(earlier).exits(0);
    let cases: [&[&str]; 14] = [
        &["export", "earlier", "--format", "onnx", "--out", "earlier"],
        &["export", "run", "--out", "mine"],
        &["export", "run", "--out", "network.toml"],
        &["export", "run", "--out", "out", "--trial", "99"],
        &["export", "run", "--out", "out", "--trial", "scrach"],
        &["export", "run", "--out", "out", "--trial", "promoted"],
        &["export", "run", "--out", "out", "--format", "onxn"],
        &["export", "run/best", "--out", "out", "--trial", "1"],
        &["export", "missing", "--out", "out"],
        &["export", "empty", "--out", "out"],
        &["export", "network.toml", "--out", "out"],
        &["export", "run", "--format", "pytorch", "--python", "no-such-python", "--out", "out"],
        &["predict", "run", "missing.png"],
        &["bench", "papper"],
    ];
    let mut golden = String::new();
    for case in cases {
        let done = folder.eas(case.iter().copied()).exits(2);
        assert_eq!(done.stdout, "", "{case:?}");
        assert!(!folder.path("out").exists(), "{case:?}");
        golden += &format!("$ eas {}\n{}\n", case.join(" "), done.stderr);
    }
    assert_eq!(files(&folder.path("mine")), ["notes.txt"]);
    assert!(folder.path("earlier/weights.safetensors").exists());
    insta::assert_snapshot!(golden);
}

#[test]
fn a_model_that_is_not_what_it_says_of_itself_is_not_exported() {
    let folder = Folder::new();
    let mut model = model_of("convnet", "", 8);
    let images = Array4::from_shape_fn((4, 3, 8, 8), |(b, c, y, x)| (b * 60 + c + y * 3 + x) as u8);
    model.metadata.probe = Some(Probe { images, logits: Array2::from_elem((4, 3), 9.0) });
    model.save(&folder.path("model")).unwrap();
    let export = ["export", "model", "--format", "safetensors", "--out", "out"];
    let told = masked(&folder.eas(export).exits(2).stderr);
    assert!(!folder.path("out").exists());
    insta::assert_snapshot!(told);
    folder.eas(export.into_iter().chain(["--no-verify"])).exits(0);
}

#[test]
fn an_export_takes_the_place_of_an_earlier_one_and_of_nothing_else() {
    let folder = Folder::new();
    model_of("convnet", "", 8).save(&folder.path("model")).unwrap();
    folder.write(".out.new/diary.txt", "keep");
    folder.write(".out.old/diary.txt", "keep");
    let export = |form| {
        folder.eas(["export", "model", "--format", form, "--out", "out", "--no-verify"]).exits(0);
        files(&folder.path("out"))
    };
    let card = ["README.md", "export.json"];
    let weights = ["network.toml", "weights.safetensors"];
    assert_eq!(export("safetensors"), [card, weights].concat());
    assert_eq!(export("onnx"), [&card[..], &["model.onnx"]].concat());
    assert_eq!(files(&folder.path("")), [".out.new", ".out.old", "model", "out"]);
    assert_eq!(folder.read(".out.new/diary.txt") + &folder.read(".out.old/diary.txt"), "keepkeep");
}

#[test]
fn a_run_or_a_trial_stands_for_its_model_wherever_one_is_taken() {
    let folder = Folder::with_tiny_run();
    let data = ["--data", "synthetic", "--set", "data.height=8", "--set", "data.width=8"];
    let test = |arguments: &[&str]| {
        let command = ["test"].into_iter().chain(arguments.iter().copied()).chain(data);
        folder.eas(command.chain(["--json"])).exits(0).json()
    };
    assert_eq!(test(&["run"]), test(&["run/best"]));
    assert_eq!(test(&["run", "--trial", "start"]), test(&["run/trials/0000/model"]));
    let apply = ["--apply", "widen n1 to 8"];
    folder
        .eas(["transform", "run", "--trial", "0", "--out", "wider"].into_iter().chain(apply))
        .exits(0);
    let train = ["train", "run", "--trial", "start", "--out", "longer", "--set", "epochs=1"];
    let less =
        ["--set", "data.train=64", "--set", "data.images=128", "--set", "data.validation=16"];
    folder.eas(train.into_iter().chain(data).chain(less)).exits(0);
    let bench = ["bench", "run", "--batch", "4", "--seconds", "0.1", "--threads", "1"];
    let measured = folder.eas(bench.into_iter().chain(["--json"])).exits(0).json();
    let latency = |name: &str| measured[name].as_f64().unwrap();
    assert!(latency("latency") > 0.0 && latency("latency") <= latency("latency_95"), "{measured}");
    let shown = folder.eas(["show", "run", "start"]).exits(0).stdout;
    assert_eq!(shown, folder.eas(["show", "run", "0"]).exits(0).stdout);
    std::fs::rename(folder.path("run"), folder.path("my run")).unwrap();
    folder.eas(["export", "my run", "--format", "safetensors", "--out", "out"]).exits(0);
    let card = folder.read("out/README.md");
    assert!(card.contains("    eas search 'my run/plan.toml' --run again\n"), "{card}");
}

#[test]
fn help_of_export_and_predict() {
    let help = |command| Folder::new().eas([command, "--help"]).exits(0).stdout;
    insta::assert_snapshot!(format!("{}\n{}", help("export"), help("predict")));
}
