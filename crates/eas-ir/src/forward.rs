//! The seam between what a network means and who computes it.

use std::collections::BTreeMap;

use ndarray::{Array2, Array4, Axis};

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

/// What a difference of logits is held against, of the logits that are expected, `[batch, classes]`: their
/// deviation, of each class over the images, root mean square over classes; of all of them where there is one
/// image. Logits that vary less than a hundredth of their size are held to that instead, below which f32 can't
/// tell them apart to the tolerances that are usual; it is never 0.
pub fn deviation_of_logits(logits: &Array2<f64>) -> f64 {
    let size = logits.fold(0.0f64, |size, logit| size.max(logit.abs()));
    let deviation = match logits.nrows() {
        0 | 1 => logits.std(0.0),
        _ => logits.var_axis(Axis(0), 0.0).mean().unwrap_or(0.0).sqrt(),
    };
    match deviation.max(1e-2 * size) {
        deviation if deviation > 0.0 => deviation,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_between_classes_are_no_deviation() {
        let logits = ndarray::arr2(&[[10.0, 1.0], [10.0, -1.0]]);
        assert!((deviation_of_logits(&logits) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(deviation_of_logits(&ndarray::arr2(&[[3.0, 1.0]])), 1.0);
        assert_eq!(deviation_of_logits(&ndarray::arr2(&[[100.0, 1.0], [100.0, 1.0]])), 1.0);
        assert_eq!(deviation_of_logits(&ndarray::arr2(&[[0.0], [0.0]])), 1.0);
    }
}
