#![no_main]
//! The CPU engine on a network that the bytes describe: a training step in both precisions, and logits,
//! which are those of the reference. What it is for is the sanitizer's eye on the kernels.

use eas_ir::{Forward, Images, Mode, Model, Network, Op, Reference, Rng, Shape};
use eas_train::{Batch, Cpu, Engine, FlatParameters, Precision, Recipe, StepOptions};
use libfuzzer_sys::fuzz_target;

const CLASSES: usize = 3;
/// Numbers of channels on both sides of a vector, and such as go by tiles.
const CHANNELS: [usize; 9] = [1, 2, 3, 5, 8, 9, 16, 32, 48];

/// Numbers below a bound, one a byte; 0 behind the last.
struct Draws<'a>(&'a [u8]);

impl Draws<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % bound
    }

    /// Appends an operation, or nothing where it doesn't fit.
    fn grow(&mut self, network: &mut Network, tip: &mut (eas_ir::NodeId, Shape)) {
        let kind = self.below(7);
        let (size, stride) = (1 + self.below(5), 1 + self.below(3));
        let op = match kind {
            0 | 1 => {
                let channels = tip.1.channels();
                let groups = [1, 1, 2, channels][self.below(4)];
                let filters = groups * CHANNELS[self.below(CHANNELS.len())];
                let (padding, bias) = (self.below(size), self.below(2) == 0);
                Op::Conv { filters, kernel: size, stride, padding, groups, bias }
            }
            2 => Op::batch_norm(),
            3 => Op::Relu,
            4 => Op::MaxPool { size, stride, padding: self.below(size) },
            5 => Op::AveragePool { size, stride },
            _ => {
                let same = Op::conv(tip.1.channels(), 2 * self.below(3) + 1);
                let branch = network.push(same, &[tip.0], None);
                tip.0 = network.push(Op::Add, &[tip.0, branch], None);
                return;
            }
        };
        if let Ok(shape) = op.output_shape(&[tip.1]) {
            *tip = (network.push(op, &[tip.0], None), shape);
        }
    }

    fn network(&mut self) -> Network {
        let mut network = Network::new();
        let channels = CHANNELS[self.below(CHANNELS.len())];
        let shape =
            Shape::Image { channels, height: 1 + self.below(12), width: 1 + self.below(12) };
        let mut tip = (network.push(Op::Input { shape }, &[], None), shape);
        for _ in 0..self.below(6) {
            self.grow(&mut network, &mut tip);
        }
        let flat = [Op::GlobalPool, Op::Flatten][self.below(2)];
        let flat = network.push(flat, &[tip.0], None);
        network.push(Op::Linear { units: CLASSES, bias: true }, &[flat], None);
        network
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut draws = Draws(bytes);
    let (network, count) = (draws.network(), 1 + draws.below(7));
    let mut rng = Rng::new(draws.below(256) as u64);
    let Ok(model) = Model::initialise(network, &rng) else { return };
    let Shape::Image { channels, height, width } = model.input_shape() else { return };
    let images =
        Images::from_shape_simple_fn((count, channels, height, width), || rng.normal() as f32);

    let found = Cpu.logits(&model, &images, Mode::Evaluation).expect("a network of the engine's");
    let expected = Reference.logits(&model, &images, Mode::Evaluation).expect("the same network");
    let size = expected.iter().fold(1.0f64, |most, logit| most.max(logit.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= 1e-3 * size, "{found} for {expected}");
    }

    let labels = (0..count).map(|_| rng.below(CLASSES)).collect();
    let batch = Batch::new(images, labels);
    for precision in [Precision::F32, Precision::Bf16] {
        let mut parameters = FlatParameters::new(&model, None).expect("a model");
        let mut program = Cpu.compile(model.network()).expect("a network of the engine's");
        let update = Recipe::quick().update(0.01);
        let options = StepOptions { update, label_smoothing: 0.1, precision, dropout: None };
        let report = program.step(&mut parameters, &batch, &options).expect("a batch that fits");
        assert!(report.is_finite() && report.correct <= count, "{report:?}");
    }
});
