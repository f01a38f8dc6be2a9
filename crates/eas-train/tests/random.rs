//! Random networks, which between them have every operation, and random data for them.

use std::path::Path;

use eas_ir::{
    Images, Model, Network, NodeId, Op, ParamId, Rng, Role, Shape, Weights, parameter_list, tensor,
};
use eas_train::{Batch, TrainingData, data_sets, split};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Classes of every random network.
pub(crate) const CLASSES: usize = 3;

/// A network of a few operations on an image of a few pixels, drawn at random.
pub(crate) fn network(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let shape = Shape::Image {
        channels: 2 + rng.below(3),
        height: 5 + rng.below(4),
        width: 5 + rng.below(4),
    };
    let mut last = (network.push(Op::Input { shape }, &[], None), shape);
    for _ in 0..3 + rng.below(4) {
        last = grow(&mut network, last, rng);
    }
    let flat = [Op::GlobalPool, Op::Flatten][rng.below(2)];
    last = push(&mut network, flat, &[last]);
    if rng.below(2) == 0 {
        last = push(&mut network, Op::Linear { units: 5, bias: false }, &[last]);
        last = push(&mut network, BATCH_NORM, &[last]);
        last = push(&mut network, Op::Relu, &[last]);
    }
    push(&mut network, Op::Linear { units: CLASSES, bias: true }, &[last]);
    network
}

type Value = (NodeId, Shape);

/// Appends a node that fits.
fn push(network: &mut Network, op: Op, inputs: &[Value]) -> Value {
    let (ids, shapes): (Vec<NodeId>, Vec<Shape>) = inputs.iter().copied().unzip();
    let shape = op.output_shape(&shapes).unwrap_or_else(|error| panic!("{op}: {error}"));
    (network.push(op, &ids, None), shape)
}

/// Batch norm with an epsilon that keeps it from blowing up the rounding of a channel that hardly
/// varies, of which small random networks have many.
const BATCH_NORM: Op = Op::BatchNorm { epsilon: 0.1 };

/// Appends one operation, or a branch of two that is joined; nothing where the one drawn doesn't fit.
fn grow(network: &mut Network, last: Value, rng: &mut Rng) -> Value {
    let channels = last.1.channels();
    let (size, stride) = (2 + rng.below(2), 1 + rng.below(3));
    let op = match rng.below(9) {
        0 | 1 => {
            let kernel = 1 + rng.below(3);
            let groups = if channels.is_multiple_of(2) { 1 + rng.below(2) } else { channels };
            let (filters, padding) = (groups * (1 + rng.below(3)), rng.below(kernel));
            Op::Conv { filters, kernel, stride, padding, groups, bias: rng.below(2) == 0 }
        }
        2 => BATCH_NORM,
        3 => Op::Relu,
        4 => Op::MaxPool { size, stride, padding: rng.below(size) },
        5 => Op::AveragePool { size, stride },
        6 => Op::Dropout { rate: 0.3 },
        7 => {
            let branch = push(network, Op::conv(channels, 3), &[last]);
            return push(network, Op::Add, &[last, branch, last]);
        }
        _ => {
            let branch = push(network, Op::conv(1 + rng.below(3), 1), &[last]);
            return push(network, Op::Concat, &[branch, last]);
        }
    };
    if op.output_shape(&[last.1]).is_ok() { push(network, op, &[last]) } else { last }
}

/// Random weights of every role for a network.
pub(crate) fn model(network: Network, rng: &mut Rng) -> Model {
    let shapes = network.verify().expect("random networks verify");
    let mut weights = Weights::new();
    for (id, shape) in parameter_list(&network, &shapes) {
        let fan_in: usize = shape[1..].iter().product();
        let mut value = || match id.role {
            Role::Weight => rng.normal() / (fan_in as f64).sqrt(),
            Role::Bias | Role::Beta | Role::Mean => 0.3 * rng.normal(),
            Role::Gamma | Role::Variance => 0.5 + rng.unit(),
        };
        let values = (0..shape.iter().product()).map(|_| value() as f32).collect();
        weights.insert(id, tensor(&shape, values));
    }
    Model::new(network, weights).expect("the weights were made for the network")
}

/// Normal images for a model, with a random class each.
pub(crate) fn batch(model: &Model, count: usize, rng: &mut Rng) -> Batch {
    let Shape::Image { channels, height, width } = model.input_shape() else {
        panic!("expected a network of images")
    };
    let images =
        Images::from_shape_simple_fn((count, channels, height, width), || rng.normal() as f32);
    let labels = (0..count).map(|_| rng.below(model.classes())).collect();
    Batch::new(images, labels)
}

/// A small network with batch norm and dropout that learns the images of [`stripes`] quickly.
pub(crate) fn learner(dropout: f32) -> Network {
    let mut network = Network::new();
    let shape = Shape::Image { channels: 1, height: 12, width: 12 };
    let mut last = network.push(Op::Input { shape }, &[], None);
    for op in [
        Op::conv(8, 5),
        Op::batch_norm(),
        Op::Relu,
        Op::MaxPool { size: 3, stride: 2, padding: 1 },
        Op::conv(16, 3),
        Op::batch_norm(),
        Op::Relu,
        Op::GlobalPool,
        Op::Dropout { rate: dropout },
        Op::Linear { units: 4, bias: true },
    ] {
        last = network.push(op, &[last], None);
    }
    network
}

/// Images of the synthetic data set for [`learner`], so many to train and to validate on.
pub(crate) fn stripes(train: usize, validation: usize) -> TrainingData {
    let options = format!(
        "images = 1000\nheight = 12\nwidth = 12\ntrain = {train}\nvalidation = {validation}"
    );
    let options = DeTable::parse(&options).unwrap();
    let (span, table) = (options.span(), options.into_inner());
    let value = Spanned::new(span, DeValue::Table(table));
    let synthetic = data_sets().unwrap().get("synthetic").unwrap().build(value).unwrap();
    let source = synthetic.implementation;
    split(source.train(Path::new("")).unwrap(), source.options(), &Rng::new(5)).unwrap()
}

/// The names of a network's operations.
pub(crate) fn operations(network: &Network) -> impl Iterator<Item = &'static str> {
    network.nodes().iter().map(|node| node.op.name())
}

/// The largest difference, relative to the largest of `expected`, or of `scale` where that is larger.
pub(crate) fn gap(found: &[f32], expected: &[f32], scale: f32) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(scale, |largest, value| largest.max(value.abs()));
    let gaps = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    // NaN is a gap too.
    gaps.fold(0.0, |most, gap| if gap > most || gap.is_nan() { gap } else { most }) / largest
}

/// The largest absolute value.
pub(crate) fn largest<'a>(values: impl IntoIterator<Item = &'a f32>) -> f32 {
    values.into_iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// The parameter of a node's role.
pub(crate) fn id(node: u32, role: Role) -> ParamId {
    ParamId::new(NodeId::new(node), role)
}
