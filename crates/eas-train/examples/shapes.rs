//! Milliseconds of single convolutions, forward and backward, by the engine's own clock: a line of JSON each.
//! `benches/peers/shapes.py` runs it:
//! `cargo run --release -p eas-train --example shapes -- BATCH THREADS SECONDS f32|bf16 CHANNELSxFILTERSxSIDExKERNEL...`.

use std::time::Instant;

use anyhow::{Context, bail};
use eas_ir::{Images, Model, Network, NodeId, Op, Rng, Shape};
use eas_train::{Batch, Cpu, Engine, FlatParameters, Nesterov, Precision, StepOptions};

const CLASSES: usize = 10;

#[expect(clippy::print_stdout, reason = "an example says what it found")]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [batch, threads, seconds, precision, shapes @ ..] = arguments.as_slice() else {
        bail!("expected BATCH THREADS SECONDS f32|bf16 CHANNELSxFILTERSxSIDExKERNEL...")
    };
    let precision = match precision.as_str() {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        other => bail!("expected f32 or bf16, found {other}"),
    };
    let (batch, threads, seconds) = (batch.parse()?, threads.parse()?, seconds.parse()?);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    for shape in shapes {
        let numbers: Vec<usize> = shape.split('x').map(str::parse).collect::<Result<_, _>>()?;
        let [channels, filters, side, kernel] = numbers.as_slice() else {
            bail!("{shape}: expected CHANNELSxFILTERSxSIDExKERNEL")
        };
        let (network, node) = network(*channels, *filters, *side, *kernel);
        let [forward, backward] =
            pool.install(|| measure(network, node, batch, seconds, precision))?;
        println!(
            "{}",
            serde_json::json!({ "shape": shape, "forward": forward, "backward": backward })
        );
    }
    Ok(())
}

/// A network around a convolution, which another stands before: of the first one nobody wants the gradient of
/// the input.
fn network(channels: usize, filters: usize, side: usize, kernel: usize) -> (Network, NodeId) {
    let mut network = Network::new();
    let shape = Shape::Image { channels, height: side, width: side };
    let input = network.push(Op::Input { shape }, &[], None);
    let before = network.push(Op::conv(channels, 1), &[input], None);
    let measured = network.push(Op::conv(filters, kernel), &[before], None);
    let pooled = network.push(Op::GlobalPool, &[measured], None);
    network.push(Op::Linear { units: CLASSES, bias: true }, &[pooled], None);
    (network, measured)
}

/// The medians of a node's times over steps of about so many seconds, in milliseconds: forward, and both
/// gradients.
fn measure(
    network: Network,
    node: NodeId,
    batch: usize,
    seconds: f64,
    precision: Precision,
) -> anyhow::Result<[f64; 2]> {
    let mut rng = Rng::new(1);
    let model = Model::initialise(network, &rng)?;
    let Shape::Image { channels, height, width } = model.input_shape() else {
        bail!("expected images")
    };
    let shape = (batch, channels, height, width);
    let images = Images::from_shape_simple_fn(shape, || rng.normal() as f32);
    let labels = (0..batch).map(|_| rng.below(CLASSES)).collect();
    let batch = Batch::new(images, labels);
    let update = Nesterov { learning_rate: 1e-3, momentum: 0.9, ..Nesterov::default() };
    let options = StepOptions { update, label_smoothing: 0.0, precision, dropout: None };
    let mut program = Cpu.compile(model.network())?;
    let mut parameters = FlatParameters::new(&model, None)?;
    let mut step = || -> anyhow::Result<[f64; 2]> {
        program.step(&mut parameters, &batch, &options)?;
        let time = program.times().iter().find(|time| time.node == Some(node));
        let time = time.context("the engine keeps times")?;
        Ok([1e3 * time.forward, 1e3 * time.backward])
    };
    // Warms memory and caches.
    step()?;
    let mut last = step()?;
    let (mut times, started) = ([Vec::new(), Vec::new()], Instant::now());
    while times[0].len() < 5 || started.elapsed().as_secs_f64() < seconds {
        let now = step()?;
        for (direction, times) in times.iter_mut().enumerate() {
            times.push(now[direction] - last[direction]);
        }
        last = now;
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}
