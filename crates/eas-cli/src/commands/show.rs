//! `eas show`: a network, a model, a run, or a trial of a run.

use std::path::Path;

use eas_controller::TrialId;
use eas_ir::{Bytes, Count, Network, SavedModel, cost};
use serde::Serialize;

use super::{bad_input, load_network};
use crate::args;
use crate::exit;
use crate::print;
use crate::report::{Reevaluated, Report};
use crate::runs::{Purpose, Run, TrialResult};

#[derive(Serialize)]
struct Shown {
    network: String,
    fingerprint: String,
    depth: usize,
    parameters: u64,
    macs: u64,
    classes: Vec<String>,
    result: Option<TrialResult>,
}

pub(super) fn run(args: &args::Show) -> anyhow::Result<u8> {
    if Run::is_run(&args.path) {
        let run = Run::open(&args.path)?;
        return match args.trial {
            Some(trial) => show_trial(&run, TrialId(trial), args.json),
            None => show_run(&run, args.json),
        };
    }
    if args.trial.is_some() {
        let path = args.path.display();
        return Err(bad_input(format!("{path}: only a run has trials, and this is no run")));
    }
    let network = load_network(&args.path)?;
    let classes = classes_of(&args.path);
    show_network(&network, classes, None, args.json)
}

fn classes_of(path: &Path) -> Vec<String> {
    // A network file has none; a model that can't be loaded is still a network that can be shown.
    SavedModel::load(path).map(|saved| saved.metadata.classes).unwrap_or_default()
}

fn show_network(
    network: &Network,
    classes: Vec<String>,
    result: Option<TrialResult>,
    json: bool,
) -> anyhow::Result<u8> {
    let shapes = network.verify()?;
    let cost = cost(network, &shapes, 64);
    let fingerprint = network.fingerprint().to_string();
    if json {
        print::json(&Shown {
            network: network.to_toml(),
            fingerprint,
            depth: network.depth(),
            parameters: cost.parameters,
            macs: cost.macs,
            classes,
            result,
        });
        return Ok(exit::SUCCESS);
    }
    let mut text = format!(
        "{network}\ndepth {}, {} parameters, {} MACs, {} to train batches of 64\nfingerprint \
         {fingerprint}\n",
        network.depth(),
        Count(cost.parameters),
        Count(cost.macs),
        Bytes(cost.memory),
    );
    if !classes.is_empty() {
        text += &format!("classes {}\n", classes.join(", "));
    }
    print::result(&text);
    Ok(exit::SUCCESS)
}

fn show_trial(run: &Run, trial: TrialId, json: bool) -> anyhow::Result<u8> {
    let result = run.result(trial).map_err(bad_input)?;
    let model = run.model_of(&result);
    if !json {
        let mut lines = vec![format!(
            "trial {trial} ({}): {}, {} epochs, {}",
            result.purpose.words(),
            result.ending_words(),
            result.epochs,
            print::seconds(result.seconds)
        )];
        lines.extend(result.parent.map(|parent| format!("parent {parent}")));
        lines.extend(
            result.same_as.map(|same| {
                format!("cached: the result of trial {same}, whose training is the same")
            }),
        );
        lines.extend(Reevaluated::of(&result, &run.results()?).map(|again| again.text()));
        for (index, step) in result.steps.iter().enumerate().filter(|(_, step)| !step.is_empty()) {
            let edits: Vec<String> = step.iter().map(ToString::to_string).collect();
            lines.push(format!("step {}: {}", index + 1, edits.join(", ")));
        }
        lines.extend(result.certificate.map(|certificate| format!("certificate: {certificate}")));
        lines.extend(result.drift.map(|drift| {
            format!("drift in training mode before training: {drift:.3} deviations of the logits")
        }));
        for attempt in run.attempts(trial) {
            if let Some(ending) = attempt.ending()? {
                lines.push(format!("attempt {}: {}", attempt.number, ending.why));
            }
        }
        if let eas_controller::Ending::Refused { why } | eas_controller::Ending::Failed { why } =
            &result.ending
        {
            lines.push(format!("why: {why}"));
        }
        print::result(&(lines.join("\n") + "\n"));
    }
    match model {
        Ok(saved) => {
            show_network(saved.model.network(), saved.metadata.classes, Some(result), json)
        }
        Err(_) if result.model.is_none() => {
            if json {
                print::json(&serde_json::json!({ "network": null, "result": result }));
            }
            Ok(exit::SUCCESS)
        }
        Err(error) => Err(error),
    }
}

#[derive(Serialize)]
struct ShownRun {
    run: String,
    trials: usize,
    children: usize,
    best_child: Option<TrialResult>,
    report: Option<Report>,
}

fn show_run(run: &Run, json: bool) -> anyhow::Result<u8> {
    let results = run.results()?;
    let report: Option<Report> = run.report()?;
    let children = || results.iter().filter(|result| result.purpose == Purpose::Child);
    // Of several as good, the first: the search takes that one, too.
    let best_child = children().filter(|result| result.accuracy().is_some()).min_by(|a, b| {
        b.accuracy().partial_cmp(&a.accuracy()).unwrap_or(std::cmp::Ordering::Equal)
    });
    if json {
        print::json(&ShownRun {
            run: run.root().display().to_string(),
            trials: results.len(),
            children: children().count(),
            best_child: best_child.cloned(),
            report,
        });
        return Ok(exit::SUCCESS);
    }
    let mut text = format!("{}: {} finished trials\n", run.root().display(), results.len());
    if let Some(best) = best_child {
        text += &format!(
            "best child: trial {}, validation accuracy {}, {} parameters\n",
            best.trial,
            best.ending_words(),
            Count(best.parameters)
        );
    }
    text += &match &report {
        Some(report) => format!("\n{}\n", report.text()),
        None => "The run has not come to its final comparison.\n".to_owned(),
    };
    print::result(&text);
    Ok(exit::SUCCESS)
}
