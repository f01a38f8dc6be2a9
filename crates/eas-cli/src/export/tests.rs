//! What is written does what the stored network does, and what doesn't is found out.

use std::io::Write;
use std::process::Command;

use eas_ir::onnx::OnnxOptions;
use eas_ir::{
    Fit, Forward, Label, Metadata, Mode, Model, Network, Normalisation, Op, ParamId, Probe, Rng,
    Role, SavedModel, Shape,
};
use eas_transform::{Transforms, law, spaces, transforms};
use ndarray::Array4;
use toml::de::{DeTable, DeValue};

use super::pytorch::PyTorch;
use super::verify::compare;
use super::*;
use crate::engine::ENGINE;

/// Spaces with their options, and the transformations that are made to their networks.
const SPACES: [(&str, &str, &[&str]); 5] = [
    ("convnet", "preset = 'small'", &["widen", "deepen", "grow_kernel", "skip"]),
    ("densenet", "preset = 'small'", &["widen_growth", "replicate", "deepen_dense"]),
    ("densenet", "preset = 'small'\nbottleneck = 0\ncompression = 1.0", &["widen_growth"]),
    ("densenet", "preset = 'small'\npre_activation = false", &["widen_growth", "replicate"]),
    ("residual", "preset = 'resnet20'", &["widen", "deepen", "add_block", "skip"]),
];
/// Networks of each.
const NETWORKS: u64 = 20;
/// Edits that a network has behind it at most.
const EDITS: usize = 6;
/// Images that each is run on.
const IMAGES: usize = 8;

/// Runs `model.py` in each folder of the one it is started in.
const RUN_ALL: &str = r#"
import importlib.util, json, pathlib, torch
for folder in sorted(path for path in pathlib.Path(".").iterdir() if path.is_dir()):
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    pixels = torch.frombuffer(bytearray((folder / "pixels").read_bytes()), dtype=torch.uint8)
    with torch.no_grad():
        logits = model.load()(model.normalise(pixels.view([-1] + model.SHAPE)))
    (folder / "logits").write_text(json.dumps(logits.tolist()))
    print(model.check())
"#;

fn table(options: &str) -> eas_ir::Value<'_> {
    let table = DeTable::parse(options).unwrap();
    let (span, table) = (table.span(), table.into_inner());
    toml::Spanned::new(span, DeValue::Table(table))
}

/// A random network of a space, grown by some random edits.
fn random_network(place: usize, seed: u64) -> Network {
    let (space, options, names) = SPACES[place];
    let mut rng = Rng::new(seed);
    let space = spaces().unwrap().get(space).unwrap().build(table(options)).unwrap();
    let space = space.implementation.miniature(&mut rng.split("space")).unwrap();
    let mut network = space.start(&law::problem()).unwrap();
    let known = transforms().unwrap();
    let built = names.iter().map(|name| {
        let transform = known.get(name).unwrap().build(table("")).unwrap().implementation;
        ((*name).to_owned(), transform)
    });
    let transforms = Transforms::new(built);
    for _ in 0..rng.below(EDITS + 1) {
        let name = names[rng.below(names.len())];
        let edits = transforms.edits(name, &network, space.as_ref(), 8).unwrap();
        if !edits.is_empty() {
            let (edit, _) = &edits[rng.below(edits.len())];
            network = transforms.patch(&network, edit, &mut rng).unwrap().network;
        }
    }
    network
}

/// A model of a network with random weights and all that a saved one has.
fn saved(network: Network, seed: u64) -> SavedModel {
    let rng = Rng::new(seed);
    let model = law::random_model(network, &rng).unwrap();
    let normalisation =
        Normalisation { mean: vec![0.4, 0.5, 0.6], deviation: vec![0.2, 0.25, 0.3] };
    let images = pixels(&model, &mut rng.split("probe"));
    let read = normalised(&images, &normalisation).unwrap();
    let logits = ENGINE.logits(&model, &read, Mode::Evaluation).unwrap().mapv(|logit| logit as f32);
    let names = ["a \"quoted\" name", "two\nlines", "MEANS", "ß → 猫"];
    let classes = (0..model.classes()).map(|class| names[class % 4].to_owned()).collect();
    let metadata = Metadata {
        classes,
        normalisation: Some(normalisation),
        fit: Fit::Crop,
        probe: Some(Probe { images, logits }),
    };
    SavedModel { model, metadata }
}

