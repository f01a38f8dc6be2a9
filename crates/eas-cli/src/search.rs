//! A search, from its start network to its final comparison: the one place where it is decided what is
//! trained.
//!
//! Every decision is a function of the plan, the run's events and published results, so that doing it
//! all again is how a run is resumed, and how it is verified.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use anyhow::Context;
use eas_controller::{
    Assignment, Batches, Evaluator, Outcome, Scope, StopReason, Trial, TrialId, search,
};
use eas_ir::{Network, Rng, cost};
use eas_train::{Momentum, Recipe};
use eas_transform::Step;

use crate::dispatcher::{Dispatcher, units};
use crate::plan::{FinalWeights, Plan, Promotion, Stage, StageParent};
use crate::report::Rank;
use crate::runs::{Event, Origin, Purpose, Run, Training, TrialRecord, TrialResult};

/// What trials are called, and how long the stages may take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    stages: Vec<StageTrials>,
    /// The first of the finals.
    pub(crate) finals: TrialId,
    /// In seconds of work on the run.
    pub(crate) deadline: Option<f64>,
    given_up: BTreeSet<TrialId>,
}

/// What the trials of a stage are called.
#[derive(Clone, Debug, PartialEq)]
struct StageTrials {
    /// The first of each batch.
    batches: Vec<TrialId>,
    /// The first of those that decide about promotion.
    promotion: TrialId,
}

impl StageTrials {
    /// More batches from `next` on, and names anew for the promotion, which may now be of others.
    fn extend(&mut self, next: &mut u32, batches: usize, stage: &Stage) {
        for _ in 0..batches {
            self.batches.push(TrialId(*next));
            *next += stage.networks as u32;
        }
        self.promotion = TrialId(*next);
        *next += stage.promotion.trials() as u32;
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
                Event::Build { .. } | Event::TestOpened { .. } => {}
            }
        }
        schedule
    }

    /// Children that the stages train, repeated networks counted.
    pub(crate) fn children(&self, plan: &Plan) -> usize {
        let stages = self.stages.iter().zip(&plan.stages);
        stages.map(|(trials, stage)| trials.batches.len() * stage.networks).sum()
    }

    /// Trials of the whole run at most.
    pub(crate) fn trials(&self, plan: &Plan) -> usize {
        let times = usize::from(plan.finals.compare) + usize::from(plan.finals.equal_compute);
        let compared = plan.finals.ranked
            + match plan.finals.weights {
                FinalWeights::Inherited => 2 * times,
                FinalWeights::Scratch => times,
            };
        let promoted: usize = plan.stages.iter().map(|stage| stage.promotion.trials()).sum();
        let start = 1 + plan.saturation.rounds;
        start + self.children(plan) + promoted + plan.finals.networks + compared
    }

    /// Units of the progress bar for all of it.
    pub(crate) fn units(&self, plan: &Plan) -> u64 {
        let (start, grown) = plan.epochs(self.children(plan));
        units(start + grown)
    }
}

/// Names of trials that the winner is compared with.
const COMPARED: u32 = 4;

/// What a search found: the model to hand over, and what it is compared with, it first, each with the
/// epochs behind its weights.
pub(crate) struct Found {
    pub(crate) winner: TrialResult,
    pub(crate) compared: Vec<(TrialResult, usize)>,
    pub(crate) ranks: Vec<Rank>,
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
}

/// How trials of this run are written down.
#[derive(Clone, Copy)]
struct Trials<'a> {
    run: &'a Run,
    data: &'a str,
    keep_momentum: bool,
}

impl<'a, 'd> Search<'a, 'd> {
    /// A search by a plan, on data of this digest.
    pub(crate) fn new(
        plan: &'a mut Plan,
        schedule: &'a Schedule,
        run: &'a Run,
        data: &'a str,
        dispatcher: &'a mut Dispatcher<'d>,
    ) -> Self {
        let carries = |recipe: &Recipe| recipe.momentum == Momentum::Carry;
        let again = plan.saturation.rounds > 0 && carries(&plan.start);
        let keep_momentum = again || carries(&plan.child) || carries(&plan.finals.recipe);
        let trials = Trials { run, data, keep_momentum };
        let rng = Rng::new(plan.seed);
        Search { plan, schedule, dispatcher, trials, rng }
    }

