//! Hill climbing by network morphism (Elsken, Metzen and Hutter 2017, arXiv 1711.04528, algorithm 1).

use std::num::NonZeroUsize;

use eas_ir::{Built, Plugin, Rng, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use crate::controller::{Controller, Proposal};
use crate::mutation::{Chains, mutate};
use crate::registry::ControllerPlugin;
use crate::scope::Scope;
use crate::trial::Trial;

/// The options of [`HillClimb`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HillClimbOptions {
    /// Random edits that make a neighbour of the best network; 5 in the paper.
    pub edits: NonZeroUsize,
    /// Whether the best network itself is a child of each batch, unchanged, as in the paper.
    pub keep: bool,
}

impl Default for HillClimbOptions {
    fn default() -> Self {
        HillClimbOptions { edits: const { NonZeroUsize::new(5).unwrap() }, keep: true }
    }
}

inventory::submit! {
    ControllerPlugin(Plugin::new(
        "hill_climb",
        "edits the best network at random, again and again (NASH)",
        "edits = 5  # random edits that make a neighbour of the best network\n\
         keep = true  # the best network itself is a child of each batch, unchanged\n",
        |options| {
            let options = parse_options::<HillClimbOptions>(options)?;
            let resolved = resolved_options(&options)?;
            Ok(Built { options: resolved, implementation: Box::new(HillClimb::new(options)) })
        },
    ))
}

/// Trains several neighbours of the best network side by side, and goes on from the best of them.
///
/// How many is the batch's size, and how each is trained (a cosine from a high rate again: the warm
/// restart) is the recipe of children. The best network so far is a chain of edits from the scope's
/// parent. Where the search makes it the next parent, the chain begins anew, and weights are
/// inherited from each best to the next, as in the paper; where the parent stays, a neighbour
/// inherits the parent's weights through the whole chain.
#[derive(Debug)]
pub struct HillClimb {
    options: HillClimbOptions,
    chains: Chains,
}

impl HillClimb {
    /// A climber that stands on the scope's parent.
    pub fn new(options: HillClimbOptions) -> Self {
        HillClimb { options, chains: Chains::default() }
    }
}

impl Controller for HillClimb {
    fn propose(
        &mut self,
        scope: &Scope<'_>,
        count: usize,
        rng: &Rng,
    ) -> anyhow::Result<Vec<Proposal>> {
        self.chains.begin(scope.parent);
        // Of equals the first seen stays. One that was trained again may have fallen behind another.
        let known = self.chains.known.iter();
        let best =
            known.reduce(|best, next| if next.accuracy > best.accuracy { next } else { best });
        let best = best.map_or(Vec::new(), |chain| chain.steps.clone());
        let neighbour = |index: usize| {
            let (mut steps, edits) = (best.clone(), self.options.edits.get());
            let unchanged = self.options.keep && count > 1 && index + 1 == count;
            if !unchanged {
                steps = mutate(scope, steps, edits, &mut rng.split_index(index as u64))?;
            }
            Ok(Proposal { steps })
        };
        (0..count).map(neighbour).collect()
    }

    fn observe(&mut self, scope: &Scope<'_>, batch: &[Trial]) -> anyhow::Result<()> {
        self.chains.begin(scope.parent);
        self.chains.learn(batch);
        Ok(())
    }
}
