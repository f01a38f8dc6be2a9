//! Whether growing pays, and by which recipe: a start network is trained, grown by one random episode,
//! and the child trained on by each recipe, beside the start network trained on and the child from
//! scratch. A line for each training, tab-separated.
//!
//! `EAS_DATA=DIR cargo run --release -p eas-cli --example growing -- SEEDS IMAGES START_EPOCHS EPOCHS [ARM]`:
//! CIFAR-10 in DIR; the seeds `1..4` or `7`; training images; epochs of the start network and of a
//! child; a part of the names of the arms that are wanted.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use anyhow::{Context, bail};
use eas_controller::{Controller, Random, Scope};
use eas_ir::{Model, Network, Rng, Value, Weights, cost};
use eas_train::{
    Cpu, Momentum, Progress, Recipe, RecipeSpec, TrainingData, calibration_images, data_sets,
    split, train,
};
use eas_transform::{Problem, SearchSpace, Step, Transforms, calibrate, grow, spaces, transforms};
use toml::de::{DeTable, DeValue};

/// What a child begins with.
#[derive(Clone, Copy, PartialEq)]
enum Weight {
    /// Its parent's weights, widened as these options of `widen` have it.
    Inherited(&'static str),
    /// Its own: a new network for so many of the start network's epochs more.
    Scratch { more: bool },
    /// No child: the start network goes on.
    Start,
}

const REPLICAS: Weight = Weight::Inherited("noise = 1e-2");
const NOISY: Weight = Weight::Inherited("noise = 0.5");
const FRESH: Weight = Weight::Inherited("filters = 'fresh'");

/// The name of an arm, what it begins with, and what its recipe has that `quick` hasn't.
const ARMS: [(&str, Weight, &str); 13] = [
    ("start on, 0.1", Weight::Start, ""),
    ("scratch, equal epochs", Weight::Scratch { more: false }, ""),
    ("scratch, all epochs", Weight::Scratch { more: true }, ""),
    ("replicas, 0.02", REPLICAS, "learning_rate = 0.02"),
    ("replicas, 0.1", REPLICAS, ""),
    ("replicas, 0.1, reset", REPLICAS, "momentum = 'reset'"),
    ("replicas, 0.1, linear", REPLICAS, "schedule = 'linear_steps'\nwarmup_epochs = 1"),
    ("noisy, 0.1", NOISY, ""),
    ("fresh, 0.02", FRESH, "learning_rate = 0.02"),
    ("fresh, 0.05", FRESH, "learning_rate = 0.05"),
    ("fresh, 0.1", FRESH, ""),
    ("fresh, 0.2", FRESH, "learning_rate = 0.2"),
    ("fresh, 0.1, linear", FRESH, "schedule = 'linear_steps'\nwarmup_epochs = 1"),
];

struct Study {
    data: TrainingData,
    space: Box<dyn SearchSpace>,
    start_epochs: usize,
    epochs: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seeds, images, start_epochs, epochs, arm @ ..] = arguments.as_slice() else {
        bail!("expected SEEDS IMAGES START_EPOCHS EPOCHS [ARM]");
    };
    let seeds: Range<u64> = match seeds.split_once("..") {
        Some((first, end)) => first.parse()?..end.parse()?,
        None => seeds.parse()?..seeds.parse::<u64>()? + 1,
    };
    let (start_epochs, epochs) = (start_epochs.parse()?, epochs.parse()?);
    let images: usize = images.parse().context("expected a number of images")?;
    let wanted = |name: &str| arm.is_empty() || arm.iter().any(|part| name.contains(part.as_str()));
    for seed in seeds {
        let rng = Rng::new(seed);
        let space = "preset = 'paper'\nlimits = { macs = '12M' }";
        let space = spaces()?.get("convnet")?.build(table(space)?)?.implementation;
        let data = cifar10(images, &rng.split("data"))?;
        let study = Study { data, space, start_epochs, epochs };
        study.of_seed(seed, &rng, &wanted)?;
    }
    Ok(())
}