    /// Stage by stage, each from the best network so far; then the best are finished.
    pub(crate) fn run(&mut self, start: &Network) -> anyhow::Result<Found> {
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
            if reason == StopReason::Stopped {
                let line = "Deadline: the stages end here, the best so far goes on.";
                self.dispatcher.bar().line(line);
                break;
            }
        }
        // The deadline is for the stages alone: what they found is finished whatever it takes.
        self.dispatcher.set_deadline(None, BTreeSet::new());
        self.finals(&first, &ranking)
    }

    /// Trains the start network, and trains it on while that pays.
    fn start(&mut self, network: &Network) -> anyhow::Result<Candidate> {
        let (stream, recipe) = (self.rng.split("start"), self.plan.start.clone());
        let recipes = vec![recipe.clone()];
        let (id, seed) = (TrialId(0), stream.seed());
        let record = self.trials.fresh(id, Purpose::Start, network, recipes, false, seed)?;
        let first = self.carry_out_one(record)?;
        let why = match &first.ending {
            eas_controller::Ending::Failed { why } => why.clone(),
            _ => format!("{}; try a lower start.learning_rate", first.ending_words()),
        };
        first.accuracy().with_context(|| format!("the start network has no result: {why}"))?;
        let mut best = Candidate::start(first);
        for round in 1..=self.plan.saturation.rounds {
            let seed = stream.split_index(round as u64).seed();
            let (id, recipes) = (TrialId(round as u32), vec![recipe.clone()]);
            let record =
                self.trials.longer(id, Purpose::Start, &best.result, recipes, false, seed)?;
            let result = self.carry_out_one(record)?;
            let (Some(before), Some(after)) = (best.score, result.accuracy()) else { break };
            if after > before {
                best = Candidate { recipes: Vec::new(), ..best.trained_on(&recipe, result) };
            }
            if after - before < self.plan.saturation.gain {
                break;
            }
        }
        Ok(best)
    }

    fn carry_out_one(&mut self, record: TrialRecord) -> anyhow::Result<TrialResult> {
        let trial = record.trial;
        let mut results = self.dispatcher.carry_out(vec![record])?;
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
        for (part, batches) in parts.enumerate() {
            let best = ranking.iter().chain(&grown.children).min_by(|a, b| a.compare(b));
            let (parent, stream) = match parent {
                StageParent::Start => (first, stream.clone()),
                StageParent::Best => (best.unwrap_or(first), stream.clone()),
                StageParent::Frontier => {
                    (best.unwrap_or(first), stream.split("frontier").split_index(part as u64))
                }
            };
            let (results, reason) = self.grow(number, &parent.result, batches, &stream)?;
            let child = |result| parent.trained_on(&self.plan.child, result);
            let children: Vec<Candidate> = results.into_iter().map(child).collect();
            grown.children.extend(children);
            grown.reason = reason;
            if reason == StopReason::Stopped {
                break;
            }
        }
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
                let known = self.trials.run.record(candidate.result.trial)?;
                for place in rank * seeds..(rank + 1) * seeds {
                    let seed = stream.split_index(place as u64).seed();
                    let (trial, purpose) = (id(place), Purpose::Reevaluation);
                    records.push(TrialRecord { trial, purpose, seed, ..known.clone() });
                }
            }
            let count = records.len();
            let results = self.dispatcher.carry_out(records)?;
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
            let Some(result) = self.dispatcher.carry_out(vec![record])?.pop() else {
                return stopped(children);
            };
            if result.accuracy().is_some() {
                *best = best.trained_on(&recipe, result);
            }
        }
        children.sort_by(Candidate::compare);
        Ok(Grown { children, reason: StopReason::Finished })
    }

    /// Has a parent's children trained, batch by batch; returns them, each network once.
    fn grow(
        &mut self,
        number: usize,
        parent: &TrialResult,
        first_trials: &[TrialId],
        stream: &Rng,
    ) -> anyhow::Result<(Vec<TrialResult>, StopReason)> {
        let network = self.trials.run.model_of(parent)?.model.network().clone();
        let stage = &self.plan.stages[number];
        let scope = Scope {
            space: self.plan.space.implementation.as_ref(),
            transforms: &self.plan.transforms,
            actions: &stage.actions,
            batch: self.plan.child.batch,
            parent: &network,
        };
        let batches = Batches {
            parent: parent.trial,
            first_trials: first_trials.to_vec(),
            networks: stage.networks,
        };
        let run = self.trials.run;
        let (bar, index) = (self.dispatcher.bar().clone(), self.dispatcher.index());
        let child_units = units(self.plan.child.epochs);
        let mut evaluator = Children {
            dispatcher: self.dispatcher,
            trials: self.trials,
            recipe: &self.plan.child,
            parent,
        };
        let (trials, reason) = search(
            &scope,
            &batches,
            self.plan.controller.implementation.as_mut(),
            &mut evaluator,
            stream,
            &mut |event| {
                if let eas_controller::Event::Ended(trial) = event
                    && let Some(same) = trial.same_as
                {
                    if let Some(result) = repeat(run, trial, same)? {
                        bar.line(&result.line());
                        index.map_or(Ok(()), |index| index.put(&result))?;
                        run.settle(&result)?;
                    }
                    bar.advance(child_units);
                }
                Ok(())
            },
        )?;
        let own = trials.iter().filter(|trial| trial.same_as.is_none());
        let results = own.map(|trial| run.result(trial.id)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok((results.into_iter().filter(|result| result.same_as.is_none()).collect(), reason))
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
                    let model = self.trials.run.model_of(result)?.model;
                    let network = model.network();
                    self.trials.fresh(id, purpose, network, recipes, with_validation, seed)?
                }
            });
        }
        let results = self.dispatcher.carry_out(records)?;
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
        let network = |of: &Candidate| -> anyhow::Result<Network> {
            Ok(trials.run.model_of(&of.result)?.model.network().clone())
        };
        let (start, best) = (network(first)?, network(winner)?);
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
        let results = self.dispatcher.carry_out(records)?.into_iter().zip(epochs);
        Ok(results.filter(|(result, _)| result.is_trained()).collect())
    }

    /// The best children as the search saw them, and from scratch for as many epochs.
    fn ranks(&mut self, ranking: &[Candidate], first_id: TrialId) -> anyhow::Result<Vec<Rank>> {
        let children = ranking.iter().filter(|c| !c.recipes.is_empty() && c.score.is_some());
        let chosen: Vec<&Candidate> = children.take(self.plan.finals.ranked).collect();
        let mut records = Vec::new();
        for (rank, candidate) in chosen.iter().enumerate() {
            let network = self.trials.run.model_of(&candidate.result)?.model.network().clone();
            let recipes = vec![Recipe { epochs: candidate.epochs, ..self.plan.start.clone() }];
            let seed = self.rng.split("ranked").split_index(rank as u64).seed();
            let (id, purpose) = (TrialId(first_id.0 + rank as u32), Purpose::Ranked);
            records.push(self.trials.fresh(id, purpose, &network, recipes, false, seed)?);
        }
        let results = self.dispatcher.carry_out(records)?;
        let rank = |(candidate, result): (&Candidate, TrialResult)| {
            let (inherited, scratch) = (candidate.score?, result.accuracy()?);
            Some(Rank { trial: candidate.result.trial, inherited, scratch })
        };
        Ok(chosen.into_iter().zip(results).filter_map(rank).collect())
    }
}

