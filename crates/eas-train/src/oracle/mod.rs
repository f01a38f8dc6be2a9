//! The oracle engine: the network as a candle graph, differentiated by candle.
//!
//! It is kept for good as what faster engines are compared with, so it is plain: one tensor a node,
//! the layout `[channels, batch, height, width]`, in which a convolution is one matrix product and a
//! batch norm works on rows. The operations whose gradients candle has wrong or not at all (pooling,
//! strided convolution, ReLU at 0) are our own, in [`ops`].
//!
//! On one machine, results are the same to the last bit on any number of threads: our own operations
//! and candle's matrix product (the gemm crate) share outputs among threads, never the terms of a sum.
//! The product cuts its sums by the shape and by the sizes of the caches, and its kernels depend on the
//! instruction set, so on another kind of machine results agree to rounding alone.

mod ops;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use candle_core::{D, Device, Tensor, Var};
use candle_nn::loss::nll;
use candle_nn::ops::log_softmax;
use eas_ir::{
    Forward, Gradients, Images, Mode, Model, Moments, Network, Node, NodeId, Op, ParamId, Rng,
    Role, Shape, Shapes, Weights,
};
use ndarray::{Array2, ArrayView4, Axis};

use crate::engine::{Batch, Engine, Program, StepOptions, StepReport};
use crate::optimiser::{Nesterov, nesterov_step};
use crate::parameters::{FlatParameters, Slot};
use crate::recipe::Precision;
use ops::{AveragePool, BatchNorm, Im2Col, MaxPool, Relu, Statistics};

/// Share of the old running statistics that a training step keeps (the paper's code: 0.9).
const STATISTICS_DECAY: f32 = 0.9;

/// Images that are evaluated at once.
const EVALUATION_BATCH: usize = 256;

/// The oracle engine, on the CPU, in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oracle;

impl Engine for Oracle {
    fn compile(&self, network: &Network) -> anyhow::Result<Box<dyn Program>> {
        Ok(Box::new(Graph::new(network)?))
    }
}

/// A network and its shapes; the graph itself is built anew for every batch.
struct Graph {
    network: Network,
    shapes: Shapes,
}

/// How a graph is built.
struct Pass<'a> {
    parameters: &'a BTreeMap<ParamId, Tensor>,
    mode: Mode,
    dropout: Option<&'a Rng>,
    /// The statistics of each batch norm in training mode, as they are found.
    statistics: Vec<(NodeId, Statistics)>,
    /// Nodes whose values are wanted besides the last.
    kept: BTreeSet<NodeId>,
}

impl Graph {
    fn new(network: &Network) -> anyhow::Result<Self> {
        let shapes = network.verify()?;
        Ok(Graph { network: network.clone(), shapes })
    }

    /// Builds the graph for these images; returns the logits `[batch, classes]` and the kept values.
    fn run(
        &self,
        images: ArrayView4<'_, f32>,
        pass: &mut Pass<'_>,
    ) -> anyhow::Result<(Tensor, BTreeMap<NodeId, Tensor>)> {
        let input = self.input(images)?;
        let users = self.network.consumer_map();
        let mut left: BTreeMap<NodeId, usize> =
            users.iter().map(|(id, users)| (*id, users.len())).collect();
        let mut values: BTreeMap<NodeId, Tensor> = BTreeMap::new();
        let mut kept = BTreeMap::new();
        for node in self.network.nodes() {
            let inputs: Vec<&Tensor> = node.inputs.iter().map(|id| &values[id]).collect();
            let value = if inputs.is_empty() {
                input.clone()
            } else {
                self.node(node, &inputs, pass)
                    .with_context(|| format!("{}: {}", node.id, node.op))?
            };
            if pass.kept.contains(&node.id) {
                kept.insert(node.id, value.clone());
            }
            values.insert(node.id, value);
            // What nobody reads any more is freed at once, where no gradient needs it.
            for id in BTreeSet::from_iter(&node.inputs) {
                let readers = left.get_mut(id).expect("an input has readers");
                *readers -= 1;
                if *readers == 0 {
                    values.remove(id);
                }
            }
        }
        let output = self.network.output().context("a network has an output")?.id;
        let logits =
            values.remove(&output).context("the output was computed")?.t()?.contiguous()?;
        Ok((logits, kept))
    }

