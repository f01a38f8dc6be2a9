//! A search, from its start network to its final comparison: the one place where it is decided what is
//! trained.
//!
//! Every decision is a function of the plan, the run's events and published results, so that doing it
//! all again is how a run is resumed, and how it is verified. None of them reads weights.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::Context;
use eas_controller::{
    Assignment, Batches, Evaluator, Outcome, Repeat, Scope, StopReason, Trial, TrialId, search,
};
use eas_ir::{Model, Network, Rng, cost};
use eas_train::{Momentum, Recipe};
use eas_transform::{Step, Transforms};

use crate::dispatcher::{Dispatcher, units};
use crate::plan::{FinalWeights, Plan, Promotion, StageParent};
use crate::reach::Reach;
use crate::report::Rank;
use crate::runs::{Continued, Origin, Part, Purpose, Run, Training, TrialRecord, TrialResult};
use crate::schedule::Schedule;
use crate::storage::Keeper;

/// Names of trials that the winner is compared with.
const COMPARED: u32 = 4;

/// What a search found: the model to hand over, and what it is compared with, it first, each with the
/// epochs behind its weights.
pub(crate) struct Found {
    pub(crate) winner: TrialResult,
    pub(crate) compared: Vec<(TrialResult, usize)>,
    pub(crate) ranks: Vec<Rank>,
}

/// What a search starts from.
#[derive(Debug)]
pub(crate) enum Start {
    /// A network, with fresh weights.
    Fresh(Network),
    /// A network with the weights that it came with.
    Given(Model),
}

impl Start {
    pub(crate) fn network(&self) -> &Network {
        match self {
            Start::Fresh(network) => network,
            Start::Given(model) => model.network(),
        }
    }

    /// The model, where it came with weights.
    pub(crate) fn model(&self) -> Option<&Model> {
        match self {
            Start::Fresh(_) => None,
            Start::Given(model) => Some(model),
        }
    }
}

/// A network that may become a parent.
#[derive(Clone)]
struct Candidate {
    result: TrialResult,
    /// Its accuracy, or the mean of several trainings; nothing where it has none.
    score: Option<f64>,
    /// Epochs behind its weights, its ancestors' included.
    epochs: usize,
    /// Multiply-accumulates of those epochs, for each training image once forward.
    compute: f64,
    /// The recipes of those since the start network was trained.
    recipes: Vec<Recipe>,
}

impl Candidate {
    fn start(result: TrialResult) -> Self {
        let (score, epochs) = (result.accuracy(), result.epochs);
        let compute = compute(&result, epochs);
        Candidate { result, score, epochs, compute, recipes: Vec::new() }
    }

    /// What a recipe made of this one, or of its child.
    fn trained_on(&self, recipe: &Recipe, result: TrialResult) -> Self {
        let mut recipes = self.recipes.clone();
        recipes.push(recipe.clone());
        let (score, epochs) = (result.accuracy(), self.epochs + recipe.epochs);
        let compute = self.compute + compute(&result, recipe.epochs);
        Candidate { result, score, epochs, compute, recipes }
    }

    /// The better first, the earlier where they are equal.
    fn compare(&self, other: &Candidate) -> Ordering {
        let score = |candidate: &Candidate| candidate.score.unwrap_or(-1.0);
        score(other).total_cmp(&score(self)).then(self.result.trial.cmp(&other.result.trial))
    }
}

/// Joins what batches with a parent each made of one parent's same child: its best training, and the mean
/// of its scores.
fn each_network_once(children: Vec<Candidate>) -> Vec<Candidate> {
    let mut alike: BTreeMap<_, Vec<Candidate>> = BTreeMap::new();
    for child in children {
        let network = (child.result.parent, child.result.fingerprint.clone());
        alike.entry(network).or_default().push(child);
    }
    let join = |trained: Vec<Candidate>| {
        let scores: Vec<f64> = trained.iter().filter_map(|child| child.score).collect();
        let best = trained.into_iter().min_by(|a, b| a.result.compare(&b.result))?;
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        Some(Candidate { score: (!scores.is_empty()).then_some(mean), ..best })
    };
    alike.into_values().filter_map(join).collect()
}

/// Multiply-accumulates of so many epochs of a network, for each training image once forward.
fn compute(result: &TrialResult, epochs: usize) -> f64 {
    epochs as f64 * result.macs as f64
}

/// What a stage did.
struct Grown {
    children: Vec<Candidate>,
    reason: StopReason,
}

