//! The trait of a family of edits.

use std::fmt::Debug;

use eas_ir::{Network, NodeId, Rng};

use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::patch::Patch;
use crate::space::SearchSpace;

/// A family of edits that leave the network's function unchanged.
pub trait Transform: Debug + Send + Sync {
    /// How a policy decides about it.
    fn decision(&self, space: &dyn SearchSpace) -> Decision;

    /// The edits it offers on a verified network, in a stable order. What the space doesn't admit is
    /// filtered behind it, so only widths, kernels and sites need care here.
    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate>;

    /// The patch that makes an edit. It may accept more than [`Transform::edits`] offers: a person
    /// may widen to any width. The randomness is the choice of what is replicated, and what new kernels start
    /// as.
    ///
    /// # Errors
    /// An edit that can't be made on this network.
    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        rng: &mut Rng,
    ) -> anyhow::Result<Patch>;
}
