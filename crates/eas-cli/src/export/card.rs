//! The model card: what a model is, where it comes from and how it is used, for whoever gets its folder.

use eas_ir::{Count, Op, SavedModel, Shape, cost};
use eas_train::Recipe;

use super::{Form, Manifest, Written};
use crate::lineage;
use crate::plan::Plan;
use crate::print::{legible, percent, seconds};
use crate::report::Report;
use crate::runs::{Event, Run, TrialResult};

/// What is known of how a model came about.
#[derive(Debug)]
pub(crate) struct Story {
    /// What the model is called: the run's name, or its folder.
    name: String,
    /// Nothing of a bare model, which keeps no records.
    run: Option<RunStory>,
}

/// How many images a run's data were split into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) training: usize,
    pub(crate) validation: usize,
    /// Whether images of a group stay together.
    pub(crate) in_groups: bool,
}

/// What the records of a run tell.
#[derive(Debug)]
struct RunStory {
    /// The run's folder, as it was given.
    folder: String,
    /// Nothing where this program lacks what the plan names.
    plan: Option<Plan>,
    /// Where the data were there to count them.
    images: Option<Counts>,
    result: TrialResult,
    /// From the start network to this one.
    line: Vec<TrialResult>,
    recipes: Vec<Recipe>,
    report: Option<Report>,
    /// Times that `eas test` opened the test images.
    tests: usize,
    children: usize,
    version: String,
    /// Of work on the run.
    seconds: f64,
}

impl Story {
    /// Of a model without records.
    pub(crate) fn bare(name: &str) -> Self {
        Story { name: name.to_owned(), run: None }
    }

    /// Of a trial of a run.
    ///
    /// # Errors
    /// Records that can't be read.
    pub(crate) fn of_trial(
        run: &Run,
        result: &TrialResult,
        plan: Option<Plan>,
        images: Option<Counts>,
    ) -> anyhow::Result<Self> {
        let folder = run.root().display().to_string();
        let children = run.results()?;
        let children =
            children.iter().filter(|result| result.purpose == crate::runs::Purpose::Child);
        let name = plan.as_ref().map_or_else(|| folder.clone(), |plan| plan.name.clone());
        let known = RunStory {
            plan,
            images,
            line: lineage::ancestors(run, result.trial)?,
            recipes: run.record(result.trial)?.recipes,
            report: run.report()?,
            tests: run.events()?.iter().filter(|e| matches!(e, Event::Tested { .. })).count(),
            children: children.count(),
            version: run.build()?.version,
            seconds: run.seconds(),
            result: result.clone(),
            folder,
        };
        Ok(Story { name, run: Some(known) })
    }
}

/// A text from elsewhere, as it can stand in a table or a line.
fn plain(text: &str) -> String {
    let mut shown = String::new();
    for c in legible(text).chars() {
        if "\\`*_|<>[]".contains(c) {
            shown.push('\\');
        }
        shown.push(c);
    }
    shown
}

/// Markdown of two columns.
fn table(rows: &[(&str, String)]) -> String {
    let lines: String =
        rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    format!("| | |\n|---|---|\n{}", lines.trim_end())
}

fn block(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(|line| format!("    {line}")).collect();
    lines.join("\n").replace("    \n", "\n")
}

/// The model card, in Markdown.
pub(super) fn card(saved: &SavedModel, story: &Story, manifest: &Manifest) -> String {
    let (model, network) = (&saved.model, saved.model.network());
    let layers = network.nodes().iter();
    let convolutions = layers.filter(|node| matches!(node.op, Op::Conv { .. })).count();
    let what = if convolutions > 0 { "A convolutional network" } else { "A network" };
    let mut parts = vec![format!(
        "# Model card: {}\n\n{what} that tells {} classes apart in images of {}, exported by EAS {} (efficient \
         architecture search by network transformation).",
        plain(&story.name),
        model.classes(),
        model.input_shape(),
        manifest.eas
    )];
    parts.push(figures(saved, story));
    parts.push(match &story.run {
        Some(run) => format!("{}\n\n{}", origin(run), repetition(run)),
        None => "## Where it comes from\n\nThis was exported from a model's folder, which keeps no records: \
                 neither the data that it was trained on, nor how, nor how well it does is known here. What \
                 is exported from a run tells all of that."
            .to_owned(),
    });
    parts.push(use_of(saved, manifest));
    parts.push(checks(manifest));
    parts.join("\n\n") + "\n"
}

