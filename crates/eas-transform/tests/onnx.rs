//! ONNX files: those that PyTorch exports are read and grown, and those that are written give the same
//! logits elsewhere.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use eas_ir::onnx::{OnnxOptions, from_bytes, read_compared, write, write_tensor};
use eas_ir::{
    Forward, Metadata, Mode, Model, Network, Normalisation, Reference, Rng, SavedModel, Shape,
};
use eas_transform::law::{self, Report};
use eas_transform::{ConvNet, DenseNet, Residual, SearchSpace, Transforms, spaces, transforms};
use ndarray::{Array4, Axis};
use toml::de::DeValue;

use crate::networks::Fixed;

const NETWORKS: [&str; 4] = ["vgg", "resnet", "densenet", "views"];
const EXPORTERS: [&str; 3] = ["script", "unfolded", "dynamo"];

/// The folder of the files that `make.py` made.
fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/onnx")
}

fn read(name: &str, exporter: &str) -> SavedModel {
    let path = files().join(name).join(exporter).with_extension("onnx");
    let (saved, given) = read_compared(&path, &Reference)
        .unwrap_or_else(|error| panic!("{name} by {exporter}: {error}"));
    assert_eq!(given.images, 4, "{name} by {exporter}");
    assert!(given.gap < 1e-5, "{name} by {exporter}: {}", given.gap);
    saved
}

/// Every transform there is, with its defaults.
fn all_transforms() -> Transforms {
    let registry = transforms().unwrap();
    let built = registry.iter().map(|plugin| {
        let empty = DeValue::parse("{}").unwrap();
        (plugin.name.to_owned(), plugin.build(empty).unwrap().implementation)
    });
    Transforms::new(built)
}

