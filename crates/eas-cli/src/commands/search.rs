//! `eas search` and `eas resume`: start network, stages, finals, comparison.

use std::cmp::Ordering;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use eas_controller::{Ending, TrialId};
use eas_ir::{Bytes, Metadata, Network, Rng, SavedModel};
use eas_train::{DataOptions, Device, Split, TrainingData, shared_images, split};
use eas_transform::Problem;
use serde::Serialize;

use super::{bad_input, plan_of, plan_of_text};
use crate::args;
use crate::automatic::{Automatic, specify};
use crate::devices::{Devices, Places, device};
use crate::dispatcher::{Dispatcher, Interrupted};
use crate::engine::ENGINE;
use crate::executor::Local;
use crate::exit;
use crate::forecast::measure;
use crate::picture::{self, Picture};
use crate::plan::{Plan, Running, Workers};
use crate::print::{self, Bar};
use crate::report::{Reevaluated, Report};
use crate::room;
use crate::runs::{Build, Event, Gone, Lock, Purpose, Run, TrialResult};
use crate::schedule::Schedule;
use crate::search::{Found, Search, Start};
use crate::spec::{MOST_TRIALS, read_plan};
use crate::stop;
use crate::storage::Keeper;

/// `eas search`.
pub(super) fn run(args: &args::Search) -> anyhow::Result<u8> {
    stop::listen();
    let (spec, plan) = match (&args.data, args.budget) {
        (Some(data), Some(budget)) => {
            let chosen = choose(data, budget, args.devices.as_ref().unwrap_or(&Devices::Auto))?;
            if args.init {
                print::result(&chosen.spec);
                return Ok(exit::SUCCESS);
            }
            let Automatic { name, spec, .. } = chosen;
            let plan = plan_of_text(&name, &spec, &args.overrides, Path::new(""))?;
            (spec, plan)
        }
        _ => plan_of(args.spec.as_deref(), &args.overrides)?,
    };
    let means = Means::new(&plan, args.workers, args.devices.as_ref())?;
    let prepared = prepare(&plan)?;
    let root = args.run.clone().unwrap_or_else(|| Run::free_folder(&plan.name));
    let build = Build::current()?;
    let run = Run::create(&root, &spec, &plan.text, &plan.directory, &build);
    let run = run.map_err(|error| match room::is_wanting(&error) {
        true => error,
        false => bad_input(error),
    })?;
    let lock = run.lock()?;
    coordinate(&run, lock, plan, prepared, means, args.json)
}

/// A spec for data and a budget, and what is said about it.
fn choose(data: &str, budget: Duration, devices: &Devices) -> anyhow::Result<Automatic> {
    let engine = device(devices)?.engine()?;
    let bar = Bar::new(1);
    bar.message("measuring a few training steps");
    let chosen =
        specify(data, budget, &mut |plan, start, data| measure(plan, start, data, engine.as_ref()));
    bar.finish();
    let chosen = chosen?;
    chosen.why.iter().for_each(|line| print::note(line));
    Ok(chosen)
}

/// `eas resume`.
pub(super) fn resume(args: &args::Resume) -> anyhow::Result<u8> {
    stop::listen();
    let run = Run::open(&args.run).map_err(bad_input)?;
    let plan = plan_of_run(&run)?;
    let means = Means::new(&plan, args.workers, args.devices.as_ref())?;
    let prepared = prepare(&plan)?;
    let lock = run.lock()?;
    let build = Build::current()?;
    let differences = match run.build() {
        Ok(kept) => kept.differences(&build),
        Err(error) => vec![format!("{error:#}")],
    };
    if differences.is_empty() && !run.keeps(&build)? {
        if !args.accept_build {
            return Err(bad_input(format!(
                "{}: expected the program that build.json names, found another one, which is not run; \
                 --accept-build puts this program in its place",
                run.executable().display()
            )));
        }
        run.keep_build(&build)?;
    }
    if !differences.is_empty() {
        accept(&run, &build, differences, args.accept_build)?;
    }
    extend(&run, &plan, args)?;
    coordinate(&run, lock, plan, prepared, means, args.json)
}

/// Goes on with another program than before, where that was asked for.
fn accept(run: &Run, build: &Build, differences: Vec<String>, asked: bool) -> anyhow::Result<()> {
    if !asked {
        return Err(bad_input(format!(
            "{}: another program made this run ({}), and this one may give other results; go on with \
             the kept one, {}, or with this one: --accept-build",
            run.root().display(),
            differences.join("; "),
            run.executable().display()
        )));
    }
    print::note(&format!("note: the program has changed: {}", differences.join("; ")));
    run.add_event(&Event::Build { differences })?;
    run.keep_build(build)
}

