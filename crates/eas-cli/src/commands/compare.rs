//! `eas compare`: controllers beside each other, on the same start weights, recipes and budget.
//!
//! Each controller and seed is an ordinary run in the comparison's folder, which `eas resume` carries
//! through; so what is stopped goes on when the same command is given again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use eas_controller::TrialId;
use eas_ir::Count;

use super::search::prepare;
use super::{bad_input, plan_of};
use crate::args;
use crate::comparison::{Arm, Comparison};
use crate::devices::ROUNDING;
use crate::exit;
use crate::plan::Plan;
use crate::plot;
use crate::print;
use crate::report::Report;
use crate::runs::{Build, Run};
use crate::spec::read_plan;
use crate::stop;

pub(super) fn run(args: &args::Compare) -> anyhow::Result<u8> {
    let (_, plan) = plan_of(Some(&args.spec), &args.overrides)?;
    let once = |name: &String| args.controllers.iter().filter(|other| *other == name).count() == 1;
    if let Some(name) = args.controllers.iter().find(|name| !once(name)) {
        return Err(bad_input(format!("--controllers: `{name}` is named twice")));
    }
    stop::listen();
    args.devices.as_ref().unwrap_or(&plan.running.devices).places()?;
    let data = prepare(&plan)?.data;
    let images = data.train.len() as u64;
    let default = || PathBuf::from(format!("runs/{}-compared", plan.name));
    let folder = args.out.clone().unwrap_or_else(default);
    let mut arms: Vec<Arm> = Vec::new();
    for seed in (plan.seed..).take(args.seeds as usize) {
        for controller in &args.controllers {
            let arm_plan = plan_of_arm(&plan, controller, seed, images, args)?;
            let root = folder.join(format!("{controller}-{seed}"));
            print::note(&format!("{controller}, seed {seed}: {}", root.display()));
            let run = open(&root, &arm_plan)?;
            match carry_through(&run, args)? {
                exit::SUCCESS => {}
                code => return Ok(code),
            }
            let report: Report = run.report()?.context("a finished run has a report")?;
            let arm = Arm::new(controller, seed, images, report, run.results()?);
            let same = arms.iter().find(|other| other.seed == seed);
            let start = |arm: &Arm| arm.results.iter().find(|r| r.trial == TrialId(0)).cloned();
            if let Some((other, own)) = same.and_then(start).zip(start(&arm))
                && other.model != own.model
            {
                let differs =
                    format!("seed {seed}: the controllers began with different start weights");
                ensure!(own.gpu.or(other.gpu).is_some(), differs);
                print::note(&format!("note: {differs}: {ROUNDING}"));
            }
            arms.push(arm);
        }
    }
    let comparison = Comparison::new(&args.controllers, &arms);
    let file = |name: &str| folder.join(name);
    std::fs::write(file("comparison.json"), serde_json::to_vec_pretty(&comparison)?)?;
    std::fs::write(file("comparison.svg"), plot::curves(&comparison)?)?;
    if args.json {
        print::json(&comparison);
    } else {
        let (json, svg) = (file("comparison.json"), file("comparison.svg"));
        let files = format!("Curves: {}; numbers: {}", svg.display(), json.display());
        print::result(&format!("{}\n{files}", comparison.text()));
    }
    Ok(exit::SUCCESS)
}

/// Trials of a last stage that time is to end: more than there is time for.
const ENDLESS: usize = 100_000;

/// The plan of one run: that of the spec, but for the controller, the seed, the budget and what the
/// finals compare.
fn plan_of_arm(
    plan: &Plan,
    controller: &str,
    seed: u64,
    images: u64,
    args: &args::Compare,
) -> anyhow::Result<Plan> {
    let mut table: toml::Table = plan.text.parse()?;
    let options = if plan.controller.name == controller {
        plan.controller.options.clone()
    } else {
        toml::Table::new()
    };
    let chosen = toml::Table::from_iter([(controller.to_owned(), options.into())]);
    table.insert("controller".to_owned(), chosen.into());
    table.insert("seed".to_owned(), i64::try_from(seed)?.into());
    if let Some(finals) = table.get_mut("final").and_then(toml::Value::as_table_mut) {
        finals.insert("compare".to_owned(), true.into());
        finals.insert("equal_compute".to_owned(), true.into());
        finals.insert("ranked".to_owned(), i64::try_from(args.ranked)?.into());
    }
    match args.budget {
        Some(args::Budget::Images(Count(budget))) => {
            let batches = batches_within(plan, budget / images.max(1));
            if batches.is_empty() {
                let batch = plan.stages.first().map_or(0, |stage| plan.epochs_of_batch(stage));
                let least = Count(images * batch as u64);
                let found = Count(budget);
                return Err(bad_input(format!(
                    "--budget: expected at least the {least} images of one batch, found {found}"
                )));
            }
            set_batches(&mut table, &batches)?;
        }
        Some(args::Budget::Time(limit)) => {
            let mut batches: Vec<usize> = plan.stages.iter().map(|stage| stage.batches).collect();
            if let (Some(last), Some(stage)) = (batches.last_mut(), plan.stages.last()) {
                *last = (ENDLESS / stage.halving.trials(stage.networks)).max(*last);
            }
            set_batches(&mut table, &batches)?;
            let run = table.entry("run").or_insert_with(|| toml::Table::new().into());
            let run = run.as_table_mut().context("run is a table")?;
            run.insert("deadline".to_owned(), humantime::format_duration(limit).to_string().into());
        }
        None => {}
    }
    read_plan("the compared plan", &toml::to_string(&table)?, &[], &plan.directory)
        .map_err(bad_input)
}