/// A search under way.
pub(crate) struct Search<'a, 'd> {
    plan: &'a mut Plan,
    schedule: &'a Schedule,
    dispatcher: &'a mut Dispatcher<'d>,
    trials: Trials<'a>,
    rng: Rng,
    reach: Reach,
    /// Of a search that trains.
    keeper: Option<Keeper<'a>>,
}

/// How trials of this run are written down.
#[derive(Clone, Copy)]
struct Trials<'a> {
    run: &'a Run,
    transforms: &'a Transforms,
    data: &'a str,
    keep_momentum: bool,
}

impl<'a, 'd> Search<'a, 'd> {
    /// A search by a plan with these transforms, on data of this digest.
    pub(crate) fn new(
        plan: &'a mut Plan,
        transforms: &'a Transforms,
        schedule: &'a Schedule,
        run: &'a Run,
        data: &'a str,
        dispatcher: &'a mut Dispatcher<'d>,
    ) -> Self {
        let carries = |recipe: &Recipe| recipe.momentum == Momentum::Carry;
        let again = plan.saturation.rounds > 0 && carries(&plan.start);
        let keep_momentum = again || carries(&plan.child) || carries(&plan.finals.recipe);
        let trials = Trials { run, transforms, data, keep_momentum };
        let (rng, reach) = (Rng::new(plan.seed), Reach::default());
        Search { plan, schedule, dispatcher, trials, rng, reach, keeper: None }
    }

    /// The same, whose store is kept within its size.
    pub(crate) fn kept(self, keeper: Keeper<'a>) -> Self {
        Search { keeper: Some(keeper), ..self }
    }