/// Makes the run longer, where that was asked for.
fn extend(run: &Run, plan: &Plan, args: &args::Resume) -> anyhow::Result<()> {
    let batches = args.extend_batches.unwrap_or(0);
    if batches == 0 && args.extend_deadline.is_none() {
        return Ok(());
    }
    let schedule = Schedule::new(plan, &run.events()?);
    let last = schedule.stages.last().map_or(0, |stage| stage.batches.len());
    let each = plan.stages.last().map_or(0, |stage| stage.halving.trials(stage.networks));
    if last.saturating_add(batches).saturating_mul(each) > MOST_TRIALS {
        return Err(bad_input(format!(
            "--extend-batches {batches}: expected {MOST_TRIALS} trials in a stage at most, found {last} batches \
             of {each} before"
        )));
    }
    let begun = run.begun()?.last().map_or(0, |last| last.0.saturating_add(1));
    let first_trial = TrialId(schedule.finals.0.max(begun));
    let deadline = args.extend_deadline.map(|more| run.seconds() + more.as_secs_f64());
    run.add_event(&Event::Extended { first_trial, batches, deadline })
}

/// The network of a trial: its model's, or where that was collected, what the records say.
pub(super) fn network_of_trial(run: &Run, result: &TrialResult) -> anyhow::Result<Network> {
    match run.model_of(result) {
        Ok(saved) => Ok(saved.model.network().clone()),
        Err(error) if error.is::<Gone>() => {
            run.network(result.trial, &plan_of_run(run)?.transforms)
        }
        Err(error) => Err(error),
    }
}

/// The plan of a run that was made before.
pub(super) fn plan_of_run(run: &Run) -> anyhow::Result<Plan> {
    let (name, text) = run.plan()?;
    Ok(read_plan(&name, &text, &[], run.directory())?)
}

#[derive(Serialize)]
struct Summary {
    run: String,
    report: Report,
}

/// What a plan begins with.
pub(crate) struct Prepared {
    /// The data, split; normalised as the start's weights know it, where it has some.
    pub(crate) data: TrainingData,
    pub(crate) start: Start,
    /// What whoever trains on them should know of the data, and of the weights that the start came with.
    pub(crate) notes: Vec<String>,
}

/// The data and the start network for them.
pub(crate) fn prepare(plan: &Plan) -> anyhow::Result<Prepared> {
    let (start, metadata) = start_network(plan)?;
    let mut data = training_data(plan)?;
    let mut notes = notes_on(plan.data.implementation.options(), &data);
    if let (Start::Given(_), None) = (&start, &metadata.normalisation) {
        notes.push(
            "note: the start network's weights come without a normalisation of images; the data's own \
             stands in for it"
                .to_owned(),
        );
    }
    if !metadata.classes.is_empty() && metadata.classes != data.classes {
        notes.push("note: the start network's class names differ from the data set's".to_owned());
    }
    data.normalisation = metadata.normalisation.unwrap_or(data.normalisation);
    Ok(Prepared { data, start, notes })
}

/// What a split came to that whoever asked for it may not expect.
fn notes_on(asked: DataOptions, data: &TrainingData) -> Vec<String> {
    let mut notes = Vec::new();
    let (found, validation) = (data.validation.len(), asked.validation);
    if found != validation {
        notes.push(format!(
            "note: {found} images are held out instead of {validation}, since groups stay whole"
        ));
    }
    let trained = data.train.len();
    if let Some(train) = asked.train.filter(|train| trained < *train) {
        notes.push(format!(
            "note: {trained} images are trained on instead of {train}, for the same reason"
        ));
    }
    let shared = shared_images(&data.train, &data.validation).len();
    if shared > 0 {
        notes.push(format!(
            "warning: {shared} of {found} validation images stand among the training images too"
        ));
    }
    notes
}

/// The data, split.
pub(crate) fn training_data(plan: &Plan) -> anyhow::Result<TrainingData> {
    let source = &plan.data.implementation;
    let wrong = |error: anyhow::Error| bad_input(format!("data.{}: {error:#}", plan.data.name));
    let all = source.train(&plan.directory).map_err(wrong)?;
    split(all, source.options(), &Rng::new(plan.seed).split("data")).map_err(wrong)
}

