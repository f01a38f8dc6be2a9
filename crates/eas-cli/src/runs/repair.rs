//! Damage that training again makes good.

use std::collections::{BTreeSet, HashMap};
use std::fs;

use anyhow::Context;
use eas_controller::TrialId;

use super::garbage::inputs;
use super::{Digest, Run};

impl Run {
    /// Takes back the results that can't be read or whose models or momentum are damaged, with those that
    /// these begin with where that was collected, so that they are trained again: to the same bytes, which
    /// whatever began with them is held to. Takes back assignments that can't be read, too, which are
    /// written again. Returns the trials whose results were.
    ///
    /// # Errors
    /// Files that can't be moved.
    pub(crate) fn repair(&self) -> anyhow::Result<Vec<TrialId>> {
        let (mut results, mut taken_back) = (Vec::new(), Vec::new());
        for trial in self.begun()? {
            match self.published(trial) {
                Ok(result) => results.extend(result),
                Err(_) => taken_back.push(trial),
            }
            if self.record(trial).is_err() {
                // A search that goes on writes it again; one with a report doesn't go on.
                self.take_back_report()?;
                self.take_back(&self.trial(trial).join("trial.json"))?;
            }
        }
        let mut makers: HashMap<Digest, Vec<TrialId>> = HashMap::new();
        let mut wanting = Vec::new();
        for result in &results {
            for digest in [result.model, result.momentum].into_iter().flatten() {
                if result.same_as.is_none() {
                    makers.entry(digest).or_default().push(result.trial);
                }
                if !self.is_collected(digest) && self.store.get(digest).is_err() {
                    wanting.push(digest);
                }
            }
        }
        let published: BTreeSet<TrialId> = results.iter().map(|result| result.trial).collect();
        for trial in self.begun()?.into_iter().filter(|trial| !published.contains(trial)) {
            wanting.extend(self.wanting_inputs(trial)?);
        }
        while let Some(digest) = wanting.pop() {
            for trial in makers.remove(&digest).unwrap_or_default() {
                if !taken_back.contains(&trial) {
                    taken_back.push(trial);
                    wanting.extend(self.wanting_inputs(trial)?);
                }
            }
        }
        if !taken_back.is_empty() {
            // An index that has what is taken back would be believed, were this interrupted.
            let index = self.index_path();
            match fs::remove_file(&index) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("can't remove {}", index.display()));
                }
                _ => {}
            }
            self.take_back_report()?;
        }
        // What others begin with goes first, so that a repair that was interrupted finds the rest.
        for trial in taken_back.iter().rev() {
            self.take_back(&self.trial(*trial).join("result.json"))?;
        }
        taken_back.sort();
        Ok(taken_back)
    }

    /// Takes the report back, so that a search that goes on makes it anew, and `best/` with it.
    pub(crate) fn take_back_report(&self) -> anyhow::Result<()> {
        self.take_back(&self.root.join("report.json"))
    }

    /// What a trial begins with that isn't there.
    fn wanting_inputs(&self, trial: TrialId) -> anyhow::Result<Vec<Digest>> {
        // What it begins with is known once its assignment is written again.
        let Ok(record) = self.record(trial) else { return Ok(Vec::new()) };
        let inputs = inputs(&record).into_iter().flatten();
        Ok(inputs.filter(|digest| self.store.get(*digest).is_err()).collect())
    }

    fn take_back(&self, path: &std::path::Path) -> anyhow::Result<()> {
        match fs::rename(path, path.with_extension("json.taken-back")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("can't move {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}
