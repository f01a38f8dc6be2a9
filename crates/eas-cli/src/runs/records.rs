//! What a trial is to do, and how it went.

use std::cmp::Ordering;
use std::ops::Range;

use eas_controller::{Ending, TrialId};
use eas_ir::{Cost, Count, Model, Network};
use eas_train::Recipe;
use eas_transform::{Certificate, Edit, Step};
use serde::{Deserialize, Serialize};

use super::{Digest, FORMAT};
use crate::print;

/// What a trial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// The start network.
    Start,
    /// A child of a stage.
    Child,
    /// A child of a stage once more, with a fresh seed.
    Reevaluation,
    /// The best child of a stage, trained on before it becomes a parent.
    Promoted,
    /// One of the best, trained on.
    Final,
    /// The start network, trained as long as the best one's line of ancestors: to compare.
    StartLonger,
    /// The best network, from fresh weights, as long: to compare.
    Scratch,
    /// The start network, trained on at equal compute.
    StartCompute,
    /// The best network, from fresh weights, at equal compute.
    ScratchCompute,
    /// One of the best children, from fresh weights: to see whether that ranks them alike.
    Ranked,
}

impl Purpose {
    /// Every purpose.
    pub(crate) const ALL: [Purpose; 10] = [
        Purpose::Start,
        Purpose::Child,
        Purpose::Reevaluation,
        Purpose::Promoted,
        Purpose::Final,
        Purpose::StartLonger,
        Purpose::Scratch,
        Purpose::StartCompute,
        Purpose::ScratchCompute,
        Purpose::Ranked,
    ];

    /// Its name in records and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Purpose::Start => "start",
            Purpose::Child => "child",
            Purpose::Reevaluation => "reevaluation",
            Purpose::Promoted => "promoted",
            Purpose::Final => "final",
            Purpose::StartLonger => "start_longer",
            Purpose::Scratch => "scratch",
            Purpose::StartCompute => "start_compute",
            Purpose::ScratchCompute => "scratch_compute",
            Purpose::Ranked => "ranked",
        }
    }

    /// What the search goes on from or hands over, rather than comparing others with it.
    pub(crate) const CANDIDATES: [Purpose; 4] =
        [Purpose::Start, Purpose::Child, Purpose::Promoted, Purpose::Final];

    /// Whether such a trial is one of those.
    pub(crate) fn is_candidate(self) -> bool {
        Purpose::CANDIDATES.contains(&self)
    }

    /// What tables and reports call it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Purpose::Start => "start",
            Purpose::Child => "child",
            Purpose::Reevaluation => "re-evaluated",
            Purpose::Promoted => "promoted",
            Purpose::Final => "final",
            Purpose::StartLonger => "start, longer",
            Purpose::Scratch => "from scratch",
            Purpose::StartCompute => "start, equal compute",
            Purpose::ScratchCompute => "from scratch, equal compute",
            Purpose::Ranked => "from scratch, ranked",
        }
    }
}

/// What a trial begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Origin {
    /// Fresh weights for this network, as TOML.
    Fresh { network: String },
    /// The weights that the start network came with, by their digest.
    Given { network: String, weights: Digest },
    /// A trained parent's model, and its momentum where that is carried on.
    Grown { parent: TrialId, model: Digest, momentum: Option<Digest>, steps: Vec<Step> },
}

impl Origin {
    /// The weights that the start network came with.
    pub(crate) fn given(model: &Model) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (id, values) in model.weights() {
            hasher.update(id.to_string().as_bytes());
            values.iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
        }
        Origin::Given { network: model.network().to_toml(), weights: Digest(hasher.finalize()) }
    }
}

/// A part of a child's training, from one comparison with its batch to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Of its only recipe.
    pub(crate) epochs: Range<usize>,
    /// What it goes on from; nothing where it is the first.
    pub(crate) continues: Option<Continued>,
}

/// The part before: its trial, and what that left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Continued {
    pub(crate) trial: TrialId,
    pub(crate) model: Digest,
    pub(crate) momentum: Digest,
}

/// What a trial is to do: all that its result depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrialRecord {
    pub(crate) format: u32,
    pub(crate) trial: TrialId,
    pub(crate) purpose: Purpose,
    pub(crate) origin: Origin,
    pub(crate) fingerprint: String,
    /// Trained one after another.
    pub(crate) recipes: Vec<Recipe>,
    /// Which part of them; nothing where it is the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<Part>,
    /// Whether it is trained even where the result of the same training is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) anew: bool,
    /// Whether the validation images are trained on too.
    pub(crate) with_validation: bool,
    /// Whether later trials carry its momentum on.
    pub(crate) keep_momentum: bool,
    pub(crate) seed: u64,
    /// Digest of the images.
    pub(crate) data: String,
    pub(crate) parameters: u64,
    pub(crate) macs: u64,
    pub(crate) depth: usize,
    /// Bytes that training it takes, predicted.
    pub(crate) memory: u64,
}