fn figures(saved: &SavedModel, story: &Story) -> String {
    let model = &saved.model;
    let cost = cost(model.network(), model.shapes(), 1);
    let metadata = &saved.metadata;
    let numbers = |values: &[f32]| {
        values.iter().map(|value| format!("{value:.4}")).collect::<Vec<_>>().join(", ")
    };
    let classes: Vec<String> = metadata.classes.iter().map(|class| plain(class)).collect();
    let input = match &metadata.normalisation {
        Some(known) => format!(
            "{}, (pixel / 255 - mean) / deviation; mean {}, deviation {}",
            model.input_shape(),
            numbers(&known.mean),
            numbers(&known.deviation)
        ),
        None => format!("{}; how images are normalised is not known", model.input_shape()),
    };
    let mut rows = vec![("input", input)];
    rows.push((
        "classes",
        match classes.is_empty() {
            true => format!("{}, without names", model.classes()),
            false => classes.join(", "),
        },
    ));
    if let Some(run) = &story.run {
        let images = run.report.as_ref().map(|report| report.validation_images);
        let images = images.or(run.images.map(|counts| counts.validation));
        let on = images.map_or(String::new(), |images| format!(" on {images} images"));
        rows.push((
            "validation accuracy",
            match run.result.accuracy() {
                Some(accuracy) => format!("{}{on}", percent(accuracy)),
                None => "not known: it was trained on the validation images too".to_owned(),
            },
        ));
        rows.push(("test accuracy", tested(run)));
    }
    rows.push(("parameters", Count(cost.parameters).to_string()));
    rows.push(("multiply-accumulates of an image", Count(cost.macs).to_string()));
    rows.push(("convolutions and linear layers", model.network().depth().to_string()));
    rows.push(("fingerprint", format!("`{}`", model.network().fingerprint())));
    table(&rows)
}

fn tested(run: &RunStory) -> String {
    let report = run.report.as_ref();
    let row = report.and_then(|report| {
        Some((report, report.rows.iter().find(|row| row.trial == run.result.trial)?))
    });
    let Some((report, row)) = row else {
        return "not measured: the run has opened no test images for this network".to_owned();
    };
    let opened = std::time::UNIX_EPOCH + std::time::Duration::from_secs(report.test_opened);
    let times = match run.tests {
        0 => "were opened once,".to_owned(),
        1 => "`eas test` opened once, and the report".to_owned(),
        tests => format!("`eas test` opened {tests} times, and the report"),
    };
    format!(
        "{} on {} images, which {times} at {}, after the choice was made",
        percent(row.test_accuracy),
        report.test_images,
        humantime::format_rfc3339_seconds(opened)
    )
}

/// Data, search, training and ancestors.
fn origin(run: &RunStory) -> String {
    let mut rows = Vec::new();
    if let Some(plan) = &run.plan {
        let source = &plan.data.implementation;
        rows.push(("data", plain(&plan.data.name)));
        rows.push(("licence of the data", plain(source.licence())));
        if let Some(Counts { training, validation, in_groups }) = run.images {
            let rule = match in_groups {
                false => "each class in proportion, drawn from the seed",
                true => "whole groups, drawn from the seed, no class beyond its share",
            };
            rows.push((
                "split",
                format!("{training} training, {validation} validation images; {rule}"),
            ));
        }
        let augment = toml::Value::try_from(source.options().augment);
        rows.push(("augmentation", augment.map_or(String::new(), |value| format!("`{value}`"))));
        let transforms: Vec<&str> = plan.transforms.names().collect();
        rows.push(("space", format!("{}, grown by {}", plan.space.name, transforms.join(", "))));
        rows.push(("controller", plan.controller.name.clone()));
        rows.push(("seed", plan.seed.to_string()));
    }
    rows.push(("search", format!("{} children, {} of work", run.children, seconds(run.seconds))));
    rows.push(("made by", format!("EAS {}", run.version)));
    let mut text = format!("## Where it comes from\n\n{}", table(&rows));
    if run.plan.is_none() {
        text += "\n\nThe run's plan names plugins that the exporting program lacks, so it isn't told here.";
    }
    text += "\n\n### Its line, from the start network on\n\n";
    text += &block(&lineage::text(&run.line));
    text += "\n\n### How it was trained last\n\n";
    let recipes: Vec<String> =
        run.recipes.iter().filter_map(|recipe| toml::to_string(recipe).ok()).collect();
    text += &block(&recipes.join("\n"));
    if let Some(report) = &run.report {
        text += "\n\n### What it was compared with\n\n";
        text += &block(&report.text());
    }
    text
}

