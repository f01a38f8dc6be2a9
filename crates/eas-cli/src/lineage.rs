//! How a network of a run came about.

use anyhow::{Context, ensure};
use eas_controller::TrialId;

use crate::report::Report;
use crate::runs::{Run, TrialResult};

/// The trial that was handed over, or the best one so far.
pub(crate) fn best(run: &Run) -> anyhow::Result<TrialId> {
    if let Some(report) = run.report::<Report>()?
        && let Some(row) = report.rows.first()
    {
        return Ok(row.trial);
    }
    let best = run.listing()?.best()?;
    best.map(|result| result.trial).context("no trial has been trained yet")
}

/// A trial's line, from the start network on.
pub(crate) fn ancestors(run: &Run, trial: TrialId) -> anyhow::Result<Vec<TrialResult>> {
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

/// A line in words: a line a trial, after the edits that made it.
pub(crate) fn text(line: &[TrialResult]) -> String {
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