    /// The images as `[channels, batch, height, width]`, or `[features, batch]`.
    fn input(&self, images: ArrayView4<'_, f32>) -> anyhow::Result<Tensor> {
        let (batch, channels, height, width) = images.dim();
        let node = self.network.input().context("a network has an input")?;
        let shape = self.shapes[node.id];
        let fits = match shape {
            Shape::Image { .. } => shape == Shape::Image { channels, height, width },
            Shape::Flat { features } => (features, 1, 1) == (channels, height, width),
        };
        ensure!(fits, "expected images of {shape}, found {channels}x{height}x{width}");
        ensure!(batch > 0, "expected at least one image");
        let swapped = images.permuted_axes([1, 0, 2, 3]);
        let values: Vec<f32> = swapped.iter().copied().collect();
        let tensor = Tensor::from_vec(values, (channels, batch, height, width), &Device::Cpu)?;
        Ok(match shape {
            Shape::Image { .. } => tensor,
            Shape::Flat { features } => tensor.reshape((features, batch))?,
        })
    }

    fn node(&self, node: &Node, inputs: &[&Tensor], pass: &mut Pass<'_>) -> anyhow::Result<Tensor> {
        let parameter = |role| {
            let id = ParamId::new(node.id, role);
            pass.parameters.get(&id).with_context(|| format!("no parameter {id}"))
        };
        let x = inputs[0];
        Ok(match node.op {
            Op::Input { .. } => x.clone(),
            Op::Conv { kernel, stride, padding, groups, bias, .. } => {
                let columns = Im2Col { kernel, stride, padding };
                let y = convolution(x, parameter(Role::Weight)?, columns, groups)?;
                if bias {
                    y.broadcast_add(&parameter(Role::Bias)?.reshape(((), 1, 1, 1))?)?
                } else {
                    y
                }
            }
            Op::BatchNorm { epsilon } => {
                let (gamma, beta) = (parameter(Role::Gamma)?, parameter(Role::Beta)?);
                let statistics = match pass.mode {
                    Mode::Training => Statistics::of(x)?,
                    Mode::Evaluation => Statistics {
                        mean: parameter(Role::Mean)?.to_vec1()?,
                        variance: parameter(Role::Variance)?.to_vec1()?,
                        count: 0,
                    },
                };
                let y = x.apply_op3(gamma, beta, BatchNorm::new(&statistics, epsilon))?;
                if pass.mode == Mode::Training {
                    pass.statistics.push((node.id, statistics));
                }
                y
            }
            Op::Relu => x.apply_op1(Relu)?,
            Op::MaxPool { size, stride, padding } => {
                x.apply_op1(MaxPool { size, stride, padding })?
            }
            Op::AveragePool { size, stride } => x.apply_op1(AveragePool { size, stride })?,
            Op::GlobalPool => x.flatten_from(2)?.mean(D::Minus1)?,
            Op::Flatten => {
                let (channels, batch, height, width) = x.dims4()?;
                let features = channels * height * width;
                x.permute((0, 2, 3, 1))?.contiguous()?.reshape((features, batch))?
            }
            Op::Linear { bias, .. } => {
                let y = parameter(Role::Weight)?.matmul(x)?;
                if bias { y.broadcast_add(&parameter(Role::Bias)?.reshape(((), 1))?)? } else { y }
            }
            Op::Dropout { rate } => match pass.dropout {
                Some(rng) if pass.mode == Mode::Training && rate > 0.0 => {
                    x.mul(&dropout_mask(x, rate, rng, node.id)?)?
                }
                _ => x.clone(),
            },
            Op::Add => {
                let mut sum = x.clone();
                for other in &inputs[1..] {
                    sum = (sum + *other)?;
                }
                sum
            }
            Op::Concat => Tensor::cat(inputs, 0)?,
        })
    }
}

/// A convolution as a matrix product, one for each group.
fn convolution(
    x: &Tensor,
    weight: &Tensor,
    columns: Im2Col,
    groups: usize,
) -> anyhow::Result<Tensor> {
    let (channels, batch, height, width) = x.dims4()?;
    let (filters, _, kernel, _) = weight.dims4()?;
    let (rows, across) = (columns.side(height), columns.side(width));
    // A 1×1 kernel reads the image as it is.
    let read = if columns.is_identity() { x.clone() } else { x.apply_op1(columns)? };
    let places = channels / groups * kernel * kernel;
    let read = read.reshape((groups, places, batch * rows * across))?;
    let y = weight.reshape((groups, filters / groups, places))?.matmul(&read)?;
    Ok(y.reshape((filters, batch, rows, across))?)
}

