//! Which trials' weights a search may still go on from: what a store must keep.
//!
//! Decisions need no weights: networks follow from the records. Weights are read by trials that train
//! on from them, and by the final comparison.

use std::collections::{BTreeMap, BTreeSet};

use eas_controller::{Assignment, Ending, Repeat, Trial, TrialId};

use crate::plan::{Plan, StageParent};

/// What a search may still go on from, as it gets on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Networks that are known at the end of a stage, the best of which go on; the start network first.
    ranking: Vec<TrialId>,
    /// The same before the last stage that began: one that is made longer ranks anew.
    before: Vec<TrialId>,
    /// Trials below this number were told of.
    told: u32,
    /// Children of the stage under way, or of the last one.
    stage: BTreeMap<TrialId, Child>,
    /// How many of those may go on; nothing where any may.
    chosen: Option<usize>,
    /// Whose children are being trained.
    parent: Option<TrialId>,
    /// The trials of each batch under way.
    batches: BTreeMap<usize, BTreeSet<TrialId>>,
    /// Whether a child that was stopped may be gone on from when it is proposed again.
    stopped: bool,
}

/// A child, by what its network's first trial was called.
#[derive(Clone, Copy, Debug)]
struct Child {
    /// Its best training.
    trial: TrialId,
    accuracy: f64,
    parent: TrialId,
    /// Its mean accuracy, where it has one.
    score: Option<f64>,
}

impl Reach {
    /// The start network, as far as it is trained.
    pub(crate) fn start(&mut self, trial: TrialId) {
        self.ranking = vec![trial];
        self.told = self.told.max(trial.0 + 1);
    }

    /// The best at the end of a stage, besides the start network.
    pub(crate) fn rank(&mut self, best: impl Iterator<Item = TrialId>) {
        self.ranking.truncate(1);
        self.ranking.extend(best);
    }

    /// A stage begins.
    pub(crate) fn begin_stage(&mut self, plan: &Plan, number: usize) {
        self.before.clone_from(&self.ranking);
        let stage = &plan.stages[number];
        let promoted = if stage.promotion.seeds > 0 { stage.promotion.candidates } else { 1 };
        self.stage.clear();
        self.chosen = match stage.repeat {
            Repeat::Reuse => Some(promoted.max(plan.finals.networks)),
            // A mean may rise as long as its network is proposed again.
            Repeat::Retrain => None,
        };
        // Within one part of a stage, what is proposed again is never gone on from.
        let parts_follow = usize::from(stage.parent != StageParent::Frontier);
        self.stopped = plan.stages[number + parts_follow..]
            .iter()
            .any(|stage| !stage.halving.rungs.is_empty() && stage.repeat == Repeat::Reuse);
    }

    /// This parent's children are trained from now on.
    pub(crate) fn begin_part(&mut self, parent: TrialId) {
        self.parent = Some(parent);
        self.batches.clear();
    }

    /// Trials of a batch begin.
    pub(crate) fn assign(&mut self, batch: usize, assignments: &[Assignment]) {
        let trials = assignments.iter().map(|assigned| assigned.trial);
        self.told = trials.clone().fold(self.told, |told, trial| told.max(trial.0 + 1));
        self.batches.entry(batch).or_default().extend(trials);
    }

    /// The search is done: nothing lies ahead.
    pub(crate) fn finish(&mut self) {
        self.told = u32::MAX;
    }

    /// Whether nothing was told of a trial yet. One that has a result all the same is met later: by a
    /// search that is done again from its start, or in batches under way that weren't told of.
    pub(crate) fn is_ahead(&self, trial: TrialId) -> bool {
        trial.0 >= self.told
    }

    /// A batch is complete; returns its trials.
    pub(crate) fn observe(&mut self, batch: usize) -> BTreeSet<TrialId> {
        self.batches.remove(&batch).unwrap_or_default()
    }

    /// A child of the stage was trained to its end.
    pub(crate) fn trained(&mut self, trial: &Trial) {
        let accuracy = match trial.ending {
            Ending::Trained { accuracy } => accuracy.unwrap_or(-1.0),
            _ => return,
        };
        let (parent, score) = (trial.parent, trial.estimate);
        let found = Child { trial: trial.id, accuracy, parent, score };
        let known = self.stage.entry(trial.first).or_insert(found);
        if accuracy > known.accuracy {
            *known = found;
        }
        known.score = score;
    }

    /// The trials whose model and momentum may be gone on from.
    pub(crate) fn trials(&self) -> BTreeSet<TrialId> {
        let mut children: Vec<&Child> =
            self.stage.values().filter(|child| child.score.is_some()).collect();
        let score = |child: &Child| child.score.unwrap_or(-1.0);
        children.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.trial.cmp(&b.trial)));
        children.truncate(self.chosen.unwrap_or(usize::MAX));
        // Those that are chosen are trained again from their parents.
        let chosen = children.iter().flat_map(|child| [child.trial, child.parent]);
        let batches = self.batches.values().flatten();
        let known =
            self.ranking.iter().chain(&self.before).chain(&self.parent).chain(batches).copied();
        known.chain(chosen).collect()
    }

    /// Whether a child of those that was stopped may be gone on from when it is proposed again.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::Path;

    use eas_ir::Network;

    use super::*;
    use crate::commands::QUICKSTART;
    use crate::spec::read_plan;

    fn assigned(trials: Range<u32>) -> Vec<Assignment> {
        let assignment = |trial| Assignment {
            trial: TrialId(trial),
            parent: TrialId(0),
            steps: Vec::new(),
            network: Network::new(),
            epochs: 0..1,
            continues: None,
            seed: 1,
        };
        trials.map(assignment).collect()
    }

    #[test]
    fn what_was_not_told_of_lies_ahead() {
        let mut reach = Reach::default();
        reach.start(TrialId(0));
        reach.assign(0, &assigned(5..8));
        // A batch behind the first that isn't complete, as a replay leaves it where batches overlap.
        assert!(!reach.is_ahead(TrialId(7)) && reach.is_ahead(TrialId(8)));
        reach.finish();
        assert!(!reach.is_ahead(TrialId(8)));
    }

    #[test]
    fn a_stage_that_is_made_longer_ranks_what_was_the_best_before_it() {
        let plan = read_plan("quickstart.toml", QUICKSTART, &[], Path::new("")).unwrap();
        let mut reach = Reach::default();
        reach.start(TrialId(0));
        reach.rank([TrialId(4)].into_iter());
        reach.begin_stage(&plan, 0);
        reach.rank([TrialId(9)].into_iter());
        let kept = Vec::from_iter(reach.trials());
        assert_eq!(kept, [TrialId(0), TrialId(4), TrialId(9)]);
    }
}
