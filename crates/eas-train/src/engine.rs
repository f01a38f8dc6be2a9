//! The engine seam: nothing above it sees layouts, buffers or devices.

use std::collections::BTreeMap;

use eas_ir::{Images, Mode, Moments, Network, NodeId, Rng};
use ndarray::Array2;

use crate::optimiser::Nesterov;
use crate::parameters::FlatParameters;
use crate::recipe::Precision;

/// Compiles networks.
pub trait Engine: Send + Sync {
    /// A program that trains and runs this network.
    ///
    /// # Errors
    /// A network that doesn't verify, or that the engine has no program for.
    fn compile(&self, network: &Network) -> anyhow::Result<Box<dyn Program>>;
}

/// Images and what they show.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Normalised, `[batch, channels, height, width]`.
    pub images: Images,
    /// A class each, `[batch]`.
    pub labels: Vec<usize>,
}

/// What a training step depends on besides the parameters and the batch.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions<'a> {
    /// Learning rate, momentum and weight decay.
    pub update: Nesterov,
    /// Share of each target that is spread over all classes, 0 for none (Szegedy et al. 2016).
    pub label_smoothing: f64,
    /// What products are computed in. The oracle computes in f32 whatever is asked for.
    pub precision: Precision,
    /// Where dropout masks come from; without it, dropout is off.
    pub dropout: Option<&'a Rng>,
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean cross-entropy of the batch before the update.
    pub loss: f64,
    /// Images classified right before the update.
    pub correct: usize,
}

impl StepReport {
    /// Whether the loss is a number to go on from.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite()
    }
}

/// A network made ready to train and run.
pub trait Program {
    /// One step of training: forward, backward, update, and the running statistics of batch norms.
    ///
    /// # Errors
    /// A batch that doesn't fit the network. A loss that isn't finite is no error: it is reported,
    /// and the parameters are left as they were.
    fn step(
        &mut self,
        parameters: &mut FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<StepReport>;

    /// The gradient of the mean cross-entropy, in the layout of `parameters`, and the loss; training
    /// mode, nothing is updated.
    ///
    /// # Errors
    /// A batch that doesn't fit the network.
    fn gradient(
        &mut self,
        parameters: &FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<(Vec<f32>, StepReport)>;

    /// The logits, `[batch, classes]`.
    ///
    /// # Errors
    /// Images that don't fit the network.
    fn logits(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        mode: Mode,
    ) -> anyhow::Result<Array2<f32>>;

    /// The moments of these nodes' outputs in evaluation mode.
    ///
    /// # Errors
    /// As [`Program::logits`]; also a node that the network doesn't have.
    fn moments(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>>;
}