    /// What the search may still go on from.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    fn tidy(&mut self) -> anyhow::Result<()> {
        self.keeper.as_mut().map_or(Ok(()), |keeper| keeper.tidy(&self.reach))
    }

    /// Stage by stage, each from the best network so far; then the best are finished.
    pub(crate) fn run(&mut self, start: &Start) -> anyhow::Result<Found> {
        let first = self.start(start)?;
        let mut ranking = vec![first.clone()];
        self.dispatcher.set_deadline(self.schedule.deadline, self.schedule.given_up.clone());
        for stage in 0..self.plan.stages.len() {
            let Grown { mut children, mut reason } = self.stage(stage, &first, &ranking)?;
            if reason == StopReason::Finished {
                Grown { children, reason } = self.promote(stage, children)?;
            }
            ranking.extend(children);
            ranking.sort_by(Candidate::compare);
            let measured = ranking.iter().filter(|candidate| candidate.score.is_some());
            let best = measured.take(self.plan.finals.networks).map(|best| best.result.trial);
            self.reach.rank(best);
            self.tidy()?;
            if reason == StopReason::Stopped {
                let line = "Deadline: the stages end here, the best so far goes on.";
                self.dispatcher.bar().line(line);
                break;
            }
        }
        // The deadline is for the stages alone: what they found is finished whatever it takes.
        self.dispatcher.set_deadline(None, BTreeSet::new());
        let found = self.finals(&first, &ranking)?;
        self.reach.finish();
        Ok(found)
    }

    /// Trains the start network, and trains it on while that pays.
    fn start(&mut self, start: &Start) -> anyhow::Result<Candidate> {
        let (stream, recipe) = (self.rng.split("start"), self.plan.start.clone());
        let recipes = vec![recipe.clone()];
        let (id, seed) = (TrialId(0), stream.seed());
        let record = match start {
            Start::Fresh(network) => {
                self.trials.fresh(id, Purpose::Start, network, recipes, false, seed)?
            }
            Start::Given(model) => {
                let origin = Origin::given(model);
                let network = model.network();
                self.trials.record(id, Purpose::Start, origin, network, recipes, false, seed)?
            }
        };
        let first = self.carry_out_one(record)?;
        let why = match &first.ending {
            eas_controller::Ending::Failed { why } => why.clone(),
            _ => format!("{}; try a lower start.learning_rate", first.ending_words()),
        };
        first.accuracy().with_context(|| format!("the start network has no result: {why}"))?;
        let mut best = Candidate::start(first);
        self.reach.start(best.result.trial);
        for round in 1..=self.plan.saturation.rounds {
            let seed = stream.split_index(round as u64).seed();
            let (id, recipes) = (TrialId(round as u32), vec![recipe.clone()]);
            let record =
                self.trials.longer(id, Purpose::Start, &best.result, recipes, false, seed)?;
            let result = self.carry_out_one(record)?;
            let (Some(before), Some(after)) = (best.score, result.accuracy()) else { break };
            if after > before {
                best = Candidate { recipes: Vec::new(), ..best.trained_on(&recipe, result) };
                self.reach.start(best.result.trial);
            }
            if after - before < self.plan.saturation.gain {
                break;
            }
        }
        Ok(best)
    }

    fn carry_out(&mut self, records: Vec<TrialRecord>) -> anyhow::Result<Vec<TrialResult>> {
        let results = self.dispatcher.carry_out(records)?;
        if let Some(keeper) = &mut self.keeper {
            results.iter().for_each(|result| keeper.add(result));
        }
        Ok(results)
    }

    fn carry_out_one(&mut self, record: TrialRecord) -> anyhow::Result<TrialResult> {
        let trial = record.trial;
        let mut results = self.carry_out(vec![record])?;
        results.pop().with_context(|| format!("no result of trial {trial}"))
    }

    /// Runs one stage; its children come out best first, each network of a parent once.
    fn stage(
        &mut self,
        number: usize,
        first: &Candidate,
        ranking: &[Candidate],
    ) -> anyhow::Result<Grown> {
        let batches = &self.schedule.stages[number].batches;
        let stream = self.rng.split("stage").split_index(number as u64);
        let parent = self.plan.stages[number].parent;
        let parts = batches.chunks(match parent {
            StageParent::Start | StageParent::Best => batches.len().max(1),
            StageParent::Frontier => 1,
        });
        let mut grown = Grown { children: Vec::new(), reason: StopReason::Finished };
        self.reach.begin_stage(self.plan, number);
        for (part, batches) in parts.enumerate() {
            let best = ranking.iter().chain(&grown.children).min_by(|a, b| a.compare(b));
            let (parent, stream) = match parent {
                StageParent::Start => (first, stream.clone()),
                StageParent::Best => (best.unwrap_or(first), stream.clone()),
                StageParent::Frontier => {
                    (best.unwrap_or(first), stream.split("frontier").split_index(part as u64))
                }
            };
            let Grown { children, reason } = self.grow(number, parent, batches, &stream)?;
            grown.children.extend(children);
            grown.reason = reason;
            if reason == StopReason::Stopped {
                break;
            }
        }
        grown.children = each_network_once(grown.children);
        grown.children.sort_by(Candidate::compare);
        Ok(grown)
    }

    /// Those children of a stage, best first, that go on. The best are trained again from their parents,
    /// with fresh seeds, so that what was good by luck alone is found out; whoever is best then is
    /// trained longer.
    fn promote(&mut self, number: usize, mut children: Vec<Candidate>) -> anyhow::Result<Grown> {
        let Promotion { candidates, seeds, epochs } = self.plan.stages[number].promotion;
        let stopped = |children| Ok(Grown { children, reason: StopReason::Stopped });
        let id = |place: usize| TrialId(self.schedule.stages[number].promotion.0 + place as u32);
        let stream = self.rng.split("promote").split_index(number as u64);
        if seeds > 0 {
            let chosen: Vec<Candidate> =
                children.iter().filter(|c| c.score.is_some()).take(candidates).cloned().collect();
            let mut records = Vec::new();
            for (rank, candidate) in chosen.iter().enumerate() {
                let known =
                    TrialRecord { part: None, ..self.trials.run.record(candidate.result.trial)? };
                for place in rank * seeds..(rank + 1) * seeds {
                    let seed = stream.split_index(place as u64).seed();
                    let (trial, purpose) = (id(place), Purpose::Reevaluation);
                    records.push(TrialRecord { trial, purpose, seed, ..known.clone() });
                }
            }
            let count = records.len();
            let results = self.carry_out(records)?;
            if results.len() < count {
                return stopped(children);
            }
            // One that comes to nothing with another seed counts as it does for a controller: 0.
            let mean = |results: &[TrialResult]| {
                results.iter().filter_map(TrialResult::accuracy).sum::<f64>() / seeds as f64
            };
            children = chosen;
            for (candidate, results) in children.iter_mut().zip(results.chunks(seeds)) {
                candidate.score = Some(mean(results));
            }
            children.sort_by(Candidate::compare);
        }
        let best = children.first_mut().filter(|best| epochs > 0 && best.score.is_some());
        if let Some(best) = best {
            let recipe = Recipe { epochs, ..self.plan.child.clone() };
            let (trial, recipes) = (id(candidates * seeds), vec![recipe.clone()]);
            let seed = stream.split("longer").seed();
            let purpose = Purpose::Promoted;
            let record = self.trials.longer(trial, purpose, &best.result, recipes, false, seed)?;
            let Some(result) = self.carry_out(vec![record])?.pop() else {
                return stopped(children);
            };
            if result.accuracy().is_some() {
                *best = best.trained_on(&recipe, result);
            }
        }
        children.sort_by(Candidate::compare);
        Ok(Grown { children, reason: StopReason::Finished })
    }

    /// Has a parent's children trained, batch by batch. Returns those that were trained to the end, each
    /// network once, as it came out best, with the mean accuracy of all its trainings.
    fn grow(
        &mut self,
        number: usize,
        parent: &Candidate,
        first_trials: &[TrialId],
        stream: &Rng,
    ) -> anyhow::Result<Grown> {
        let network = self.trials.network(&parent.result)?;
        self.reach.begin_part(parent.result.trial);
        let stage = &self.plan.stages[number];
        let scope = Scope {
            space: self.plan.space.implementation.as_ref(),
            transforms: &self.plan.transforms,
            actions: &stage.actions,
            batch: self.plan.child.batch,
            parent: &network,
        };
        let batches = Batches {
            parent: parent.result.trial,
            first_trials: first_trials.to_vec(),
            networks: stage.networks,
            lag: stage.lag,
            epochs: self.plan.child.epochs,
            halving: stage.halving.clone(),
            repeat: stage.repeat,
        };
        let run = self.trials.run;
        let (bar, index) = (self.dispatcher.bar().clone(), self.dispatcher.index());
        let (planned, mut asked) = (self.plan.epochs_of_batch(stage), BTreeMap::new());
        let (reach, keeper) = (&mut self.reach, &mut self.keeper);
        let mut best: BTreeMap<TrialId, TrialResult> = BTreeMap::new();
        let mut evaluator = Children {
            dispatcher: self.dispatcher,
            trials: self.trials,
            recipe: &self.plan.child,
            parent: &parent.result,
            anew: stage.repeat == Repeat::Retrain,
        };
        let (trials, reason) = search(
            &scope,
            &batches,
            self.plan.controller.implementation.as_mut(),
            &mut evaluator,
            stream,
            &mut |event| {
                match event {
                    eas_controller::Event::Assigned { batch, assignments } => {
                        let epochs = assignments.iter().map(|assigned| assigned.epochs.len());
                        *asked.entry(batch).or_default() += epochs.sum::<usize>();
                        reach.assign(batch, assignments);
                    }
                    eas_controller::Event::Ended(trial) => {
                        if let Some(same) = trial.same_as {
                            let (result, first) = repeat(run, trial, same)?;
                            index.map_or(Ok(()), |index| index.add(&result))?;
                            if first {
                                bar.line(&result.line());
                            }
                            run.settle(&result)?;
                        }
                        if trial.same_as.is_none() && trial.is_trained() {
                            let result = run.result(trial.id)?;
                            // What another stage trained is among the candidates already.
                            if result.same_as.is_none() {
                                reach.trained(trial);
                                let known = best.get(&trial.first);
                                if known.is_none_or(|known| result.compare(known) == Ordering::Less)
                                {
                                    best.insert(trial.first, result);
                                }
                            }
                        }
                    }
                    // What was repeated, or ended before its time, counts as done.
                    eas_controller::Event::Observed { batch } => {
                        let asked = asked.remove(&batch).unwrap_or(0);
                        bar.advance(units(planned.saturating_sub(asked)));
                        let trials = reach.observe(batch);
                        if let Some(keeper) = keeper.as_mut() {
                            for trial in trials {
                                keeper.add(&run.result(trial)?);
                            }
                            keeper.tidy(reach)?;
                        }
                    }
                }
                Ok(())
            },
        )?;
        let estimates: BTreeMap<TrialId, Option<f64>> =
            trials.iter().map(|trial| (trial.first, trial.estimate)).collect();
        let child = |(first, result)| Candidate {
            score: estimates.get(&first).copied().flatten(),
            ..parent.trained_on(&self.plan.child, result)
        };
        Ok(Grown { children: best.into_iter().map(child).collect(), reason })
    }

    /// Finals and what they are compared with.
    fn finals(&mut self, first: &Candidate, ranking: &[Candidate]) -> anyhow::Result<Found> {
        let finals = self.plan.finals.clone();
        let measured = ranking.iter().filter(|candidate| candidate.score.is_some());
        let chosen: Vec<Candidate> = measured.take(finals.networks).cloned().collect();
        let trial = |place: usize| TrialId(self.schedule.finals.0 + place as u32);
        let mut records = Vec::new();
        for (rank, candidate) in chosen.iter().enumerate() {
            let seed = self.rng.split("final").split_index(rank as u64).seed();
            let recipes = vec![finals.recipe.clone()];
            let (result, with_validation) = (&candidate.result, finals.with_validation);
            let (id, purpose) = (trial(rank), Purpose::Final);
            records.push(match finals.weights {
                FinalWeights::Inherited => {
                    self.trials.longer(id, purpose, result, recipes, with_validation, seed)?
                }
                FinalWeights::Scratch => {
                    let network = self.trials.network(result)?;
                    self.trials.fresh(id, purpose, &network, recipes, with_validation, seed)?
                }
            });
        }
        let results = self.carry_out(records)?;
        let mut done: Vec<(TrialResult, &Candidate)> = results.into_iter().zip(&chosen).collect();
        // Where the validation images were trained on, the order that the search left stands.
        if !finals.with_validation {
            done.sort_by(|a, b| a.0.compare(&b.0));
        }
        let Some((winner, before)) = done.into_iter().find(|(result, _)| result.is_trained())
        else {
            let line = "No final training came to an end: the best network is as its stage left it. \
                        Try a lower final.learning_rate.";
            self.dispatcher.bar().line(line);
            let Candidate { result, epochs, .. } =
                chosen.into_iter().next().context("no network")?;
            let (winner, compared) = (result.clone(), vec![(result, epochs)]);
            return Ok(Found { winner, compared, ranks: Vec::new() });
        };
        let line = match finals.weights {
            FinalWeights::Inherited => before.trained_on(&finals.recipe, winner.clone()),
            FinalWeights::Scratch => Candidate::start(winner.clone()),
        };
        let mut compared = vec![(winner.clone(), line.epochs)];
        let first_id = TrialId(self.schedule.finals.0 + finals.networks as u32);
        if !before.recipes.is_empty() {
            compared.extend(self.compared(first, &line, first_id)?);
        }
        let first_id = TrialId(first_id.0 + COMPARED);
        Ok(Found { winner, compared, ranks: self.ranks(ranking, first_id)? })
    }

    /// What the winner is compared with, each with the epochs behind its weights: the start network
    /// trained on, and the winner's network from scratch, for as many epochs and for as much compute.
    fn compared(
        &mut self,
        first: &Candidate,
        winner: &Candidate,
        first_id: TrialId,
    ) -> anyhow::Result<Vec<(TrialResult, usize)>> {
        let (finals, trials) = (self.plan.finals.clone(), self.trials);
        let (longer, scratch) = (self.rng.split("longer").seed(), self.rng.split("scratch").seed());
        let id = |place: u32| TrialId(first_id.0 + place);
        let validation = finals.with_validation;
        let whole = |epochs| vec![Recipe { epochs, ..self.plan.start.clone() }];
        // Epochs of a network that cost this much.
        let worth = |compute: f64, of: &Candidate| {
            ((compute / of.result.macs.max(1) as f64).round() as usize).max(1)
        };
        let (start, best) = (trials.network(&first.result)?, trials.network(&winner.result)?);
        let (as_long, as_dear) = (Purpose::StartLonger, Purpose::StartCompute);
        let mut asked = Vec::new();
        match finals.weights {
            FinalWeights::Inherited => {
                let (from, recipes) = (&first.result, winner.recipes.clone());
                let more = worth(winner.compute - first.compute, first);
                let all = worth(winner.compute, winner);
                if finals.compare {
                    let epochs = winner.epochs;
                    let again = trials.longer(id(0), as_long, from, recipes, validation, longer)?;
                    asked.push((again, epochs));
                    let (purpose, recipes) = (Purpose::Scratch, whole(epochs));
                    let fresh =
                        trials.fresh(id(1), purpose, &best, recipes, validation, scratch)?;
                    asked.push((fresh, epochs));
                }
                if finals.equal_compute {
                    let recipes = whole(more);
                    let again = trials.longer(id(2), as_dear, from, recipes, validation, longer)?;
                    asked.push((again, first.epochs + more));
                    let (purpose, recipes) = (Purpose::ScratchCompute, whole(all));
                    let fresh =
                        trials.fresh(id(3), purpose, &best, recipes, validation, scratch)?;
                    asked.push((fresh, all));
                }
            }
            // The winner is from scratch itself, so only the start network is left to compare.
            FinalWeights::Scratch => {
                let dear = worth(winner.compute, first);
                for (wanted, place, purpose, epochs) in [
                    (finals.compare, 0, as_long, winner.epochs),
                    (finals.equal_compute, 2, as_dear, dear),
                ] {
                    if wanted {
                        let recipes = vec![Recipe { epochs, ..finals.recipe.clone() }];
                        let fresh = trials.fresh(
                            id(place),
                            purpose,
                            &start,
                            recipes,
                            validation,
                            longer,
                        )?;
                        asked.push((fresh, epochs));
                    }
                }
            }
        }
        let (records, epochs): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let results = self.carry_out(records)?.into_iter().zip(epochs);
        Ok(results.filter(|(result, _)| result.is_trained()).collect())
    }

    /// The best children as the search saw them, and from scratch for as many epochs: those with as many behind
    /// them as the best has, since more epochs would rank a network higher both times.
    fn ranks(&mut self, ranking: &[Candidate], first_id: TrialId) -> anyhow::Result<Vec<Rank>> {
        let is_child = |c: &&Candidate| c.result.purpose == Purpose::Child && c.score.is_some();
        let epochs = ranking.iter().find(is_child).map(|child| child.epochs);
        let children = ranking.iter().filter(is_child).filter(|c| Some(c.epochs) == epochs);
        let chosen: Vec<&Candidate> = children.take(self.plan.finals.ranked).collect();
        let mut records = Vec::new();
        for (rank, candidate) in chosen.iter().enumerate() {
            let network = self.trials.network(&candidate.result)?;
            let recipes = vec![Recipe { epochs: candidate.epochs, ..self.plan.start.clone() }];
            let seed = self.rng.split("ranked").split_index(rank as u64).seed();
            let (id, purpose) = (TrialId(first_id.0 + rank as u32), Purpose::Ranked);
            records.push(self.trials.fresh(id, purpose, &network, recipes, false, seed)?);
        }
        let results = self.carry_out(records)?;
        let rank = |(candidate, result): (&Candidate, TrialResult)| {
            let (inherited, scratch) = (candidate.score?, result.accuracy()?);
            Some(Rank { trial: candidate.result.trial, inherited, scratch })
        };
        Ok(chosen.into_iter().zip(results).filter_map(rank).collect())
    }
}

