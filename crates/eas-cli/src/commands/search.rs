//! `eas search`: start network, stages, finals, comparison.

use std::time::Instant;

use anyhow::Context;
use eas_controller::{Batches, Event, Scope, StopReason, Trial, TrialId, search};
use eas_ir::{Count, Network, Rng};
use eas_train::{Momentum, Split, TrainingData, split};
use eas_transform::{Edit, Problem};
use serde::Serialize;

use super::{bad_input, plan_of};
use crate::args;
use crate::evaluator::{LocalTrainer, carry_out, units};
use crate::exit;
use crate::plan::{FinalWeights, Plan, StageParent};
use crate::print::{self, Bar};
use crate::report::{Compared, Report};
use crate::runs::{Purpose, Run, TrialResult};
use crate::stop::{self, Deadline};
use crate::trial::{Job, Origin, Workshop};

pub(super) fn run(args: &args::Search) -> anyhow::Result<u8> {
    let (spec, mut plan) = plan_of(args.spec.as_deref(), &args.overrides)?;
    let started = Instant::now();
    stop::listen();
    let (data, start) = prepare(&plan)?;
    let root = args.run.clone().unwrap_or_else(|| Run::free_folder(&plan.name));
    let run = Run::create(&root, &spec, &plan.text).map_err(bad_input)?;
    print::note(&format!(
        "{}: {} children of {} trained on {} images, validated on {}; into {}",
        plan.name,
        plan.children(),
        plan.space.name,
        data.train.len(),
        data.validation.len(),
        run.root().display()
    ));
    let mut hunt = Hunt::new(&mut plan, &run, &data, started);
    let found = hunt.run(start);
    hunt.bar.finish();
    let Some(Found { winner, compared }) = found? else {
        print::note(&format!(
            "Interrupted. The trials that were done are in {}: eas trials {0}",
            run.root().display()
        ));
        return Ok(exit::INTERRUPTED);
    };
    let children = run.results()?.iter().filter(|r| r.purpose == Purpose::Child).count();
    // The choice is made; only now are the test images opened.
    let test = Split::all(plan.data.implementation.test(&plan.directory)?);
    let compared: Vec<Compared<'_>> = compared.iter().map(|(result, n)| (result, *n)).collect();
    let seconds = started.elapsed().as_secs_f64();
    let report = Report::make(&run, &compared, &data, &test, children, seconds)?;
    run.keep_report(&report)?;
    run.load_model(winner)?.save(&run.best())?;
    if args.json {
        print::json(&Summary { run: run.root().display().to_string(), report });
        return Ok(exit::SUCCESS);
    }
    let network = run.load_model(winner)?.model.network().clone();
    print::result(&format!(
        "\nBest network (trial {winner}):\n\n{network}\n{}\n\nTime {}. Everything is in {}: the model in \
         best/, the plan in plan.toml, the trials in trials/.\nNext: eas show {2}, eas trials {2}, eas \
         transform {2}/best --apply '...' --out DIR",
        report.text(),
        print::seconds(seconds),
        run.root().display(),
    ));
    Ok(exit::SUCCESS)
}

#[derive(Serialize)]
struct Summary {
    run: String,
    report: Report,
}

/// The data, split, and the start network for them.
pub(super) fn prepare(plan: &Plan) -> anyhow::Result<(TrainingData, Network)> {
    let source = &plan.data.implementation;
    let wrong = |error: anyhow::Error| bad_input(format!("data.{}: {error:#}", plan.data.name));
    let known = source.describe(&plan.directory).map_err(wrong)?;
    source.options().check(&known).map_err(wrong)?;
    let problem = Problem {
        input: known.shape,
        classes: known.classes.len(),
        directory: plan.directory.clone(),
    };
    let space = plan.space.implementation.as_ref();
    let start = space
        .start(&problem)
        .map_err(|error| bad_input(format!("space.{}: {error:#}", plan.space.name)))?;
    space.admits(&start, plan.child.batch).map_err(|refusal| {
        bad_input(format!("space.{}: the start network exceeds limits: {refusal}", plan.space.name))
    })?;
    let all = source.train(&plan.directory).map_err(wrong)?;
    let data = split(all, source.options(), &Rng::new(plan.seed).split("data")).map_err(wrong)?;
    Ok((data, start))
}

/// A search under way.
struct Hunt<'a> {
    plan: &'a mut Plan,
    run: &'a Run,
    data: &'a TrainingData,
    bar: Bar,
    rng: Rng,
    deadline: Deadline,
    next: u32,
    generations: usize,
}

/// What a search found: the trial to hand over, and what it is compared with, it first.
struct Found {
    winner: TrialId,
    compared: Vec<(TrialResult, usize)>,
}

