//! `eas lineage`: how a network came about.

use anyhow::{Context, ensure};
use eas_controller::TrialId;

use super::bad_input;
use crate::args;
use crate::exit;
use crate::print;
use crate::report::Report;
use crate::runs::{Run, TrialResult};

pub(super) fn run(args: &args::Lineage) -> anyhow::Result<u8> {
    let run = Run::open(&args.run).map_err(bad_input)?;
    let trial = match args.trial {
        Some(trial) => run.result(TrialId(trial)).map_err(bad_input)?.trial,
        None => best(&run)?,
    };
    let line = ancestors(&run, trial)?;
    if args.dot {
        print::result(&dot(&run.listing()?.results()?, &line));
    } else if args.json {
        print::json(&line);
    } else {
        print::result(&text(&line));
    }
    Ok(exit::SUCCESS)
}

/// The trial that was handed over, or the best one so far.
pub(super) fn best(run: &Run) -> anyhow::Result<TrialId> {
    if let Some(report) = run.report::<Report>()?
        && let Some(row) = report.rows.first()
    {
        return Ok(row.trial);
    }
    let best = run.listing()?.best()?;
    best.map(|result| result.trial).context("no trial has been trained yet")
}

/// A trial's line, from the start network on.
fn ancestors(run: &Run, trial: TrialId) -> anyhow::Result<Vec<TrialResult>> {
    let mut line: Vec<TrialResult> = Vec::new();
    let mut next = Some(trial);
    while let Some(trial) = next {
        let Some(result) = run.published(trial)? else { break };
        ensure!(
            line.iter().all(|known| known.trial != trial),
            "trial {trial} is among its own ancestors"
        );
        next = result.parent;
        line.push(result);
    }
    line.reverse();
    Ok(line)
}

fn text(line: &[TrialResult]) -> String {
    let mut lines = Vec::new();
    for result in line {
        for (number, step) in result.steps.iter().enumerate().filter(|(_, step)| !step.is_empty()) {
            let edits: Vec<String> = step.iter().map(ToString::to_string).collect();
            lines.push(format!("      step {}: {}", number + 1, edits.join(", ")));
        }
        lines.push(result.line());
    }
    lines.join("\n")
}

/// All trials as a graph in the language of Graphviz, this line drawn thick.
fn dot(results: &[TrialResult], line: &[TrialResult]) -> String {
    let thick = |result: &TrialResult| {
        if line.iter().any(|known| known.trial == result.trial) { ", penwidth=3" } else { "" }
    };
    let mut text = "digraph lineage {\n    node [shape=box];\n".to_owned();
    for result in results {
        let trial = result.trial;
        let label = format!("{trial} {}\\n{}", result.purpose.words(), result.ending_words());
        text += &format!("    \"{trial}\" [label=\"{label}\"{}];\n", thick(result));
        if let Some(parent) = result.parent {
            let edits: Vec<String> =
                result.steps.iter().flatten().map(ToString::to_string).collect();
            let label = edits.join("\\n");
            text +=
                &format!("    \"{parent}\" -> \"{trial}\" [label=\"{label}\"{}];\n", thick(result));
        }
    }
    text + "}\n"
}