fn pixels(model: &Model, rng: &mut Rng) -> Array4<u8> {
    let Shape::Image { channels, height, width } = model.input_shape() else {
        panic!("the law's networks read images")
    };
    let size = (IMAGES, channels, height, width);
    Array4::from_shape_simple_fn(size, || rng.next_u32() as u8)
}

/// Python with PyTorch, where `EAS_PYTHON` names it; else the test says that it is skipped.
fn python(test: &str) -> Option<String> {
    let python = std::env::var("EAS_PYTHON").ok();
    if python.is_none() {
        // Past the capture of tests that pass, which would hide it.
        let text = format!("{test}: skipped, because EAS_PYTHON names no Python with PyTorch\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    python
}

#[test]
fn random_networks_of_every_space_do_the_same_in_pytorch() {
    let Some(python) = python("random networks in PyTorch") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for place in 0..SPACES.len() {
        for seed in 0..NETWORKS {
            let name = format!("{place}-{seed:02}");
            let saved = saved(random_network(place, seed), seed);
            let own = folder.path().join(&name);
            let PyTorch { code, weights } = PyTorch::of(&saved).unwrap();
            let images = pixels(&saved.model, &mut Rng::new(seed).split("shown"));
            fs::create_dir(&own).unwrap();
            fs::write(own.join(CODE), &code).unwrap();
            fs::write(own.join(CODE_WEIGHTS), weights).unwrap();
            fs::write(own.join("pixels"), images.iter().copied().collect::<Vec<u8>>()).unwrap();
            let normalisation = saved.metadata.normalisation.as_ref().unwrap();
            let images = normalised(&images, normalisation).unwrap();
            let logits = ENGINE.logits(&saved.model, &images, Mode::Evaluation).unwrap();
            expected.push((name, code, logits));
        }
    }
    let mut command = Command::new(python);
    let output = command.args(["-B", "-c", RUN_ALL]).current_dir(folder.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    for (name, code, logits) in expected {
        let found = fs::read_to_string(folder.path().join(&name).join("logits")).unwrap();
        let found: Vec<Vec<f64>> = serde_json::from_str(&found).unwrap();
        let found = ndarray::Array2::from_shape_vec(logits.dim(), found.concat()).unwrap();
        let compared = compare(&logits, &found);
        assert!(compared.is_ok(), "space and seed {name}: {compared:?}\n{code}");
    }
}

/// Pools, paddings and joins as no space has them.
fn odd_network() -> Network {
    let mut network = Network::new();
    let input = Shape::Image { channels: 3, height: 9, width: 7 };
    let image = network.push(Op::Input { shape: input }, &[], None);
    let conv = Op::Conv { filters: 6, kernel: 4, stride: 2, padding: 3, groups: 3, bias: true };
    let label = Label::new("__odd", 0, 0);
    let first = network.push(conv, &[image], Some(label));
    let pooled = network.push(Op::MaxPool { size: 3, stride: 1, padding: 2 }, &[first], None);
    let norm = network.push(Op::BatchNorm { epsilon: 0.25 }, &[pooled], None);
    let twice = network.push(Op::Add, &[norm, norm, pooled], None);
    let small = network.push(Op::AveragePool { size: 2, stride: 2 }, &[twice], None);
    let left = network.push(Op::conv(2, 1), &[small], None);
    let right = network.push(Op::MaxPool { size: 3, stride: 1, padding: 1 }, &[small], None);
    let narrow = network.push(Op::conv(2, 3), &[right], None);
    let sum = network.push(Op::Add, &[left, narrow], None);
    let all = network.push(Op::Concat, &[sum, left, small, sum], None);
    let dropped = network.push(Op::Dropout { rate: 0.5 }, &[all], None);
    let flat = network.push(Op::Flatten, &[dropped], None);
    let hidden = network.push(Op::Linear { units: 5, bias: false }, &[flat], None);
    let active = network.push(Op::Relu, &[hidden], None);
    network.push(Op::Linear { units: 3, bias: true }, &[active], None);
    network
}

#[test]
fn a_network_that_no_space_has_does_the_same_in_pytorch() {
    let Some(python) = python("an odd network in PyTorch") else { return };
    let saved = saved(odd_network(), 5);
    let folder = tempfile::tempdir().unwrap();
    let aside = Aside::begin(&folder.path().join("out")).unwrap();
    let onnx = OnnxOptions::default();
    write(&aside, Form::Pytorch, &saved, &onnx).unwrap();
    let checks = Checks { python: Some(python.into()), folded_normalisation: false };
    let yardstick = Yardstick::of(&saved, None).unwrap();
    let code = fs::read_to_string(aside.folder().join(CODE)).unwrap();
    let found = yardstick.check(aside.folder(), Form::Pytorch, &checks);
    assert!(matches!(found, Ok(Ok(_))), "{found:?}\n{code}");
}

/// Changes the classifier's first weight in a file that holds its weights as they are.
fn spoil(path: &Path, model: &Model) {
    let classifier = model.network().output().unwrap().id;
    let values = model.values(ParamId::new(classifier, Role::Weight)).unwrap();
    let known: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut bytes = fs::read(path).unwrap();
    let place = bytes.windows(known.len()).position(|part| part == known).unwrap();
    bytes[place..place + 4].copy_from_slice(&(values[0] + 0.01).to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_weight_that_was_changed_is_found_and_nothing_is_left() {
    let saved = saved(random_network(0, 3), 3);
    let saved = SavedModel { metadata: Metadata { probe: None, ..saved.metadata }, ..saved };
    let yardstick = Yardstick::of(&saved, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let onnx = OnnxOptions::default();
    let python = python("a changed weight in PyTorch");
    let checks = Checks { python: python.clone().map(Into::into), folded_normalisation: false };
    let spoilt = [(Form::Safetensors, WEIGHTS), (Form::Onnx, ONNX), (Form::Pytorch, CODE_WEIGHTS)];
    for (form, file) in spoilt {
        if form == Form::Pytorch && python.is_none() {
            continue;
        }
        let aside = Aside::begin(&out).unwrap();
        write(&aside, form, &saved, &onnx).unwrap();
        let gap = yardstick.check(aside.folder(), form, &checks).unwrap();
        assert!(gap.is_ok_and(|gap| gap < 1e-4), "{form:?}");
        spoil(&aside.folder().join(file), &saved.model);
        let error = yardstick.check(aside.folder(), form, &checks).unwrap_err();
        assert!(error.is::<Disagreement>(), "{form:?}: {error:#}");
        drop(aside);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{form:?}");
    }
}

#[test]
fn logits_agree_within_the_tolerance_and_classes_but_for_ties() {
    let logits = |rows: [[f64; 2]; 2]| ndarray::arr2(&rows);
    let expected = logits([[1.0, -1.0], [-1.0, 1.0]]);
    assert_eq!(compare(&expected, &expected).unwrap(), 0.0);
    assert!(compare(&expected, &logits([[1.00009, -1.0], [-1.0, 1.0]])).is_ok());
    assert!(compare(&expected, &logits([[1.00011, -1.0], [-1.0, 1.0]])).is_err());
    assert!(compare(&expected, &logits([[f64::NAN, -1.0], [-1.0, 1.0]])).is_err());
    assert!(compare(&expected, &ndarray::arr2(&[[1.0, -1.0]])).is_err());
    // Another class: of a tie, and of none.
    let tie = logits([[1.0, 0.99995], [-1.0, 1.0]]);
    assert!(compare(&tie, &logits([[0.99996, 0.99999], [-1.0, 1.0]])).is_ok());
    let near = logits([[1.0, 0.99988], [-1.0, 1.0]]);
    assert!(compare(&near, &logits([[0.99993, 0.99988], [-1.0, 1.0]])).is_ok());
    assert!(compare(&near, &logits([[0.99993, 0.99994], [-1.0, 1.0]])).is_err());
}

#[test]
fn only_an_earlier_export_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let saved = saved(random_network(0, 1), 1);
    let export = || -> anyhow::Result<()> {
        let aside = Aside::begin(&out)?;
        write(&aside, Form::Safetensors, &saved, &OnnxOptions::default())?;
        let manifest = Manifest {
            eas: "0".to_owned(),
            model: "a model".to_owned(),
            fingerprint: saved.model.network().fingerprint().to_string(),
            onnx_batch_norms_folded: false,
            onnx_normalisation_folded: false,
            images: None,
            forms: vec![written(&aside, Form::Safetensors)?],
        };
        finish(aside, &saved, &Story::bare("a model"), &manifest)
    };
    fs::create_dir(&out).unwrap();
    export().unwrap();
    assert_eq!(SavedModel::load(&out).unwrap(), saved);
    export().unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let refused = export().unwrap_err().to_string();
    assert!(refused.contains("found a folder with `notes.txt` in it"), "{refused}");
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
