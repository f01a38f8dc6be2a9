//! The results of a run for whoever looks on: from the index as far as that has come, from the trials'
//! own files for the rest, and for all where there is no index that can be trusted.

use std::collections::BTreeSet;

use anyhow::Context;
use eas_controller::TrialId;

use super::index::Table;
use super::{Run, TrialResult};

/// What a run has come to.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    run: &'a Run,
    index: Option<Table>,
    indexed: BTreeSet<TrialId>,
    /// Of trials that the index doesn't have.
    others: Vec<TrialResult>,
    /// Trials without a result.
    unfinished: Vec<TrialId>,
}

impl Run {
    /// The results as they are now.
    ///
    /// # Errors
    /// A folder or record that can't be read.
    pub(crate) fn listing(&self) -> anyhow::Result<Listing<'_>> {
        let path = self.index_path();
        let index = Table::read(&path).and_then(|index| Ok((index.trials()?, index)));
        let (indexed, index) =
            index.map_or((BTreeSet::new(), None), |(trials, index)| (trials, Some(index)));
        let mut listing =
            Listing { run: self, index, indexed, others: Vec::new(), unfinished: Vec::new() };
        let folders = self.trial_folders()?;
        if !listing.indexed.iter().all(|trial| folders.contains(trial)) {
            // It is the index of other trials.
            (listing.index, listing.indexed) = (None, BTreeSet::new());
        }
        for trial in folders.difference(&listing.indexed) {
            match self.published(*trial)? {
                Some(result) => listing.others.push(result),
                None if self.trial(*trial).join("trial.json").exists() => {
                    listing.unfinished.push(*trial);
                }
                None => {}
            }
        }
        Ok(listing)
    }
}

impl Listing<'_> {
    /// How many trials have a result.
    pub(crate) fn count(&self) -> usize {
        self.indexed.len() + self.others.len()
    }

    /// The trials that have one.
    pub(crate) fn trials(&self) -> BTreeSet<TrialId> {
        let others = self.others.iter().map(|result| result.trial);
        self.indexed.iter().copied().chain(others).collect()
    }

    /// The trials that have none.
    pub(crate) fn unfinished(&self) -> &[TrialId] {
        &self.unfinished
    }

    /// How many came to no trained network.
    pub(crate) fn failed(&self) -> anyhow::Result<usize> {
        let indexed = self.index.as_ref().map_or(Ok(0), Table::failed)?;
        Ok(indexed + self.others.iter().filter(|result| !result.ending.has_model()).count())
    }

    /// The best by validation accuracy, of those that the search goes on from or hands over.
    pub(crate) fn best(&self) -> anyhow::Result<Option<TrialResult>> {
        let indexed = match self.index.as_ref().map(Table::best) {
            Some(Ok(best)) => best.into_iter().collect(),
            // Its pages may be damaged where its schema isn't.
            Some(Err(_)) => self.run.results()?,
            None => Vec::new(),
        };
        let all = indexed.into_iter().chain(self.others.iter().cloned());
        let candidates = all.filter(|result| result.purpose.is_candidate());
        Ok(candidates.filter(|result| result.accuracy().is_some()).min_by(TrialResult::compare))
    }

    /// Every result, by trial.
    pub(crate) fn results(&self) -> anyhow::Result<Vec<TrialResult>> {
        let mut results = self.index.as_ref().map_or(Ok(Vec::new()), Table::results)?;
        results.extend(self.others.iter().cloned());
        results.sort_by_key(|result| result.trial);
        Ok(results)
    }

    /// The result of one trial.
    pub(crate) fn result(&self, trial: TrialId) -> anyhow::Result<TrialResult> {
        self.run.published(trial)?.with_context(|| format!("trial {trial} has no result"))
    }
}
