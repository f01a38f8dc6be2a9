//! The search loop.

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
    Assigned(&'a [Assignment]),
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
    for (number, first) in stage.first_trials.iter().enumerate() {
        let stream = rng.split_index(number as u64);
        let proposals = controller.propose(scope, stage.networks, &stream.split("propose"))?;
        ensure!(
            proposals.len() == stage.networks,
            "the controller was asked for {} episodes and proposed {}",
            stage.networks,
            proposals.len()
        );
        let mut batch = Batch::new(scope, stage, *first, proposals, &stream, &all, &mut known)?;
        let reason = evaluate(&mut batch, stage, evaluator, on_event)?;
        let trials = batch.conclude(&mut known);
        for trial in &trials {
            on_event(Event::Ended(trial))?;
        }
        if reason == StopReason::Stopped {
            all.extend(trials);
            return Ok((all, reason));
        }
        controller.observe(scope, &trials)?;
        on_event(Event::Observed { batch: number })?;
        all.extend(trials);
    }
    Ok((all, StopReason::Finished))
}

/// Has a batch trained, from one comparison to the next.
fn evaluate(
    batch: &mut Batch<'_>,
    stage: &Batches,
    evaluator: &mut dyn Evaluator,
    on_event: &mut dyn FnMut(Event<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<StopReason> {
    for epochs in stage.halving.parts(stage.epochs) {
        let assignments = batch.assign(&epochs);
        let assigned = assignments.len();
        on_event(Event::Assigned(&assignments))?;
        evaluator.submit(assignments)?;
        while batch.is_waiting() {
            let outcomes = evaluator.collect()?;
            if outcomes.is_empty() {
                return Ok(StopReason::Stopped);
            }
            outcomes.into_iter().for_each(|outcome| batch.end(outcome));
        }
        batch.halve(assigned, epochs.end);
    }
    Ok(StopReason::Finished)
}
