//! The search loop.

use std::collections::VecDeque;
use std::ops::Range;

use anyhow::ensure;
use eas_ir::Rng;

use crate::batch::{Batch, Known};
use crate::controller::Controller;
use crate::evaluator::{Assignment, Evaluator};
use crate::halving::{Halving, Repeat};
use crate::scope::Scope;
use crate::trial::{Trial, TrialId};

/// How much one stage of a search tries.
#[derive(Clone, Debug)]
pub struct Batches {
    /// The trial of the scope's parent: whose weights the children inherit.
    pub parent: TrialId,
    /// The first trial of each batch, whose others follow it; the controller is told of a batch when
    /// it is complete.
    pub first_trials: Vec<TrialId>,
    /// Networks of a batch.
    pub networks: usize,
    /// How many batches may be under way besides the one that the controller is told of next: it has
    /// seen so many fewer when it proposes, and no worker waits for the last trial of a batch.
    pub lag: usize,
    /// Epochs that a child is trained for.
    pub epochs: usize,
    /// Which of a batch are trained to the end.
    pub halving: Halving,
    /// What becomes of a network that is proposed again.
    pub repeat: Repeat,
}

/// Why a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// All batches are done.
    Finished,
    /// The evaluator stopped before all were: a deadline, or a person.
    Stopped,
}

/// What happens in a stage, as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// Trials begin: a batch's first, or those that go on from the last comparison.
    Assigned {
        /// The batch's number, from 0.
        batch: usize,
        /// What is to be trained.
        assignments: &'a [Assignment],
    },
    /// Nothing more becomes of a trial of a batch that is complete, or was stopped.
    Ended(&'a Trial),
    /// The controller has been told of a complete batch.
    Observed {
        /// Its number, from 0.
        batch: usize,
    },
}

/// Runs one stage: propose, evaluate, observe, batch by batch. Returns all trials in the order
/// proposed, and why it stopped. Where the stage says so, a child that was trained before from the same
/// parent is not trained again: its trial repeats the known result and says so.
///
/// When a batch is proposed depends on complete batches alone, so that it doesn't matter which trial
/// ended first.
///
/// # Errors
/// A controller or evaluator that can't go on, or what `on_event` returns.
pub fn search(
    scope: &Scope<'_>,
    stage: &Batches,
    controller: &mut dyn Controller,
    evaluator: &mut dyn Evaluator,
    rng: &Rng,
    on_event: &mut dyn FnMut(Event<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<(Vec<Trial>, StopReason)> {
    let mut all: Vec<Trial> = Vec::new();
    let mut known = Known::default();
    let mut proposed = 0;
    let mut window: VecDeque<UnderWay<'_>> = VecDeque::new();
    loop {
        // A batch is proposed when the one `lag + 1` before it has been observed, and at no other moment.
        while proposed < stage.first_trials.len() && window.len() <= stage.lag {
            let stream = rng.split_index(proposed as u64);
            let proposals = controller.propose(scope, stage.networks, &stream.split("propose"))?;
            ensure!(
                proposals.len() == stage.networks,
                "the controller was asked for {} episodes and proposed {}",
                stage.networks,
                proposals.len()
            );
            let first = stage.first_trials[proposed];
            let batch = Batch::new(scope, stage, first, proposals, &stream, &mut known)?;
            let parts = stage.halving.parts(stage.epochs).into();
            window.push_back(UnderWay { number: proposed, batch, parts, compared: None });
            proposed += 1;
        }
        for under_way in &mut window {
            under_way.go_on(evaluator, on_event)?;
        }
        let Some(front) = window.front() else { return Ok((all, StopReason::Finished)) };
        if front.is_complete() {
            let UnderWay { number, batch, .. } = window.pop_front().expect("there is a front");
            let trials = conclude(batch, &all, &mut known, on_event)?;
            controller.observe(scope, &trials)?;
            on_event(Event::Observed { batch: number })?;
            all.extend(trials);
            continue;
        }
        let outcomes = evaluator.collect()?;
        if outcomes.is_empty() {
            for UnderWay { batch, .. } in window {
                let trials = conclude(batch, &all, &mut known, on_event)?;
                all.extend(trials);
            }
            return Ok((all, StopReason::Stopped));
        }
        for outcome in &outcomes {
            window.iter_mut().for_each(|under_way| under_way.batch.end(outcome));
        }
    }
}

/// A batch whose children are being trained.
struct UnderWay<'a> {
    number: usize,
    batch: Batch<'a>,
    /// The parts of a training that have not begun, each up to a comparison.
    parts: VecDeque<Range<usize>>,
    /// How many set out for the comparison that comes next, and its epochs.
    compared: Option<(usize, usize)>,
}

impl UnderWay<'_> {
    /// Compares what has come to a comparison, and has those that go on trained.
    fn go_on(
        &mut self,
        evaluator: &mut dyn Evaluator,
        on_event: &mut dyn FnMut(Event<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !self.batch.is_waiting() {
            if let Some((assigned, epochs)) = self.compared.take() {
                self.batch.halve(assigned, epochs);
            }
            let Some(epochs) = self.parts.pop_front() else { break };
            let assignments = self.batch.assign(&epochs);
            self.compared = Some((assignments.len(), epochs.end));
            on_event(Event::Assigned { batch: self.number, assignments: &assignments })?;
            evaluator.submit(assignments)?;
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.parts.is_empty() && self.compared.is_none() && !self.batch.is_waiting()
    }
}

/// Ends a batch, complete or stopped.
fn conclude(
    batch: Batch<'_>,
    earlier: &[Trial],
    known: &mut Known,
    on_event: &mut dyn FnMut(Event<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Trial>> {
    let trials = batch.conclude(earlier, known);
    for trial in &trials {
        on_event(Event::Ended(trial))?;
    }
    Ok(trials)
}