impl<'a> Hunt<'a> {
    fn new(plan: &'a mut Plan, run: &'a Run, data: &'a TrainingData, started: Instant) -> Self {
        let finals = &plan.finals;
        let generations = plan.stages.len();
        let mut work = units(plan.start.epochs + plan.children() * plan.child.epochs);
        work += units(finals.networks * finals.recipe.epochs);
        if finals.compare {
            let all = plan.epochs_of(generations);
            work += units(all + all.saturating_sub(plan.start.epochs));
        }
        let limit = plan.deadline.map(|limit| limit.saturating_sub(started.elapsed()));
        let rng = Rng::new(plan.seed);
        let deadline = Deadline::after(limit);
        Hunt { plan, run, data, bar: Bar::new(work), rng, deadline, next: 0, generations: 0 }
    }

    fn workshop(&self) -> Workshop<'_> {
        let carries = |recipe: &eas_train::Recipe| recipe.momentum == Momentum::Carry;
        let keep_momentum = carries(&self.plan.child) || carries(&self.plan.finals.recipe);
        let transforms = &self.plan.transforms;
        Workshop { run: self.run, data: self.data, transforms, keep_momentum }
    }

    fn number(&mut self) -> TrialId {
        self.next += 1;
        TrialId(self.next - 1)
    }

    /// Nothing where a person stopped it.
    fn run(&mut self, start: Network) -> anyhow::Result<Option<Found>> {
        let trial = self.number();
        let seed = self.rng.split("start").seed();
        let recipes = vec![self.plan.start.clone()];
        let origin = Origin::Fresh(start);
        let job =
            Job { trial, purpose: Purpose::Start, origin, recipes, with_validation: false, seed };
        let Some(first) = self.carry_out(&job)? else { return Ok(None) };
        let why = first.ending_words();
        first.accuracy().with_context(|| {
            format!("the start network has no result ({why}); try a lower start.learning_rate")
        })?;
        let mut best: Vec<(TrialResult, usize)> = vec![(first.clone(), 0)];
        for stage in 0..self.plan.stages.len() {
            let (parent, generation) = match self.plan.stages[stage].parent {
                StageParent::Start => (first.clone(), 0),
                StageParent::Best => best[0].clone(),
            };
            let stopped = self.stage(stage, &parent)? == StopReason::Stopped;
            if stop::interrupted() {
                return Ok(None);
            }
            let children = self.run.results()?.into_iter().filter(|result| {
                result.purpose == Purpose::Child
                    && result.same_as.is_none()
                    && !best.iter().any(|(known, _)| known.trial == result.trial)
            });
            best.extend(children.map(|child| (child, generation + 1)).collect::<Vec<_>>());
            best.sort_by(|a, b| {
                let order = |r: &TrialResult| r.accuracy().unwrap_or(-1.0);
                order(&b.0).total_cmp(&order(&a.0)).then(a.0.trial.cmp(&b.0.trial))
            });
            if stopped {
                self.bar.line("Deadline: the stages end here, the best so far goes on.");
                break;
            }
        }
        self.finish(&first, &best)
    }

    fn carry_out(&self, job: &Job) -> anyhow::Result<Option<TrialResult>> {
        // The deadline is for the stages alone: what they found is finished whatever it takes.
        let result = carry_out(&self.workshop(), job, &self.bar, Deadline::after(None))?;
        if let Some(result) = &result {
            self.bar.line(&line(result));
        }
        Ok(result)
    }

    /// Runs one stage.
    fn stage(&mut self, number: usize, parent: &TrialResult) -> anyhow::Result<StopReason> {
        let network = self.run.load_model(parent.trial)?.model.network().clone();
        let stage = self.plan.stages[number].clone();
        let (run, data, bar) = (self.run, self.data, &self.bar);
        let keep_momentum = self.plan.child.momentum == Momentum::Carry
            || self.plan.finals.recipe.momentum == Momentum::Carry;
        let transforms = &self.plan.transforms;
        let workshop = Workshop { run, data, transforms, keep_momentum };
        let child = &self.plan.child;
        let mut trainer = LocalTrainer::new(workshop, child, bar, self.deadline);
        let scope = Scope {
            space: self.plan.space.implementation.as_ref(),
            transforms,
            actions: &stage.actions,
            batch: child.batch,
            parent: &network,
        };
        let batches = Batches {
            parent: parent.trial,
            batches: stage.batches,
            networks: stage.networks,
            first_trial: TrialId(self.next),
        };
        let child_units = units(child.epochs);
        let mut on_event = |event: Event<'_>| match event {
            Event::Ended(trial) => ended(run, bar, trial, child_units),
            Event::Proposed { .. } | Event::Observed { .. } => Ok(()),
        };
        let (_, reason) = search(
            &scope,
            &batches,
            self.plan.controller.implementation.as_mut(),
            &mut trainer,
            &self.rng.split("stage").split_index(number as u64),
            &mut on_event,
        )?;
        self.next += (stage.batches * stage.networks) as u32;
        self.generations = self.generations.max(number + 1);
        Ok(reason)
    }

    /// Finals and what they are compared with.
    fn finish(
        &mut self,
        first: &TrialResult,
        best: &[(TrialResult, usize)],
    ) -> anyhow::Result<Option<Found>> {
        let finals = self.plan.finals.clone();
        let mut done: Vec<(TrialResult, usize, usize)> = Vec::new();
        let ranked = best.iter().filter(|(result, _)| result.accuracy().is_some());
        let chosen: Vec<_> = ranked.take(finals.networks).cloned().collect();
        for (rank, (candidate, generation)) in chosen.into_iter().enumerate() {
            let origin = match finals.weights {
                FinalWeights::Inherited => {
                    Origin::Grown { parent: candidate.trial, steps: Vec::new() }
                }
                FinalWeights::Scratch => {
                    let model = self.run.load_model(candidate.trial)?.model;
                    Origin::Fresh(model.network().clone())
                }
            };
            let job = Job {
                trial: self.number(),
                purpose: Purpose::Final,
                origin,
                recipes: vec![finals.recipe.clone()],
                with_validation: finals.with_validation,
                seed: self.rng.split("final").split_index(rank as u64).seed(),
            };
            let Some(result) = self.carry_out(&job)? else { return Ok(None) };
            done.push((result, generation, rank));
        }
        // Where the validation images were trained on, the order that the search left stands.
        if !finals.with_validation {
            let accuracy = |r: &TrialResult| r.accuracy().unwrap_or(-1.0);
            done.sort_by(|a, b| accuracy(&b.0).total_cmp(&accuracy(&a.0)).then(a.2.cmp(&b.2)));
        }
        let finished = done.into_iter().find(|(result, ..)| result.is_trained());
        let (winner, generation, _) = finished
            .context("no final training came to an end; try a lower final.learning_rate")?;
        let epochs = self.plan.epochs_of(generation);
        let mut compared = vec![(winner.clone(), epochs)];
        if finals.compare && generation > 0 {
            let mut recipes = vec![self.plan.child.clone(); generation];
            recipes.push(finals.recipe.clone());
            let longer = Job {
                trial: self.number(),
                purpose: Purpose::StartLonger,
                origin: Origin::Grown { parent: first.trial, steps: Vec::new() },
                recipes,
                with_validation: finals.with_validation,
                seed: self.rng.split("longer").seed(),
            };
            let network = self.run.load_model(winner.trial)?.model.network().clone();
            let all = self.plan.epochs_of(generation);
            let scratch = Job {
                trial: self.number(),
                purpose: Purpose::Scratch,
                origin: Origin::Fresh(network),
                recipes: vec![eas_train::Recipe { epochs: all, ..self.plan.start.clone() }],
                with_validation: finals.with_validation,
                seed: self.rng.split("scratch").seed(),
            };
            for job in [longer, scratch] {
                let Some(result) = self.carry_out(&job)? else { return Ok(None) };
                if result.is_trained() {
                    compared.push((result, all));
                }
            }
        }
        Ok(Some(Found { winner: winner.trial, compared }))
    }
}