/// Zeros with probability `rate`, 1 / (1 − rate) elsewhere; the stream depends on the node alone.
fn dropout_mask(x: &Tensor, rate: f32, rng: &Rng, node: NodeId) -> anyhow::Result<Tensor> {
    let mut rng = rng.split("dropout").split_index(u64::from(node.number()));
    let keep = 1.0 / (1.0 - rate);
    let threshold = (f64::from(rate) * 2f64.powi(32)) as u64;
    let draw = |_| if u64::from(rng.next_u32()) < threshold { 0.0 } else { keep };
    let mask: Vec<f32> = (0..x.elem_count()).map(draw).collect();
    Ok(Tensor::from_vec(mask, x.shape(), &Device::Cpu)?)
}

/// Mean cross-entropy with label smoothing, and how many are right.
fn cross_entropy(
    logits: &Tensor,
    batch: &Batch,
    smoothing: f64,
) -> anyhow::Result<(Tensor, usize)> {
    let (count, classes) = logits.dims2()?;
    batch.check(classes)?;
    let best = logits.argmax(1)?.to_vec1::<u32>()?;
    let is_right = |(image, best): &(usize, &u32)| **best as usize == batch.shown(*image).0;
    let correct = best.iter().enumerate().filter(is_right).count();
    let log_probability = log_softmax(logits, 1)?;
    let loss = if batch.mixed.is_empty() {
        let labels: Vec<u32> = batch.labels.iter().map(|label| *label as u32).collect();
        nll(&log_probability, &Tensor::from_vec(labels, count, &Device::Cpu)?)?
    } else {
        let mut targets = vec![0.0; count * classes];
        for (image, targets) in targets.chunks_exact_mut(classes).enumerate() {
            let (label, other, share) = batch.shown(image);
            targets[label] += share as f32;
            targets[other] += (1.0 - share) as f32;
        }
        let targets = Tensor::from_vec(targets, (count, classes), &Device::Cpu)?;
        (log_probability.mul(&targets)?.sum_all()? / -(count as f64))?
    };
    if smoothing == 0.0 {
        return Ok((loss, correct));
    }
    let spread = log_probability.mean_all()?.neg()?;
    Ok((((loss * (1.0 - smoothing))? + (spread * smoothing)?)?, correct))
}

fn tensors(parameters: &FlatParameters) -> anyhow::Result<BTreeMap<ParamId, Tensor>> {
    let tensor = |slot: &Slot| {
        let values = &parameters.values[slot.range()];
        Ok((slot.id, Tensor::from_slice(values, slot.shape.as_slice(), &Device::Cpu)?))
    };
    parameters.slots().iter().map(tensor).collect()
}

/// What a batch says of the parameters.
struct Slopes {
    /// In the layout of the parameters.
    gradient: Vec<f32>,
    report: StepReport,
    /// Those of each batch norm's batch.
    statistics: Vec<(NodeId, Statistics)>,
}

