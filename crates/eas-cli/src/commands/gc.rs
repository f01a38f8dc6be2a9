//! `eas gc`: removes the models and momentum that a run doesn't need any more.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use eas_controller::TrialId;
use eas_ir::{Bytes, Network};
use serde::Serialize;

use super::bad_input;
use super::search::{plan_of_run, start_network};
use crate::args;
use crate::devices::Places;
use crate::dispatcher::Dispatcher;
use crate::exit;
use crate::plan::Plan;
use crate::print::{self, Bar};
use crate::reach::Reach;
use crate::room;
use crate::runs::{Amount, Collected, Origin, Reason, Run, Unfinished};
use crate::schedule::Schedule;
use crate::search::{Search, Start};

#[derive(Serialize)]
struct Cleared {
    run: String,
    /// Whether nothing was removed, but only looked for.
    dry_run: bool,
    keep_best: usize,
    removed: Amount,
    kept: Amount,
    reasons: BTreeMap<Reason, Amount>,
    /// Bytes free on the run's disk, where that can be told.
    free: Option<u64>,
}

pub(super) fn run(args: &args::Gc) -> anyhow::Result<u8> {
    let run = Run::open(&args.run).map_err(bad_input)?;
    let _lock = run.lock()?;
    let plan = plan_of_run(&run)?;
    let keep_best = args.keep_best.unwrap_or(plan.storage.keep_best);
    let reach = reach(&run, plan)?;
    let collected = run.collect(&reach, keep_best, !args.dry_run)?;
    let Collected { removed, kept, reasons } =
        collected.context("a trial of this run is publishing; try again in a moment")?;
    let cleared = Cleared {
        run: run.root().display().to_string(),
        dry_run: args.dry_run,
        keep_best,
        removed,
        kept,
        reasons,
        free: room::free(run.root()),
    };
    if args.json {
        print::json(&cleared);
    } else {
        print::result(&cleared.text());
    }
    Ok(exit::SUCCESS)
}

/// What a run may still read: its decisions are made anew as far as it has come.
fn reach(run: &Run, mut plan: Plan) -> anyhow::Result<Reach> {
    if !run.begun()?.contains(&TrialId(0)) {
        return Ok(Reach::default());
    }
    let first = run.record(TrialId(0))?;
    let start = match first.origin {
        Origin::Fresh { network } => {
            let network = Network::from_toml(&network).context("trial 0000: not a network")?;
            Start::Fresh(network)
        }
        Origin::Given { .. } => start_network(&plan)?.0,
        Origin::Grown { .. } => bail!("trial 0000: expected a start network"),
    };
    let schedule = Schedule::new(&plan, &run.events()?);
    let (run, transforms) = (run.clone().reading(), plan.transforms.clone());
    let mut dispatcher =
        Dispatcher::new(&run, None, None, plan.running.clone(), &Places::Cpu, Bar::silent())?;
    let mut search =
        Search::new(&mut plan, &transforms, &schedule, &run, &first.data, &mut dispatcher);
    match search.run(&start) {
        Err(error) if !error.is::<Unfinished>() => {
            Err(error.context("what the run may still read can't be told"))
        }
        _ => Ok(search.reach().clone()),
    }
}

impl Cleared {
    fn text(&self) -> String {
        let amount = |amount: Amount| {
            let s = if amount.objects == 1 { "" } else { "s" };
            format!("{} object{s}, {}", amount.objects, Bytes(amount.bytes))
        };
        let verb = if self.dry_run { "would remove" } else { "removed" };
        let mut lines = vec![
            format!("{}: {verb} {}", self.run, amount(self.removed)),
            format!("kept {}", amount(self.kept)),
        ];
        let reasons = self.reasons.iter();
        lines.extend(reasons.map(|(why, kept)| format!("  {}: {}", why.words(), amount(*kept))));
        lines.extend(self.free.map(|free| format!("{} are free on its disk", Bytes(free))));
        lines.join("\n")
    }
}
