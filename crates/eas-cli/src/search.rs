//! A search, from its start network to its final comparison: the one place where it is decided what is
//! trained.
//!
//! Every decision is a function of the plan, the run's events and published results, so that doing it
//! all again is how a run is resumed, and how it is verified.

use std::collections::BTreeSet;

use anyhow::Context;
use eas_controller::{
    Assignment, Batches, Evaluator, Outcome, Scope, StopReason, Trial, TrialId, search,
};
use eas_ir::{Network, Rng, cost};
use eas_train::{Momentum, Recipe};
use eas_transform::Step;

use crate::dispatcher::{Dispatcher, units};
use crate::plan::{FinalWeights, Plan, StageParent};
use crate::runs::{Event, Origin, Purpose, Run, Training, TrialRecord, TrialResult};

/// What trials are called, and how long the stages may take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    /// The first trial of each batch of each stage.
    stages: Vec<Vec<TrialId>>,
    /// The first of the finals.
    pub(crate) finals: TrialId,
    /// In seconds of work on the run.
    pub(crate) deadline: Option<f64>,
    given_up: BTreeSet<TrialId>,
}

impl Schedule {
    /// The plan's, with what happened to it since.
    pub(crate) fn new(plan: &Plan, events: &[Event]) -> Self {
        let mut next = 1;
        let batches = |first: &mut u32, count: usize, networks: usize| -> Vec<TrialId> {
            let firsts = (0..count).map(|batch| TrialId(*first + (batch * networks) as u32));
            let firsts = firsts.collect();
            *first += (count * networks) as u32;
            firsts
        };
        let stages = plan.stages.iter();
        let stages =
            stages.map(|stage| batches(&mut next, stage.batches, stage.networks)).collect();
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
                    let networks = plan.stages.last().map_or(0, |stage| stage.networks);
                    let more = batches(&mut next, *count, networks);
                    schedule.stages.last_mut().into_iter().for_each(|last| last.extend(&more));
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
        stages.map(|(firsts, stage)| firsts.len() * stage.networks).sum()
    }

    /// Trials of the whole run, if none is given up and the start network isn't the best.
    pub(crate) fn trials(&self, plan: &Plan) -> usize {
        let compared = match (plan.finals.compare, plan.finals.weights) {
            (false, _) => 0,
            (true, FinalWeights::Inherited) => 2,
            (true, FinalWeights::Scratch) => 1,
        };
        1 + self.children(plan) + plan.finals.networks + compared
    }

    /// Units of the progress bar for all of it.
    pub(crate) fn units(&self, plan: &Plan) -> u64 {
        let finals = &plan.finals;
        let mut epochs = plan.start.epochs + self.children(plan) * plan.child.epochs;
        epochs += finals.networks * finals.recipe.epochs;
        let all = plan.epochs_of(plan.stages.len());
        epochs += match (finals.compare, finals.weights) {
            (false, _) => 0,
            (true, FinalWeights::Inherited) => all + all.saturating_sub(plan.start.epochs),
            (true, FinalWeights::Scratch) => all,
        };
        units(epochs)
    }
}

/// What a search found: the model to hand over, and what it is compared with, it first, each with the
/// epochs behind its weights.
pub(crate) struct Found {
    pub(crate) winner: TrialResult,
    pub(crate) compared: Vec<(TrialResult, usize)>,
}