fn repetition(run: &RunStory) -> String {
    let plan = legible(&format!("{}/plan.toml", run.folder));
    let plan = shlex::try_quote(&plan).unwrap_or_else(|_| plan.as_str().into());
    let how = match run.result.gpu {
        None => "With one build on one kind of processor the result is the same to the last bit.",
        Some(_) => {
            "It was trained on a GPU, where a training comes to the same again but for rounding, by which the search may choose otherwise."
        }
    };
    format!(
        "## To repeat it\n\n    eas search {plan} --run again\n    eas export again --trial {} \
         --out exported\n\nThe plan holds every default as it was. {how}",
        run.result.trial
    )
}

fn use_of(saved: &SavedModel, manifest: &Manifest) -> String {
    let mut text = "## How to use it".to_owned();
    let has = |form| manifest.forms.iter().any(|written| written.form == form);
    let sides = match saved.model.input_shape() {
        Shape::Image { channels, height, width } => format!("{channels}, {height}, {width}"),
        Shape::Flat { features } => features.to_string(),
    };
    if has(Form::Safetensors) {
        text += "\n\n**EAS** (`network.toml`, `weights.safetensors`): this folder is a model.\n\n    \
                 eas predict . picture.png\n    eas show .";
    }
    if has(Form::Onnx) {
        let pixels = manifest.onnx_normalisation_folded;
        let given = match pixels {
            true => "pixels as they are, 0 to 255, as f32",
            false => "normalised images, as f32",
        };
        let norms = match (manifest.onnx_batch_norms_folded, has_batch_norms(saved)) {
            (true, _) => {
                " Batch norms are folded into the layers before them, where there are some."
            }
            (false, true) => " Batch norms stand as they are.",
            (false, false) => "",
        };
        text += &format!(
            "\n\n**ONNX** (`model.onnx`, opset 17): `images`, {given}, [batch, {sides}], to `logits`.{norms}\n\n    \
             import onnxruntime\n    session = onnxruntime.InferenceSession(\"model.onnx\")\n    \
             logits = session.run([\"logits\"], {{\"images\": images}})[0]"
        );
    }
    if has(Form::Pytorch) {
        text += &format!(
            "\n\n**PyTorch** (`model.py`, `model.safetensors`): needs torch alone.\n\n    \
             python model.py --check\n\nor\n\n    import torch, model\n    network = model.load()\n    \
             logits = network(model.normalise(pixels))  # uint8, [batch, {sides}]"
        );
    }
    text
}

fn has_batch_norms(saved: &SavedModel) -> bool {
    let mut nodes = saved.model.network().nodes().iter();
    nodes.any(|node| matches!(node.op, Op::BatchNorm { .. }))
}

fn checks(manifest: &Manifest) -> String {
    let row = |written: &Written| {
        let found = match (&written.gap, &written.not_verified) {
            (Some(gap), _) => format!("{gap:.1e} | {}", written.images),
            (None, why) => {
                format!("not run: {} | 0", plain(why.as_deref().unwrap_or("not asked for")))
            }
        };
        format!("| {} | {found} |\n", written.form.name())
    };
    let rows: String = manifest.forms.iter().map(row).collect();
    format!(
        "## Whether it is the same\n\nEach form was read again and run, save as said here. The largest difference of a logit from \
         the stored network's, in deviations of the logits (1e-4 is allowed):\n\n| form | difference | images \
         |\n|---|---|---|\n{}",
        rows.trim_end()
    )
}
