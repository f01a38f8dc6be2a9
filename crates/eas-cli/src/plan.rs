//! A plan: a spec resolved, with every default decided. What a run will do.

use std::path::PathBuf;
use std::time::Duration;

use eas_controller::{Action, Controller};
use eas_train::{DataSource, Recipe};
use eas_transform::{SearchSpace, Transforms};

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
    /// How a child is trained.
    pub child: Recipe,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// What becomes of the best.
    pub finals: Finals,
    /// Time for the stages, measured from the start of the run; finals follow.
    pub deadline: Option<Duration>,
}

/// One stage of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Batches; the controller learns after each.
    pub batches: usize,
    /// Networks of a batch.
    pub networks: usize,
    /// What an episode consists of.
    pub actions: Vec<Action>,
    /// Whose children it makes.
    pub parent: StageParent,
}

/// Whose children a stage makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageParent {
    /// The start network's.
    Start,
    /// Those of the best network so far, the start network among them.
    Best,
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
    /// Children that the stages train, repeated networks counted.
    pub fn children(&self) -> usize {
        self.stages.iter().map(|stage| stage.batches * stage.networks).sum()
    }

    /// Epochs that the best network has behind it in the end: as start, as child of each stage, as
    /// final.
    pub fn epochs_of(&self, generations: usize) -> usize {
        match self.finals.weights {
            FinalWeights::Inherited => {
                self.start.epochs + generations * self.child.epochs + self.finals.recipe.epochs
            }
            FinalWeights::Scratch => self.finals.recipe.epochs,
        }
    }
}
