//! Regularised evolution (Real, Aggarwal, Huang and Le 2019, arXiv 1802.01548, algorithm 1).

use std::num::NonZeroUsize;

use eas_ir::{Built, Plugin, Rng, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use crate::controller::{Controller, Proposal};
use crate::mutation::{Chain, Chains, mutate};
use crate::random::Random;
use crate::registry::ControllerPlugin;
use crate::scope::Scope;
use crate::trial::Trial;

/// The options of [`Evolution`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvolutionOptions {
    /// Networks that live at once; the oldest die. 100 in the paper, with 20,000 networks.
    pub population: NonZeroUsize,
    /// Networks drawn from the population, of which the best has a child; 25 in the paper.
    pub sample: NonZeroUsize,
    /// Random edits that make a child of it; 1 in the paper.
    pub edits: NonZeroUsize,
}

impl Default for EvolutionOptions {
    fn default() -> Self {
        // A quarter of the population takes part in a tournament, as in the paper.
        const POPULATION: NonZeroUsize = NonZeroUsize::new(40).unwrap();
        const SAMPLE: NonZeroUsize = NonZeroUsize::new(10).unwrap();
        EvolutionOptions { population: POPULATION, sample: SAMPLE, edits: NonZeroUsize::MIN }
    }
}

inventory::submit! {
    ControllerPlugin(Plugin::new(
        "evolution",
        "children of the best of a random sample; the oldest die (regularised evolution)",
        "population = 40  # networks that live at once; the oldest die; children are random until there are so many\n\
         sample = 10  # networks drawn from the population, of which the best has a child\n\
         edits = 1  # random edits that make a child of it\n",
        |options| {
            let options = parse_options::<EvolutionOptions>(options)?;
            let resolved = resolved_options(&options)?;
            Ok(Built { options: resolved, implementation: Box::new(Evolution::new(options)) })
        },
    ))
}

/// Keeps a population of which the oldest die, however good they were, so that a network that was
/// lucky once doesn't rule for ever.
///
/// Until the population is full, children are random episodes, as of random search. All children of
/// a batch come from the population as it was before the batch. A network is a chain of edits from
/// the scope's parent, so the population begins anew where the parent changes, and a child inherits
/// the parent's weights through its whole chain.
#[derive(Debug)]
pub struct Evolution {
    options: EvolutionOptions,
    population: Chains,
}

impl Evolution {
    /// A population of none.
    pub fn new(options: EvolutionOptions) -> Self {
        Evolution { options, population: Chains::default() }
    }

    /// The best of a sample, drawn with replacement.
    fn chosen(&self, rng: &mut Rng) -> Option<&Chain> {
        let living = &self.population.known;
        let sample = (0..self.options.sample.get()).map(|_| &living[rng.below(living.len())]);
        sample.reduce(|best, next| if next.accuracy > best.accuracy { next } else { best })
    }

    fn child(&self, scope: &Scope<'_>, rng: &mut Rng) -> anyhow::Result<Proposal> {
        if self.population.known.len() < self.options.population.get() {
            return Random::default().episode(scope, rng);
        }
        let steps = self.chosen(rng).map_or(Vec::new(), |chain| chain.steps.clone());
        Ok(Proposal { steps: mutate(scope, steps, self.options.edits.get(), rng)? })
    }
}

impl Controller for Evolution {
    fn propose(
        &mut self,
        scope: &Scope<'_>,
        count: usize,
        rng: &Rng,
    ) -> anyhow::Result<Vec<Proposal>> {
        self.population.begin(scope.parent);
        (0..count).map(|index| self.child(scope, &mut rng.split_index(index as u64))).collect()
    }

    fn observe(&mut self, scope: &Scope<'_>, batch: &[Trial]) -> anyhow::Result<()> {
        self.population.begin(scope.parent);
        self.population.learn(batch);
        let dead = self.population.known.len().saturating_sub(self.options.population.get());
        self.population.known.drain(..dead);
        Ok(())
    }
}
