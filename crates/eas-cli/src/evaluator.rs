//! The evaluator of this machine: one trial after another, in this process.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use eas_controller::{Assignment, Evaluator, Outcome};
use eas_train::Recipe;

use crate::print::Bar;
use crate::runs::{Purpose, TrialResult};
use crate::stop::{self, Deadline};
use crate::trial::{Job, Origin, Workshop};

/// Units of the progress bar that an epoch counts.
const EPOCH_UNITS: f64 = 1000.0;

/// Trains children one at a time.
pub(crate) struct LocalTrainer<'a> {
    pub(crate) workshop: Workshop<'a>,
    pub(crate) recipe: &'a Recipe,
    pub(crate) bar: &'a Bar,
    pub(crate) deadline: Deadline,
    queue: VecDeque<Assignment>,
}

impl<'a> LocalTrainer<'a> {
    pub(crate) fn new(
        workshop: Workshop<'a>,
        recipe: &'a Recipe,
        bar: &'a Bar,
        deadline: Deadline,
    ) -> Self {
        LocalTrainer { workshop, recipe, bar, deadline, queue: VecDeque::new() }
    }
}

impl Evaluator for LocalTrainer<'_> {
    fn submit(&mut self, assignments: Vec<Assignment>) -> anyhow::Result<()> {
        self.queue.extend(assignments);
        Ok(())
    }

    fn collect(&mut self) -> anyhow::Result<Vec<Outcome>> {
        let Some(assignment) = self.queue.pop_front() else { return Ok(Vec::new()) };
        let Assignment { trial, parent, steps, seed, .. } = assignment;
        let job = Job {
            trial,
            purpose: Purpose::Child,
            origin: Origin::Grown { parent, steps },
            recipes: vec![self.recipe.clone()],
            with_validation: false,
            seed,
        };
        let result = carry_out(&self.workshop, &job, self.bar, self.deadline)?;
        Ok(result
            .into_iter()
            .map(|TrialResult { trial, ending, seconds, .. }| Outcome { trial, ending, seconds })
            .collect())
    }
}

/// Units of the progress bar for so many epochs.
pub(crate) fn units(epochs: usize) -> u64 {
    (epochs as f64 * EPOCH_UNITS) as u64
}

/// Carries out a trial under a progress bar; nothing where a person or the deadline stops it.
pub(crate) fn carry_out(
    workshop: &Workshop<'_>,
    job: &Job,
    bar: &Bar,
    deadline: Deadline,
) -> anyhow::Result<Option<TrialResult>> {
    let stops = || stop::interrupted() || deadline.is_past();
    if stops() {
        return Ok(None);
    }
    bar.message(&format!("trial {} ({})", job.trial, job.purpose.words()));
    let all = units(job.epochs()) as f64;
    let mut shown = 0;
    let result = workshop.carry_out(job, &mut |share| {
        let now = (share * all) as u64;
        bar.advance(now.saturating_sub(shown));
        shown = shown.max(now);
        if stops() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.advance((all as u64).saturating_sub(shown));
    Ok(result)
}