/// The start network for the data, and what came with its weights.
pub(crate) fn start_network(plan: &Plan) -> anyhow::Result<(Start, Metadata)> {
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
    let refused = |error: anyhow::Error| bad_input(format!("space.{}: {error:#}", plan.space.name));
    let given = space.start_model(&problem, &ENGINE).map_err(refused)?;
    let (start, metadata) = match given {
        Some(SavedModel { model, metadata }) => (Start::Given(model), metadata),
        None => (Start::Fresh(space.start(&problem).map_err(refused)?), Metadata::default()),
    };
    space.admits(start.network(), plan.child.batch).map_err(|refusal| {
        bad_input(format!("space.{}: the start network exceeds limits: {refusal}", plan.space.name))
    })?;
    Ok((start, metadata))
}

/// What a run's trials are carried out with.
struct Means {
    workers: Workers,
    places: Places,
}

impl Means {
    /// Those of the plan, or what the command line says instead.
    fn new(
        plan: &Plan,
        workers: Option<Workers>,
        devices: Option<&Devices>,
    ) -> anyhow::Result<Self> {
        let places = devices.unwrap_or(&plan.running.devices).places()?;
        Ok(Means { workers: workers.unwrap_or(plan.running.workers), places })
    }
}

/// Does what is left of a run to do: all of it, where it is new.
fn coordinate(
    run: &Run,
    _lock: Lock,
    mut plan: Plan,
    prepared: Prepared,
    means: Means,
    json: bool,
) -> anyhow::Result<u8> {
    let schedule = Schedule::new(&plan, &run.events()?);
    let known: Option<Report> = run.report()?.filter(|_| run.best().exists());
    if let Some(report) = known.filter(|report| report.finals == schedule.finals) {
        return show(run, report, json);
    }
    match conduct(run, &mut plan, &schedule, prepared, means) {
        Ok(report) => show(run, report, json),
        Err(error) if room::is_wanting(&error) => Err(error.context(wanted(run, &plan, &schedule))),
        Err(error) if error.is::<Interrupted>() => {
            print::note(&format!(
                "Interrupted. The trials that were done are in {}: eas trials {0}. To go on: eas resume {0}",
                run.root().display()
            ));
            Ok(exit::INTERRUPTED)
        }
        Err(error) => Err(error),
    }
}

/// Has trained what isn't yet, and compares the best of it.
fn conduct(
    run: &Run,
    plan: &mut Plan,
    schedule: &Schedule,
    Prepared { data, start, notes }: Prepared,
    means: Means,
) -> anyhow::Result<Report> {
    log_to(run)?;
    print::note(&format!(
        "{}: {} children of {} trained on {} images, validated on {}; into {}",
        plan.name,
        schedule.children(plan),
        plan.space.name,
        data.train.len(),
        data.validation.len(),
        run.root().display()
    ));
    notes.iter().for_each(|note| print::note(note));
    let done = run.listing()?.count();
    if done > 0 {
        print::note(&format!("{done} trials were done before"));
    }
    let Means { workers, places } = means;
    places.notes().iter().for_each(|note| print::note(note));
    let limits = Running { workers, ..plan.running.clone() };
    let index = run.index()?;
    let bar = Bar::new(schedule.units(plan));
    let mut dispatcher =
        Dispatcher::new(run, Some(&index), Some(Box::new(Local::default())), limits, &places, bar)?;
    let digest = data.digest();
    let (transforms, storage) = (plan.transforms.clone(), plan.storage);
    let keeper = Keeper::new(run, storage, dispatcher.bar().clone());
    let found = Search::new(plan, &transforms, schedule, run, &digest, &mut dispatcher)
        .kept(keeper)
        .run(&start);
    let closed = dispatcher.close();
    let found = found?;
    compare(run, plan, &data, schedule, &found, places.first(), closed?)
}

