//! The reference evaluator's gradients against finite differences.

use std::collections::BTreeSet;

use eas_ir::{Forward, Gradients, Images, Mode, Model, Network, Op, ParamId, Reference, Rng};

use crate::networks::{random_images, random_model, random_network};

/// The mean cross-entropy in training mode.
fn loss(model: &Model, images: &Images, labels: &[usize]) -> f64 {
    let logits = Reference.logits(model, images, Mode::Training).expect("the images fit");
    let each = logits.rows().into_iter().zip(labels).map(|(row, label)| {
        let largest = row.fold(f64::NEG_INFINITY, |largest, x| largest.max(*x));
        largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln() - row[*label]
    });
    each.sum::<f64>() / labels.len() as f64
}

/// Weights are multiples of this, so that in f32 a weight of less than 8 plus or minus `STEP` is
/// exact.
const GRID: f32 = 1.0 / 65_536.0;

/// The evaluator computes in f64, so that differences over a step this small still have nine digits,
/// and it seldom carries a value over the kink of a ReLU or a max pool.
const STEP: f32 = 1.0 / 1_048_576.0;

fn on_grid(model: Model) -> Model {
    let (network, mut weights) = model.into_parts();
    for weights in weights.values_mut() {
        weights.map_inplace(|weight| *weight = (*weight / GRID).round() * GRID);
    }
    Model::new(network, weights).expect("only values changed")
}

fn moved(model: &Model, parameter: ParamId, place: usize, step: f32) -> Model {
    let (network, mut weights) = model.clone().into_parts();
    let values = weights.get_mut(&parameter).expect("the model has this parameter");
    values.as_slice_mut().expect("row-major")[place] += step;
    Model::new(network, weights).expect("one value changed")
}

/// What a network asks of the backward pass: operations that a gradient has to pass through, with
/// what sets them apart, and parameter roles.
fn exercised(network: &Network) -> Vec<String> {
    let mut learned = BTreeSet::new();
    let mut list = Vec::new();
    for node in network.nodes() {
        let through = node.inputs.iter().any(|input| learned.contains(input));
        let kind = match node.op {
            Op::Conv { stride: 2.., .. } => "strided conv",
            Op::Conv { groups: 2.., .. } => "grouped conv",
            op => op.name(),
        };
        if through {
            list.push(kind.to_owned());
        }
        let parameters =
            matches!(node.op, Op::Conv { .. } | Op::BatchNorm { .. } | Op::Linear { .. });
        if through || parameters {
            learned.insert(node.id);
        }
    }
    list
}

#[test]
fn every_gradient_lies_between_the_slopes_on_either_side() {
    let mut covered: BTreeSet<String> = BTreeSet::new();
    for seed in 0..80 {
        let rng = &mut Rng::new(seed);
        let network = random_network(rng);
        covered.extend(exercised(&network));
        let model = on_grid(random_model(network, rng));
        let images = random_images(&model, 3, rng);
        let labels: Vec<usize> = (0..3).map(|_| rng.below(model.classes())).collect();
        let gradients = Reference.gradients(&model, &images, &labels).unwrap();
        let trainable = model.weights().keys().filter(|id| id.role.trainable());
        assert!(trainable.eq(gradients.keys()), "seed {seed}: a gradient for each parameter");
        let here = loss(&model, &images, &labels);
        for (parameter, gradient) in &gradients {
            covered.insert(parameter.role.to_string());
            for _ in 0..3 {
                let place = rng.below(gradient.len());
                let slope = |step: f32| {
                    let there = loss(&moved(&model, *parameter, place, step), &images, &labels);
                    (there - here) / f64::from(step)
                };
                // At a kink the gradient is one of the two slopes; elsewhere both agree with it.
                let (left, right) = (slope(-STEP), slope(STEP));
                let found = f64::from(gradient.as_slice().expect("row-major")[place]);
                let tolerance = 1e-6 * (1.0 + found.abs());
                assert!(
                    found > left.min(right) - tolerance && found < left.max(right) + tolerance,
                    "seed {seed}, {parameter}[{place}]: {found}, slopes {left} and {right}\n{}",
                    model.network()
                );
            }
        }
    }
    let expected = [
        "add",
        "average_pool",
        "batch_norm",
        "beta",
        "bias",
        "concat",
        "conv",
        "dropout",
        "flatten",
        "gamma",
        "global_pool",
        "grouped conv",
        "linear",
        "max_pool",
        "relu",
        "strided conv",
        "weight",
    ];
    assert!(covered.iter().eq(expected.iter()), "not all is tested: {covered:?}");
}
