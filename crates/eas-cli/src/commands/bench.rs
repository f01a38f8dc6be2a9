//! `eas bench`: how fast the engine trains and runs a network, by the program that the trainer uses.

use std::collections::BTreeMap;
use std::time::Instant;

use eas_ir::{Images, Mode, Model, Network, Rng, Shape, cost};
use eas_train::{Batch, CpuProgram, FlatParameters, Precision, Program, Recipe, StepOptions};
use serde::Serialize;

use super::given;
use crate::args;
use crate::exit;
use crate::print::{self, percent};

/// Steps that warm caches and memory.
const WARM_UP: usize = 2;

/// What was measured.
#[derive(Serialize)]
struct Measured {
    network: String,
    batch: usize,
    threads: usize,
    /// What products are computed in, while training.
    precision: Precision,
    parameters: u64,
    /// Multiply-accumulates of an image, forward.
    macs: u64,
    /// Training images a second, by the median step.
    images_per_second: f64,
    /// The same by the fastest step, which other work on the machine disturbs least.
    fastest_images_per_second: f64,
    /// Additions and multiplications of convolutions and linear layers as they are defined, a step
    /// being thrice the forward pass; the engine may do with fewer.
    gflops_per_second: f64,
    /// Images a second in evaluation, in batches as large as those of training.
    evaluation_images_per_second: f64,
    /// Seconds to classify one image alone: the median, and what 95 of 100 take at most.
    latency: f64,
    latency_95: f64,
    /// Share of the step's time by operation.
    shares: Vec<Share>,
    /// The most memory that the process had, where the system tells.
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Share {
    op: &'static str,
    forward: f64,
    backward: f64,
}

pub(super) fn run(args: &args::Bench) -> anyhow::Result<u8> {
    let network = given::network(args.path(), args.trial)?;
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let measured = pool.install(|| measure(args, &network, threads))?;
    if args.json {
        print::json(&measured);
        return Ok(exit::SUCCESS);
    }
    let rate = |rate: f64| format!("{rate:.0} images/s");
    let milliseconds = |seconds: f64| format!("{:.3} ms", 1e3 * seconds);
    print::result(&format!(
        "{}, batch {}, {} thread(s)\n  training    {}, {:.1} GFLOP/s (fastest step {})\n  evaluation  {}\n  one image   {}, 95 % within {}\n  memory      {}\n",
        measured.network,
        measured.batch,
        measured.threads,
        rate(measured.images_per_second),
        measured.gflops_per_second,
        rate(measured.fastest_images_per_second),
        rate(measured.evaluation_images_per_second),
        milliseconds(measured.latency),
        milliseconds(measured.latency_95),
        measured.peak_memory_bytes.map_or("-".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
    ));
    let mut rows = vec![vec!["op".to_owned(), "forward".to_owned(), "backward".to_owned()]];
    for share in &measured.shares {
        rows.push(vec![share.op.to_owned(), percent(share.forward), percent(share.backward)]);
    }
    print::result(&print::table(&rows));
    Ok(exit::SUCCESS)
}

fn measure(args: &args::Bench, network: &Network, threads: usize) -> anyhow::Result<Measured> {
    let rng = Rng::new(1);
    let model = Model::initialise(network.clone(), &rng)?;
    let batch = random_batch(&model, args.batch, &mut rng.split("images"))?;
    let mut parameters = FlatParameters::new(&model, None)?;
    let mut program = CpuProgram::new(network)?;
    let recipe = Recipe::paper_child();
    let dropout = rng.split("dropout");
    let precision = match args.precision {
        args::Precision::F32 => Precision::F32,
        args::Precision::Bf16 => Precision::Bf16,
    };
    let options = StepOptions {
        update: recipe.update(1e-3),
        label_smoothing: 0.0,
        precision,
        dropout: Some(&dropout),
    };
    let mut step = || program.step(&mut parameters, &batch, &options);
    for _ in 0..WARM_UP {
        step()?;
    }
    let training = times(args.seconds, || step().map(drop))?;
    let shares = shares(&program);
    let evaluation = times(0.3 * args.seconds, || {
        program.logits(&parameters, &batch.images, Mode::Evaluation).map(drop)
    })?;
    // A program of its own, as one that classifies single images has it.
    let mut program = CpuProgram::new(network)?;
    let image = batch.images.slice_axis(ndarray::Axis(0), (..1).into()).to_owned();
    let mut classify = || program.logits(&parameters, &image, Mode::Evaluation).map(drop);
    for _ in 0..WARM_UP {
        classify()?;
    }
    let alone = times(0.3 * args.seconds, classify)?;
    let cost = cost(network, model.shapes(), args.batch);
    let images_per_second = args.batch as f64 / quantile(&training, 0.5);
    Ok(Measured {
        network: args.path().display().to_string(),
        batch: args.batch,
        threads,
        precision,
        parameters: cost.parameters,
        macs: cost.macs,
        images_per_second,
        fastest_images_per_second: args.batch as f64 / quantile(&training, 0.0),
        gflops_per_second: images_per_second * cost.macs as f64 * 6.0 / 1e9,
        evaluation_images_per_second: args.batch as f64 / quantile(&evaluation, 0.5),
        latency: quantile(&alone, 0.5),
        latency_95: quantile(&alone, 0.95),
        shares,
        peak_memory_bytes: peak_memory(),
    })
}

/// Normal numbers as images, and any labels.
fn random_batch(model: &Model, size: usize, rng: &mut Rng) -> anyhow::Result<Batch> {
    let (channels, height, width) = match model.input_shape() {
        Shape::Image { channels, height, width } => (channels, height, width),
        Shape::Flat { features } => (features, 1, 1),
    };
    let images =
        Images::from_shape_simple_fn((size, channels, height, width), || rng.normal() as f32);
    let labels = (0..size).map(|_| rng.below(model.classes())).collect();
    Ok(Batch::new(images, labels))
}

/// The times of some work in order of length, repeated for about `budget` seconds, five times at least.
fn times(budget: f64, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || started.elapsed().as_secs_f64() < budget {
        let began = Instant::now();
        work()?;
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The time that this share of them, from 0 to 1, takes at most.
fn quantile(times: &[f64], share: f64) -> f64 {
    let place = (share * times.len() as f64) as usize;
    times[place.min(times.len() - 1)]
}

/// The share of each kind of operation in the time of all steps, the largest first.
fn shares(program: &CpuProgram) -> Vec<Share> {
    let mut sums: BTreeMap<&str, Share> = BTreeMap::new();
    let mut total = 0.0;
    for time in program.times() {
        let share =
            sums.entry(time.name).or_insert(Share { op: time.name, forward: 0.0, backward: 0.0 });
        share.forward += time.forward;
        share.backward += time.backward;
        total += time.forward + time.backward;
    }
    let mut shares: Vec<Share> = sums.into_values().collect();
    for share in &mut shares {
        share.forward /= total;
        share.backward /= total;
    }
    let size = |share: &Share| share.forward + share.backward;
    shares.sort_by(|first, second| size(second).total_cmp(&size(first)));
    shares
}

/// The most memory that this process had, in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_named_network_classifies_small_images() {
        for (name, depth) in
            [("released", 6), ("paper", 6), ("wide", 6), ("found", 15), ("densenet", 40)]
        {
            let network = given::network(Path::new(name), None).unwrap();
            let model = Model::initialise(network, &Rng::new(1)).unwrap();
            assert_eq!(model.network().depth(), depth, "{name}");
            let shape = Shape::Image { channels: 3, height: 32, width: 32 };
            assert_eq!((model.input_shape(), model.classes()), (shape, 10), "{name}");
        }
    }
}
