//! `eas bench`: how fast an engine trains and runs a network, by the program that the trainer uses.
//!
//! It trains as the trainer does, on batches that are drawn, augmented and normalised on the way. A processor's
//! windows are single steps, and the operations in them are timed; a GPU works beside its caller and takes many
//! steps at once.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{anyhow, ensure};
use eas_ir::{Images, Mode, Model, Network, Rng, Shape, cost};
use eas_train::{
    Augment, DataOptions, Device, Engine, FlatParameters, Labelled, Mirror, OpTime, Precision,
    Program, Recipe, StepReport, TrainingData, split, steps_of_epoch,
};
use serde::Serialize;

use super::doctor::has_bf16;
use super::{bad_input, given};
use crate::args;
use crate::devices::device;
use crate::exit;
use crate::print::{self, percent};

/// Steps that warm caches and memory, or windows of them.
const WARM_UP: usize = 2;
/// Made-up images that a GPU trains on, about: as many as CIFAR-10 has, so that windows are as long as there.
const GPU_IMAGES: usize = 45_000;
/// Bytes of those of a processor, about: 10,000 of CIFAR-10's size, so that few of them are in its caches.
const CPU_BYTES: usize = 30_000_000;

/// What was measured.
#[derive(Serialize)]
struct Measured {
    network: String,
    device: String,
    batch: usize,
    threads: usize,
    /// What products are computed in, while training.
    precision: Precision,
    /// Whether the processor has no instructions for that, and computes the same sums without them.
    emulated: bool,
    parameters: u64,
    /// Multiply-accumulates of an image, forward.
    macs: u64,
    /// Training images a second, by the median step, on a GPU by all windows of steps; of all programs
    /// together.
    images_per_second: f64,
    /// The same of each program, where several train side by side.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    side_by_side: Vec<f64>,
    /// Of one program by the fastest step, which other work on the machine disturbs least.
    fastest_images_per_second: f64,
    /// Additions and multiplications of convolutions and linear layers as they are defined, a step
    /// being thrice the forward pass; the engine may do with fewer.
    gflops_per_second: f64,
    /// Images a second in evaluation, in batches as large as those of training.
    evaluation_images_per_second: f64,
    /// Seconds to classify one image alone: the median, and what 95 of 100 take at most.
    latency: f64,
    latency_95: f64,
    /// Share of the step's time by operation; nothing on a GPU.
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
    if args.batch == 0 {
        return Err(bad_input("--batch 0: expected an image at least"));
    }
    let network = given::network(args.path(), args.trial)?;
    let device = device(&args.device)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Programs side by side share the cores, as trials do.
    let threads = args.threads.unwrap_or((cores / usize::from(args.side_by_side)).max(1));
    let emulated = device == Device::Cpu && precision(args) == Precision::Bf16 && !has_bf16();
    if emulated {
        print::note(
            "this processor has no instructions for bf16 (AVX512-BF16): the same sums are computed without them",
        );
    }
    let (training, evaluation) = measure(args, &network, device, threads)?;
    let cost = cost(&network, &network.verify()?, args.batch);
    let images_per_second: f64 = training.iter().map(|training| training.rate).sum();
    let rates = training.iter().map(|training| training.rate);
    let fastest = training.iter().map(|training| training.fastest).fold(0.0, f64::max);
    let measured = Measured {
        network: args.path().display().to_string(),
        device: device.to_string(),
        batch: args.batch,
        threads,
        precision: precision(args),
        emulated,
        parameters: cost.parameters,
        macs: cost.macs,
        images_per_second,
        side_by_side: if training.len() > 1 { rates.collect() } else { Vec::new() },
        fastest_images_per_second: fastest,
        gflops_per_second: images_per_second * cost.macs as f64 * 6.0 / 1e9,
        evaluation_images_per_second: evaluation.images_per_second,
        latency: evaluation.latency,
        latency_95: evaluation.latency_95,
        shares: training.into_iter().next().map(|first| first.shares).unwrap_or_default(),
        peak_memory_bytes: peak_memory(),
    };
    match args.json {
        true => print::json(&measured),
        false => measured.print(device),
    }
    Ok(exit::SUCCESS)
}

