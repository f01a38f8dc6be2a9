//! What is written is read back, bit for bit.

use eas_ir::{
    Fit, Label, Metadata, Model, Network, NodeId, Normalisation, Op, ParamId, Probe, Rng, Role,
    SavedModel, Shape,
};
use ndarray::{Array2, Array4};

use crate::networks::{random_model, random_network};

#[test]
fn a_network_is_read_back_from_its_text() {
    for seed in 0..300 {
        let network = random_network(&mut Rng::new(seed));
        let text = network.to_toml();
        let read = Network::from_toml(&text).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(read, network, "seed {seed}");
        assert_eq!(read.to_toml(), text, "seed {seed}");
    }
}

/// Any number there is, subnormal ones and negative zero included.
fn any_float(rng: &mut Rng) -> f32 {
    loop {
        let value = f32::from_bits(rng.next_u32());
        if value.is_finite() {
            return value;
        }
    }
}

pub(crate) fn random_metadata(model: &Model, rng: &mut Rng) -> Metadata {
    let names =
        ["cat", "", "[normalisation]", "a \"quoted\"\nname", "ß → 猫", "id = \"n0\"", "\u{7f}"];
    let channels = model.input_shape().channels();
    let (rows, columns) = match model.input_shape() {
        Shape::Image { height, width, .. } => (height, width),
        Shape::Flat { .. } => (1, 1),
    };
    let images =
        Array4::from_shape_simple_fn((3, channels, rows, columns), || rng.next_u32() as u8);
    let logits = Array2::from_shape_simple_fn((3, model.classes()), || any_float(rng));
    let classes = (0..model.classes()).map(|_| names[rng.below(names.len())].to_owned()).collect();
    let mean = (0..channels).map(|_| any_float(rng)).collect();
    let deviation = (0..channels).map(|_| any_float(rng).abs().max(f32::from_bits(1))).collect();
    Metadata {
        classes: if rng.below(4) == 0 { Vec::new() } else { classes },
        normalisation: (rng.below(4) > 0).then_some(Normalisation { mean, deviation }),
        fit: if rng.below(2) == 0 { Fit::Crop } else { Fit::Stretch },
        probe: (rng.below(4) > 0).then_some(Probe { images, logits }),
    }
}

/// Every float of a model and its metadata by its bits, which tell −0 from 0.
pub(crate) fn bits(saved: &SavedModel) -> Vec<u32> {
    let Metadata { classes: _, normalisation, fit: _, probe } = &saved.metadata;
    let weights = saved.model.weights().values().flatten();
    let normalisation = normalisation.iter().flat_map(|n| n.mean.iter().chain(&n.deviation));
    let logits = probe.iter().flat_map(|probe| &probe.logits);
    weights.chain(normalisation).chain(logits).map(|value| value.to_bits()).collect()
}

#[test]
fn a_saved_model_is_read_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..25 {
        let rng = &mut Rng::new(seed);
        let network = random_network(rng);
        let (network, mut weights) = random_model(network, rng).into_parts();
        for (id, weights) in &mut weights {
            if id.role != Role::Variance {
                weights.map_inplace(|weight| *weight = any_float(rng));
            }
        }
        let model = Model::new(network, weights).unwrap();
        let metadata = random_metadata(&model, rng);
        let saved = SavedModel { model, metadata };
        let path = folder.path().join(format!("deep/er/{seed}"));
        saved.save(&path).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let loaded = SavedModel::load(&path).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(loaded, saved, "seed {seed}");
        assert_eq!(bits(&loaded), bits(&saved), "seed {seed}");
        assert_eq!(&Network::load(&path).unwrap(), saved.model.network(), "seed {seed}");
    }
}

