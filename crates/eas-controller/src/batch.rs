//! One batch of a stage under way, and the networks that the stage knows.

use std::collections::BTreeMap;
use std::ops::Range;

use eas_ir::{Fingerprint, Network, Rng};
use eas_transform::{Step, grow_network};

use crate::controller::Proposal;
use crate::evaluator::Assignment;
use crate::halving::Repeat;
use crate::scope::Scope;
use crate::search::Batches;
use crate::trial::{Ending, Outcome, Trial, TrialId};

/// The networks of a stage by fingerprint, and what their trainings said.
#[derive(Default)]
pub(crate) struct Known(BTreeMap<Fingerprint, Vec<KnownNetwork>>);

struct KnownNetwork {
    /// What its first trial was called when it was proposed.
    first: TrialId,
    network: Network,
    /// What each of its trainings measured, as far as they said anything.
    measured: Vec<f64>,
}

impl Known {
    /// The network's first trial: this one, where it is new. An equal fingerprint is confirmed, so
    /// that no collision gives a network another one's result.
    fn first(&mut self, fingerprint: Fingerprint, network: &Network, trial: TrialId) -> TrialId {
        let alike = self.0.entry(fingerprint).or_default();
        if let Some(known) = alike.iter().find(|known| known.network.is_isomorphic(network)) {
            return known.first;
        }
        let (network, measured) = (network.clone(), Vec::new());
        alike.push(KnownNetwork { first: trial, network, measured });
        trial
    }

    fn measured(&mut self, member: &Member) -> Option<&mut Vec<f64>> {
        let alike = self.0.get_mut(&member.fingerprint)?;
        alike.iter_mut().find(|known| known.first == member.first).map(|known| &mut known.measured)
    }
}

/// A batch, in the order proposed.
pub(crate) struct Batch<'a> {
    stage: &'a Batches,
    members: Vec<Member>,
    /// The next trial's name.
    next: TrialId,
}

/// A child of a batch.
struct Member {
    /// The trial of it that began last.
    id: TrialId,
    first: TrialId,
    steps: Vec<Step>,
    network: Network,
    fingerprint: Fingerprint,
    seed: u64,
    source: Source,
    /// Whether a part of its training is under way.
    waiting: bool,
    /// Its accuracy at each rung that it came to.
    reached: Vec<f64>,
    /// Once it is known what becomes of it.
    ending: Option<Ending>,
    measured: Option<f64>,
}

