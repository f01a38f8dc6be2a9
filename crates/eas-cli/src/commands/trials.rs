//! `eas trials`: every finished trial of a run.

use std::collections::BTreeMap;

use eas_ir::Count;

use super::bad_input;
use crate::args::{self, Format};
use crate::exit;
use crate::print;
use crate::runs::{Purpose, Run, TrialResult};

pub(super) fn run(args: &args::Trials) -> anyhow::Result<u8> {
    let run = Run::open(&args.run).map_err(bad_input)?;
    let results = run.listing()?.results()?;
    match args.format() {
        Format::Json => print::json(&results),
        Format::Csv => print::result(&csv(&results)),
        Format::Table => print::result(&table(&results)),
    }
    Ok(exit::SUCCESS)
}

fn edits(result: &TrialResult) -> String {
    let edits: Vec<String> = result.steps.iter().flatten().map(ToString::to_string).collect();
    edits.join(", ")
}

fn table(results: &[TrialResult]) -> String {
    let header =
        ["trial", "what", "parent", "validation", "parameters", "MACs", "depth", "time", "edits"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let mut children: BTreeMap<_, &TrialResult> = BTreeMap::new();
    for child in results.iter().filter(|child| child.purpose == Purpose::Child) {
        children.entry((child.parent, child.fingerprint.as_str())).or_insert(child);
    }
    for result in results {
        let child = children.get(&(result.parent, result.fingerprint.as_str()));
        let child = child.filter(|child| result.reevaluates(child));
        let again = match (result.same_as, child) {
            (Some(same), _) => format!(" (cached: {same})"),
            (None, Some(child)) => format!(" ({} again)", child.trial),
            (None, None) => String::new(),
        };
        let before =
            result.continues.map_or(String::new(), |before| format!(" (from {before} on)"));
        rows.push(vec![
            result.trial.to_string(),
            result.purpose.words().to_owned(),
            result.parent.map_or("-".to_owned(), |parent| parent.to_string()),
            result.ending_words() + &before + &again,
            Count(result.parameters).to_string(),
            Count(result.macs).to_string(),
            result.depth.to_string(),
            print::seconds(result.seconds),
            result.steps.iter().flatten().count().to_string(),
        ]);
    }
    print::table(&rows)
}

fn csv(results: &[TrialResult]) -> String {
    let mut text =
        "trial,purpose,parent,same_as,continues,ending,validation_accuracy,epochs,parameters,macs,\
                    depth,certificate_gap,drift,seconds,edits\n"
            .to_owned();
    let optional = |value: Option<String>| value.unwrap_or_default();
    for result in results {
        let ending = match &result.ending {
            eas_controller::Ending::Trained { .. } => "trained",
            eas_controller::Ending::Stopped { .. } => "stopped",
            eas_controller::Ending::Diverged { .. } => "diverged",
            eas_controller::Ending::Refused { .. } => "refused",
            eas_controller::Ending::Failed { .. } => "failed",
        };
        text += &format!(
            "{},{},{},{},{},{ending},{},{},{},{},{},{},{},{:.3},\"{}\"\n",
            result.trial,
            result.purpose.words().replace(", ", " "),
            optional(result.parent.map(|id| id.to_string())),
            optional(result.same_as.map(|id| id.to_string())),
            optional(result.continues.map(|id| id.to_string())),
            optional(result.accuracy_reached().map(|accuracy| accuracy.to_string())),
            result.epochs,
            result.parameters,
            result.macs,
            result.depth,
            optional(result.certificate.map(|known| format!("{:e}", known.gap))),
            optional(result.drift.map(|drift| drift.to_string())),
            result.seconds,
            edits(result),
        );
    }
    text
}
