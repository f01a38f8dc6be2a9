//! `eas trial`: one attempt at one trial, as executors start it.

use anyhow::ensure;
use eas_controller::TrialId;

use super::search::{Prepared, plan_of_run, prepare};
use crate::args;
use crate::exit;
use crate::runs::Run;
use crate::stop;
use crate::trial::Workshop;

pub(super) fn run(args: &args::Trial) -> anyhow::Result<u8> {
    stop::listen();
    stop::listen_to_input();
    // Where memory runs out, a trial should go rather than its coordinator. It may not be allowed.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let run = Run::open(&args.run)?;
    let trial = TrialId(args.trial);
    if run.published(trial)?.is_some() {
        return Ok(exit::SUCCESS);
    }
    let record = run.record(trial)?;
    let plan = plan_of_run(&run)?;
    let Prepared { data, start, .. } = prepare(&plan)?;
    let found = data.digest();
    ensure!(
        found == record.data,
        "data.{}: expected images of digest {}, found {found}: they have changed since",
        plan.data.name,
        record.data
    );
    let engine = args.device.engine()?;
    let workshop = Workshop {
        run: &run,
        data: &data,
        start: start.model(),
        transforms: &plan.transforms,
        device: args.device,
        engine: engine.as_ref(),
        checkpoint: plan.running.checkpoint,
    };
    let result = workshop.carry_out(&record, &run.attempt(trial, args.attempt))?;
    Ok(if result.is_some() { exit::SUCCESS } else { exit::INTERRUPTED })
}