impl Study {
    #[expect(clippy::print_stdout, reason = "an example says what it found")]
    fn of_seed(&self, seed: u64, rng: &Rng, wanted: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
        let (shape, classes) = (self.data.train.shape(), self.data.classes.len());
        let problem = Problem { input: shape, classes, directory: ".".into() };
        let start = Model::initialise(self.space.start(&problem)?, &rng.split("initialise"))?;
        let recipe = Recipe { epochs: self.start_epochs, ..Recipe::quick() };
        let (start, momentum, accuracy) = self.train(&start, None, &recipe, &rng.split("start"))?;
        println!("{seed}\tstart, {} epochs\t{:.2}", self.start_epochs, 100.0 * accuracy);
        let steps = self.episode(&start, &rng.split("episode"))?;
        let child = eas_transform::grow_network(start.network(), &steps, &with("")?)?;
        println!("{seed}\tmultiply-adds, M\t{:.1}", macs(&child)? as f64 / 1e6);
        for (name, weights, differs) in ARMS.into_iter().filter(|(name, ..)| wanted(name)) {
            let spec: RecipeSpec = toml::from_str(differs)?;
            let usual = Recipe { momentum: Momentum::Carry, ..Recipe::quick() };
            let mut recipe = Recipe { epochs: self.epochs, ..spec.resolve(usual) };
            let (model, before) = match weights {
                Weight::Start => (start.clone(), Some(momentum.clone())),
                Weight::Scratch { more } => {
                    recipe.epochs += if more { self.start_epochs } else { 0 };
                    (Model::initialise(child.clone(), &rng.split("scratch"))?, None)
                }
                Weight::Inherited(widen) => {
                    let momentum = (recipe.momentum == Momentum::Carry).then_some(&momentum);
                    let grown =
                        grow(&start, momentum, &steps, &with(widen)?, &rng.split("grow"), true)?;
                    let images = calibration_images(&self.data, 512);
                    (calibrate(grown.model, &grown.calibrate, &images, &Cpu)?.model, grown.momentum)
                }
            };
            let stream = rng.split("train");
            let (_, _, accuracy) = self.train(&model, before.as_ref(), &recipe, &stream)?;
            println!("{seed}\t{name}\t{:.2}", 100.0 * accuracy);
        }
        Ok(())
    }

    /// Four steps of widening and five of deepening, as the paper has them.
    fn episode(&self, start: &Model, rng: &Rng) -> anyhow::Result<Vec<Step>> {
        let transforms = with("")?;
        let actions = ["widen x4".parse()?, "deepen x5".parse()?];
        let parent = start.network();
        let scope = Scope {
            space: self.space.as_ref(),
            transforms: &transforms,
            actions: &actions,
            batch: 64,
            parent,
        };
        Ok(Random::default().propose(&scope, 1, rng)?.swap_remove(0).steps)
    }

    /// Model and momentum of a training, and the share of validation images classified right.
    fn train(
        &self,
        model: &Model,
        momentum: Option<&Weights>,
        recipe: &Recipe,
        rng: &Rng,
    ) -> anyhow::Result<(Model, Weights, f64)> {
        let last = |epoch| epoch + 1 == recipe.epochs;
        let go_on = &mut |_: Progress<'_>| ControlFlow::Continue(());
        let epochs = 0..recipe.epochs;
        let training = train(&Cpu, model, momentum, &self.data, recipe, epochs, &last, rng, go_on)?;
        let accuracy = training.epochs.last().and_then(|epoch| epoch.validation_accuracy);
        Ok((training.model, training.momentum, accuracy.unwrap_or(0.0)))
    }
}

fn macs(network: &Network) -> anyhow::Result<u64> {
    Ok(cost(network, &network.verify()?, 1).macs)
}

/// Both transforms, widening with these options.
fn with(widen: &str) -> anyhow::Result<Transforms> {
    let mut named = Vec::new();
    for (name, options) in [("widen", widen), ("deepen", "")] {
        let transform = transforms()?.get(name)?.build(table(options)?)?.implementation;
        named.push((name.to_owned(), transform));
    }
    Ok(Transforms::new(named))
}

fn cifar10(images: usize, rng: &Rng) -> anyhow::Result<TrainingData> {
    let path = std::env::var("EAS_DATA").context("EAS_DATA names no folder of CIFAR-10")?;
    let options = format!(
        "path = {}\ntrain = {images}\nvalidation = 5000\naugment = {{ pad_crop = 4, mirror = true }}",
        toml::Value::from(path)
    );
    let source = data_sets()?.get("cifar10")?.build(table(&options)?)?.implementation;
    split(source.train(Path::new(""))?, source.options(), rng)
}

fn table(text: &str) -> anyhow::Result<Value<'_>> {
    let table = DeTable::parse(text)?;
    Ok(toml::Spanned::new(table.span(), DeValue::Table(table.into_inner())))
}
