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
    /// Its name.
    pub id: TrialId,
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
}

impl Trial {
    /// What the trial says of its network: its accuracy, 0 where it diverged, and nothing where it
    /// was refused or could not be carried out.
    pub(crate) fn measured(&self) -> Option<f64> {
        match self.ending {
            Ending::Trained { accuracy } => accuracy,
            Ending::Diverged { .. } => Some(0.0),
            Ending::Refused { .. } | Ending::Failed { .. } => None,
        }
    }

    /// The validation accuracy, 0 where there is none: divergence is a result, and the worst.
    pub fn accuracy(&self) -> f64 {
        self.measured().unwrap_or(0.0)
    }
}
