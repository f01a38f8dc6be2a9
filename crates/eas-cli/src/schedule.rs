//! What the trials of a run are called, and how long its stages may take: fixed by the plan, and by what
//! happened to it since.

use std::collections::BTreeSet;

use eas_controller::TrialId;

use crate::dispatcher::units;
use crate::plan::{FinalWeights, Plan, Stage};
use crate::runs::Event;

/// What trials are called, and how long the stages may take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) stages: Vec<StageTrials>,
    /// The first of the finals.
    pub(crate) finals: TrialId,
    /// In seconds of work on the run.
    pub(crate) deadline: Option<f64>,
    /// Trials that the deadline left.
    pub(crate) given_up: BTreeSet<TrialId>,
}

/// What the trials of a stage are called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StageTrials {
    /// The first of each batch.
    pub(crate) batches: Vec<TrialId>,
    /// The first of those that decide about promotion.
    pub(crate) promotion: TrialId,
}

impl StageTrials {
    /// More batches from `next` on, and names anew for the promotion, which may now be of others.
    fn extend(&mut self, next: &mut u32, batches: usize, stage: &Stage) {
        for _ in 0..batches {
            self.batches.push(TrialId(*next));
            *next = next.saturating_add(stage.halving.trials(stage.networks) as u32);
        }
        self.promotion = TrialId(*next);
        *next = next.saturating_add(stage.promotion.trials() as u32);
    }
}

impl Schedule {
    /// The plan's, with what happened to it since.
    pub(crate) fn new(plan: &Plan, events: &[Event]) -> Self {
        let mut next = 1 + plan.saturation.rounds as u32;
        let stages = plan.stages.iter().map(|stage| {
            let mut trials = StageTrials { batches: Vec::new(), promotion: TrialId(next) };
            trials.extend(&mut next, stage.batches, stage);
            trials
        });
        let stages = stages.collect();
        let mut schedule = Schedule {
            stages,
            finals: TrialId(next),
            deadline: plan.deadline.map(|limit| limit.as_secs_f64()),
            given_up: BTreeSet::new(),
        };
        for event in events {
            match event {
                Event::Deadline { given_up } => schedule.given_up.extend(given_up),
                Event::Extended { first_trial, batches: count, deadline } => {
                    let mut next = first_trial.0;
                    if let (Some(trials), Some(stage)) =
                        (schedule.stages.last_mut(), plan.stages.last())
                    {
                        trials.extend(&mut next, *count, stage);
                    }
                    schedule.finals = TrialId(next);
                    if deadline.is_some() {
                        schedule.deadline = *deadline;
                        schedule.given_up.clear();
                    }
                }
                Event::Build { .. } | Event::TestOpened { .. } | Event::Tested { .. } => {}
            }
        }
        schedule
    }

    /// Batches of each stage.
    fn batches(&self) -> Vec<usize> {
        self.stages.iter().map(|trials| trials.batches.len()).collect()
    }

    /// Children that the stages train, repeated and stopped ones counted.
    pub(crate) fn children(&self, plan: &Plan) -> usize {
        let stages = self.batches().into_iter().zip(&plan.stages);
        stages.map(|(batches, stage)| batches * stage.networks).sum()
    }

    /// Trials of the whole run at most.
    pub(crate) fn trials(&self, plan: &Plan) -> usize {
        let times = usize::from(plan.finals.compare) + usize::from(plan.finals.equal_compute);
        let compared = plan.finals.ranked
            + match plan.finals.weights {
                FinalWeights::Inherited => 2 * times,
                FinalWeights::Scratch => times,
            };
        let of_stage = |(batches, stage): (usize, &Stage)| {
            batches * stage.halving.trials(stage.networks) + stage.promotion.trials()
        };
        let stages: usize = self.batches().into_iter().zip(&plan.stages).map(of_stage).sum();
        1 + plan.saturation.rounds + stages + plan.finals.networks + compared
    }

    /// Units of the progress bar for all of it.
    pub(crate) fn units(&self, plan: &Plan) -> u64 {
        let (start, grown) = plan.epochs(&self.batches());
        units(start + grown)
    }
}
