//! A plan: a spec resolved, with every default decided. What a run will do.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use eas_controller::{Action, Controller, Halving, Repeat};
use eas_train::{DataSource, Recipe};
use eas_transform::{SearchSpace, Transforms};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::devices::Devices;

/// A plugin chosen by a spec.
#[derive(Debug)]
pub struct Named<T: ?Sized> {
    /// Its name.
    pub name: String,
    /// Its options, all of them.
    pub options: toml::Table,
    /// The plugin.
    pub implementation: Box<T>,
}

/// What a run will do.
#[derive(Debug)]
pub struct Plan {
    /// The run's name.
    pub name: String,
    /// Seed of all randomness.
    pub seed: u64,
    /// Where relative paths start: the spec's folder.
    pub directory: PathBuf,
    /// The plan as TOML: read as a spec, it gives the same plan.
    pub text: String,
    /// The data set.
    pub data: Named<dyn DataSource>,
    /// The search space.
    pub space: Named<dyn SearchSpace>,
    /// The transforms.
    pub transforms: Transforms,
    /// The controller.
    pub controller: Named<dyn Controller>,
    /// How the start network is trained.
    pub start: Recipe,
    /// How long it is trained on before it is grown.
    pub saturation: Saturation,
    /// How a child is trained.
    pub child: Recipe,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// What becomes of the best.
    pub finals: Finals,
    /// Time for the stages: of work on the run, so that a pause doesn't count; finals follow.
    pub deadline: Option<Duration>,
    /// How the work is done.
    pub running: Running,
    /// What is kept of it.
    pub storage: Storage,
}

/// How the work of a run is done. Results don't depend on it, save for what time and memory forbid, and
/// for the rounding of devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// Trials that run at once.
    pub workers: Workers,
    /// What they are trained on.
    pub devices: Devices,
    /// Time that one trial may take, all its attempts together.
    pub timeout: Option<Duration>,
    /// Time without progress after which an attempt counts as hung.
    pub silence: Duration,
    /// Time between two checkpoints of a trial.
    pub checkpoint: Duration,
    /// How often a trial is tried again.
    pub retries: Retries,
    /// Bytes that all trials together may take of the processor's memory, or of each GPU's; without it,
    /// what is free.
    pub memory: Option<u64>,
}

/// What is kept of models and momentum. Results don't depend on it: what a run may still read is never
/// removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// How many of the best networks keep their models, whatever is collected.
    pub keep_best: usize,
    /// Bytes of the store beyond which a search removes what it doesn't need any more.
    pub size: u64,
}

/// Trials that run at once. Text: `"auto"`, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One a core; on GPUs a few for each, and no more than there are cores.
    Auto,
    /// So many, at least 1.
    Count(usize),
}

/// How often a trial is tried again, by what ended the attempt before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// It was killed, or made no progress: the machine's fault, most likely.
    pub lost: u32,
    /// The program failed.
    pub failed: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { lost: 5, failed: 1 }
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workers::Auto => out.write_str("auto"),
            Workers::Count(count) => count.fmt(out),
        }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Workers::Auto),
            (_, Ok(count)) if (1..=1024).contains(&count) => Ok(Workers::Count(count)),
            _ => Err(format!("expected \"auto\" or a number from 1 to 1024, found `{text}`")),
        }
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Workers::Auto => serializer.serialize_str("auto"),
            Workers::Count(count) => serializer.serialize_u64(*count as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Workers;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("\"auto\" or a number from 1 to 1024")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Workers, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Workers, E> {
                count.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// One stage of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Batches; the controller learns after each.
    pub batches: usize,
    /// Networks of a batch.
    pub networks: usize,
    /// Batches that may be under way besides the one that the controller is told of next: a policy then
    /// learns from episodes that it drew some updates ago, as if it had drawn them last.
    pub lag: usize,
    /// What an episode consists of.
    pub actions: Vec<Action>,
    /// Whose children it makes.
    pub parent: StageParent,
    /// Which children are trained to the end.
    pub halving: Halving,
    /// What becomes of a network that is proposed again.
    pub repeat: Repeat,
    /// What its best have to pass before they go on.
    pub promotion: Promotion,
}

/// When a start network counts as trained: growing one that still improves by itself pays less than
/// training it on. It is trained on by its recipe, round after round, each a warm restart, until a round
/// gains too little.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Saturation {
    /// Rounds at most, after the first training.
    pub rounds: usize,
    /// Validation accuracy, 0 to 1, that a round has to gain for another one to follow.
    pub gain: f64,
}

