//! `eas diff`: in which layers two networks differ.

use std::path::Path;

use eas_controller::TrialId;
use eas_ir::{Cost, Count, Network, cost};
use eas_transform::Step;
use serde::Serialize;

use super::search::network_of_trial;
use super::{bad_input, given};
use crate::args::{self, TrialName};
use crate::difference::{Change, changes, text};
use crate::exit;
use crate::lineage;
use crate::print;
use crate::runs::Run;

/// A network, and what to call it.
struct Side {
    name: String,
    network: Network,
}

#[derive(Serialize)]
struct Shown {
    first: Summary,
    second: Summary,
    /// The episode between them, where one is the other's parent.
    steps: Vec<Step>,
    same: bool,
    changes: Vec<Change>,
}

#[derive(Serialize)]
struct Summary {
    network: String,
    fingerprint: String,
    depth: usize,
    parameters: u64,
    macs: u64,
}

pub(super) fn run(args: &args::Diff) -> anyhow::Result<u8> {
    let (first, second, steps) = sides(args)?;
    let changes = changes(&first.network, &second.network);
    let same = first.network.fingerprint() == second.network.fingerprint();
    let shown = Shown { first: summary(first)?, second: summary(second)?, steps, same, changes };
    if args.json {
        print::json(&shown);
    } else {
        print::result(&words(&shown));
    }
    Ok(exit::SUCCESS)
}

fn summary(side: Side) -> anyhow::Result<Summary> {
    let shapes = side.network.verify()?;
    let Cost { parameters, macs, .. } = cost(&side.network, &shapes, 1);
    let fingerprint = side.network.fingerprint().to_string();
    let depth = side.network.depth();
    Ok(Summary { network: side.name, fingerprint, depth, parameters, macs })
}

/// The two networks, and the episode between them.
fn sides(args: &args::Diff) -> anyhow::Result<(Side, Side, Vec<Step>)> {
    if let Some(second) = &args.second {
        return Ok((side(&args.first)?, side(second)?, Vec::new()));
    }
    if !Run::is_run(&args.first) {
        let path = args.first.display();
        return Err(bad_input(format!(
            "{path}: expected a second network to compare it with, or a run"
        )));
    }
    let run = Run::open(&args.first)?;
    let trial = |name: TrialName| given::trial(&run, Some(name));
    match args.trials[..] {
        [] => Ok((side_of(&run, TrialId(0))?, side_of(&run, lineage::best(&run)?)?, Vec::new())),
        [name] => {
            let result = run.result(trial(name)?).map_err(bad_input)?;
            let parent = result.parent.ok_or_else(|| {
                bad_input(format!("trial {} has no parent: give a second --trial", result.trial))
            })?;
            Ok((side_of(&run, parent)?, side_of(&run, result.trial)?, result.steps))
        }
        [first, second] => {
            Ok((side_of(&run, trial(first)?)?, side_of(&run, trial(second)?)?, Vec::new()))
        }
        _ => Err(bad_input("expected one --trial or two")),
    }
}

fn side(path: &Path) -> anyhow::Result<Side> {
    if Run::is_run(path) {
        let run = Run::open(path)?;
        return side_of(&run, lineage::best(&run)?);
    }
    Ok(Side { name: path.display().to_string(), network: given::network(path, None)? })
}

fn side_of(run: &Run, trial: TrialId) -> anyhow::Result<Side> {
    let (name, result) = given::trained(run, trial)?;
    Ok(Side { name, network: network_of_trial(run, &result)? })
}

fn words(shown: &Shown) -> String {
    let Shown { first, second, steps, same, changes } = shown;
    let mut lines = vec![format!("{} → {}", first.network, second.network)];
    for (index, step) in steps.iter().enumerate().filter(|(_, step)| !step.is_empty()) {
        let edits: Vec<String> = step.iter().map(ToString::to_string).collect();
        lines.push(format!("step {}: {}", index + 1, edits.join(", ")));
    }
    lines.push(String::new());
    if *same {
        lines.push("The architecture is the same.".to_owned());
    } else {
        lines.push(text(changes));
    }
    let ratio = |before: u64, after: u64| {
        let (old, new) = (Count(before), Count(after));
        let times = after as f64 / before as f64;
        let times = if before > 0 { format!(" (x{times:.2})") } else { String::new() };
        format!("{old} → {new}{times}")
    };
    lines.push(String::new());
    lines.push(format!("parameters {}", ratio(first.parameters, second.parameters)));
    lines.push(format!("MACs       {}", ratio(first.macs, second.macs)));
    lines.push(format!("depth      {} → {}", first.depth, second.depth));
    lines.join("\n")
}