/// Publishes the result of a trial that repeats another, and says whether that is for the first time.
fn repeat(run: &Run, trial: &Trial, same: TrialId) -> anyhow::Result<(TrialResult, bool)> {
    let known = run.record(same)?;
    let origin = match known.origin {
        Origin::Grown { parent, model, momentum, .. } => {
            Origin::Grown { parent, model, momentum, steps: trial.steps.clone() }
        }
        first @ (Origin::Fresh { .. } | Origin::Given { .. }) => first,
    };
    let record = TrialRecord { trial: trial.id, origin, part: None, ..known };
    run.begin(&record)?;
    if let Some(result) = run.published(trial.id)? {
        return Ok((result, false));
    }
    let TrialResult { same_as, ending, epochs, certificate, drift, model, momentum, .. } =
        run.result(same)?;
    let same_as = Some(same_as.unwrap_or(same));
    let own = record.ended(ending, 0, 0.0);
    let result = TrialResult { same_as, epochs, certificate, drift, model, momentum, ..own };
    Ok((run.publish(&result)?, true))
}

impl Trials<'_> {
    fn network(&self, result: &TrialResult) -> anyhow::Result<Network> {
        self.run.network(result.trial, self.transforms)
    }

    fn fresh(
        &self,
        trial: TrialId,
        purpose: Purpose,
        network: &Network,
        recipes: Vec<Recipe>,
        with_validation: bool,
        seed: u64,
    ) -> anyhow::Result<TrialRecord> {
        let origin = Origin::Fresh { network: network.to_toml() };
        self.record(trial, purpose, origin, network, recipes, with_validation, seed)
    }

    /// A trained network, trained on.
    fn longer(
        &self,
        trial: TrialId,
        purpose: Purpose,
        parent: &TrialResult,
        recipes: Vec<Recipe>,
        with_validation: bool,
        seed: u64,
    ) -> anyhow::Result<TrialRecord> {
        let network = self.network(parent)?;
        let origin = grown(parent, Vec::new(), &recipes)?;
        self.record(trial, purpose, origin, &network, recipes, with_validation, seed)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one thing that a trial depends on")]
    fn record(
        &self,
        trial: TrialId,
        purpose: Purpose,
        origin: Origin,
        network: &Network,
        recipes: Vec<Recipe>,
        with_validation: bool,
        seed: u64,
    ) -> anyhow::Result<TrialRecord> {
        let batch = recipes.iter().map(|recipe| recipe.batch).max().unwrap_or(1);
        let cost = cost(network, &network.verify()?, batch);
        let (data, keep_momentum) = (self.data.to_owned(), self.keep_momentum);
        let training = Training { recipes, with_validation, keep_momentum, seed, data };
        Ok(TrialRecord::new(trial, purpose, origin, network, cost, training))
    }
}