/// Publishes the result of a trial that repeats another; nothing where that was done before.
fn repeat(run: &Run, trial: &Trial, same: TrialId) -> anyhow::Result<Option<TrialResult>> {
    let known = run.record(same)?;
    let origin = match known.origin {
        Origin::Grown { parent, model, momentum, .. } => {
            Origin::Grown { parent, model, momentum, steps: trial.steps.clone() }
        }
        fresh @ Origin::Fresh { .. } => fresh,
    };
    run.begin(&TrialRecord { trial: trial.id, origin, ..known })?;
    if run.published(trial.id)?.is_some() {
        return Ok(None);
    }
    let (id, steps) = (trial.id, trial.steps.clone());
    let known = run.result(same)?;
    let same_as = Some(known.same_as.unwrap_or(same));
    run.publish(&TrialResult { trial: id, steps, same_as, attempt: 0, seconds: 0.0, ..known })
        .map(Some)
}

impl Trials<'_> {
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
        let network = self.run.model_of(parent)?.model.network().clone();
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
}

impl Evaluator for Children<'_, '_> {
    fn submit(&mut self, assignments: Vec<Assignment>) -> anyhow::Result<()> {
        for Assignment { trial, steps, network, seed, .. } in assignments {
            let recipes = vec![self.recipe.clone()];
            let origin = grown(self.parent, steps, &recipes)?;
            let purpose = Purpose::Child;
            let record =
                self.trials.record(trial, purpose, origin, &network, recipes, false, seed)?;
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