/// The labels of a network, each once, in the order of its nodes.
fn labels(network: &Network) -> String {
    let mut labels: Vec<String> = Vec::new();
    for label in network.nodes().iter().filter_map(|node| node.label.as_ref()) {
        let label = label.to_string();
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels.join(" ")
}

#[test]
fn files_of_pytorch_give_its_logits_and_grow() {
    let (transforms, space) = (all_transforms(), Fixed::default());
    for name in NETWORKS {
        for exporter in EXPORTERS {
            let saved = read(name, exporter);
            let mut report = Report::default();
            law::check_model(&transforms, &space, &saved.model, 1, &mut report)
                .unwrap_or_else(|broken| panic!("{name} by {exporter}: {broken}"));
            assert!(report.edits > law::CHAIN, "{name} by {exporter}: {report:?}");
            assert!(report.worst < 1e-5 && report.not_testable == 0, "{name}: {report:?}");
        }
    }
}

#[test]
fn layers_of_files_of_pytorch_are_labelled() {
    let expected = [
        ("vgg", "conv0.0 conv1.0 conv1.1 conv2.0 linear3.0 classifier4.0"),
        ("resnet", "stem0.0 residual1.0 residual1.1 residual2.0 residual2.1 classifier3.0"),
        ("densenet", "stem2.0 dense0.0 dense0.1 transition3.0 dense1.0 dense1.1 classifier4.0"),
        ("views", "conv0.0 conv1.0 linear2.0 classifier3.0"),
    ];
    for (name, expected) in expected {
        for exporter in EXPORTERS {
            let saved = read(name, exporter);
            let network = saved.model.network();
            assert_eq!(labels(network), expected, "{name} by {exporter}\n{network}");
        }
    }
}

#[test]
fn a_normalisation_that_pytorch_exported_is_the_models() {
    let expected =
        Normalisation { mean: vec![0.49, 0.48, 0.45], deviation: vec![0.25, 0.24, 0.26] };
    for exporter in EXPORTERS {
        assert_eq!(read("vgg", exporter).metadata.normalisation, Some(expected.clone()));
        assert_eq!(read("resnet", exporter).metadata.normalisation, None);
    }
}

/// Networks of the law's generator in each space.
fn spaces_of_the_law() -> [(&'static str, Box<dyn SearchSpace>); 6] {
    let post_activation = "{ preset = \"small\", pre_activation = false, bottleneck = 0 }";
    let post_activation = DeValue::parse(post_activation).unwrap();
    let registry = spaces().unwrap();
    [
        ("plain", Box::new(ConvNet::paper())),
        ("small plain", Box::new(ConvNet::small())),
        ("residual", Box::new(Residual::resnet20())),
        ("dense", Box::new(DenseNet::paper())),
        ("small dense", Box::new(DenseNet::small())),
        (
            "other dense",
            registry.get("densenet").unwrap().build(post_activation).unwrap().implementation,
        ),
    ]
}

/// A random network of a space, with a normalisation and class names.
fn random_saved(space: &dyn SearchSpace, seed: u64) -> SavedModel {
    let rng = Rng::new(seed);
    let space = space.miniature(&mut rng.split("space")).unwrap();
    let network = space.start(&law::problem()).unwrap();
    let model = law::random_model(network, &rng).unwrap();
    let mut numbers = rng.split("normalisation");
    let mut three = |least: f64| (0..3).map(|_| (least + 0.3 * numbers.unit()) as f32).collect();
    let normalisation = Some(Normalisation { mean: three(0.3), deviation: three(0.1) });
    let classes = (0..model.classes()).map(|class| format!("class {class}")).collect();
    SavedModel { model, metadata: Metadata { classes, normalisation, ..Metadata::default() } }
}

#[test]
fn exporting_importing_and_exporting_again_changes_nothing() {
    for (name, space) in spaces_of_the_law() {
        for seed in 0..50 {
            let saved = random_saved(space.as_ref(), seed);
            for fold_normalisation in [false, true] {
                let options = OnnxOptions { fold_normalisation, ..OnnxOptions::default() };
                let file = write(&saved, &options).unwrap();
                let read = from_bytes(&file).unwrap();
                assert_eq!(read, saved, "{name}, seed {seed}");
                assert_eq!(write(&read, &options).unwrap(), file, "{name}, seed {seed}");
            }
        }
    }
}

/// Labels are told from the graph: those of the spaces' own networks, whatever number their blocks have.
#[test]
fn labels_of_a_foreign_network_are_those_that_a_space_gives() {
    for (name, space) in spaces_of_the_law() {
        for seed in 0..50 {
            let saved = random_saved(space.as_ref(), seed);
            let mut file = write(&saved, &OnnxOptions::default()).unwrap();
            // As another program's: of the same length, so that nothing else of the file changes.
            let place = file.windows(5).position(|bytes| bytes == b"\x12\x03eas").unwrap();
            file[place + 2..place + 5].copy_from_slice(b"xyz");
            let read = from_bytes(&file).unwrap();
            let sites = |model: &Model| -> Vec<(String, Vec<String>)> {
                let transforms = all_transforms();
                let offered = transforms.names().map(|transform| {
                    let edits =
                        transforms.get(transform).unwrap().edits(model.network(), space.as_ref());
                    let edits = edits.iter().map(|edit| {
                        let place = model.network().nodes().iter().position(|n| n.id == edit.site);
                        format!("{place:?} {:?}", edit.target)
                    });
                    (transform.to_owned(), edits.collect())
                });
                offered.collect()
            };
            assert_eq!(read.model.weights().len(), saved.model.weights().len());
            assert_eq!(
                sites(&read.model),
                sites(&saved.model),
                "{name}, seed {seed}\n{}\n{}",
                read.model.network(),
                saved.model.network()
            );
        }
    }
}

/// The Python with ONNX's own tools, where `EAS_ONNX_PYTHON` names one; else the test says that it is
/// skipped.
fn python(test: &str) -> Option<String> {
    let python = std::env::var("EAS_ONNX_PYTHON").ok();
    if python.is_none() {
        let text = format!(
            "{test}: skipped, because EAS_ONNX_PYTHON names no Python with onnx and onnxruntime\n"
        );
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    python
}

/// Writes a model, and pixels with the logits that the reference evaluator gives them, for `check.py`.
fn write_checked(folder: &Path, saved: &SavedModel, options: &OnnxOptions, rng: &mut Rng) {
    let data = folder.join("test_data_set_0");
    fs::create_dir_all(&data).unwrap();
    fs::write(folder.join("model.onnx"), write(saved, options).unwrap()).unwrap();
    let Shape::Image { channels, height, width } = saved.model.input_shape() else {
        panic!("the networks here read images")
    };
    let pixels =
        Array4::from_shape_simple_fn((8, channels, height, width), || rng.below(256) as f32);
    let mut normalised = pixels.clone();
    if let Some(Normalisation { mean, deviation }) = &saved.metadata.normalisation {
        for (channel, mut plane) in normalised.axis_iter_mut(Axis(1)).enumerate() {
            plane.mapv_inplace(|pixel| (pixel / 255.0 - mean[channel]) / deviation[channel]);
        }
    }
    let logits = Reference.logits(&saved.model, &normalised, Mode::Evaluation).unwrap();
    let images = if options.fold_normalisation { pixels } else { normalised };
    let bytes = |sides: &[usize], values: Vec<f32>| write_tensor(sides, &values);
    fs::write(data.join("input_0.pb"), bytes(images.shape(), images.iter().copied().collect()))
        .unwrap();
    let values = logits.iter().map(|logit| *logit as f32).collect();
    fs::write(data.join("output_0.pb"), bytes(logits.shape(), values)).unwrap();
    let (_, given) = read_compared(&folder.join("model.onnx"), &Reference).unwrap();
    assert_eq!(given.images, 8);
}

#[test]
fn onnxruntime_gives_the_reference_evaluators_logits() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (name, space) in spaces_of_the_law() {
        for seed in 0..20 {
            let saved = random_saved(space.as_ref(), seed);
            for fold_batch_norms in [false, true] {
                let options = OnnxOptions { fold_batch_norms, fold_normalisation: seed % 2 == 0 };
                let folder = folder.path().join(format!("{name} {seed} {fold_batch_norms}"));
                write_checked(&folder, &saved, &options, &mut Rng::new(seed));
                count += 1;
            }
        }
    }
    for name in NETWORKS {
        for exporter in EXPORTERS {
            let saved = read(name, exporter);
            let folder = folder.path().join(format!("{name} {exporter}"));
            write_checked(&folder, &saved, &OnnxOptions::default(), &mut Rng::new(1));
            count += 1;
        }
    }
    let Some(python) = python("onnxruntime_gives_the_reference_evaluators_logits") else { return };
    let output =
        Command::new(python).arg(files().join("check.py")).arg(folder.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.starts_with(&format!("{count} files agree")), "{told}");
}
