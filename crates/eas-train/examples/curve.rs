//! The training loss of each step, on 5,000 images of CIFAR-10 without augmentation, and all that another
//! engine needs to train the same: the initial weights and the batches in their order.
//! `benches/peers/curve.py` runs it:
//! `EAS_DATA=DIR cargo run --release -p eas-train --example curve -- NETWORK.toml OUT SEED EPOCHS LEARNING_RATE`.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, bail};
use candle_core::{Device, Tensor};
use eas_ir::{Metadata, Model, Network, Rng, SavedModel, Value};
use eas_train::{
    Batches, Cpu, Position, Progress, Recipe, Schedule, TrainingData, data_sets, split, train,
};
use toml::de::{DeTable, DeValue};

#[expect(clippy::print_stdout, reason = "an example says what it found")]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [network, out, seed, epochs, learning_rate] = arguments.as_slice() else {
        bail!("expected NETWORK.toml OUT SEED EPOCHS LEARNING_RATE")
    };
    let epochs: usize = epochs.parse()?;
    let out = Path::new(out);
    let rng = Rng::new(seed.parse()?);
    let model = Model::initialise(Network::load(Path::new(network))?, &rng.split("initialise"))?;
    let data = cifar10(&rng.split("data"))?;
    let recipe = Recipe {
        epochs,
        learning_rate: learning_rate.parse()?,
        schedule: Schedule::Constant,
        ..Recipe::paper_child()
    };
    if !out.exists() {
        SavedModel { model: model.clone(), metadata: Metadata::default() }
            .save(&out.join("model"))?;
        for epoch in 0..epochs {
            keep_batches(&data, &recipe, &rng, epoch, out)?;
        }
    }
    let mut before = Position::default();
    let mut on_progress = |progress: Progress<'_>| {
        if let Progress::Step { done, position, .. } = progress {
            // A position sums up its epoch.
            let begun = if done == 1 { Position::default() } else { before };
            println!("{}", (position.loss - begun.loss) / (position.images - begun.images) as f64);
            before = position;
        }
        ControlFlow::Continue(())
    };
    let never = |_| false;
    train(&Cpu, &model, None, &data, &recipe, 0..epochs, &never, &rng, &mut on_progress)?;
    Ok(())
}

fn keep_batches(
    data: &TrainingData,
    recipe: &Recipe,
    rng: &Rng,
    epoch: usize,
    out: &Path,
) -> anyhow::Result<()> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for drawn in Batches::of_epoch(data, recipe.batch, rng, epoch) {
        let batch = drawn.batch();
        images.extend(batch.images.iter().copied());
        labels.extend(batch.labels.iter().map(|label| *label as u32));
    }
    let shape = (labels.len(), 3, 32, 32);
    let tensors = [
        ("images", Tensor::from_vec(images, shape, &Device::Cpu)?),
        ("labels", Tensor::from_vec(labels, shape.0, &Device::Cpu)?),
    ];
    let file = out.join(format!("epoch-{epoch}.safetensors"));
    Ok(candle_core::safetensors::save(&tensors.into(), file)?)
}

fn cifar10(rng: &Rng) -> anyhow::Result<TrainingData> {
    let path = std::env::var("EAS_DATA").context("EAS_DATA names no folder of CIFAR-10")?;
    let augment = "augment = { pad_crop = 0, mirror = false }";
    let options = format!("path = {}\ntrain = 5000\n{augment}", toml::Value::from(path));
    let table = DeTable::parse(&options)?;
    let options: Value<'_> = toml::Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    let source = data_sets()?.get("cifar10")?.build(options)?.implementation;
    split(source.train(Path::new(""))?, source.options(), rng)
}