/// Keeps as many stages as there are batches for.
fn set_batches(table: &mut toml::Table, batches: &[usize]) -> anyhow::Result<()> {
    let stages = table.get_mut("stage").and_then(toml::Value::as_array_mut);
    let stages = stages.context("a plan has stages")?;
    stages.truncate(batches.len());
    for (stage, batches) in stages.iter_mut().zip(batches) {
        let stage = stage.as_table_mut().context("a stage is a table")?;
        stage.insert("batches".to_owned(), i64::try_from(*batches)?.into());
    }
    Ok(())
}

/// The batches of each stage that so many epochs are enough for: as the plan has them, the last stage as long
/// as it lasts.
fn batches_within(plan: &Plan, mut epochs: u64) -> Vec<usize> {
    let mut batches = Vec::new();
    for (number, stage) in plan.stages.iter().enumerate() {
        let batch = plan.epochs_of_batch(stage).max(1) as u64;
        let most = if number + 1 == plan.stages.len() { u64::MAX } else { stage.batches as u64 };
        let count = (epochs / batch).min(most);
        if count == 0 {
            break;
        }
        epochs -= count * batch;
        batches.push(count as usize);
    }
    batches
}

/// The run in this folder, made where there is none.
fn open(root: &Path, plan: &Plan) -> anyhow::Result<Run> {
    if !Run::is_run(root) {
        let build = Build::current()?;
        return Run::create(root, &plan.text, &plan.text, &plan.directory, &build)
            .map_err(bad_input);
    }
    let run = Run::open(root).map_err(bad_input)?;
    if run.plan()?.1 != plan.text {
        let root = root.display();
        return Err(bad_input(format!(
            "{root}: another spec or budget made this run; name another folder with --out"
        )));
    }
    Ok(run)
}

/// Has a run carried through by a process of its own; returns its exit code.
fn carry_through(run: &Run, args: &args::Compare) -> anyhow::Result<u8> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("resume").arg(run.root()).arg("--json").stdout(Stdio::null());
    if let Some(workers) = args.workers {
        command.arg("--workers").arg(workers.to_string());
    }
    if let Some(devices) = &args.devices {
        command.arg("--devices").arg(devices.to_string());
    }
    let status = command.status().context("can't start a run")?;
    let root = run.root().display();
    match status.code().map(u8::try_from) {
        Some(Ok(exit::INTERRUPTED)) => print::note("The same command goes on."),
        Some(Ok(_)) => {}
        _ => bail!("{root}: the run ended with {status}; the same command goes on"),
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILURE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_shortens_the_first_stages_or_lengthens_the_last() {
        let text = "schema = 1\n[data.synthetic]\nvalidation = 8\n[space.convnet]\n\
                    start = ['conv 4', 'global_pool']\nfilters = [4, 8]\n[transform.widen]\n\
                    [controller.random]\n[child]\nepochs = 2\n[[stage]]\nbatches = 2\nnetworks = 3\nactions = ['widen']\n\
                    [[stage]]\nbatches = 1\nnetworks = 2\nactions = ['widen']\n";
        let plan = read_plan("spec", text, &[], Path::new("")).unwrap();
        for (children, batches) in
            [(2, vec![]), (3, vec![1]), (7, vec![2]), (8, vec![2, 1]), (13, vec![2, 3])]
        {
            assert_eq!(batches_within(&plan, 2 * children), batches, "{children} children");
        }
    }
}
