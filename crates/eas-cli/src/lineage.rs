//! How a network of a run came about.

use std::collections::BTreeMap;

use anyhow::Context;
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
    let results = run.results()?;
    let candidates = results.iter().filter(|result| result.purpose.is_candidate());
    let best = candidates.filter(|result| result.is_trained()).min_by(|a, b| a.compare(b));
    best.map(|result| result.trial).context("no trial has been trained yet")
}

/// A trial's line, from the start network on.
pub(crate) fn ancestors(run: &Run, trial: TrialId) -> anyhow::Result<Vec<TrialResult>> {
    let mut results: BTreeMap<TrialId, TrialResult> =
        run.results()?.into_iter().map(|result| (result.trial, result)).collect();
    let mut line = Vec::new();
    let mut next = Some(trial);
    // Taken out, so that a damaged record that names itself as its parent ends the line.
    while let Some(result) = next.and_then(|trial| results.remove(&trial)) {
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
