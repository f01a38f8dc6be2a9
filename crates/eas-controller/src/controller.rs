//! The trait of whoever decides what to try.

use std::fmt::Debug;

use eas_ir::Rng;
use eas_transform::Step;

use crate::scope::Scope;
use crate::trial::Trial;

/// An episode: the steps that make a child of the scope's parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The steps, in order; a step may be empty.
    pub steps: Vec<Step>,
}

/// Proposes networks and learns from how they did.
///
/// A controller is told of a batch only when it is complete, in the order proposed, so its decisions
/// depend on the seed and the results alone.
pub trait Controller: Debug + Send {
    /// `count` episodes, each with randomness of its own.
    ///
    /// # Errors
    /// A scope that names transforms that aren't there.
    fn propose(
        &mut self,
        scope: &Scope<'_>,
        count: usize,
        rng: &Rng,
    ) -> anyhow::Result<Vec<Proposal>>;

    /// Takes in a complete batch of trials that it proposed in this scope.
    ///
    /// # Errors
    /// A state that can't learn from them.
    fn observe(&mut self, scope: &Scope<'_>, batch: &[Trial]) -> anyhow::Result<()>;
}
