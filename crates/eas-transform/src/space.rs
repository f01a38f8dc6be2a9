//! The region of networks that a search may visit.

use std::fmt::Debug;
use std::path::PathBuf;

use eas_ir::{
    Bytes, Cost, Count, Forward, Label, Network, NodeId, Rng, SavedModel, Shape, Shapes,
    Violations, cost,
};
use serde::{Deserialize, Serialize};

/// The task that a start network is made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Shape of one image.
    pub input: Shape,
    /// Number of classes: one logit each.
    pub classes: usize,
    /// Where relative paths in a space's options start.
    pub directory: PathBuf,
}

/// Bounds that every network of a search keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Convolutions and linear layers, the classifier among them.
    pub depth: usize,
    /// Trainable parameters.
    pub parameters: Count,
    /// Multiply-accumulates for one image, forward.
    pub macs: Count,
    /// Memory to train a batch.
    pub memory: Bytes,
    /// Blocks that a policy can tell apart.
    pub blocks: usize,
    /// Layers of a block that a policy can tell apart.
    pub layers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            depth: 32,
            parameters: Count(30_000_000),
            macs: Count(1_500_000_000),
            memory: Bytes(10 << 30),
            blocks: 5,
            layers: 10,
        }
    }
}

impl Limits {
    /// Where a policy picks a labelled layer, `[block, layer]`; nothing where that is beyond those that it
    /// can tell apart.
    pub fn path(&self, label: &Label) -> Option<Vec<usize>> {
        let (block, layer) = (label.block as usize, label.layer as usize);
        (block < self.blocks && layer < self.layers).then(|| vec![block, layer])
    }
}

/// Why a network lies outside a space.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It is no network.
    #[error("{0}")]
    Rules(#[from] Violations),
    /// It exceeds a limit.
    #[error("{what}: expected at most {limit}, found {found}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// The limit.
        limit: String,
        /// What the network has.
        found: String,
    },
}

/// One symbol of a network written as a sequence, for a policy's encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Index into [`SearchSpace::vocabulary`].
    pub id: usize,
    /// The layer that it stands for, where edits may name it.
    pub site: Option<NodeId>,
}

/// The region of networks that a search may visit.
pub trait SearchSpace: Debug + Send + Sync {
    /// The network that a search starts from.
    ///
    /// # Errors
    /// A problem that the space has no network for.
    fn start(&self, problem: &Problem) -> anyhow::Result<Network>;

    /// The start network with weights that it has already, where the space brings some: a search trains
    /// them on. Its network is that of [`SearchSpace::start`]. `forward` runs it where it came with
    /// logits to be held against.
    ///
    /// # Errors
    /// As [`SearchSpace::start`]; also a model that gives other logits than it came with.
    fn start_model(&self, _: &Problem, _: &dyn Forward) -> anyhow::Result<Option<SavedModel>> {
        Ok(None)
    }

    /// The widths that the layer at `site` may have, rising; empty where it keeps its own.
    fn widths(&self, network: &Network, site: NodeId) -> &[usize];

    /// The kernel sizes that convolutions may have, rising.
    fn kernels(&self) -> &[usize];

    /// The bounds.
    fn limits(&self) -> &Limits;

    /// Every token, as text.
    fn vocabulary(&self) -> Vec<String>;

    /// A network of the space as a sequence of tokens.
    fn tokens(&self, network: &Network) -> Vec<Token>;

    /// The space at a size at which thousands of networks can be evaluated: start networks for 8×8
    /// images with widths of a dozen or so, drawn at random. For the [law](crate::law).
    ///
    /// # Errors
    /// A space that has no such form.
    fn miniature(&self, rng: &mut Rng) -> anyhow::Result<Box<dyn SearchSpace>>;

    /// Whether a network lies in the space, when it is trained with batches of `batch` images.
    ///
    /// # Errors
    /// The first bound that it exceeds.
    fn admits(&self, network: &Network, batch: usize) -> Result<(Shapes, Cost), Refusal> {
        let shapes = network.verify()?;
        let limits = self.limits();
        let depth = network.depth();
        let cost = cost(network, &shapes, batch);
        let exceeds = [
            ("depth", depth > limits.depth, limits.depth.to_string(), depth.to_string()),
            (
                "parameters",
                cost.parameters > limits.parameters.0,
                limits.parameters.to_string(),
                Count(cost.parameters).to_string(),
            ),
            (
                "macs",
                cost.macs > limits.macs.0,
                limits.macs.to_string(),
                Count(cost.macs).to_string(),
            ),
            (
                "memory",
                cost.memory > limits.memory.0,
                limits.memory.to_string(),
                Bytes(cost.memory).to_string(),
            ),
        ];
        match exceeds.into_iter().find(|(_, exceeded, ..)| *exceeded) {
            Some((what, _, limit, found)) => Err(Refusal::Limit { what, limit, found }),
            None => Ok((shapes, cost)),
        }
    }
}