/// A network with something of everything that its texts can show.
fn shown() -> Network {
    let mut network = Network::new();
    let image = Shape::Image { channels: 3, height: 8, width: 8 };
    let mut tip = network.push(Op::Input { shape: image }, &[], None);
    let layers = [
        (Op::conv(4, 3), Some(Label::new("conv", 0, 0))),
        (Op::BatchNorm { epsilon: 1e-3 }, Some(Label::new("conv", 0, 0))),
        (Op::Relu, None),
        (Op::MaxPool { size: 3, stride: 2, padding: 1 }, None),
        (
            Op::Conv { filters: 8, kernel: 3, stride: 2, padding: 0, groups: 4, bias: true },
            Some(Label::new("conv", 1, 0)),
        ),
        (Op::Dropout { rate: 0.25 }, None),
        (Op::Flatten, None),
        (Op::Linear { units: 10, bias: true }, None),
    ];
    for (op, label) in layers {
        tip = network.push(op, &[tip], label);
    }
    network
}

#[test]
fn a_network_shows_itself_a_line_a_node() {
    let expected = "\
n0           input 3x8x8 → 3x8x8
n1  conv0.0  conv 4 3x3 (n0) → 4x8x8
n2  conv0.0  batch_norm epsilon 0.001 (n1) → 4x8x8
n3           relu (n2) → 4x8x8
n4           max_pool 3x3 stride 2 padding 1 (n3) → 4x4x4
n5  conv1.0  conv 8 3x3 stride 2 padding 0 groups 4 bias (n4) → 8x1x1
n6           dropout 0.25 (n5) → 8x1x1
n7           flatten (n6) → 8
n8           linear 10 bias (n7) → 10
";
    assert_eq!(shown().to_string(), expected);
}

#[test]
fn the_file_format_stays_readable() {
    // Written out, so that a change of the format that can't read old files is seen.
    let text = r#"format = 1
next = 9

[[node]]
id = "n0"
op = { input = { shape = { image = { channels = 3, height = 8, width = 8 } } } }

[[node]]
id = "n1"
op = { conv = { filters = 4, kernel = 3, padding = 1 } }
inputs = ["n0"]
label = "conv0.0"

[[node]]
id = "n2"
op = { batch_norm = { epsilon = 0.001 } }
inputs = ["n1"]
label = "conv0.0"

[[node]]
id = "n3"
op = "relu"
inputs = ["n2"]

[[node]]
id = "n4"
op = { max_pool = { size = 3, stride = 2, padding = 1 } }
inputs = ["n3"]

[[node]]
id = "n5"
op = { conv = { filters = 8, kernel = 3, stride = 2, padding = 0, groups = 4, bias = true } }
inputs = ["n4"]
label = "conv1.0"

[[node]]
id = "n6"
op = { dropout = { rate = 0.25 } }
inputs = ["n5"]

[[node]]
id = "n7"
op = "flatten"
inputs = ["n6"]

[[node]]
id = "n8"
op = { linear = { units = 10, bias = true } }
inputs = ["n7"]
"#;
    assert_eq!(Network::from_toml(text).unwrap(), shown());
}

#[test]
fn ids_and_labels_have_one_text_each() {
    for text in ["n0", "n7", "n4294967295"] {
        assert_eq!(text.parse::<NodeId>().unwrap().to_string(), text);
    }
    for text in ["n", "0", "n01", "n+1", "n-1", "N1", "n4294967296", "n1 ", "n１"] {
        assert!(text.parse::<NodeId>().is_err(), "{text}");
    }
    for text in ["n3.weight", "n3.variance"] {
        assert_eq!(text.parse::<ParamId>().unwrap().to_string(), text);
    }
    for text in ["n3", "n3.", "n3.weights", "n03.weight", "n3.weight.bias", ".weight"] {
        assert!(text.parse::<ParamId>().is_err(), "{text}");
    }
    for text in ["conv0.0", "dense_block12.3"] {
        assert_eq!(text.parse::<Label>().unwrap().to_string(), text);
    }
    for text in ["conv", "conv1", "conv1.", "conv01.0", "1.0", "Conv1.0", "conv1.0.0", "conv1.-1"] {
        assert!(text.parse::<Label>().is_err(), "{text}");
    }
}