/// Keeps and shows the end of a child; one that repeats another is published as such.
fn ended(run: &Run, bar: &Bar, trial: &Trial, child_units: u64) -> anyhow::Result<()> {
    if let Some(same) = trial.same_as {
        let known = run.result(same)?;
        let result = TrialResult {
            trial: trial.id,
            steps: trial.steps.clone(),
            same_as: Some(same),
            seconds: 0.0,
            ..known
        };
        run.publish(&result)?;
        bar.advance(child_units);
    }
    bar.line(&line(&run.result(trial.id)?));
    Ok(())
}

/// A finished trial in one line.
fn line(result: &TrialResult) -> String {
    let edits: Vec<&Edit> = result.steps.iter().flatten().collect();
    let what = match (result.purpose, edits.as_slice()) {
        (Purpose::Child, []) => "no edit".to_owned(),
        (Purpose::Child, [only]) => only.to_string(),
        (Purpose::Child, [first, second]) => format!("{first}, {second}"),
        (Purpose::Child, [first, second, rest @ ..]) => {
            format!("{first}, {second}, {} more", rest.len())
        }
        (purpose, _) => purpose.words().to_owned(),
    };
    let again = result.same_as.map_or(String::new(), |same| format!(" (the same as {same})"));
    format!(
        "{}  {:>8}  {:>6} parameters  {:>10}  {what}{again}",
        result.trial,
        result.ending_words(),
        Count(result.parameters).to_string(),
        print::seconds(result.seconds),
    )
}