/// A network that may become a parent, and the stages behind it.
#[derive(Clone)]
struct Candidate {
    result: TrialResult,
    generation: usize,
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
        let keep_momentum = carries(&plan.child) || carries(&plan.finals.recipe);
        let trials = Trials { run, data, keep_momentum };
        let rng = Rng::new(plan.seed);
        Search { plan, schedule, dispatcher, trials, rng }
    }

    /// Stage by stage, each from the best network so far; then the best are finished.
    pub(crate) fn run(&mut self, start: &Network) -> anyhow::Result<Found> {
        let first = Candidate { result: self.start(start)?, generation: 0 };
        let mut ranking = vec![first.clone()];
        self.dispatcher.set_deadline(self.schedule.deadline, self.schedule.given_up.clone());
        for stage in 0..self.plan.stages.len() {
            let parent = match self.plan.stages[stage].parent {
                StageParent::Start => first.clone(),
                StageParent::Best => ranking[0].clone(),
            };
            let (children, reason) = self.stage(stage, &parent.result)?;
            let generation = parent.generation + 1;
            ranking.extend(children.into_iter().map(|result| Candidate { result, generation }));
            ranking.sort_by(|a, b| a.result.compare(&b.result));
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

    fn start(&mut self, network: &Network) -> anyhow::Result<TrialResult> {
        let seed = self.rng.split("start").seed();
        let recipes = vec![self.plan.start.clone()];
        let record =
            self.trials.fresh(TrialId(0), Purpose::Start, network, recipes, false, seed)?;
        let mut results = self.dispatcher.carry_out(vec![record])?;
        let first = results.pop().context("no result of the start network")?;
        let why = match &first.ending {
            eas_controller::Ending::Failed { why } => why.clone(),
            _ => format!("{}; try a lower start.learning_rate", first.ending_words()),
        };
        first.accuracy().with_context(|| format!("the start network has no result: {why}"))?;
        Ok(first)
    }

    /// Runs one stage; returns its children, each network once.
    fn stage(
        &mut self,
        number: usize,
        parent: &TrialResult,
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
            first_trials: self.schedule.stages[number].clone(),
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
            &self.rng.split("stage").split_index(number as u64),
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
        let measured = ranking.iter().filter(|candidate| candidate.result.accuracy().is_some());
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
        let mut done: Vec<(TrialResult, usize)> =
            results.into_iter().zip(chosen.iter().map(|c| c.generation)).collect();
        // Where the validation images were trained on, the order that the search left stands.
        if !finals.with_validation {
            done.sort_by(|a, b| a.0.compare(&b.0));
        }
        let Some((winner, generation)) = done.into_iter().find(|(result, _)| result.is_trained())
        else {
            let line = "No final training came to an end: the best network is as its stage left it. \
                        Try a lower final.learning_rate.";
            self.dispatcher.bar().line(line);
            let Candidate { result, generation } =
                chosen.into_iter().next().context("no network")?;
            let epochs = self.plan.start.epochs + generation * self.plan.child.epochs;
            return Ok(Found { winner: result.clone(), compared: vec![(result, epochs)] });
        };
        let all = self.plan.epochs_of(generation);
        let mut compared = vec![(winner.clone(), all)];
        if finals.compare && generation > 0 {
            let (longer, scratch) =
                (self.rng.split("longer").seed(), self.rng.split("scratch").seed());
            let (start, best) = (trial(finals.networks), trial(finals.networks + 1));
            let (trials, validation) = (self.trials, finals.with_validation);
            let records = match finals.weights {
                FinalWeights::Inherited => {
                    let mut recipes = vec![self.plan.child.clone(); generation];
                    recipes.push(finals.recipe.clone());
                    let purpose = Purpose::StartLonger;
                    let result = &first.result;
                    let network = trials.run.model_of(&winner)?.model.network().clone();
                    let whole = vec![Recipe { epochs: all, ..self.plan.start.clone() }];
                    vec![
                        trials.longer(start, purpose, result, recipes, validation, longer)?,
                        trials.fresh(
                            best,
                            Purpose::Scratch,
                            &network,
                            whole,
                            validation,
                            scratch,
                        )?,
                    ]
                }
                // The winner is from scratch itself, so only the start network is left to compare.
                FinalWeights::Scratch => {
                    let network = trials.run.model_of(&first.result)?.model.network().clone();
                    let recipes = vec![finals.recipe.clone()];
                    let purpose = Purpose::StartLonger;
                    vec![trials.fresh(start, purpose, &network, recipes, validation, longer)?]
                }
            };
            let results = self.dispatcher.carry_out(records)?;
            let trained = results.into_iter().filter(TrialResult::is_trained);
            compared.extend(trained.map(|result| (result, all)));
        }
        Ok(Found { winner, compared })
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
