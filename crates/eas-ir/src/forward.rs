//! The seam between what a network means and who computes it.

use std::collections::BTreeMap;

use ndarray::{Array2, Array4};

use crate::model::Model;
use crate::network::NodeId;
use crate::weights::Weights;

/// A batch of normalised images, `[batch, channels, height, width]`.
pub type Images = Array4<f32>;

/// Which statistics batch norms use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The running statistics.
    Evaluation,
    /// The batch's own statistics. Running statistics stay as they are; dropout is off.
    Training,
}

/// Mean and (biased) variance of each channel over a batch and all pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean, `[channels]`.
    pub mean: Vec<f64>,
    /// Variance, divided by the count, `[channels]`.
    pub variance: Vec<f64>,
}

/// Whoever can run a model forward: the reference evaluator, and the trainer's engines.
pub trait Forward {
    /// The logits, `[batch, classes]`.
    ///
    /// # Errors
    /// Images of another shape than the model's input, or an engine's failure.
    fn logits(&self, model: &Model, images: &Images, mode: Mode) -> anyhow::Result<Array2<f64>>;

    /// The moments of these nodes' outputs in evaluation mode.
    ///
    /// # Errors
    /// As [`Forward::logits`]; also a node that the network doesn't have.
    fn moments(
        &self,
        model: &Model,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>>;
}

/// Whoever can differentiate a model.
pub trait Gradients {
    /// The gradient of the mean cross-entropy with respect to every trainable parameter, in training
    /// mode without dropout; `labels` are `[batch]`.
    ///
    /// # Errors
    /// As [`Forward::logits`]; also labels that aren't classes of the model.
    fn gradients(
        &self,
        model: &Model,
        images: &Images,
        labels: &[usize],
    ) -> anyhow::Result<Weights>;
}
