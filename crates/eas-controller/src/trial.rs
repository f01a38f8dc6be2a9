//! Trials: what was tried and how it ended.

use std::fmt;
use std::str::FromStr;

use eas_ir::Fingerprint;
use eas_transform::Step;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names a trial within its run. Text: at least four digits, `0007`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrialId(pub u32);

impl fmt::Display for TrialId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:04}", self.0)
    }
}

impl FromStr for TrialId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(TrialId)
    }
}

impl Serialize for TrialId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrialId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ending {
    /// It was trained to the end of its epochs.
    Trained {
        /// Share of the validation images classified right, 0 to 1; nothing where they were trained
        /// on, so that an accuracy on them would say nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accuracy: Option<f64>,
    },
    /// It was compared with others of its batch behind a part of its epochs. Where it was among the
    /// best, another trial goes on from this one.
    Stopped {
        /// Epochs that it was trained for.
        epochs: usize,
        /// Share of the validation images classified right there, 0 to 1.
        accuracy: f64,
    },
    /// Its loss or weights left the finite numbers.
    Diverged {
        /// In this epoch, from 0.
        epoch: usize,
    },
    /// The child doesn't compute what its parent does: a transform is at fault.
    Refused {
        /// The certificate, and the edit at fault.
        why: String,
    },
    /// It could not be carried out.
    Failed {
        /// The reason.
        why: String,
    },
}

impl Ending {
    /// Whether there is a network with weights that were trained.
    pub fn has_model(&self) -> bool {
        matches!(self, Ending::Trained { .. } | Ending::Stopped { .. })
    }

    /// What a training says of its network: its accuracy, 0 where it diverged, and nothing where it was
    /// stopped, refused or could not be carried out.
    pub(crate) fn measured(&self) -> Option<f64> {
        match self {
            Ending::Trained { accuracy } => *accuracy,
            Ending::Diverged { .. } => Some(0.0),
            Ending::Stopped { .. } | Ending::Refused { .. } | Ending::Failed { .. } => None,
        }
    }
}

/// What an evaluator says of one assignment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The trial.
    pub trial: TrialId,
    /// How it ended.
    pub ending: Ending,
    /// Seconds of work.
    pub seconds: f64,
}

/// One finished trial of a stage, as a controller sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Its name; that of its last part, where its training was divided by comparisons.
    pub id: TrialId,
    /// Stands for its network: what the network's first trial in the stage was called.
    pub first: TrialId,
    /// The trial whose network was edited.
    pub parent: TrialId,
    /// The edits.
    pub steps: Vec<Step>,
    /// The child's architecture.
    pub fingerprint: Fingerprint,
    /// How it ended.
    pub ending: Ending,
    /// The trial whose result this one repeats, where the same child had been trained before.
    pub same_as: Option<TrialId>,
    /// What this training says of its network's validation accuracy: 0 where it diverged, since that is
    /// a result, and the worst; nothing where it was refused or could not be carried out.
    ///
    /// An accuracy behind a part of the epochs is none of all of them. So one that was stopped counts
    /// as what it had, and what those of its batch that went on from there gained on average: never
    /// more than the best of those that didn't diverge, and in the order that the comparison found.
    pub measured: Option<f64>,
    /// The mean of what all trainings of its network measured in this stage so far.
    pub estimate: Option<f64>,
}

impl Trial {
    /// The only training of a network, which was not stopped.
    pub fn once(
        id: TrialId,
        parent: TrialId,
        steps: Vec<Step>,
        fingerprint: Fingerprint,
        ending: Ending,
    ) -> Self {
        let measured = ending.measured();
        let (estimate, same_as) = (measured, None);
        Trial { id, first: id, parent, steps, fingerprint, ending, same_as, measured, estimate }
    }

    /// Whether its network may be gone on from: a child that was stopped may not.
    pub fn is_trained(&self) -> bool {
        matches!(self.ending, Ending::Trained { .. })
    }
}
