//! `eas train`: a network trained on a data set, without a search.

use std::ops::ControlFlow;

use eas_ir::{Metadata, Model, Rng, SavedModel};
use eas_train::{Device, EpochRecord, Progress, Recipe, RecipeSpec, TrainingEnd, split, train};
use serde::Serialize;

use super::{bad_input, data_of, given};
use crate::args;
use crate::devices::{ROUNDING, device};
use crate::exit;
use crate::print::{self, percent};
use crate::runs::Run;
use crate::spec::as_toml;
use crate::stop;
use crate::trial::saved;

#[derive(Serialize)]
struct Trained {
    out: String,
    epochs: Vec<EpochRecord>,
    validation_accuracy: Option<f64>,
}

pub(super) fn run(args: &args::Train) -> anyhow::Result<u8> {
    stop::listen();
    let (of_data, of_recipe): (Vec<String>, Vec<String>) =
        args.set.iter().cloned().partition(|argument| argument.starts_with("data."));
    let source = data_of(&args.data, &of_data)?;
    let recipe = recipe(&args.recipe, &of_recipe)?;
    if args.out.exists() {
        return Err(bad_input(format!("{}: this already exists", args.out.display())));
    }
    let rng = Rng::new(args.seed);
    let directory = std::path::Path::new("");
    let all = source.implementation.train(directory).map_err(bad_input)?;
    let options = source.implementation.options();
    let mut data = split(all, options, &rng.split("data")).map_err(bad_input)?;
    let SavedModel { model, metadata } = model(args, &rng)?;
    let (shape, classes) = (data.train.shape(), data.classes.len());
    if model.input_shape() != shape || model.classes() != classes {
        return Err(bad_input(format!(
            "{}: the network takes {} and tells {} classes apart; data set `{}` has {shape} and {classes}",
            args.network.display(),
            model.input_shape(),
            model.classes(),
            source.name
        )));
    }
    if !metadata.classes.is_empty() && metadata.classes != data.classes {
        print::note("note: the model's class names differ from the data set's");
    }
    if let Some(known) = metadata.normalisation {
        // The weights know images that were normalised so.
        data.normalisation = known;
    }
    let device = device(&args.device)?;
    let engine = device.engine()?;
    if device != Device::Cpu {
        print::note(&format!("on {device}; {ROUNDING}"));
    }
    let bar = print::Bar::new(0);
    let mut shown = None;
    let training = train(
        engine.as_ref(),
        &model,
        None,
        &data,
        &recipe,
        0..recipe.epochs,
        &|_| true,
        &rng.split("train"),
        &mut |progress| {
            match progress {
                Progress::Step { epoch, done, steps, .. } => {
                    if shown.is_none() {
                        bar.set_length((recipe.epochs * steps) as u64);
                    }
                    bar.message(&format!("epoch {}", epoch + 1));
                    let trained = (epoch * steps + done) as u64;
                    bar.advance(trained - shown.replace(trained).unwrap_or(0));
                }
                Progress::Epoch(epoch) => bar.line(&format!(
                    "epoch {:3}  loss {:.4}  training {:>8}  validation {:>8}  {}",
                    epoch.epoch + 1,
                    epoch.training_loss,
                    percent(epoch.training_accuracy),
                    epoch.validation_accuracy.map_or("-".to_owned(), percent),
                    print::seconds(epoch.seconds)
                )),
            }
            if stop::interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    )?;
    bar.finish();
    if let TrainingEnd::Diverged { epoch } = training.end {
        print::note(&format!(
            "error: the loss left the finite numbers in epoch {}; try a lower learning_rate",
            epoch + 1
        ));
        return Ok(exit::FAILURE);
    }
    saved(training.model, &data)?.save(&args.out)?;
    let validation_accuracy = training.epochs.last().and_then(|last| last.validation_accuracy);
    let out = args.out.display().to_string();
    if args.json {
        print::json(&Trained { out, epochs: training.epochs, validation_accuracy });
    } else {
        let accuracy = validation_accuracy.map_or("-".to_owned(), percent);
        print::result(&format!("Validation accuracy {accuracy}. Wrote {out}"));
    }
    let interrupted = training.end == TrainingEnd::Interrupted;
    Ok(if interrupted { exit::INTERRUPTED } else { exit::SUCCESS })
}

/// The model's own weights where there are some, else fresh ones without metadata.
fn model(args: &args::Train, rng: &Rng) -> anyhow::Result<SavedModel> {
    let is_model = args.trial.is_some()
        || Run::is_run(&args.network)
        || SavedModel::has_weights(&args.network);
    if is_model && !args.from_scratch {
        let asked = args::Model { path: args.network.clone(), trial: args.trial };
        return Ok(given::model(&asked)?.saved);
    }
    let network = given::network(&args.network, args.trial)?;
    let model = Model::initialise(network, &rng.split("initialise"))?;
    Ok(SavedModel { model, metadata: Metadata::default() })
}

fn recipe(preset: &str, set: &[String]) -> anyhow::Result<Recipe> {
    let mut lines = vec![format!("recipe = {}", toml::Value::from(preset))];
    for argument in set {
        if !argument.contains('=') {
            return Err(bad_input(format!("--set {argument}: expected KEY=VALUE")));
        }
        lines.push(as_toml(argument));
    }
    let spec: RecipeSpec =
        toml::from_str(&lines.join("\n")).map_err(|error| bad_input(error.message()))?;
    let recipe = spec.resolve(Recipe::quick());
    recipe.check().map_err(|(key, message)| bad_input(format!("{key}: {message}")))?;
    Ok(recipe)
}
