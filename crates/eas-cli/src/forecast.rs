//! What a plan would cost on this machine, from a short measurement.

use std::time::Instant;

use eas_controller::{Controller, Random, Repeat, Scope};
use eas_ir::{Cost, Model, Network, Rng, cost};
use eas_train::{Engine, FlatParameters, Recipe, TrainingData, steps_of_epoch};
use eas_transform::{Decision, grow_network};
use serde::Serialize;

use crate::plan::{Plan, Stage};

/// Random children whose median size stands for all.
const SAMPLE: usize = 9;
/// Bytes that the records of a trial take, about: six files of a block or two, and its row of the index.
const BYTES_OF_RECORDS: u64 = 40 << 10;
/// Seconds that each measurement takes, about.
const MEASURED: f64 = 1.5;

/// How fast a plan's networks train on this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    /// Training images a second, start network.
    pub(crate) start: f64,
    /// Training images a second, a child of median size.
    pub(crate) child: f64,
    /// That child's cost.
    pub(crate) child_parameters: u64,
    pub(crate) child_macs: u64,
}

/// A forecast. Children of later generations are larger than those measured, and machines are noisy:
/// it may be off by half.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Forecast {
    /// Training images a second, start network.
    pub(crate) start_rate: f64,
    /// Training images a second, a child of median size.
    pub(crate) child_rate: f64,
    /// That child's cost.
    pub(crate) child_parameters: u64,
    pub(crate) child_macs: u64,
    /// Of the whole run.
    pub(crate) seconds: f64,
    /// Bytes that the run takes at most: models and momentum, all of them or `store.size` where that is
    /// less, the records of trials, and the program.
    pub(crate) disk: u64,
    /// Bytes of what is never removed, about: what the search may go on from and the best.
    pub(crate) disk_needed: u64,
}

/// A child of median cost among a sample of random ones.
fn typical_child(plan: &Plan, start: &Network, rng: &Rng) -> anyhow::Result<(Network, Cost)> {
    let actions = plan.stages.first().map_or(&[][..], |stage| stage.actions.as_slice());
    let scope = Scope {
        space: plan.space.implementation.as_ref(),
        transforms: &plan.transforms,
        actions,
        batch: plan.child.batch,
        parent: start,
    };
    let mut sized = Vec::new();
    for proposal in Random::default().propose(&scope, SAMPLE, rng)? {
        let network = grow_network(start, &proposal.steps, &plan.transforms)?;
        let shapes = network.verify()?;
        let cost = cost(&network, &shapes, plan.child.batch);
        sized.push((network, cost));
    }
    sized.sort_by_key(|(_, cost)| cost.macs);
    Ok(sized.swap_remove(SAMPLE / 2))
}

/// Training images a second, trained by a recipe.
fn rate(
    network: &Network,
    data: &TrainingData,
    recipe: &Recipe,
    rng: &Rng,
    engine: &dyn Engine,
) -> anyhow::Result<f64> {
    let model = Model::initialise(network.clone(), rng)?;
    let mut parameters = FlatParameters::new(&model, None)?;
    let mut program = engine.compile(network)?;
    let (mut images, mut started) = (0, None::<Instant>);
    // Few images are trained on again and again. The first steps warm caches and memory.
    for epoch in 0.. {
        let mut steps = steps_of_epoch(data, recipe, rng, epoch, 0);
        while steps.len() > 0 {
            let mut count = 0;
            let mut some = steps.by_ref().take(program.stride()).inspect(|step| {
                count += step.drawn.count();
            });
            program.steps(&mut parameters, &mut some)?;
            let Some(since) = started else {
                started = Some(Instant::now());
                continue;
            };
            images += count;
            let seconds = since.elapsed().as_secs_f64();
            if seconds > MEASURED {
                return Ok(images as f64 / seconds);
            }
        }
    }
    unreachable!("epochs don't end")
}

/// Measures how fast a plan's networks train by an engine.
pub(crate) fn measure(
    plan: &Plan,
    start: &Network,
    data: &TrainingData,
    engine: &dyn Engine,
) -> anyhow::Result<Rates> {
    let rng = Rng::new(plan.seed).split("forecast");
    let (child, cost) = typical_child(plan, start, &rng)?;
    Ok(Rates {
        start: rate(start, data, &plan.start, &rng, engine)?,
        child: rate(&child, data, &plan.child, &rng, engine)?,
        child_parameters: cost.parameters,
        child_macs: cost.macs,
    })
}

