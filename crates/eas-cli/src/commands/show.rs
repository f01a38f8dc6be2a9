//! `eas show`: a network, a model, a run, or a trial of a run.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use eas_controller::TrialId;
use eas_ir::{Count, Network, SavedModel};
use eas_train::Device;
use serde::Serialize;

use super::search::network_of_trial;
use super::{bad_input, given};
use crate::args::{self, Drawing};
use crate::exit;
use crate::lineage;
use crate::picture::{self, Block, Picture};
use crate::print;
use crate::report::{Reevaluated, Report};
use crate::runs::{Gone, Purpose, Run, TrialResult};

#[derive(Serialize)]
struct Shown {
    network: String,
    fingerprint: String,
    depth: usize,
    parameters: u64,
    macs: u64,
    blocks: Vec<ShownBlock>,
    classes: Vec<String>,
    result: Option<TrialResult>,
}

#[derive(Serialize)]
struct ShownBlock {
    name: String,
    layers: String,
    output: String,
    parameters: u64,
    macs: u64,
}

pub(super) fn run(args: &args::Show) -> anyhow::Result<u8> {
    let text = shown(args)?;
    let Some(out) = &args.out else {
        match args.format() {
            Drawing::Json => print::verbatim(&text),
            Drawing::Text | Drawing::Dot | Drawing::Svg => print::result(&text),
        }
        return Ok(exit::SUCCESS);
    };
    let path = out.display();
    let mut file = std::fs::File::create_new(out).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => bad_input(format!("{path}: this already exists")),
        _ => bad_input(format!("can't write {path}: {error}")),
    })?;
    file.write_all(text.as_bytes()).with_context(|| format!("can't write {path}"))?;
    print::note(&format!("Wrote {path}"));
    Ok(exit::SUCCESS)
}

fn shown(args: &args::Show) -> anyhow::Result<String> {
    if Run::is_run(&args.path) {
        let run = Run::open(&args.path)?;
        return match args.trial() {
            Some(name) => show_trial(&run, given::trial(&run, Some(name))?, args),
            None => show_run(&run, args),
        };
    }
    let network = given::network(&args.path, args.trial())?;
    let classes = classes_of(&args.path);
    show_network(&network, classes, None, args)
}

