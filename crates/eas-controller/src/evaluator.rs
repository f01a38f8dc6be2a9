//! The seam between choosing and training. No tensors cross it.

use std::ops::Range;

use eas_ir::Network;
use eas_transform::Step;

use crate::trial::{Outcome, TrialId};

/// One child to be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The trial's name, new in its run.
    pub trial: TrialId,
    /// The trial whose weights the child inherits.
    pub parent: TrialId,
    /// The edits that make the child.
    pub steps: Vec<Step>,
    /// The child's architecture.
    pub network: Network,
    /// The epochs to train it for. Behind all that it is trained for in the stage, it has ended; behind
    /// fewer, it is [stopped](crate::Ending::Stopped).
    pub epochs: Range<usize>,
    /// The trial that it goes on from, where `epochs` begins later than at 0: of the same child, with
    /// the same seed.
    pub continues: Option<TrialId>,
    /// Seed of all that is random in the trial: what is replicated, noise, order of the images.
    pub seed: u64,
}

/// Trains children and says how good they became: on this machine, or on a cluster.
pub trait Evaluator {
    /// Takes on assignments; it needn't begin at once.
    ///
    /// # Errors
    /// Assignments that can't even be recorded. That a trial fails is an outcome, not an error.
    fn submit(&mut self, assignments: Vec<Assignment>) -> anyhow::Result<()>;

    /// Waits for something to end, and returns all that has: in any order, each once, and nothing
    /// only where nothing is under way or the search is to stop.
    ///
    /// # Errors
    /// An evaluator that can't go on.
    fn collect(&mut self) -> anyhow::Result<Vec<Outcome>>;
}