impl TrialRecord {
    /// A trial of this network.
    pub(crate) fn new(
        trial: TrialId,
        purpose: Purpose,
        origin: Origin,
        network: &Network,
        cost: Cost,
        training: Training,
    ) -> Self {
        TrialRecord {
            format: FORMAT,
            trial,
            purpose,
            origin,
            fingerprint: network.fingerprint().to_string(),
            recipes: training.recipes,
            part: None,
            anew: false,
            with_validation: training.with_validation,
            keep_momentum: training.keep_momentum,
            seed: training.seed,
            data: training.data,
            parameters: cost.parameters,
            macs: cost.macs,
            depth: network.depth(),
            memory: cost.memory,
        }
    }

    /// Epochs that it trains.
    pub(crate) fn epochs(&self) -> usize {
        match &self.part {
            Some(part) => part.epochs.len(),
            None => self.whole(),
        }
    }

    /// Epochs of all its recipes; a stranger's may be beyond all numbers.
    fn whole(&self) -> usize {
        self.recipes.iter().fold(0, |sum, recipe| recipe.epochs.saturating_add(sum))
    }

    /// The epoch of its first recipe that it begins with.
    pub(crate) fn begin(&self) -> usize {
        self.part.as_ref().map_or(0, |part| part.epochs.start)
    }

    /// The part of a training that it goes on from.
    pub(crate) fn continues(&self) -> Option<&Continued> {
        self.part.as_ref()?.continues.as_ref()
    }

    /// How it ends where nothing goes wrong.
    pub(crate) fn trained(&self, accuracy: Option<f64>) -> Ending {
        let whole = self.whole();
        let until = self.part.as_ref().map_or(whole, |part| part.epochs.end);
        match accuracy {
            Some(accuracy) if until < whole => Ending::Stopped { epochs: until, accuracy },
            accuracy => Ending::Trained { accuracy },
        }
    }

    /// The trial whose weights it inherits.
    pub(crate) fn parent(&self) -> Option<TrialId> {
        match self.origin {
            Origin::Fresh { .. } | Origin::Given { .. } => None,
            Origin::Grown { parent, .. } => Some(parent),
        }
    }

    /// Whether both train the same network from the same weights in the same way, so that one result
    /// serves both. Their seeds may differ.
    pub(crate) fn is_same_training(&self, other: &TrialRecord) -> bool {
        let origin = |record: &TrialRecord| match &record.origin {
            Origin::Grown { model, momentum, .. } => Some((*model, *momentum)),
            Origin::Fresh { .. } | Origin::Given { .. } => None,
        };
        let part = |record: &TrialRecord| {
            let continued = record.continues().map(|before| (before.model, before.momentum));
            record.part.as_ref().map(|part| (part.epochs.clone(), continued))
        };
        self.fingerprint == other.fingerprint
            && part(self) == part(other)
            && origin(self).is_some()
            && origin(self) == origin(other)
            && self.recipes == other.recipes
            && self.with_validation == other.with_validation
            && self.keep_momentum == other.keep_momentum
            && self.data == other.data
    }

    /// The result of this trial.
    pub(crate) fn ended(&self, ending: Ending, attempt: u32, seconds: f64) -> TrialResult {
        let steps = match &self.origin {
            Origin::Fresh { .. } | Origin::Given { .. } => Vec::new(),
            Origin::Grown { steps, .. } => steps.clone(),
        };
        TrialResult {
            format: FORMAT,
            trial: self.trial,
            purpose: self.purpose,
            parent: self.parent(),
            steps,
            fingerprint: self.fingerprint.clone(),
            same_as: None,
            continues: self.continues().map(|before| before.trial),
            ending,
            epochs: self.epochs(),
            parameters: self.parameters,
            macs: self.macs,
            depth: self.depth,
            certificate: None,
            drift: None,
            model: None,
            momentum: None,
            attempt,
            gpu: None,
            seconds,
        }
    }
}

/// How a trial trains, whatever its network.
#[derive(Clone, Debug)]
pub(crate) struct Training {
    pub(crate) recipes: Vec<Recipe>,
    pub(crate) with_validation: bool,
    pub(crate) keep_momentum: bool,
    pub(crate) seed: u64,
    pub(crate) data: String,
}