impl Graph {
    fn differentiate(
        &self,
        parameters: &FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<Slopes> {
        let mut tensors = BTreeMap::new();
        let trainable = || parameters.slots().iter().filter(|slot| slot.is_trainable());
        for slot in trainable() {
            let values = &parameters.values[slot.range()];
            let variable = Var::from_slice(values, slot.shape.as_slice(), &Device::Cpu)?;
            tensors.insert(slot.id, variable.into_inner());
        }
        let mut pass = Pass {
            parameters: &tensors,
            mode: Mode::Training,
            dropout: options.dropout,
            statistics: Vec::new(),
            kept: BTreeSet::new(),
        };
        let (logits, _) = self.run(batch.images.view(), &mut pass)?;
        let (loss, correct) = cross_entropy(&logits, batch, options.label_smoothing)?;
        let report = StepReport { loss: f64::from(loss.to_scalar::<f32>()?), correct };
        let statistics = pass.statistics;
        let gradients = loss.backward()?;
        let mut gradient = vec![0.0; parameters.values.len()];
        for slot in trainable() {
            if let Some(slope) = gradients.get(&tensors[&slot.id]) {
                let slope = slope.flatten_all()?.to_vec1::<f32>()?;
                gradient[slot.range()].copy_from_slice(&slope);
            }
        }
        Ok(Slopes { gradient, report, statistics })
    }
}

impl Program for Graph {
    fn step(
        &mut self,
        parameters: &mut FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<StepReport> {
        let Slopes { gradient, report, statistics } =
            self.differentiate(parameters, batch, options)?;
        if !report.is_finite() {
            return Ok(report);
        }
        nesterov_step(parameters, &gradient, options.update);
        for (node, batch) in statistics {
            // Normalised by the biased variance; the running one is unbiased, as in PyTorch.
            let unbiased = batch.count as f32 / (batch.count.max(2) - 1) as f32;
            let found =
                [(Role::Mean, &batch.mean, 1.0), (Role::Variance, &batch.variance, unbiased)];
            for (role, found, factor) in found {
                let id = ParamId::new(node, role);
                let running =
                    parameters.get_mut(id).with_context(|| format!("no parameter {id}"))?;
                for (running, found) in running.iter_mut().zip(found) {
                    *running =
                        STATISTICS_DECAY * *running + (1.0 - STATISTICS_DECAY) * factor * found;
                }
            }
        }
        Ok(report)
    }

    fn gradient(
        &mut self,
        parameters: &FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<(Vec<f32>, StepReport)> {
        let Slopes { mut gradient, report, .. } = self.differentiate(parameters, batch, options)?;
        if !report.is_finite() {
            gradient.fill(f32::NAN);
        }
        Ok((gradient, report))
    }

    fn logits(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        mode: Mode,
    ) -> anyhow::Result<Array2<f32>> {
        let tensors = tensors(parameters)?;
        let count = images.dim().0;
        let classes = self.shapes.output().channels();
        // Batch statistics are of the whole batch; running ones allow it to be cut.
        let chunk = match mode {
            Mode::Evaluation => EVALUATION_BATCH,
            Mode::Training => count.max(1),
        };
        let mut all = Vec::with_capacity(count * classes);
        for part in images.axis_chunks_iter(Axis(0), chunk) {
            let mut pass = Pass {
                parameters: &tensors,
                mode,
                dropout: None,
                statistics: Vec::new(),
                kept: BTreeSet::new(),
            };
            let (logits, _) = self.run(part, &mut pass)?;
            all.extend(logits.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(Array2::from_shape_vec((count, classes), all)?)
    }

    fn moments(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>> {
        let tensors = tensors(parameters)?;
        let mut pass = Pass {
            parameters: &tensors,
            mode: Mode::Evaluation,
            dropout: None,
            statistics: Vec::new(),
            kept: nodes.iter().copied().collect(),
        };
        let (_, kept) = self.run(images.view(), &mut pass)?;
        nodes
            .iter()
            .map(|id| {
                let value = kept.get(id).with_context(|| format!("no node {id}"))?;
                let Statistics { mean, variance, .. } = Statistics::of(value)?;
                let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
                Ok((*id, Moments { mean: wide(mean), variance: wide(variance) }))
            })
            .collect()
    }
}

impl Forward for Oracle {
    fn logits(&self, model: &Model, images: &Images, mode: Mode) -> anyhow::Result<Array2<f64>> {
        let parameters = FlatParameters::new(model, None)?;
        let logits = Graph::new(model.network())?.logits(&parameters, images, mode)?;
        Ok(logits.mapv(f64::from))
    }

    fn moments(
        &self,
        model: &Model,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>> {
        let parameters = FlatParameters::new(model, None)?;
        Graph::new(model.network())?.moments(&parameters, images, nodes)
    }
}

impl Gradients for Oracle {
    fn gradients(
        &self,
        model: &Model,
        images: &Images,
        labels: &[usize],
    ) -> anyhow::Result<Weights> {
        let parameters = FlatParameters::new(model, None)?;
        let batch = Batch::new(images.clone(), labels.to_vec());
        let update = Nesterov::default();
        let precision = Precision::F32;
        let options = StepOptions { update, label_smoothing: 0.0, precision, dropout: None };
        let (gradient, _) = Graph::new(model.network())?.gradient(&parameters, &batch, &options)?;
        Ok(parameters.weights_of(&gradient, Slot::is_trainable))
    }
}
