//! What a controller may choose from, and how an episode unfolds.
//!
//! A controller decides; the three walks here do the rest: they ask it about sites and paths, make
//! each chosen edit on the architecture, and mask what no longer fits. So a controller never builds
//! an edit itself, and nothing illegal is ever sampled.

use std::collections::BTreeSet;

use anyhow::Context;
use eas_ir::{Network, NodeId};
use eas_transform::{Candidate, Edit, SearchSpace, Step, Token, Transforms};

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

    /// What a transform offers on a network, legal or not.
    fn offered(&self, transform: &str, network: &Network) -> Result<Vec<Edit>, EpisodeError> {
        let offered = self.transforms.get(transform)?.edits(network, self.space).into_iter();
        let edit =
            |c: Candidate| Edit { transform: transform.to_owned(), site: c.site, target: c.target };
        Ok(offered.map(edit).collect())
    }

    /// The network that an edit makes, where it is legal.
    fn made(&self, network: &Network, edit: &Edit) -> Option<Network> {
        // The architecture doesn't depend on which channels are replicated.
        let patch = self.transforms.patch(network, edit, &mut eas_ir::Rng::new(0)).ok()?;
        self.space.admits(&patch.network, self.batch).is_ok().then_some(patch.network)
    }
}

/// A step that decides about every site, in site order: `decide` says yes or no to its edit. A
/// site that no longer fits, given those already taken, is passed over without asking. Returns the
/// edits taken; `network` becomes the edited one.
///
/// # Errors
/// No transform of this name.
pub fn every_site(
    scope: &Scope<'_>,
    network: &mut Network,
    transform: &str,
    decide: &mut dyn FnMut(&Edit) -> bool,
) -> Result<Step, EpisodeError> {
    let mut offered = scope.offered(transform, network)?;
    // What an edit makes has no say in its own step, which so comes to an end.
    let before: BTreeSet<NodeId> = network.nodes().iter().map(|node| node.id).collect();
    let mut passed = BTreeSet::new();
    let mut step = Step::new();
    loop {
        let open = |site: &NodeId| before.contains(site) && !passed.contains(site);
        // Looked for anew each time, since an edit may open a site: a wider first convolution does so
        // for the transition behind it.
        let Some(site) = offered.iter().map(|edit| edit.site).find(open) else { return Ok(step) };
        passed.insert(site);
        // Only the edit in question is tried out: there may be dozens, and each costs a whole network.
        let mut of_site = offered.iter().filter(|edit| edit.site == site);
        let legal = of_site.find_map(|edit| Some((scope.made(network, edit)?, edit.clone())));
        let Some((child, edit)) = legal else { continue };
        if decide(&edit) {
            *network = child;
            offered = scope.offered(transform, network)?;
            step.push(edit);
        }
    }
}

/// A step of one edit, chosen factor by factor along the tree of legal paths: at each level `choose`
/// is given the level and the legal choices, rising, and returns one of them. Returns no edit where
/// none is legal.
///
/// # Errors
/// As [`every_site`]; also a choice that isn't among the legal ones, and paths of several lengths.
pub fn pick_one(
    scope: &Scope<'_>,
    network: &mut Network,
    transform: &str,
    choose: &mut dyn FnMut(usize, &[usize]) -> usize,
) -> Result<Step, EpisodeError> {
    let legal = scope.edits(transform, network)?;
    pick_among(scope, network, legal, choose)
}

/// [`pick_one`] where the legal edits and their paths are known already.
pub(crate) fn pick_among(
    scope: &Scope<'_>,
    network: &mut Network,
    mut legal: Vec<(Edit, Vec<usize>)>,
    choose: &mut dyn FnMut(usize, &[usize]) -> usize,
) -> Result<Step, EpisodeError> {
    let levels = legal.first().map_or(0, |(_, path)| path.len());
    if let Some((edit, path)) = legal.iter().find(|(_, path)| path.len() != levels) {
        anyhow::bail!(
            "transform `{}`: expected paths of one length, found {levels} choices to an edit, and {} to \
             `{edit}`",
            edit.transform,
            path.len()
        );
    }
    for level in 0..levels {
        let mut choices: Vec<usize> = legal.iter().map(|(_, path)| path[level]).collect();
        choices.sort_unstable();
        choices.dedup();
        let choice = choose(level, &choices);
        anyhow::ensure!(choices.contains(&choice), "choice {choice} is not among {choices:?}");
        legal.retain(|(_, path)| path[level] == choice);
    }
    let Some((edit, _)) = legal.into_iter().next() else { return Ok(Step::new()) };
    *network = scope.made(network, &edit).context("an edit that was legal is so no longer")?;
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
