//! `eas export`: a model for other programs.

use std::path::Path;

use eas_ir::onnx::OnnxOptions;
use eas_train::{Split, TrainingData};

use super::bad_input;
use super::given::{self, Given};
use super::search::{Prepared, plan_of_run, prepare};
use crate::args;
use crate::exit;
use crate::export::{self, Aside, Checks, Disagreement, Manifest, Story, Written, Yardstick};
use crate::plan::Plan;
use crate::print;
use crate::runs::Run;

/// Validation images that what was written is run on.
const VALIDATION_IMAGES: usize = 256;

pub(super) fn run(args: &args::Export) -> anyhow::Result<u8> {
    let given = given::model(&args.model)?;
    let onnx = OnnxOptions {
        fold_batch_norms: args.fold_batch_norms,
        fold_normalisation: args.fold_normalisation,
    };
    if onnx.fold_normalisation && given.saved.metadata.normalisation.is_none() {
        return Err(bad_input(format!(
            "{}: the model doesn't say how images are normalised, so that can't be folded",
            given.name
        )));
    }
    if lies_in(&args.model.path, &args.out) {
        let out = args.out.display();
        return Err(bad_input(format!(
            "{out}: the model lies in it, and an export takes the place of its folder; expected another name"
        )));
    }
    let aside = Aside::begin(&args.out).map_err(bad_input)?;
    let (plan, data) = known_of(&given);
    let checks = (!args.no_verify).then(|| Checks {
        python: args.python.clone(),
        folded_normalisation: onnx.fold_normalisation,
    });
    match written(args, &given, &aside, data.as_ref(), onnx, checks) {
        Ok(manifest) => {
            let images = data.map(|data| export::Counts {
                training: data.train.len(),
                validation: data.validation.len(),
                in_groups: data.train.source().groups().is_some(),
            });
            let story = match &given.from {
                Some((run, result)) => Story::of_trial(run, result, plan, images)?,
                None => Story::bare(&name_of(&args.model.path)),
            };
            export::finish(aside, &given.saved, &story, &manifest)?;
            show(args, &manifest);
            Ok(exit::SUCCESS)
        }
        Err(error) if error.is::<Disagreement>() => {
            let out = args.out.display();
            print::error(&error.context(format!("{out}: what was written is another network")));
            print::note("Nothing was kept of it.");
            Ok(exit::NO)
        }
        Err(error) => Err(error),
    }
}

/// Whether a path is a folder, or leads into it, by whatever name.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(folder).is_some_and(|folder| real(path).is_some_and(|path| path.starts_with(folder)))
}

/// Writes every form that was asked for, and runs it.
fn written(
    args: &args::Export,
    given: &Given,
    aside: &Aside,
    data: Option<&TrainingData>,
    onnx: OnnxOptions,
    checks: Option<Checks>,
) -> anyhow::Result<Manifest> {
    let saved = &given.saved;
    let validation = data.map(|data| data.validation.first(VALIDATION_IMAGES));
    let bar = print::Bar::new(2 * args.forms().len() as u64);
    let yardstick = checks
        .as_ref()
        .map(|_| Yardstick::of(saved, validation.as_ref().filter(|split| fits(given, split))))
        .transpose()?;
    let mut forms = Vec::new();
    for form in args.forms() {
        bar.message(&format!("writing {}", form.name()));
        export::write(aside, form, saved, &onnx)?;
        bar.advance(1);
        let mut written = export::written(aside, form)?;
        if let (Some(yardstick), Some(checks)) = (&yardstick, &checks) {
            bar.message(&format!("running {}", form.name()));
            match yardstick.check(aside.folder(), form, checks)? {
                Ok(gap) => (written.gap, written.images) = (Some(gap), yardstick.images()),
                Err(why) => written.not_verified = Some(why),
            }
        }
        bar.advance(1);
        forms.push(written);
    }
    bar.finish();
    Ok(Manifest {
        eas: env!("CARGO_PKG_VERSION").to_owned(),
        model: given.name.clone(),
        fingerprint: saved.model.network().fingerprint().to_string(),
        onnx_batch_norms_folded: onnx.fold_batch_norms,
        onnx_normalisation_folded: onnx.fold_normalisation,
        images: yardstick.map(|yardstick| yardstick.words),
        forms,
    })
}

/// Whether images are such as the model takes.
fn fits(given: &Given, images: &Split) -> bool {
    images.shape() == given.saved.model.input_shape()
}

/// The plan and the data of a model's run, as far as they can be had here.
fn known_of(given: &Given) -> (Option<Plan>, Option<TrainingData>) {
    let Some((run, _)) = &given.from else { return (None, None) };
    let plan = match plan_of_run(run) {
        Ok(plan) => plan,
        Err(error) => {
            print::note(&format!("note: the run's plan can't be read here: {error:#}"));
            return (None, None);
        }
    };
    let data = data_of(run, &plan);
    (Some(plan), data)
}

fn data_of(run: &Run, plan: &Plan) -> Option<TrainingData> {
    match prepare(plan) {
        Ok(Prepared { data, .. }) => Some(data),
        Err(error) => {
            let root = run.root().display();
            print::note(&format!("note: {root}: without validation images: {error:#}"));
            None
        }
    }
}

fn name_of(path: &Path) -> String {
    let name = std::path::absolute(path).ok();
    let name = name.as_deref().and_then(Path::file_name);
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn show(args: &args::Export, manifest: &Manifest) {
    if args.json {
        print::json(manifest);
        return;
    }
    let header = ["form", "files", "size", "largest difference", "images"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for Written { form, files, bytes, gap, images, not_verified } in &manifest.forms {
        let found = match (gap, not_verified) {
            (Some(gap), _) => format!("{gap:.1e} deviations"),
            (None, Some(why)) => format!("not verified: {why}"),
            (None, None) => "not verified".to_owned(),
        };
        let size = eas_ir::Bytes(*bytes).to_string();
        let row = [form.name().to_owned(), files.join(", "), size, found, images.to_string()];
        rows.push(row.to_vec());
    }
    let mut text = print::table(&rows);
    let ran = manifest.forms.iter().any(|written| written.gap.is_some());
    if let Some(words) = manifest.images.as_ref().filter(|_| ran) {
        text += &format!(
            "\n\nWhat was run on {words} is the same network, to 1e-4 deviations of the logits."
        );
    }
    text += &format!("\nWrote {}, with a model card, README.md", args.out.display());
    print::result(&text);
}
