//! What a network means: an evaluator in f64 that is slow and obviously right, forward and backward.
//!
//! Every value is `[batch, channels, height, width]`; a flat one has height and width 1. Engines are
//! tested against this, and it is tested against finite differences and hand-made numbers.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use ndarray::{Array1, Array2, Array4, Array6, ArrayView4, Axis, s};

use crate::forward::{Forward, Gradients, Images, Mode, Moments};
use crate::model::Model;
use crate::network::{Node, NodeId};
use crate::op::Op;
use crate::weights::{ParamId, Role, Weights, tensor};

/// The reference evaluator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reference;

type Values = BTreeMap<NodeId, Array4<f64>>;

impl Forward for Reference {
    fn logits(&self, model: &Model, images: &Images, mode: Mode) -> anyhow::Result<Array2<f64>> {
        let values = evaluate(model, images, mode)?;
        Ok(logits_of(model, &values))
    }

    fn moments(
        &self,
        model: &Model,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>> {
        let values = evaluate(model, images, Mode::Evaluation)?;
        nodes
            .iter()
            .map(|id| {
                let value = values.get(id).with_context(|| format!("no node {id}"))?;
                let (mean, variance) = moments(value);
                Ok((*id, Moments { mean: mean.to_vec(), variance: variance.to_vec() }))
            })
            .collect()
    }
}

impl Gradients for Reference {
    fn gradients(
        &self,
        model: &Model,
        images: &Images,
        labels: &[usize],
    ) -> anyhow::Result<Weights> {
        let (classes, count) = (model.classes(), images.dim().0);
        ensure!(labels.len() == count, "expected {count} labels, found {}", labels.len());
        ensure!(labels.iter().all(|label| *label < classes), "expected labels below {classes}");
        let target = |(image, class): (usize, usize)| f64::from(u8::from(labels[image] == class));
        self.gradients_of(model, images, &Array2::from_shape_fn((labels.len(), classes), target))
    }
}

impl Reference {
    /// As [`Gradients::gradients`], where an image may show several classes: `targets` are
    /// `[batch, classes]`, and sum to 1 for each image.
    ///
    /// # Errors
    /// Images or targets that don't fit the model.
    pub fn gradients_of(
        &self,
        model: &Model,
        images: &Images,
        targets: &Array2<f64>,
    ) -> anyhow::Result<Weights> {
        let values = evaluate(model, images, Mode::Training)?;
        let logits = logits_of(model, &values);
        let (expected, found) = (logits.dim(), targets.dim());
        ensure!(found == expected, "expected targets of {expected:?}, found {found:?}");
        let output = model.network().output().context("a network has an output")?.id;
        let mut slopes: Values = BTreeMap::new();
        slopes.insert(output, cross_entropy_slope(&logits, targets));
        let mut gradients = Weights::new();
        for node in model.network().nodes().iter().rev() {
            let Some(slope) = slopes.remove(&node.id) else { continue };
            let inputs: Vec<&Array4<f64>> = node.inputs.iter().map(|id| &values[id]).collect();
            let back = backward(model, node, &inputs, &values[&node.id], &slope);
            for (role, gradient) in back.parameters {
                let id = ParamId::new(node.id, role);
                let shape = model.weights()[&id].shape().to_vec();
                gradients.insert(id, tensor(&shape, gradient.iter().map(|g| *g as f32).collect()));
            }
            for (input, slope) in node.inputs.iter().zip(back.inputs) {
                match slopes.entry(*input) {
                    std::collections::btree_map::Entry::Vacant(place) => {
                        place.insert(slope);
                    }
                    std::collections::btree_map::Entry::Occupied(mut sum) => {
                        *sum.get_mut() += &slope
                    }
                }
            }
        }
        Ok(gradients)
    }
}

/// The value of every node.
fn evaluate(model: &Model, images: &Images, mode: Mode) -> anyhow::Result<Values> {
    let shape = model.input_shape();
    let (batch, channels, height, width) = images.dim();
    ensure!(batch > 0, "expected at least one image, found none");
    let expected = match shape {
        crate::Shape::Image { channels, height, width } => (channels, height, width),
        crate::Shape::Flat { features } => (features, 1, 1),
    };
    ensure!(
        (channels, height, width) == expected,
        "expected images of {shape}, found {channels}x{height}x{width}"
    );
    let mut values = Values::new();
    for node in model.network().nodes() {
        let inputs: Vec<&Array4<f64>> = node.inputs.iter().map(|id| &values[id]).collect();
        let value = match node.op {
            Op::Input { .. } => images.mapv(f64::from),
            _ => forward(model, node, &inputs, mode),
        };
        values.insert(node.id, value);
    }
    Ok(values)
}

fn logits_of(model: &Model, values: &Values) -> Array2<f64> {
    let output = model.network().output().expect("a verified network has an output");
    values[&output.id].slice(s![.., .., 0, 0]).to_owned()
}

/// A parameter of a node, row-major, in f64; empty where the node has none of this role.
fn parameter(model: &Model, node: &Node, role: Role) -> Vec<f64> {
    let values = model.values(ParamId::new(node.id, role)).unwrap_or_default();
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Mean and biased variance of each channel.
fn moments(value: &Array4<f64>) -> (Array1<f64>, Array1<f64>) {
    let per_channel = |channel: usize| value.index_axis(Axis(1), channel);
    let channels = value.dim().1;
    let mean: Array1<f64> =
        (0..channels).map(|c| per_channel(c).mean().expect("a batch isn't empty")).collect();
    let variance = (0..channels)
        .map(|c| per_channel(c).mapv(|x| (x - mean[c]).powi(2)).mean().expect("not empty"))
        .collect();
    (mean, variance)
}

/// Every place where a window of a convolution or pooling reads the image: `(window row, window
/// column, row, column)` of one output pixel.
fn window(
    output: (usize, usize),
    size: usize,
    stride: usize,
    padding: usize,
    image: (usize, usize),
) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let places = (0..size).flat_map(move |i| (0..size).map(move |j| (i, j)));
    places.filter_map(move |(i, j)| {
        let row = (output.0 * stride + i).checked_sub(padding)?;
        let column = (output.1 * stride + j).checked_sub(padding)?;
        (row < image.0 && column < image.1).then_some((i, j, row, column))
    })
}

/// What a convolution reads: a row for each entry of a filter, in the order of its weights, and a
/// column for each output pixel, `[batch, row, column]`. Padding is 0.
fn unfold(
    x: ArrayView4<f64>,
    (rows, columns): (usize, usize),
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Array2<f64> {
    let (batch, channels, height, width) = x.dim();
    let mut padded = Array4::zeros((batch, channels, height + 2 * padding, width + 2 * padding));
    padded.slice_mut(s![.., .., padding..padding + height, padding..padding + width]).assign(&x);
    let mut read = Array6::zeros((channels, kernel, kernel, batch, rows, columns));
    let step = stride as isize;
    for (i, j) in ndarray::indices((kernel, kernel)) {
        let seen = padded.slice(s![.., .., i..;step, j..;step]);
        let seen = seen.slice_move(s![.., .., ..rows, ..columns]);
        read.slice_mut(s![.., i, j, .., .., ..]).assign(&seen.permuted_axes([1, 0, 2, 3]));
    }
    let shape = (channels * kernel * kernel, batch * rows * columns);
    read.into_shape_with_order(shape).expect("as many numbers")
}

/// What a node makes of its inputs.
fn forward(model: &Model, node: &Node, inputs: &[&Array4<f64>], mode: Mode) -> Array4<f64> {
    let x = inputs[0];
    let (batch, channels, height, width) = x.dim();
    let output = model.shapes()[node.id];
    let (rows, columns) = match output {
        crate::Shape::Image { height, width, .. } => (height, width),
        crate::Shape::Flat { .. } => (1, 1),
    };
    let mut y = Array4::zeros((batch, output.channels(), rows, columns));
    match node.op {
        Op::Input { .. } => unreachable!("the input has no inputs"),
        Op::Conv { filters, kernel, stride, padding, groups, .. } => {
            let weight = parameter(model, node, Role::Weight);
            let bias = parameter(model, node, Role::Bias);
            let group = filters / groups;
            let weight = Array2::from_shape_vec((filters, weight.len() / filters), weight)
                .expect("a verified model has weights for each filter");
            let parts = x
                .axis_chunks_iter(Axis(1), channels / groups)
                .zip(weight.axis_chunks_iter(Axis(0), group))
                .zip(y.axis_chunks_iter_mut(Axis(1), group));
            for ((x, weight), mut y) in parts {
                let sums = weight.dot(&unfold(x, (rows, columns), kernel, stride, padding));
                let sums = sums.into_shape_with_order((group, batch, rows, columns));
                y.assign(&sums.expect("a sum for each pixel").permuted_axes([1, 0, 2, 3]));
            }
            for (mut y, bias) in y.axis_iter_mut(Axis(1)).zip(bias) {
                y += bias;
            }
        }
        Op::BatchNorm { epsilon } => {
            let (mean, variance) = match mode {
                Mode::Training => moments(x),
                Mode::Evaluation => (
                    Array1::from(parameter(model, node, Role::Mean)),
                    Array1::from(parameter(model, node, Role::Variance)),
                ),
            };
            let gamma = parameter(model, node, Role::Gamma);
            let beta = parameter(model, node, Role::Beta);
            let deviation = variance.mapv(|v| (v + f64::from(epsilon)).sqrt());
            for (f, (mut y, x)) in y.axis_iter_mut(Axis(1)).zip(x.axis_iter(Axis(1))).enumerate() {
                y.zip_mut_with(&x, |y, x| {
                    *y = gamma[f] * (x - mean[f]) / deviation[f] + beta[f];
                });
            }
        }
        Op::Relu => y.zip_mut_with(x, |y, x| *y = x.max(0.0)),
        Op::MaxPool { size, stride, padding } => {
            for ((b, f, r, c), y) in y.indexed_iter_mut() {
                let (row, column) = winner(x, (b, f), (r, c), size, stride, padding);
                *y = x[[b, f, row, column]];
            }
        }
        Op::AveragePool { size, stride } => {
            for ((b, f, r, c), y) in y.indexed_iter_mut() {
                for (_, _, row, column) in window((r, c), size, stride, 0, (height, width)) {
                    *y += x[[b, f, row, column]] / (size * size) as f64;
                }
            }
        }
        Op::GlobalPool => {
            for ((b, f, _, _), y) in y.indexed_iter_mut() {
                *y = x.slice(s![b, f, .., ..]).sum() / (height * width) as f64;
            }
        }
        Op::Flatten => {
            for ((b, f, r, c), x) in x.indexed_iter() {
                y[[b, (f * height + r) * width + c, 0, 0]] = *x;
            }
        }
        Op::Linear { .. } => {
            let weight = parameter(model, node, Role::Weight);
            let bias = parameter(model, node, Role::Bias);
            for ((b, u, _, _), y) in y.indexed_iter_mut() {
                *y = bias.get(u).copied().unwrap_or(0.0);
                for k in 0..channels {
                    *y += weight[u * channels + k] * x[[b, k, 0, 0]];
                }
            }
        }
        Op::Dropout { .. } => y.assign(x),
        Op::Add => inputs.iter().for_each(|input| y += *input),
        Op::Concat => {
            let views: Vec<_> = inputs.iter().map(|input| input.view()).collect();
            y = ndarray::concatenate(Axis(1), &views).expect("the shapes were verified");
        }
    }
    y
}

/// The first pixel, in row-major order, with the largest value of a window.
fn winner(
    x: &Array4<f64>,
    (b, f): (usize, usize),
    output: (usize, usize),
    size: usize,
    stride: usize,
    padding: usize,
) -> (usize, usize) {
    let (_, _, height, width) = x.dim();
    let mut best = None;
    for (_, _, row, column) in window(output, size, stride, padding, (height, width)) {
        let value = x[[b, f, row, column]];
        if best.is_none_or(|(largest, _)| value > largest) {
            best = Some((value, (row, column)));
        }
    }
    best.expect("padding is less than the window, so a window holds a pixel").1
}

/// The gradients of a node's parameters, and the slopes of its inputs.
#[derive(Default)]
struct Back {
    parameters: Vec<(Role, Vec<f64>)>,
    inputs: Vec<Array4<f64>>,
}

/// The slope of the mean cross-entropy at the logits.
fn cross_entropy_slope(logits: &Array2<f64>, targets: &Array2<f64>) -> Array4<f64> {
    let (batch, classes) = logits.dim();
    Array4::from_shape_fn((batch, classes, 1, 1), |(b, class, _, _)| {
        let row = logits.row(b);
        let largest = row.fold(f64::NEG_INFINITY, |largest, x| largest.max(*x));
        let total: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        let probability = (row[class] - largest).exp() / total;
        (probability - targets[[b, class]]) / batch as f64
    })
}

fn backward(
    model: &Model,
    node: &Node,
    inputs: &[&Array4<f64>],
    y: &Array4<f64>,
    slope: &Array4<f64>,
) -> Back {
    if inputs.is_empty() {
        return Back::default();
    }
    let x = inputs[0];
    let (batch, channels, height, width) = x.dim();
    let mut dx = Array4::zeros(x.dim());
    let mut parameters = Vec::new();
    match node.op {
        Op::Input { .. } => {}
        Op::Conv { filters, kernel, stride, padding, groups, bias } => {
            let weight = parameter(model, node, Role::Weight);
            let mut dw = vec![0.0; weight.len()];
            let group = channels / groups;
            for ((b, f, r, c), slope) in slope.indexed_iter() {
                for (i, j, row, column) in window((r, c), kernel, stride, padding, (height, width))
                {
                    for k in 0..group {
                        let place = ((f * group + k) * kernel + i) * kernel + j;
                        let read = [b, f / (filters / groups) * group + k, row, column];
                        dw[place] += slope * x[read];
                        dx[read] += slope * weight[place];
                    }
                }
            }
            parameters.push((Role::Weight, dw));
            if bias {
                parameters.push((Role::Bias, channel_sums(slope)));
            }
        }
        Op::BatchNorm { epsilon } => {
            let (mean, variance) = moments(x);
            let gamma = parameter(model, node, Role::Gamma);
            let count = (batch * height * width) as f64;
            let mut dgamma = vec![0.0; channels];
            let dbeta = channel_sums(slope);
            let deviation = variance.mapv(|v| (v + f64::from(epsilon)).sqrt());
            let normal = |at: [usize; 4]| (x[at] - mean[at[1]]) / deviation[at[1]];
            for ((b, f, r, c), slope) in slope.indexed_iter() {
                dgamma[f] += slope * normal([b, f, r, c]);
            }
            for ((b, f, r, c), dx) in dx.indexed_iter_mut() {
                let at = [b, f, r, c];
                let shared = (dbeta[f] + normal(at) * dgamma[f]) / count;
                *dx = gamma[f] / deviation[f] * (slope[at] - shared);
            }
            parameters.extend([(Role::Gamma, dgamma), (Role::Beta, dbeta)]);
        }
        Op::Relu => {
            for ((at, dx), y) in dx.indexed_iter_mut().zip(y) {
                if *y > 0.0 {
                    *dx = slope[at];
                }
            }
        }
        Op::MaxPool { size, stride, padding } => {
            for ((b, f, r, c), slope) in slope.indexed_iter() {
                let (row, column) = winner(x, (b, f), (r, c), size, stride, padding);
                dx[[b, f, row, column]] += slope;
            }
        }
        Op::AveragePool { size, stride } => {
            for ((b, f, r, c), slope) in slope.indexed_iter() {
                for (_, _, row, column) in window((r, c), size, stride, 0, (height, width)) {
                    dx[[b, f, row, column]] += slope / (size * size) as f64;
                }
            }
        }
        Op::GlobalPool => {
            for ((b, f, _, _), dx) in dx.indexed_iter_mut() {
                *dx = slope[[b, f, 0, 0]] / (height * width) as f64;
            }
        }
        Op::Flatten => {
            for ((b, f, r, c), dx) in dx.indexed_iter_mut() {
                *dx = slope[[b, (f * height + r) * width + c, 0, 0]];
            }
        }
        Op::Linear { bias, .. } => {
            let weight = parameter(model, node, Role::Weight);
            let mut dw = vec![0.0; weight.len()];
            for ((b, u, _, _), slope) in slope.indexed_iter() {
                for k in 0..channels {
                    dw[u * channels + k] += slope * x[[b, k, 0, 0]];
                    dx[[b, k, 0, 0]] += slope * weight[u * channels + k];
                }
            }
            parameters.push((Role::Weight, dw));
            if bias {
                parameters.push((Role::Bias, channel_sums(slope)));
            }
        }
        Op::Dropout { .. } => dx.assign(slope),
        Op::Add => {
            return Back { parameters, inputs: inputs.iter().map(|_| slope.clone()).collect() };
        }
        Op::Concat => {
            let mut start = 0;
            let parts = inputs.iter().map(|input| {
                let part = slope.slice(s![.., start..start + input.dim().1, .., ..]).to_owned();
                start += input.dim().1;
                part
            });
            return Back { parameters, inputs: parts.collect() };
        }
    }
    Back { parameters, inputs: vec![dx] }
}

fn channel_sums(slope: &Array4<f64>) -> Vec<f64> {
    (0..slope.dim().1).map(|channel| slope.index_axis(Axis(1), channel).sum()).collect()
}