/// Where a child's result comes from.
enum Source {
    /// It is trained.
    Training,
    /// Another member of the batch, by its place.
    Twin(usize),
    /// A trial of an earlier batch, which may still be under way.
    Earlier,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        scope: &Scope<'_>,
        stage: &'a Batches,
        first: TrialId,
        proposals: Vec<Proposal>,
        stream: &Rng,
        known: &mut Known,
    ) -> anyhow::Result<Self> {
        let mut members: Vec<Member> = Vec::new();
        for (index, Proposal { steps }) in proposals.into_iter().enumerate() {
            let id = TrialId(first.0 + index as u32);
            let network = grow_network(scope.parent, &steps, scope.transforms)?;
            let fingerprint = network.fingerprint();
            let first = known.first(fingerprint, &network, id);
            let source = match stage.repeat {
                Repeat::Reuse if first != id => {
                    let twin = members.iter().position(|member| member.id == first);
                    twin.map_or(Source::Earlier, Source::Twin)
                }
                Repeat::Reuse | Repeat::Retrain => Source::Training,
            };
            members.push(Member {
                id,
                first,
                steps,
                network,
                fingerprint,
                seed: stream.split("trial").split_index(index as u64).seed(),
                source,
                waiting: false,
                reached: Vec::new(),
                ending: None,
                measured: None,
            });
        }
        let next = TrialId(first.0 + members.len() as u32);
        Ok(Batch { stage, members, next })
    }

    /// What is to be trained from one comparison to the next: everything at first, then those that are
    /// still trained, each as a trial of its own that goes on from the one before.
    pub(crate) fn assign(&mut self, epochs: &Range<usize>) -> Vec<Assignment> {
        let mut assignments = Vec::new();
        for member in self.members.iter_mut().filter(|member| member.is_trained_on()) {
            let before = member.id;
            if epochs.start > 0 {
                member.id = self.next;
                self.next.0 += 1;
            }
            member.waiting = true;
            assignments.push(Assignment {
                trial: member.id,
                parent: self.stage.parent,
                steps: member.steps.clone(),
                network: member.network.clone(),
                epochs: epochs.clone(),
                continues: (epochs.start > 0).then_some(before),
                seed: member.seed,
            });
        }
        assignments
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.members.iter().any(|member| member.waiting)
    }

    /// Records an outcome.
    pub(crate) fn end(&mut self, outcome: &Outcome) {
        let own = |member: &&mut Member| member.waiting && member.id == outcome.trial;
        let Some(member) = self.members.iter_mut().find(own) else { return };
        member.waiting = false;
        match &outcome.ending {
            Ending::Stopped { epochs, accuracy } if *epochs < self.stage.epochs => {
                member.reached.push(*accuracy);
            }
            ending => member.ending = Some(ending.clone()),
        }
    }

    /// Compares those of `assigned` that reached a rung: only the best go on.
    pub(crate) fn halve(&mut self, assigned: usize, epochs: usize) {
        let mut compared: Vec<(f64, &mut Member)> = Vec::new();
        for member in self.members.iter_mut().filter(|member| member.is_trained_on()) {
            compared.extend(member.reached.last().copied().map(|accuracy| (accuracy, member)));
        }
        // The sort is stable, so that of equals those proposed first go on.
        compared.sort_by(|a, b| b.0.total_cmp(&a.0));
        let survivors = self.stage.halving.survivors(assigned);
        for (accuracy, member) in compared.into_iter().skip(survivors) {
            member.ending = Some(Ending::Stopped { epochs, accuracy });
        }
    }

    /// The trials of which it is known what becomes of them, with what they say of their networks;
    /// `earlier` are those of the batches before.
    pub(crate) fn conclude(mut self, earlier: &[Trial], known: &mut Known) -> Vec<Trial> {
        self.measure();
        for member in &self.members {
            if let Some(results) = known.measured(member) {
                results.extend(member.measured);
            }
        }
        (0..self.members.len()).filter_map(|place| self.trial(place, earlier, known)).collect()
    }

    /// Says what each training measured. A child that was stopped is given what those that went on from
    /// its rung gained behind it, on average.
    fn measure(&mut self) {
        for member in &mut self.members {
            member.measured = member.ending.as_ref().and_then(Ending::measured);
        }
        for rung in (0..self.stage.halving.rungs.len()).rev() {
            let stops_here = |member: &Member| {
                matches!(member.ending, Some(Ending::Stopped { .. }))
                    && member.reached.len() == rung + 1
            };
            let went_on = self.members.iter().filter(|member| !stops_here(member));
            let gains: Vec<f64> = went_on
                .filter(|member| !matches!(member.ending, Some(Ending::Diverged { .. })))
                .filter_map(|member| Some(member.measured? - member.reached.get(rung)?))
                .collect();
            let gain = gains.iter().sum::<f64>() / gains.len().max(1) as f64;
            for member in self.members.iter_mut().filter(|member| stops_here(member)) {
                let expected = |accuracy: &f64| (accuracy + gain).clamp(0.0, 1.0);
                member.measured = member.reached.last().map(expected);
            }
        }
    }

    fn trial(&self, place: usize, earlier: &[Trial], known: &mut Known) -> Option<Trial> {
        let member = &self.members[place];
        let own = |result: Trial| Trial { id: member.id, steps: member.steps.clone(), ..result };
        match &member.source {
            Source::Training => {
                let results = known.measured(member)?;
                let mean = results.iter().sum::<f64>() / results.len() as f64;
                Some(Trial {
                    id: member.id,
                    first: member.first,
                    parent: self.stage.parent,
                    steps: member.steps.clone(),
                    fingerprint: member.fingerprint,
                    ending: member.ending.clone()?,
                    same_as: None,
                    measured: member.measured,
                    estimate: (!results.is_empty()).then_some(mean),
                })
            }
            Source::Twin(twin) => {
                let twin = self.trial(*twin, earlier, known)?;
                Some(own(Trial { same_as: Some(twin.id), ..twin }))
            }
            Source::Earlier => {
                let trial = earlier.iter().find(|trial| trial.first == member.first)?;
                let same_as = trial.same_as.or(Some(trial.id));
                Some(own(Trial { same_as, ..trial.clone() }))
            }
        }
    }
}

impl Member {
    fn is_trained_on(&self) -> bool {
        matches!(self.source, Source::Training) && self.ending.is_none()
    }
}