impl Measured {
    fn print(&self, device: Device) {
        let rate = |rate: &f64| format!("{rate:.0} images/s");
        let milliseconds = |seconds: f64| format!("{:.3} ms", 1e3 * seconds);
        let (on, timed) = match device {
            Device::Cpu => (format!("{} thread(s)", self.threads), "step"),
            Device::Cuda(_) => (self.device.clone(), "window"),
        };
        let each = match self.side_by_side.as_slice() {
            [] => String::new(),
            rates => {
                let rates: Vec<String> = rates.iter().map(rate).collect();
                format!("\n  each        {}", rates.join(", "))
            }
        };
        print::result(&format!(
            "{}, batch {}, {on}\n  training    {}, {:.1} GFLOP/s (fastest {timed} {}){each}\n  evaluation  {}\n  one image   {}, 95 % within {}\n  memory      {}\n",
            self.network,
            self.batch,
            rate(&self.images_per_second),
            self.gflops_per_second,
            rate(&self.fastest_images_per_second),
            rate(&self.evaluation_images_per_second),
            milliseconds(self.latency),
            milliseconds(self.latency_95),
            self.peak_memory_bytes.map_or("-".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
        ));
        if self.shares.is_empty() {
            return;
        }
        let mut rows = vec![vec!["op".to_owned(), "forward".to_owned(), "backward".to_owned()]];
        for share in &self.shares {
            rows.push(vec![share.op.to_owned(), percent(share.forward), percent(share.backward)]);
        }
        print::result(&print::table(&rows));
    }
}

fn precision(args: &args::Bench) -> Precision {
    match args.precision {
        args::Precision::F32 => Precision::F32,
        args::Precision::Bf16 => Precision::Bf16,
    }
}

/// How fast a program trained: images a second.
struct Trained {
    /// By the median step, or by all windows.
    rate: f64,
    fastest: f64,
    shares: Vec<Share>,
}

/// How fast a program ran.
struct Evaluated {
    images_per_second: f64,
    latency: f64,
    latency_95: f64,
}

/// Each program that trains, side by side with the others, and one that runs alone.
fn measure(
    args: &args::Bench,
    network: &Network,
    device: Device,
    threads: usize,
) -> anyhow::Result<(Vec<Trained>, Evaluated)> {
    let engine = device.engine()?;
    let model = Model::initialise(network.clone(), &Rng::new(1))?;
    let images = match device {
        Device::Cpu => {
            let (channels, height, width) = size(&model);
            CPU_BYTES / (channels * height * width)
        }
        Device::Cuda(_) => GPU_IMAGES,
    };
    let count = usize::from(args.side_by_side);
    let pool = || rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pools = (0..count).map(|_| pool()).collect::<Result<Vec<_>, _>>()?;
    let data = pools[0].install(|| random_data(&model, images, args.batch))?;
    // They are timed from the moment on when all of them are warm.
    let ready = Barrier::new(count);
    let train = || train(args, &model, device, engine.as_ref(), &data, &ready);
    let trained: Vec<Trained> = std::thread::scope(|scope| {
        let programs = pools.iter().map(|pool| scope.spawn(|| pool.install(train)));
        let programs: Vec<_> = programs.collect();
        programs
            .into_iter()
            .map(|program| program.join().map_err(|_| anyhow!("a program broke down"))?)
            .collect::<anyhow::Result<_>>()
    })?;
    let evaluated = pools[0].install(|| evaluate(args, &model, engine.as_ref()))?;
    Ok((trained, evaluated))
}

/// Trains windows of steps, of batches drawn from images.
fn train(
    args: &args::Bench,
    model: &Model,
    device: Device,
    engine: &dyn Engine,
    data: &TrainingData,
    ready: &Barrier,
) -> anyhow::Result<Trained> {
    let rng = Rng::new(1);
    let recipe = Recipe {
        batch: args.batch,
        precision: precision(args),
        learning_rate: 1e-3,
        ..Recipe::paper_child()
    };
    let epoch_of = |epoch| steps_of_epoch(data, &recipe, &rng, epoch, 0);
    let (mut epoch, mut steps) = (0, epoch_of(0));
    // As a training takes its steps: at most a stride of them, and none beyond an epoch's end.
    let mut window = |program: &mut dyn Program, parameters: &mut FlatParameters| {
        if steps.len() == 0 {
            epoch += 1;
            steps = epoch_of(epoch);
        }
        let began = Instant::now();
        let mut images = 0;
        let mut some = steps.by_ref().take(program.stride()).inspect(|step| {
            images += step.drawn.count();
        });
        let reports = program.steps(parameters, &mut some)?;
        ensure!(reports.iter().all(StepReport::is_finite), "the loss left the finite numbers");
        Ok((images, began.elapsed().as_secs_f64()))
    };
    let mut warm = || -> anyhow::Result<(Box<dyn Program>, FlatParameters)> {
        let mut program = engine.compile(model.network())?;
        let mut parameters = FlatParameters::new(model, None)?;
        for _ in 0..WARM_UP {
            window(program.as_mut(), &mut parameters)?;
        }
        Ok((program, parameters))
    };
    let warmed = warm();
    // Also by one that failed, or the others would wait for it.
    ready.wait();
    let (mut program, mut parameters) = warmed?;
    let before = program.times().to_vec();
    let (mut times, mut images, mut seconds) = (Vec::new(), 0, 0.0);
    while times.len() < 5 || seconds < args.seconds {
        let (count, took) = window(program.as_mut(), &mut parameters)?;
        times.push(took / count as f64);
        images += count;
        seconds += took;
    }
    times.sort_by(f64::total_cmp);
    let rate = match device {
        Device::Cpu => 1.0 / quantile(&times, 0.5),
        // Windows are of different lengths, so the rate is that of all of them together.
        Device::Cuda(_) => images as f64 / seconds,
    };
    let fastest = 1.0 / quantile(&times, 0.0);
    Ok(Trained { rate, fastest, shares: shares(&before, program.times()) })
}

/// Classifies batches, and single images.
fn evaluate(args: &args::Bench, model: &Model, engine: &dyn Engine) -> anyhow::Result<Evaluated> {
    let images = random_images(model, args.batch, &mut Rng::new(1).split("images"));
    let parameters = FlatParameters::new(model, None)?;
    let timed = |images: &Images| {
        // A program of its own, as one that classifies single images has it.
        let mut program = engine.compile(model.network())?;
        let mut classify = || program.logits(&parameters, images, Mode::Evaluation).map(drop);
        for _ in 0..WARM_UP {
            classify()?;
        }
        times(0.3 * args.seconds, classify)
    };
    let batches = timed(&images)?;
    let alone = timed(&images.slice_axis(ndarray::Axis(0), (..1).into()).to_owned())?;
    Ok(Evaluated {
        images_per_second: args.batch as f64 / quantile(&batches, 0.5),
        latency: quantile(&alone, 0.5),
        latency_95: quantile(&alone, 0.95),
    })
}

/// Bytes of noise as images, and any labels.
fn random_data(model: &Model, images: usize, batch: usize) -> anyhow::Result<TrainingData> {
    let mut rng = Rng::new(1).split("data");
    let (channels, height, width) = size(model);
    let shape = Shape::Image { channels, height, width };
    // Batches are all full, and labels are bytes.
    let count = images.div_ceil(batch).max(2) * batch;
    let classes = model.classes().min(256);
    let mut pixels = vec![0; count * channels * height * width];
    for pixels in pixels.chunks_mut(4) {
        pixels.copy_from_slice(&rng.next_u32().to_le_bytes()[..pixels.len()]);
    }
    let labels = (0..count).map(|_| rng.below(classes) as u8).collect();
    let names = (0..model.classes()).map(|class| class.to_string()).collect();
    let augment = Augment { pad_crop: 4, mirror: Mirror::Random, ..Augment::NONE };
    let options = DataOptions { validation: 0, train: None, augment };
    split(Labelled::new(shape, names, pixels, labels)?, options, &rng)
}

/// Normal numbers as images.
fn random_images(model: &Model, count: usize, rng: &mut Rng) -> Images {
    let (channels, height, width) = size(model);
    Images::from_shape_simple_fn((count, channels, height, width), || rng.normal() as f32)
}

/// Channels, height and width of a network's input.
fn size(model: &Model) -> (usize, usize, usize) {
    match model.input_shape() {
        Shape::Image { channels, height, width } => (channels, height, width),
        Shape::Flat { features } => (features, 1, 1),
    }
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

/// The share of each kind of operation in the time between two moments, the largest first.
fn shares(before: &[OpTime], after: &[OpTime]) -> Vec<Share> {
    let mut sums: BTreeMap<&str, Share> = BTreeMap::new();
    let mut total = 0.0;
    for (before, time) in before.iter().zip(after) {
        let share =
            sums.entry(time.name).or_insert(Share { op: time.name, forward: 0.0, backward: 0.0 });
        let (forward, backward) = (time.forward - before.forward, time.backward - before.backward);
        share.forward += forward;
        share.backward += backward;
        total += forward + backward;
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