/// A child of this parent, whose momentum it gets where the first recipe carries it on.
fn grown(parent: &TrialResult, steps: Vec<Step>, recipes: &[Recipe]) -> anyhow::Result<Origin> {
    let model = parent.model.with_context(|| format!("trial {} has no model", parent.trial))?;
    let carries = recipes.first().is_some_and(|recipe| recipe.momentum == Momentum::Carry);
    let momentum = parent.momentum.filter(|_| carries);
    Ok(Origin::Grown { parent: parent.trial, model, momentum, steps })
}

/// Has the children of a stage trained.
struct Children<'a, 'd> {
    dispatcher: &'a mut Dispatcher<'d>,
    trials: Trials<'a>,
    recipe: &'a Recipe,
    parent: &'a TrialResult,
    /// Whether a child is trained even where its result is known.
    anew: bool,
}

impl Children<'_, '_> {
    /// A child's training, or the first part of it.
    fn begin(&self, assignment: Assignment) -> anyhow::Result<TrialRecord> {
        let Assignment { trial, steps, network, epochs, seed, .. } = assignment;
        let recipes = vec![self.recipe.clone()];
        let origin = grown(self.parent, steps, &recipes)?;
        let purpose = Purpose::Child;
        let record = self.trials.record(trial, purpose, origin, &network, recipes, false, seed)?;
        let record = TrialRecord { anew: self.anew, ..record };
        let whole = epochs.end >= self.recipe.epochs;
        Ok(if whole { record } else { self.part(record, epochs, None) })
    }