fn classes_of(path: &Path) -> Vec<String> {
    // A network file has none; a model that can't be loaded is still a network that can be shown.
    SavedModel::load(path).map(|saved| saved.metadata.classes).unwrap_or_default()
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

fn show_network(
    network: &Network,
    classes: Vec<String>,
    result: Option<TrialResult>,
    args: &args::Show,
) -> anyhow::Result<String> {
    let picture = Picture::of(network, &network.verify()?);
    let fingerprint = network.fingerprint().to_string();
    match args.format() {
        Drawing::Dot => Ok(picture::dot(&picture)),
        Drawing::Svg => Ok(picture::svg(&picture)),
        Drawing::Json => json(&Shown {
            network: network.to_toml(),
            fingerprint,
            depth: picture.depth,
            parameters: picture.cost.parameters,
            macs: picture.cost.macs,
            blocks: picture.blocks.iter().map(ShownBlock::of).collect(),
            classes,
            result,
        }),
        Drawing::Text => {
            let mut text = picture::text(&picture);
            if args.nodes {
                text = format!("{network}\n{text}");
            }
            text += &format!("fingerprint {fingerprint}\n");
            if !classes.is_empty() {
                text += &format!("classes {}\n", classes.join(", "));
            }
            Ok(text)
        }
    }
}

impl ShownBlock {
    fn of(block: &Block) -> Self {
        ShownBlock {
            name: block.name.clone(),
            layers: picture::chain_words(&block.chain),
            output: block.output.to_string(),
            parameters: block.cost.parameters,
            macs: block.cost.macs,
        }
    }
}

fn show_trial(run: &Run, trial: TrialId, args: &args::Show) -> anyhow::Result<String> {
    let result = run.result(trial).map_err(bad_input)?;
    let mut text = String::new();
    if args.format() == Drawing::Text {
        text = format!("{}\n", about_trial(run, &result)?);
    }
    match run.model_of(&result) {
        Ok(saved) => {
            if !text.is_empty() {
                text.push('\n');
            }
            let classes = saved.metadata.classes;
            Ok(text + &show_network(saved.model.network(), classes, Some(result), args)?)
        }
        Err(error) if error.is::<Gone>() => {
            if !text.is_empty() {
                text += "\nits weights were collected: nothing in the run needed them any more\n\n";
            }
            let network = network_of_trial(run, &result)?;
            Ok(text + &show_network(&network, Vec::new(), Some(result), args)?)
        }
        Err(_) if result.model.is_none() => match args.format() {
            Drawing::Text => Ok(text),
            Drawing::Json => json(&serde_json::json!({ "network": null, "result": result })),
            Drawing::Dot | Drawing::Svg => {
                Err(bad_input(format!("trial {trial} has no network to draw: it was not trained")))
            }
        },
        Err(error) => Err(error),
    }
}

/// What is known of a trial, its network apart.
fn about_trial(run: &Run, result: &TrialResult) -> anyhow::Result<String> {
    let mut lines = vec![format!(
        "trial {} ({}): {}, {} epochs, {}",
        result.trial,
        result.purpose.words(),
        result.ending_words(),
        result.epochs,
        print::seconds(result.seconds)
    )];
    lines.extend(result.gpu.map(|gpu| format!("trained on {}", Device::Cuda(gpu))));
    lines.extend(result.parent.map(|parent| format!("parent {parent}")));
    lines.extend(
        result
            .same_as
            .map(|same| format!("cached: the result of trial {same}, whose training is the same")),
    );
    lines.extend(Reevaluated::of(result, &run.listing()?.results()?).map(|again| again.text()));
    for (index, step) in result.steps.iter().enumerate().filter(|(_, step)| !step.is_empty()) {
        let edits: Vec<String> = step.iter().map(ToString::to_string).collect();
        lines.push(format!("step {}: {}", index + 1, edits.join(", ")));
    }
    lines.extend(
        result.certificate.as_ref().map(|certificate| format!("certificate: {certificate}")),
    );
    lines.extend(result.drift.map(|drift| {
        format!("drift in training mode before training: {drift:.3} deviations of the logits")
    }));
    for attempt in run.attempts(result.trial) {
        if let Some(ending) = attempt.ending()? {
            lines.push(format!("attempt {}: {}", attempt.number, ending.why));
        }
    }
    if let eas_controller::Ending::Refused { why } | eas_controller::Ending::Failed { why } =
        &result.ending
    {
        lines.push(format!("why: {why}"));
    }
    if result.model.is_some() && result.steps.iter().any(|step| !step.is_empty()) {
        let (root, trial) = (run.root().display(), result.trial);
        lines.push(format!("layer by layer: eas diff {root} --trial {trial}"));
    }
    Ok(lines.join("\n"))
}

#[derive(Serialize)]
struct ShownRun {
    run: String,
    trials: usize,
    children: usize,
    best_child: Option<TrialResult>,
    report: Option<Report>,
}

fn show_run(run: &Run, args: &args::Show) -> anyhow::Result<String> {
    let drawing = || -> anyhow::Result<String> {
        let best = run.result(lineage::best(run)?)?;
        show_network(&network_of_trial(run, &best)?, Vec::new(), None, args)
    };
    if let Drawing::Dot | Drawing::Svg = args.format() {
        return drawing();
    }
    let results = run.listing()?.results()?;
    let report: Option<Report> = run.report()?;
    let children = || results.iter().filter(|result| result.purpose == Purpose::Child);
    // Of several as good, the first: the search takes that one, too.
    let best_child = children().filter(|result| result.accuracy().is_some()).min_by(|a, b| {
        b.accuracy().partial_cmp(&a.accuracy()).unwrap_or(std::cmp::Ordering::Equal)
    });
    if args.format() == Drawing::Json {
        return json(&ShownRun {
            run: run.root().display().to_string(),
            trials: results.len(),
            children: children().count(),
            best_child: best_child.cloned(),
            report,
        });
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
    if results.iter().any(|result| result.purpose.is_candidate() && result.is_trained()) {
        // A run of which only the records were copied still has a result.
        let drawing = drawing().unwrap_or_else(|error| format!("can't be drawn: {error:#}\n"));
        text += &format!("\nThe best network:\n\n{drawing}");
        text += &format!("what the search changed: eas diff {}\n", run.root().display());
    }
    Ok(text)
}