/// Seconds of a whole run on so many training images and devices, over which children are spread.
pub(crate) fn seconds(plan: &Plan, images: usize, rates: &Rates, devices: usize) -> f64 {
    let images = images as f64;
    let (start_epochs, grown_epochs) = plan.epochs(&plan.batches());
    let of_stages = plan.epochs_of_stages(&plan.batches());
    let stages = images * of_stages as f64 / (rates.child * devices as f64);
    let grown = (grown_epochs - of_stages) as f64 / rates.child;
    let whole = images * (start_epochs as f64 / rates.start + grown) + stages;
    // The deadline cuts the stages short, and is counted from the run's beginning.
    let before = images * (plan.start.epochs * (1 + plan.saturation.rounds)) as f64 / rates.start;
    let left = plan.deadline.map(|limit| (limit.as_secs_f64() - before).max(0.0));
    whole - left.map_or(0.0, |left| (stages - left).max(0.0))
}

/// Measures and forecasts.
pub(crate) fn forecast(
    plan: &Plan,
    start: &Network,
    data: &TrainingData,
) -> anyhow::Result<Forecast> {
    let places = plan.running.devices.places()?;
    let engine = places.first().engine()?;
    let rates = measure(plan, start, data, engine.as_ref())?;
    let seconds = seconds(plan, data.train.len(), &rates, places.count());
    let promoted: usize = plan.stages.iter().map(|stage| stage.promotion.trials()).sum();
    let of_stage = |stage: &Stage| stage.batches * stage.halving.trials(stage.networks);
    let children: usize = plan.stages.iter().map(of_stage).sum();
    let models = (children + promoted + plan.finals.networks + 4) as u64;
    let copies = if plan.child.momentum == eas_train::Momentum::Carry { 2 } else { 1 };
    let each = rates.child_parameters * 4 * copies + 32 * 1024;
    let live = plan.stages.iter().map(|stage| live(plan, stage)).max().unwrap_or(0);
    let needed = (live + plan.storage.keep_best + plan.finals.networks + 4) as u64;
    // What isn't in the store: the program that is kept, and each trial's records.
    let program = std::env::current_exe().and_then(std::fs::metadata).map_or(0, |file| file.len());
    let besides = program + models * BYTES_OF_RECORDS;
    let disk_needed = needed.min(models) * each;
    let disk = (models * each).min(plan.storage.size.max(disk_needed)) + besides;
    let disk_needed = disk_needed + besides;
    Ok(Forecast {
        start_rate: rates.start,
        child_rate: rates.child,
        child_parameters: rates.child_parameters,
        child_macs: rates.child_macs,
        seconds,
        disk,
        disk_needed,
    })
}

/// Networks that a stage may go on from at once, with those of a batch under way.
fn live(plan: &Plan, stage: &Stage) -> usize {
    let chosen = match stage.repeat {
        Repeat::Reuse => plan.finals.networks.max(stage.promotion.candidates),
        Repeat::Retrain => stage.batches * stage.networks,
    };
    2 + 2 * chosen + (1 + stage.lag) * stage.halving.trials(stage.networks)
}

/// The number of different episodes of a stage, as a power of ten: the edits that are legal on the
/// start network, for every step. What edits open up later is not counted, and different episodes may
/// make the same network.
pub(crate) fn episodes(plan: &Plan, start: &Network) -> anyhow::Result<f64> {
    let mut digits = 0.0;
    let space = plan.space.implementation.as_ref();
    for action in plan.stages.first().map_or(&[][..], |stage| stage.actions.as_slice()) {
        let name = &action.transform;
        let edits = plan.transforms.edits(name, start, space, plan.child.batch)?.len() as f64;
        let step = match plan.transforms.get(name)?.decision(space) {
            Decision::EachSite => edits * 2f64.log10(),
            Decision::OnePick { .. } => edits.max(1.0).log10(),
            Decision::Always => 0.0,
        };
        digits += step * action.count as f64;
    }
    Ok(digits)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::commands::search::{Prepared, prepare};
    use crate::spec::read_plan;

    #[test]
    fn few_images_are_measured_for_as_long_as_many() {
        let spec = include_str!("../../../tests/tiny.toml");
        let set = ["data.synthetic.images=12", "data.synthetic.validation=4"].map(str::to_owned);
        let plan = read_plan("tiny.toml", spec, &set, Path::new("")).unwrap();
        let Prepared { data, start, .. } = prepare(&plan).unwrap();
        let began = Instant::now();
        let found =
            rate(start.network(), &data, &plan.start, &Rng::new(1), &eas_train::Cpu).unwrap();
        assert!(began.elapsed().as_secs_f64() >= MEASURED && found > 0.0, "{found} images/s");
    }
}
