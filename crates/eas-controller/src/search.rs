//! The search loop.

use std::collections::BTreeMap;

use anyhow::ensure;
use eas_ir::{Fingerprint, Network, Rng};
use eas_transform::{Step, grow_network};

use crate::controller::{Controller, Proposal};
use crate::evaluator::{Assignment, Evaluator};
use crate::scope::Scope;
use crate::trial::{Ending, Outcome, Trial, TrialId};

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
    /// A batch was proposed and begins.
    Proposed {
        /// Its number, from 0.
        batch: usize,
        /// The trials to be trained.
        assignments: &'a [Assignment],
    },
    /// A trial ended, or repeats one that had.
    Ended(&'a Trial),
    /// The controller has been told of a complete batch.
    Observed {
        /// Its number, from 0.
        batch: usize,
    },
}

/// Runs one stage: propose, evaluate, observe, batch by batch. Returns all trials in the order
/// proposed, and why it stopped. A child that was trained before from the same parent is not trained
/// again: its trial repeats the known result and says so.
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
    let mut trained = Trained::default();
    for (number, first) in stage.first_trials.iter().enumerate() {
        let stream = rng.split_index(number as u64);
        let proposals = controller.propose(scope, stage.networks, &stream.split("propose"))?;
        ensure!(
            proposals.len() == stage.networks,
            "the controller was asked for {} episodes and proposed {}",
            stage.networks,
            proposals.len()
        );
        let mut batch =
            Batch::new(scope, stage.parent, proposals, *first, &stream, &all, &mut trained)?;
        on_event(Event::Proposed { batch: number, assignments: &batch.assignments })?;
        for repeated in batch.finished() {
            on_event(Event::Ended(&repeated))?;
        }
        evaluator.submit(batch.assignments.clone())?;
        while batch.is_waiting() {
            let outcomes = evaluator.collect()?;
            if outcomes.is_empty() {
                all.extend(batch.finished());
                return Ok((all, StopReason::Stopped));
            }
            for outcome in outcomes {
                for trial in batch.end(outcome) {
                    on_event(Event::Ended(&trial))?;
                }
            }
        }
        let trials = batch.finished();
        controller.observe(scope, &trials)?;
        on_event(Event::Observed { batch: number })?;
        all.extend(trials);
    }
    Ok((all, StopReason::Finished))
}

/// Networks that are trained or about to be, by fingerprint.
#[derive(Default)]
struct Trained(BTreeMap<Fingerprint, Vec<(TrialId, Network)>>);

impl Trained {
    /// The trial of the same network. An equal fingerprint is confirmed, so that no collision gives a
    /// network another one's result.
    fn find(&self, fingerprint: Fingerprint, network: &Network) -> Option<TrialId> {
        let alike = self.0.get(&fingerprint)?;
        alike.iter().find(|(_, known)| known.is_isomorphic(network)).map(|(id, _)| *id)
    }
}

/// One batch under way.
struct Batch {
    parent: TrialId,
    /// In the order proposed.
    members: Vec<Member>,
    assignments: Vec<Assignment>,
}

/// A trial of a batch, with an ending once there is one.
struct Member {
    id: TrialId,
    steps: Vec<Step>,
    fingerprint: Fingerprint,
    same_as: Option<TrialId>,
    ending: Option<Ending>,
}

impl Batch {
    fn new(
        scope: &Scope<'_>,
        parent: TrialId,
        proposals: Vec<Proposal>,
        first: TrialId,
        stream: &Rng,
        known: &[Trial],
        trained: &mut Trained,
    ) -> anyhow::Result<Self> {
        let mut batch = Batch { parent, members: Vec::new(), assignments: Vec::new() };
        for (index, Proposal { steps }) in proposals.into_iter().enumerate() {
            let id = TrialId(first.0 + index as u32);
            let network = grow_network(scope.parent, &steps, scope.transforms)?;
            let fingerprint = network.fingerprint();
            let same_as = trained.find(fingerprint, &network);
            let same = same_as.and_then(|id| known.iter().find(|trial| trial.id == id));
            let ending = same.map(|trial| trial.ending.clone());
            if same_as.is_none() {
                trained.0.entry(fingerprint).or_default().push((id, network.clone()));
                batch.assignments.push(Assignment {
                    trial: id,
                    parent,
                    steps: steps.clone(),
                    network,
                    seed: stream.split("trial").split_index(index as u64).seed(),
                });
            }
            batch.members.push(Member { id, steps, fingerprint, same_as, ending });
        }
        Ok(batch)
    }

    fn is_waiting(&self) -> bool {
        self.members.iter().any(|member| member.ending.is_none())
    }

    /// Records an outcome; returns the trials that it ends: its own and those that repeat it.
    fn end(&mut self, outcome: Outcome) -> Vec<Trial> {
        let (id, parent) = (outcome.trial, self.parent);
        let members = self.members.iter_mut();
        let concerned = members.filter(|member| member.id == id || member.same_as == Some(id));
        concerned
            .filter_map(|member| {
                member.ending = Some(outcome.ending.clone());
                member.trial(parent)
            })
            .collect()
    }

    fn finished(&self) -> Vec<Trial> {
        self.members.iter().filter_map(|member| member.trial(self.parent)).collect()
    }
}

impl Member {
    /// The trial, once it has ended.
    fn trial(&self, parent: TrialId) -> Option<Trial> {
        let ending = self.ending.clone()?;
        let (steps, same_as) = (self.steps.clone(), self.same_as);
        Some(Trial { id: self.id, parent, steps, fingerprint: self.fingerprint, ending, same_as })
    }
}