/// How a trial went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrialResult {
    pub(crate) format: u32,
    pub(crate) trial: TrialId,
    pub(crate) purpose: Purpose,
    pub(crate) parent: Option<TrialId>,
    pub(crate) steps: Vec<Step>,
    pub(crate) fingerprint: String,
    /// The trial whose result this one repeats, where the same child had been trained before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) same_as: Option<TrialId>,
    /// The trial that it goes on from: an earlier part of the same training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) continues: Option<TrialId>,
    pub(crate) ending: Ending,
    pub(crate) epochs: usize,
    pub(crate) parameters: u64,
    pub(crate) macs: u64,
    pub(crate) depth: usize,
    /// Of the whole chain of edits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<Certificate>,
    /// How far the child's function in training mode was from its parent's, before training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drift: Option<f64>,
    /// The trained model, in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<Digest>,
    /// Its momentum, in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) momentum: Option<Digest>,
    /// Which attempt came to this end; 0 where none was needed.
    pub(crate) attempt: u32,
    /// The GPU that it came to this end on, as CUDA counts them; nothing on a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gpu: Option<usize>,
    /// Seconds of work, those of earlier attempts that weren't lost among them.
    pub(crate) seconds: f64,
}

impl TrialResult {
    /// Whether the trial was trained to its end.
    pub(crate) fn is_trained(&self) -> bool {
        matches!(self.ending, Ending::Trained { .. })
    }

    /// The validation accuracy, if the trial was trained to its end and not on the validation images.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        match self.ending {
            Ending::Trained { accuracy } => accuracy,
            Ending::Stopped { .. }
            | Ending::Diverged { .. }
            | Ending::Refused { .. }
            | Ending::Failed { .. } => None,
        }
    }

    /// The validation accuracy behind the epochs that it was trained for.
    pub(crate) fn accuracy_reached(&self) -> Option<f64> {
        match self.ending {
            Ending::Stopped { accuracy, .. } => Some(accuracy),
            _ => self.accuracy(),
        }
    }

    /// Whether both are trainings of one network, from one parent.
    pub(crate) fn trained_alike(&self, other: &TrialResult) -> bool {
        self.parent == other.parent && self.fingerprint == other.fingerprint
    }

    /// Whether this trial trained that child once more.
    pub(crate) fn reevaluates(&self, child: &TrialResult) -> bool {
        self.purpose == Purpose::Reevaluation
            && child.purpose == Purpose::Child
            && self.trained_alike(child)
    }

    /// The better first, the earlier where they are equal.
    pub(crate) fn compare(&self, other: &TrialResult) -> Ordering {
        let accuracy = |result: &TrialResult| result.accuracy().unwrap_or(-1.0);
        accuracy(other).total_cmp(&accuracy(self)).then(self.trial.cmp(&other.trial))
    }

    /// How it ended, in a few words.
    pub(crate) fn ending_words(&self) -> String {
        match &self.ending {
            Ending::Trained { accuracy } => accuracy.map_or("trained".to_owned(), print::percent),
            Ending::Stopped { epochs, accuracy } => {
                format!("{} after {epochs} epochs", print::percent(*accuracy))
            }
            Ending::Diverged { epoch } => format!("diverged in epoch {epoch}"),
            Ending::Refused { .. } => "refused".to_owned(),
            Ending::Failed { .. } => "failed".to_owned(),
        }
    }

    /// All of it in one line.
    pub(crate) fn line(&self) -> String {
        let edits: Vec<&Edit> = self.steps.iter().flatten().collect();
        let what = match (self.purpose, edits.as_slice()) {
            (Purpose::Child, []) => "no edit".to_owned(),
            (Purpose::Child, [only]) => only.to_string(),
            (Purpose::Child, [first, second]) => format!("{first}, {second}"),
            (Purpose::Child, [first, second, rest @ ..]) => {
                format!("{first}, {second}, {} more", rest.len())
            }
            (purpose, _) => purpose.words().to_owned(),
        };
        let again =
            self.same_as.map_or(String::new(), |same| format!(" (cached: the same as {same})"));
        let before = self.continues.map_or(String::new(), |before| format!(" (from {before} on)"));
        format!(
            "{}  {:>8}  {:>6} parameters  {:>10}  {what}{before}{again}",
            self.trial,
            self.ending_words(),
            Count(self.parameters).to_string(),
            print::seconds(self.seconds),
        )
    }
}
