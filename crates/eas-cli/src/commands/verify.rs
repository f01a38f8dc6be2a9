//! `eas verify`: whether a run is what it says.

use anyhow::{Context, ensure};
use eas_controller::TrialId;
use eas_train::{TrainingData, accuracy};
use eas_transform::Transforms;
use serde::Serialize;

use super::bad_input;
use super::search::{Prepared, plan_of_run, prepare};
use crate::args;
use crate::devices::Places;
use crate::dispatcher::Dispatcher;
use crate::engine::ENGINE;
use crate::exit;
use crate::plan::Plan;
use crate::print::{self, Bar, percent};
use crate::report::Report;
use crate::runs::{Run, TrialResult, Unfinished};
use crate::schedule::Schedule;
use crate::search::{Search, Start};

/// Images by which an accuracy may differ on another machine, whose sums round otherwise.
const TOLERANCE: f64 = 2.0;
/// The share of them besides where it was measured on a GPU, which may round factors as well.
const TOLERANCE_ON_GPU: f64 = 0.002;

#[derive(Serialize)]
struct Verified {
    run: String,
    /// Trials whose files were checked.
    trials: usize,
    /// Models and momentum that were removed as nothing needed them.
    collected: usize,
    /// Trials whose results were taken back, to be trained again.
    taken_back: Vec<TrialId>,
    /// Whether the decisions, made anew, came to the end of the run.
    finished: bool,
    /// The best network's accuracy as recorded, and as measured now.
    best: Option<Measured>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Measured {
    trial: TrialId,
    recorded: f64,
    found: f64,
}

pub(super) fn run(args: &args::Verify) -> anyhow::Result<u8> {
    let run = Run::open(&args.run).map_err(bad_input)?;
    let mut taken_back = Vec::new();
    if args.rebuild || args.repair {
        let _lock = run.lock()?;
        if args.repair {
            taken_back = run.repair()?;
            let is_right = run.report::<Report>().and_then(|report| {
                let Some(report) = report else { return Ok(()) };
                let best = report.rows.first().context("report.json: expected a row")?;
                is_handed_over(&run, &run.result(best.trial)?)
            });
            if is_right.is_err() {
                run.take_back_report()?;
            }
        }
        let bar = Bar::new(0);
        bar.message("trials into the index");
        run.rebuild_index(&mut |done, all| {
            bar.set_length(all as u64);
            bar.advance(u64::from(done > 0));
        })?;
        bar.finish();
    }
    let run = run.reading();
    let mut problems = Vec::new();
    let mut plan = plan_of_run(&run)?;
    let trials = run.begun()?;
    let mut collected = 0;
    let bar = Bar::new(trials.len() as u64);
    bar.message("trials");
    for trial in &trials {
        bar.advance(1);
        match check_trial(&run, *trial, &plan.transforms) {
            Ok(gone) => collected += gone,
            Err(error) => problems.push(format!("trial {trial}: {error:#}")),
        }
    }
    bar.finish();
    match run.index_is_right() {
        Ok(Some(false)) => problems.push("index.sqlite differs from the trials".to_owned()),
        Ok(Some(true) | None) => {}
        Err(error) => problems.push(format!("index.sqlite: {error:#}")),
    }
    let Prepared { data, start, .. } = prepare(&plan)?;
    let replayed = replay(&run, &mut plan, &data, &start);
    let mut finished = false;
    let mut best = None;
    let mut tolerance = TOLERANCE;
    match replayed {
        Ok(winner) => {
            finished = true;
            match measure(&run, &winner, &data) {
                Ok(measured) => {
                    if winner.gpu.is_some() {
                        tolerance += TOLERANCE_ON_GPU * data.validation.len() as f64;
                    }
                    best = measured;
                }
                Err(error) => problems.push(format!("the best network: {error:#}")),
            }
        }
        Err(error) if error.is::<Unfinished>() => {}
        Err(error) => problems.push(format!("the decisions can't be made anew: {error:#}")),
    }
    if let Some(Measured { trial, recorded, found }) = best
        && (recorded - found).abs() * data.validation.len() as f64 > tolerance
    {
        let (recorded, found) = (percent(recorded), percent(found));
        problems.push(format!("trial {trial}: expected accuracy {recorded}, found {found}"));
    }
    let verified = Verified {
        run: run.root().display().to_string(),
        trials: trials.len(),
        collected,
        taken_back,
        finished,
        best,
        problems,
    };
    if args.json {
        print::json(&verified);
    } else {
        print::result(&verified.text());
    }
    Ok(if verified.problems.is_empty() { exit::SUCCESS } else { exit::DAMAGED })
}

impl Verified {
    fn text(&self) -> String {
        let mut lines = vec![format!("{}: {} trials checked", self.run, self.trials)];
        if self.collected > 0 {
            let collected = self.collected;
            lines
                .push(format!("{collected} models and momenta were collected: nothing needs them"));
        }
        if !self.taken_back.is_empty() {
            let trials: Vec<String> = self.taken_back.iter().map(ToString::to_string).collect();
            let (trials, run) = (trials.join(", "), &self.run);
            lines.push(format!("taken back: trials {trials}; eas resume {run} trains them again"));
        }
        lines.push(match self.finished {
            true => "the decisions, made anew, are those of the run".to_owned(),
            false => "the decisions were made anew as far as the run has come".to_owned(),
        });
        lines.extend(self.best.as_ref().map(|Measured { trial, recorded, found }| {
            let (recorded, found) = (percent(*recorded), percent(*found));
            format!("the best network (trial {trial}): {recorded} recorded, {found} measured")
        }));
        lines.extend(self.problems.iter().map(|problem| format!("wrong: {problem}")));
        if self.problems.is_empty() {
            lines.push("Nothing is wrong.".to_owned());
        }
        lines.join("\n")
    }
}

/// What a trial says of itself, and that its objects are whole; how many were collected.
fn check_trial(run: &Run, trial: TrialId, transforms: &Transforms) -> anyhow::Result<usize> {
    let record = run.record(trial)?;
    ensure!(record.trial == trial, "expected trial {trial} in trial.json, found {}", record.trial);
    let Some(result) = run.published(trial)? else { return Ok(0) };
    let own = record.ended(result.ending.clone(), result.attempt, result.seconds);
    let expected = TrialResult {
        same_as: result.same_as,
        // One that repeats another had as many epochs as that.
        epochs: if result.same_as.is_some() { result.epochs } else { own.epochs },
        certificate: result.certificate,
        drift: result.drift,
        model: result.model,
        momentum: result.momentum,
        gpu: result.gpu,
        ..own
    };
    ensure!(result == expected, "result.json is not that of trial.json");
    ensure!(
        result.ending.has_model() == result.model.is_some(),
        "expected a model of a trained trial alone"
    );
    let mut collected = 0;
    if let Some(digest) = result.model {
        let network = match run.is_collected(digest) {
            true => run.network(trial, transforms)?,
            false => run.model(digest)?.model.network().clone(),
        };
        collected += usize::from(run.is_collected(digest));
        let (expected, found) = (&result.fingerprint, network.fingerprint().to_string());
        ensure!(&found == expected, "expected network {expected}, found {found}");
    }
    match result.momentum {
        Some(digest) if run.is_collected(digest) => collected += 1,
        Some(digest) => drop(run.momentum(digest)?),
        None => {}
    }
    Ok(collected)
}

/// Makes every decision of the run anew; returns the network that it comes to.
fn replay(
    run: &Run,
    plan: &mut Plan,
    data: &TrainingData,
    start: &Start,
) -> anyhow::Result<TrialResult> {
    let schedule = Schedule::new(plan, &run.events()?);
    let digest = data.digest();
    let mut dispatcher =
        Dispatcher::new(run, None, None, plan.running.clone(), &Places::Cpu, Bar::silent())?;
    let transforms = plan.transforms.clone();
    let found =
        Search::new(plan, &transforms, &schedule, run, &digest, &mut dispatcher).run(start)?;
    if let Some(report) = run.report::<Report>()?
        && report.finals == schedule.finals
    {
        let expected = found.winner.trial;
        let found = report.rows.first().map(|row| row.trial);
        ensure!(
            found == Some(expected),
            "expected trial {expected} to be the best in report.json, found {found:?}"
        );
    }
    Ok(found.winner)
}

/// Whether `best/` is the model of this trial.
fn is_handed_over(run: &Run, winner: &TrialResult) -> anyhow::Result<()> {
    let handed_over = eas_ir::SavedModel::load(&run.best()).context("best/")?;
    let expected = run.model_of(winner)?;
    ensure!(handed_over == expected, "best/ is not the model of trial {}", winner.trial);
    Ok(())
}

/// The accuracy of the best network, measured anew; nothing where it was trained on those images.
fn measure(
    run: &Run,
    winner: &TrialResult,
    data: &TrainingData,
) -> anyhow::Result<Option<Measured>> {
    let saved = run.model_of(winner)?;
    // A run that was made longer has another winner before it has another report.
    let report = run.report::<Report>()?;
    let handed_over = report.and_then(|report| Some(report.rows.first()?.trial));
    if handed_over == Some(winner.trial) {
        is_handed_over(run, winner)?;
    }
    let Some(recorded) = winner.accuracy() else { return Ok(None) };
    let found = accuracy(&ENGINE, &saved.model, data, &data.validation, &mut |_| ())?.share();
    Ok(Some(Measured { trial: winner.trial, recorded, found }))
}
