//! A change to a network as a value: the new architecture, and where its weights come from.

use std::collections::BTreeMap;

use eas_ir::{Network, NodeId, ParamId};

/// How one new parameter is computed from the old weights.
#[derive(Clone, Debug, PartialEq)]
pub enum Derive {
    /// The old parameter of this id.
    Old(ParamId),
    /// Entry `i` along `axis` is entry `index[i]` of `of`, times `scale[i]`.
    Gather {
        /// What is gathered from.
        of: Box<Derive>,
        /// The axis.
        axis: usize,
        /// For each new entry, the old one.
        index: Vec<usize>,
        /// For each new entry, its factor.
        scale: Vec<f32>,
    },
    /// Parts one after another along `axis`.
    Concat {
        /// The axis.
        axis: usize,
        /// The parts.
        parts: Vec<Derive>,
    },
    /// The identity: a square matrix `[n, n]`, or a kernel `[n, n, k, k]` with ones at the centre.
    Identity {
        /// The shape.
        shape: Vec<usize>,
    },
    /// One value everywhere.
    Fill {
        /// The shape.
        shape: Vec<usize>,
        /// The value.
        value: f32,
    },
    /// Normal noise of mean 0, drawn whether noise is on or not: a new kernel that something behind it
    /// multiplies by 0, as training needs a start that isn't 0 itself.
    Normal {
        /// The shape.
        shape: Vec<usize>,
        /// The deviation.
        deviation: f64,
        /// The seed, of the randomness that the patch was made with.
        seed: u64,
    },
    /// `of` plus normal noise, where noise is on; exactly `of` where it is off.
    Noisy {
        /// What the noise is added to.
        of: Box<Derive>,
        /// Deviation of the noise, as a ratio of the deviation of `source`'s values.
        ratio: f64,
        /// The old parameter whose deviation counts.
        source: ParamId,
        /// The entries along an axis that get noise; without it, all.
        only: Option<(usize, Vec<usize>)>,
    },
}

impl Derive {
    /// `self` gathered along an axis, each entry times its scale.
    #[must_use]
    pub fn gather(self, axis: usize, index: Vec<usize>, scale: Vec<f32>) -> Self {
        Derive::Gather { of: Box::new(self), axis, index, scale }
    }

    /// `self` with noise of `ratio` times the deviation of `source`; `self` itself where the ratio
    /// is 0.
    #[must_use]
    pub fn noisy(self, ratio: f64, source: ParamId, only: Option<(usize, Vec<usize>)>) -> Self {
        if ratio == 0.0 { self } else { Derive::Noisy { of: Box::new(self), ratio, source, only } }
    }
}

/// Whether [`carry_momentum`](crate::carry_momentum) maps the parent's gradient exactly to the
/// child's, in training mode without dropout, noise and weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientMap {
    /// To rounding.
    Exact,
    /// Nearly; the law reports how far off.
    Approximate,
}

/// A change to a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// The new architecture.
    pub network: Network,
    /// Where new or changed parameters come from. One not listed is kept as it is.
    pub weights: BTreeMap<ParamId, Derive>,
    /// How well momentum carries over.
    pub gradient: GradientMap,
    /// Inserted batch norms, whose statistics [`calibrate`](crate::calibrate) takes from data.
    pub calibrate: Vec<NodeId>,
}
