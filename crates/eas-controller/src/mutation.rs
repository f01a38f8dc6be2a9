//! One random edit after another: what controllers without a policy vary networks by.

use eas_ir::{Network, Rng};
use eas_transform::{Decision, Step, grow_network};

use crate::scope::{EpisodeError, Scope, pick_one, take_all};
use crate::trial::{Ending, Trial, TrialId};

/// Chains of edits from one parent, with what became of them.
///
/// A controller that goes on from its own children proposes their edits and more. Where the search
/// hands it a child as the next parent, chains begin anew there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chains {
    parent: Option<Network>,
    /// In the order observed.
    pub(crate) known: Vec<Chain>,
}

/// The edits that make a network of the parent, and the network's accuracy, the mean of all its
/// trainings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chain {
    /// Stands for the network.
    first: TrialId,
    pub(crate) steps: Vec<Step>,
    pub(crate) accuracy: f64,
}

impl Chains {
    /// Forgets everything where `parent` is another network than before.
    pub(crate) fn begin(&mut self, parent: &Network) {
        if self.parent.as_ref() != Some(parent) {
            *self = Chains { parent: Some(parent.clone()), known: Vec::new() };
        }
    }

    /// Takes in what a batch says of its networks; a trial without an accuracy says nothing. One that was
    /// stopped tells against its network where that is known, but no chain goes on from it.
    pub(crate) fn learn(&mut self, batch: &[Trial]) {
        for trial in batch {
            let Some(accuracy) = trial.estimate else { continue };
            let same = |chain: &&mut Chain| chain.first == trial.first;
            self.known.iter_mut().filter(same).for_each(|chain| chain.accuracy = accuracy);
            if !matches!(trial.ending, Ending::Stopped { .. }) {
                let steps = trial.steps.clone();
                self.known.push(Chain { first: trial.first, steps, accuracy });
            }
        }
    }
}

/// `steps` and `edits` random edits behind them, each of a transform drawn from those of the scope's
/// actions: of one that decides about each site, one legal edit; of one that picks, a pick drawn
/// level by level. What a transform declares to be made always is made last. A transform without a legal
/// edit is left out, so fewer edits are made only where nothing is legal.
///
/// # Errors
/// Steps that the parent doesn't admit, or a transform that isn't there.
pub(crate) fn mutate(
    scope: &Scope<'_>,
    mut steps: Vec<Step>,
    edits: usize,
    rng: &mut Rng,
) -> Result<Vec<Step>, EpisodeError> {
    let mut network = grow_network(scope.parent, &steps, scope.transforms)?;
    let mut names: Vec<&str> =
        scope.actions.iter().map(|action| action.transform.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let (mut drawn, mut always) = (Vec::new(), Vec::new());
    for name in names {
        match scope.transforms.get(name)?.decision(scope.space) {
            Decision::Always => always.push(name),
            Decision::EachSite | Decision::OnePick { .. } => drawn.push(name),
        }
    }
    let mut left = edits;
    while left > 0 && !drawn.is_empty() {
        let place = rng.below(drawn.len());
        let step = random_edit(scope, &mut network, drawn[place], rng)?;
        if step.is_empty() {
            drawn.swap_remove(place);
        } else {
            steps.push(step);
            left -= 1;
        }
    }
    for name in always {
        let step = take_all(scope, &mut network, name)?;
        if !step.is_empty() {
            steps.push(step);
        }
    }
    Ok(steps)
}

/// One random edit of a transform, or none where none is legal. A transform that decides about each
/// site has paths of one level, the site, so that a pick among them is fair, too.
fn random_edit(
    scope: &Scope<'_>,
    network: &mut Network,
    transform: &str,
    rng: &mut Rng,
) -> Result<Step, EpisodeError> {
    pick_one(scope, network, transform, &mut |_, choices| choices[rng.below(choices.len())])
}
