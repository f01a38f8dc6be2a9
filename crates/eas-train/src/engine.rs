//! The engine seam: nothing above it sees layouts, buffers or devices.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use eas_ir::{Forward, Images, Mode, Moments, Network, NodeId, Rng};
use ndarray::Array2;

use crate::data::Drawn;
use crate::optimiser::Nesterov;
use crate::parameters::FlatParameters;
use crate::recipe::Precision;

/// Compiles networks, and runs models.
pub trait Engine: Forward + Send + Sync {
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
    /// What is mixed into each image, `[batch]`; empty where images are as they are.
    pub mixed: Vec<Mixed>,
}

/// What is mixed into an image (Zhang et al. 2018). The image counts as both classes: its loss is the
/// cross-entropy of either, by their shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixed {
    /// What the other image shows.
    pub label: usize,
    /// The share that the image itself keeps, 0 to 1; the other has the rest.
    pub own: f64,
}

impl Batch {
    /// Images as they are.
    pub fn new(images: Images, labels: Vec<usize>) -> Self {
        Batch { images, labels, mixed: Vec::new() }
    }

    /// The two classes of an image, the one of the larger share first, and that share.
    pub fn shown(&self, image: usize) -> (usize, usize, f64) {
        shown(&self.labels, &self.mixed, image)
    }

    /// Whether there are labels for all images, below a number of classes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self, classes: usize) -> anyhow::Result<()> {
        check_labels(&self.labels, &self.mixed, self.images.dim().0, classes)
    }
}

/// As [`Batch::check`], of a batch's labels, what is mixed in, and its number of images.
pub(crate) fn check_labels(
    labels: &[usize],
    mixed: &[Mixed],
    images: usize,
    classes: usize,
) -> anyhow::Result<()> {
    ensure!(images == labels.len(), "expected {images} labels, found {}", labels.len());
    let both = mixed.len();
    ensure!([0, images].contains(&both), "expected {images} images mixed in, found {both}");
    let all = labels.iter().chain(mixed.iter().map(|mixed| &mixed.label));
    if let Some(outside) = all.into_iter().find(|label| **label >= classes) {
        bail!("expected labels below {classes}, found {outside}");
    }
    let outside = mixed.iter().find(|mixed| !(0.0..=1.0).contains(&mixed.own));
    ensure!(outside.is_none(), "expected shares from 0 to 1, found {outside:?}");
    Ok(())
}

/// As [`Batch::shown`], of a batch's labels and what is mixed in.
pub(crate) fn shown(labels: &[usize], mixed: &[Mixed], image: usize) -> (usize, usize, f64) {
    let label = labels[image];
    match mixed.get(image) {
        None => (label, label, 1.0),
        Some(mixed) if mixed.own >= 0.5 => (label, mixed.label, mixed.own),
        Some(mixed) => (mixed.label, label, 1.0 - mixed.own),
    }
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
    /// Images classified right before the update; a mixed one as what it mostly shows.
    pub correct: usize,
}

impl StepReport {
    /// Whether the loss is a number to go on from.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite()
    }
}

/// One step of a training: a batch that isn't made yet, and what else the step depends on.
#[derive(Clone, Debug)]
pub struct TrainingStep<'a> {
    /// The images, and how they are augmented.
    pub drawn: Drawn<'a>,
    /// Learning rate, momentum and weight decay.
    pub update: Nesterov,
    /// Share of each target that is spread over all classes.
    pub label_smoothing: f64,
    /// What products are computed in.
    pub precision: Precision,
    /// Where dropout masks come from.
    pub dropout: Rng,
}

impl TrainingStep<'_> {
    /// What a step of [`Program::step`] takes besides the batch.
    pub fn options(&self) -> StepOptions<'_> {
        StepOptions {
            update: self.update,
            label_smoothing: self.label_smoothing,
            precision: self.precision,
            dropout: Some(&self.dropout),
        }
    }
}

/// Seconds that an operation took since the program was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpTime {
    /// The node, or none for the loss and the update.
    pub node: Option<NodeId>,
    /// The operation's name; that of the input is `data`: drawing, augmenting and normalising images.
    pub name: &'static str,
    /// Forward.
    pub forward: f64,
    /// Backward.
    pub backward: f64,
}

/// A network made ready to train and run.
pub trait Program {
    /// Where the time of all work so far went, where the engine knows.
    fn times(&self) -> &[OpTime] {
        &[]
    }

    /// How many steps to give to [`Program::steps`] at once: an engine that works beside its caller
    /// takes several, so that it never waits for them.
    fn stride(&self) -> usize {
        1
    }

    /// Steps one after another, no more than [`Program::stride`], and what each found: up to the first whose
    /// loss isn't finite, which leaves the parameters as they were before it, as [`Program::step`].
    ///
    /// # Errors
    /// As [`Program::step`].
    fn steps(
        &mut self,
        parameters: &mut FlatParameters,
        steps: &mut dyn Iterator<Item = TrainingStep<'_>>,
    ) -> anyhow::Result<Vec<StepReport>> {
        let mut reports = Vec::new();
        for step in steps {
            let report = self.step(parameters, &step.drawn.batch(), &step.options())?;
            reports.push(report);
            if !report.is_finite() {
                break;
            }
        }
        Ok(reports)
    }

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
    /// mode, nothing is updated. Of a loss that isn't finite, every number of the gradient is NaN.
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
