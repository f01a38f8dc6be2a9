//! What of a store is needed, and the removal of the rest.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use eas_controller::{Ending, TrialId};
use serde::Serialize;

use super::{Digest, Origin, Purpose, Run, TrialRecord, TrialResult};
use crate::reach::Reach;

/// Why an object stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// The search may go on from it.
    Search,
    /// A trial without a result reads it.
    Unfinished,
    /// It was handed over or compared.
    Final,
    /// It is one of the best.
    Best,
}

impl Reason {
    /// In a few words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Reason::Search => "the search may go on from",
            Reason::Unfinished => "unfinished trials begin with",
            Reason::Final => "of the final comparison",
            Reason::Best => "of the best networks",
        }
    }
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Amount {
    pub(crate) objects: usize,
    pub(crate) bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// What a collection removed, or would remove, and what stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Collected {
    pub(crate) removed: Amount,
    pub(crate) kept: Amount,
    /// The same by the first reason that holds.
    pub(crate) reasons: BTreeMap<Reason, Amount>,
}

impl Run {
    /// Removes the models and momentum that nobody needs: not the search, nor a trial without a result,
    /// nor the final comparison, and that aren't of the `keep_best` best networks. Nothing where trials
    /// are publishing just then.
    ///
    /// # Errors
    /// Records that can't be read; a store that can't be changed.
    pub(crate) fn collect(
        &self,
        reach: &Reach,
        keep_best: usize,
        remove: bool,
    ) -> anyhow::Result<Option<Collected>> {
        // What is in no result yet may be in one the next moment, unless no trial publishes.
        let Some(_alone) = self.store.alone()? else { return Ok(None) };
        let results = self.results()?;
        let needed = self.needed(reach, keep_best, &results)?;
        let mut collected = Collected::default();
        let mut garbage = HashMap::new();
        for (digest, bytes) in self.store.objects()? {
            match needed.get(&digest) {
                Some(reason) => {
                    collected.kept.add(bytes);
                    collected.reasons.entry(*reason).or_default().add(bytes);
                }
                None => {
                    collected.removed.add(bytes);
                    garbage.insert(digest, bytes);
                }
            }
        }
        if remove {
            self.store.sweep()?;
            for result in
                results.iter().filter(|r| r.model.is_some_and(|m| garbage.contains_key(&m)))
            {
                self.unlink_model(result.trial)?;
            }
            for digest in garbage.into_keys() {
                self.store.collect(digest)?;
            }
        }
        Ok(Some(collected))
    }

    /// The objects that stay, each with the first reason.
    fn needed(
        &self,
        reach: &Reach,
        keep_best: usize,
        results: &[TrialResult],
    ) -> anyhow::Result<HashMap<Digest, Reason>> {
        let mut needed = HashMap::new();
        let mut keep = |objects: &[Option<Digest>], reason: Reason| {
            for digest in objects.iter().flatten() {
                needed.entry(*digest).or_insert(reason);
            }
        };
        let live = reach.trials();
        let known: BTreeMap<TrialId, &TrialResult> =
            results.iter().map(|result| (result.trial, result)).collect();
        // A training that was done before is not done again: its result is repeated, and gone on from.
        let may_be_repeated = |result: &TrialResult| {
            let parent = result.parent.filter(|parent| live.contains(parent));
            let parent = parent.and_then(|parent| known.get(&parent));
            result.purpose == Purpose::Child
                && parent.is_some_and(|parent| {
                    let stopped = matches!(result.ending, Ending::Stopped { .. });
                    parent.fingerprint == result.fingerprint || (stopped && reach.stopped())
                })
        };
        for result in results {
            let met_later = reach.is_ahead(result.trial);
            if met_later || live.contains(&result.trial) || may_be_repeated(result) {
                keep(&[result.model, result.momentum], Reason::Search);
            }
        }
        for trial in self.begun()? {
            if !known.contains_key(&trial) {
                keep(&inputs(&self.record(trial)?), Reason::Unfinished);
            }
        }
        for result in results {
            match result.purpose {
                Purpose::Final
                | Purpose::StartLonger
                | Purpose::Scratch
                | Purpose::StartCompute
                | Purpose::ScratchCompute => keep(&[result.model], Reason::Final),
                Purpose::Start
                | Purpose::Child
                | Purpose::Reevaluation
                | Purpose::Promoted
                | Purpose::Ranked => {}
            }
        }
        let mut best: Vec<&TrialResult> = results
            .iter()
            .filter(|result| result.purpose.is_candidate() && result.accuracy().is_some())
            .filter(|result| result.same_as.is_none())
            .collect();
        best.sort_by(|a, b| a.compare(b));
        best.iter().take(keep_best).for_each(|result| keep(&[result.model], Reason::Best));
        Ok(needed)
    }

    /// Bytes of a result's own objects.
    pub(crate) fn bytes_of(&self, result: &TrialResult) -> u64 {
        let objects = [result.model, result.momentum];
        objects.iter().flatten().filter_map(|digest| self.store.bytes(*digest).ok()).sum()
    }

    /// Whether an object was removed because nothing needed it.
    pub(crate) fn is_collected(&self, digest: Digest) -> bool {
        self.store.is_collected(digest)
    }

    fn unlink_model(&self, trial: TrialId) -> anyhow::Result<()> {
        let link = self.trial(trial).join("model");
        if !link.is_symlink() {
            // A copy of a run may have the model itself there, which no search needs.
            return Ok(());
        }
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("can't remove {}", link.display()))
            }
            _ => Ok(()),
        }
    }
}

/// What a trial reads.
pub(super) fn inputs(record: &TrialRecord) -> [Option<Digest>; 4] {
    let (model, momentum) = match &record.origin {
        Origin::Fresh { .. } | Origin::Given { .. } => (None, None),
        Origin::Grown { model, momentum, .. } => (Some(*model), *momentum),
    };
    let before = record.continues();
    [model, momentum, before.map(|before| before.model), before.map(|before| before.momentum)]
}