impl Default for Saturation {
    fn default() -> Self {
        Saturation { rounds: 0, gain: 0.005 }
    }
}

/// How a stage's best are promoted: to the next stage, and to the finals. The best of many noisy
/// accuracies is better by luck as well, so the best are trained again from their parents, and only
/// those go on, by their mean accuracy in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Promotion {
    /// How many of the best are trained again.
    pub candidates: usize,
    /// How often, each time with a fresh seed; 0: the accuracies that the stage found decide.
    pub seeds: usize,
    /// Epochs that the best one is then trained on, by the children's recipe.
    pub epochs: usize,
}

impl Default for Promotion {
    fn default() -> Self {
        Promotion { candidates: 3, seeds: 0, epochs: 0 }
    }
}

impl Promotion {
    /// Trainings that it takes at most.
    pub fn trials(&self) -> usize {
        self.candidates * self.seeds + usize::from(self.epochs > 0)
    }
}

/// Whose children a stage makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageParent {
    /// The start network's.
    Start,
    /// Those of the best network so far, the start network among them.
    Best,
    /// The same, chosen anew before every batch.
    Frontier,
}

/// What becomes of the best networks of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Finals {
    /// How many are trained on.
    pub networks: usize,
    /// How.
    pub recipe: Recipe,
    /// From what.
    pub weights: FinalWeights,
    /// Whether the validation images are trained on too.
    pub with_validation: bool,
    /// Whether the start network is trained as long, and the best network from scratch, to compare.
    pub compare: bool,
    /// Whether that is done at equal compute as well.
    pub equal_compute: bool,
    /// How many of the best children are trained from scratch, to see whether that ranks them alike.
    pub ranked: usize,
}

/// What a final training begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalWeights {
    /// What the search has learnt.
    Inherited,
    /// Fresh weights.
    Scratch,
}

impl Plan {
    /// Children that the stages train, repeated and stopped ones counted.
    pub fn children(&self) -> usize {
        self.stages.iter().map(|stage| stage.batches * stage.networks).sum()
    }

    /// Batches of each stage.
    pub fn batches(&self) -> Vec<usize> {
        self.stages.iter().map(|stage| stage.batches).collect()
    }

    /// Epochs of a stage's batch, at most.
    pub fn epochs_of_batch(&self, stage: &Stage) -> usize {
        stage.halving.epochs(stage.networks, self.child.epochs)
    }

    /// Epochs of the stages alone, with so many batches each, at most.
    pub fn epochs_of_stages(&self, batches: &[usize]) -> usize {
        let stages = self.stages.iter().zip(batches);
        let children: usize =
            stages.map(|(stage, batches)| batches * self.epochs_of_batch(stage)).sum();
        let promotions = || self.stages.iter().map(|stage| stage.promotion);
        let again: usize = promotions().map(|p| p.candidates * p.seeds).sum();
        let longer: usize = promotions().map(|promotion| promotion.epochs).sum();
        children + again * self.child.epochs + longer
    }

    /// Epochs of a run with so many batches of each stage: those of the start network, and those of larger ones.
    /// At most, if no line of ancestors has several networks of one stage.
    pub fn epochs(&self, batches: &[usize]) -> (usize, usize) {
        let finals = &self.finals;
        let longer: usize = self.stages.iter().map(|stage| stage.promotion.epochs).sum();
        let mut start = self.start.epochs * (1 + self.saturation.rounds);
        let mut grown = self.epochs_of_stages(batches) + finals.networks * finals.recipe.epochs;
        let line = self.stages.len() * self.child.epochs + longer + finals.recipe.epochs;
        let whole = start + line;
        grown += finals.ranked * whole;
        // At equal compute the start network takes about as much work as the larger one.
        let times = usize::from(finals.compare) + usize::from(finals.equal_compute);
        match finals.weights {
            FinalWeights::Inherited => {
                grown += (times + usize::from(finals.equal_compute)) * whole;
                start += usize::from(finals.compare) * line;
            }
            FinalWeights::Scratch => start += times * finals.recipe.epochs,
        }
        (start, grown)
    }
}