    /// The part behind a trial: of the training that it is a part of, whatever trial that began as.
    fn go_on(
        &self,
        trial: TrialId,
        before: TrialId,
        epochs: Range<usize>,
    ) -> anyhow::Result<TrialRecord> {
        let run = self.trials.run;
        let TrialResult { same_as, model, momentum, .. } = run.result(before)?;
        let left = model.zip(momentum);
        let (model, momentum) =
            left.with_context(|| format!("trial {before} can't be gone on from"))?;
        let continues = Continued { trial: before, model, momentum };
        let record = TrialRecord { trial, ..run.record(same_as.unwrap_or(before))? };
        Ok(self.part(record, epochs, Some(continues)))
    }

    fn part(
        &self,
        record: TrialRecord,
        epochs: Range<usize>,
        continues: Option<Continued>,
    ) -> TrialRecord {
        let keep_momentum = self.trials.keep_momentum || epochs.end < self.recipe.epochs;
        TrialRecord { part: Some(Part { epochs, continues }), keep_momentum, ..record }
    }
}

impl Evaluator for Children<'_, '_> {
    fn submit(&mut self, assignments: Vec<Assignment>) -> anyhow::Result<()> {
        for assignment in assignments {
            let record = match assignment.continues {
                None => self.begin(assignment)?,
                Some(before) => self.go_on(assignment.trial, before, assignment.epochs)?,
            };
            self.dispatcher.submit(record)?;
        }
        Ok(())
    }

    fn collect(&mut self) -> anyhow::Result<Vec<Outcome>> {
        let outcome =
            |TrialResult { trial, ending, seconds, .. }| Outcome { trial, ending, seconds };
        Ok(self.dispatcher.collect()?.into_iter().map(outcome).collect())
    }
}
