//! What a controller may choose from, and how an episode unfolds.
//!
//! A controller decides; the three walks here do the rest: they ask it about sites and paths, make
//! each chosen edit on the architecture, and mask what no longer fits. So a controller never builds
//! an edit itself, and nothing illegal is ever sampled.

use eas_ir::{Network, NodeId};
use eas_transform::{Edit, SearchSpace, Step, Token, Transforms};

use crate::action::Action;

/// Everything that a controller may look at.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The space.
    pub space: &'a dyn SearchSpace,
    /// The transforms of the search.
    pub transforms: &'a Transforms,
    /// What an episode consists of, in this order.
    pub actions: &'a [Action],
    /// Images of a training batch: what memory is counted for.
    pub batch: usize,
    /// The network that episodes start from.
    pub parent: &'a Network,
}

/// An episode that can't go on: a transform's fault, or a name that no transform has.
pub type EpisodeError = anyhow::Error;

/// One site of a step that decides about each.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Its place among the sites of the step.
    pub index: usize,
    /// The edit in question.
    pub edit: &'a Edit,
}

impl Scope<'_> {
    /// The network as a policy's encoder reads it.
    pub fn tokens(&self, network: &Network) -> Vec<Token> {
        self.space.tokens(network)
    }

    /// The legal edits of a transform on a network, each with its path of decisions.
    ///
    /// # Errors
    /// No transform of this name.
    pub fn edits(
        &self,
        transform: &str,
        network: &Network,
    ) -> Result<Vec<(Edit, Vec<usize>)>, EpisodeError> {
        self.transforms.edits(transform, network, self.space, self.batch)
    }

    fn make(&self, network: &mut Network, edit: &Edit) -> Result<(), EpisodeError> {
        // The architecture doesn't depend on which channels are replicated.
        *network = self.transforms.patch(network, edit, &mut eas_ir::Rng::new(0))?.network;
        Ok(())
    }
}

/// A step that decides about every site, in site order: `decide` says yes or no. A site that no
/// longer fits, given those already taken, is passed over without asking. Returns the edits taken;
/// `network` becomes the edited one.
///
/// # Errors
/// No transform of this name, or an edit that was offered and can't be made.
pub fn every_site(
    scope: &Scope<'_>,
    network: &mut Network,
    transform: &str,
    decide: &mut dyn FnMut(Site<'_>) -> bool,
) -> Result<Step, EpisodeError> {
    let sites: Vec<NodeId> =
        scope.edits(transform, network)?.into_iter().map(|(edit, _)| edit.site).collect();
    let mut step = Step::new();
    for (index, site) in sites.into_iter().enumerate() {
        let legal = scope.edits(transform, network)?;
        let Some((edit, _)) = legal.into_iter().find(|(edit, _)| edit.site == site) else {
            continue;
        };
        if decide(Site { index, edit: &edit }) {
            scope.make(network, &edit)?;
            step.push(edit);
        }
    }
    Ok(step)
}

/// A step of one edit, chosen factor by factor along the tree of legal paths: at each level `choose`
/// is given the level and the legal choices, rising, and returns one of them. Returns no edit where
/// none is legal.
///
/// # Errors
/// As [`every_site`]; also a choice that isn't among the legal ones.
pub fn pick_one(
    scope: &Scope<'_>,
    network: &mut Network,
    transform: &str,
    choose: &mut dyn FnMut(usize, &[usize]) -> usize,
) -> Result<Step, EpisodeError> {
    let mut legal = scope.edits(transform, network)?;
    let levels = legal.iter().map(|(_, path)| path.len()).max().unwrap_or(0);
    for level in 0..levels {
        let mut choices: Vec<usize> =
            legal.iter().filter_map(|(_, path)| path.get(level).copied()).collect();
        choices.sort_unstable();
        choices.dedup();
        let choice = choose(level, &choices);
        anyhow::ensure!(choices.contains(&choice), "choice {choice} is not among {choices:?}");
        legal.retain(|(_, path)| path.get(level) == Some(&choice));
    }
    let Some((edit, _)) = legal.into_iter().next() else { return Ok(Step::new()) };
    scope.make(network, &edit)?;
    Ok(vec![edit])
}

/// A step of every legal edit, one after another, each site once.
///
/// # Errors
/// As [`every_site`].
pub fn take_all(
    scope: &Scope<'_>,
    network: &mut Network,
    transform: &str,
) -> Result<Step, EpisodeError> {
    every_site(scope, network, transform, &mut |_| true)
}