/// What a run needs whose disk is full: how much, where, and how to go on.
fn wanted(run: &Run, plan: &Plan, schedule: &Schedule) -> String {
    let root = run.root();
    let results = run.results().unwrap_or_default();
    let sizes: Vec<u64> = results.iter().map(|result| run.bytes_of(result)).collect();
    let trials = run.begun().unwrap_or_default();
    let records = trials.iter().filter_map(|trial| run.record(*trial).ok());
    // Until there is a model to be measured: values and momentum of four bytes.
    let predicted = records.map(|record| record.parameters.saturating_mul(8)).max().unwrap_or(0);
    let each = sizes.iter().copied().max().unwrap_or(0).max(predicted);
    let left = schedule.trials(plan).saturating_sub(results.len()).max(1) as u64;
    let stored: u64 = sizes.iter().sum();
    // The store is kept within its size; a trial has two checkpoints besides, for a moment.
    let objects = left.saturating_mul(each).min(plan.storage.size.saturating_sub(stored).max(each));
    let needed = objects.saturating_add(each.saturating_mul(2));
    let free = room::free(root)
        .map_or(String::new(), |free| format!("{} are free there, and ", Bytes(free)));
    let root = root.display();
    format!(
        "the disk of {root} is full: {free}the {left} trials that are left may write {} more; make room, \
         for example by eas gc {root} or a smaller store.size in {root}/plan.toml, then: eas resume {root}",
        Bytes(needed)
    )
}

/// The final comparison. The choice is made; only now are the test images opened.
fn compare(
    run: &Run,
    plan: &Plan,
    data: &TrainingData,
    schedule: &Schedule,
    found: &Found,
    device: Device,
    seconds: f64,
) -> anyhow::Result<Report> {
    run.model_of(&found.winner)?.save(&run.best())?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let at = now.map_or(0, |since| since.as_secs());
    let tested = |event: &Event| matches!(event, Event::Tested { .. });
    let tested = run.events()?.iter().filter(|event| tested(event)).count();
    run.add_event(&Event::TestOpened { at })?;
    let test = Split::all(plan.data.implementation.test(&plan.directory)?);
    let all = data.with_validation_in_training();
    let test_shared = shared_images(&all.train, &test).len();
    let results = run.results()?;
    let parts = || results.iter().filter(|result| result.purpose == Purpose::Child);
    let children = || parts().filter(|part| part.continues.is_none());
    let went_on = |part: &TrialResult| parts().any(|next| next.continues == Some(part.trial));
    let stopped = parts().filter(|part| matches!(part.ending, Ending::Stopped { .. }));
    // Of a network that was trained several times, the best training is the one that was chosen.
    let is_better = |other: &TrialResult, child: &TrialResult| {
        other.trained_alike(child) && other.compare(child) == Ordering::Less
    };
    let chosen = parts().filter(|child| !parts().any(|other| is_better(other, child)));
    let engine = device.engine()?;
    let rows = Report::test(run, &found.compared, data, &test, engine.as_ref())?;
    let report = Report {
        finals: schedule.finals,
        rows,
        validation_images: data.validation.len(),
        test_images: test.len(),
        test_shared,
        test_opened: at,
        tested_before: tested,
        children: children().count(),
        cached: children().filter(|child| child.same_as.is_some()).count(),
        stopped: stopped.filter(|part| !went_on(part)).count(),
        reevaluated: chosen.filter_map(|child| Reevaluated::of(child, &results)).collect(),
        ranks: found.ranks.clone(),
        on_gpus: results.iter().any(|result| result.gpu.is_some()),
        seconds,
    };
    run.keep_report(&report)?;
    Ok(report)
}

fn show(run: &Run, report: Report, json: bool) -> anyhow::Result<u8> {
    if json {
        print::json(&Summary { run: run.root().display().to_string(), report });
        return Ok(exit::SUCCESS);
    }
    let Some(best) = report.rows.first() else { bail!("the report compares nothing") };
    let winner = run.result(best.trial)?;
    let model = run.model_of(&winner)?.model;
    let network = picture::text(&Picture::of(model.network(), &model.network().verify()?));
    print::result(&format!(
        "\nBest network (trial {}):\n\n{network}\n{}\n\nTime {}. Everything is in {}: the model in \
         best/, the plan in plan.toml, the trials in trials/.\nNext: eas show {3}, eas diff {3}, eas trials \
         {3}, eas export {3} --out DIR, eas predict {3} IMAGE",
        best.trial,
        report.text(),
        print::seconds(report.seconds),
        run.root().display(),
    ));
    Ok(exit::SUCCESS)
}

/// Writes what happens to the run's log, as JSON lines.
fn log_to(run: &Run) -> anyhow::Result<()> {
    let path = run.log();
    let file = run.open_log().with_context(|| format!("can't write {}", path.display()))?;
    let subscriber = tracing_subscriber::fmt().json().with_writer(std::sync::Mutex::new(file));
    // A process has one log; a second run in it would go on with the first one's.
    let _ = tracing::subscriber::set_global_default(subscriber.finish());
    tracing::info!(pid = std::process::id(), host = crate::runs::host(), "coordinator starts");
    Ok(())
}
