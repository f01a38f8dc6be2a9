//! The engine against the oracle, on random networks that have every operation.

use eas_ir::{Images, Mode, Model, Network, NodeId, Op, Rng, Role, Shape};

use super::kernels::Isa;
use super::plan::{Plan, Work};
use super::program::CpuProgram;
use crate::data::{Augment, DataOptions, Labelled, Mirror, split};
use crate::engine::{Batch, Engine, Program, StepOptions};
use crate::optimiser::Nesterov;
use crate::oracle::Oracle;
use crate::parameters::FlatParameters;
use crate::recipe::{Precision, Recipe};
use crate::train::steps_of_epoch;

const CLASSES: usize = 5;
const BATCH: usize = 6;

/// A random network: layers of any kind, dense and residual branches, then a classifier.
fn random_network(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let shape = Shape::Image {
        channels: 1 + rng.below(4),
        height: 5 + rng.below(6),
        width: 5 + rng.below(6),
    };
    let mut last = network.push(Op::Input { shape }, &[], None);
    for _ in 0..1 + rng.below(4) {
        last = random_layers(&mut network, last, rng);
    }
    last = network.push([Op::Flatten, Op::GlobalPool][rng.below(2)], &[last], None);
    if rng.below(2) == 0 {
        last = network.push(Op::Linear { units: 2 + rng.below(40), bias: true }, &[last], None);
        last = network.push(Op::batch_norm(), &[last], None);
        last = network.push(Op::Relu, &[last], None);
        last = network.push(Op::Dropout { rate: 0.3 }, &[last], None);
    }
    network.push(Op::Linear { units: CLASSES, bias: rng.below(2) == 0 }, &[last], None);
    network
}

/// A few convolutions that are computed by tiles, of images that tiles don't cover evenly or hardly fill, and one of
/// few filters. They have no ReLUs: of so many values some are so near to 0 that rounding decides which
/// way they go.
fn wide_network(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let is_small = rng.below(3) == 0;
    let mut side = || if is_small { 1 + rng.below(3) } else { 5 + rng.below(6) };
    let shape = Shape::Image { channels: 3, height: side(), width: side() };
    let mut last = network.push(Op::Input { shape }, &[], None);
    for (kernel, is_narrow) in [(1usize, false), (3, false), (5, false), (3, false), (3, true)] {
        let filters = if is_narrow { 2 + rng.below(14) } else { 8 + rng.below(56) };
        let padding = kernel / 2 + rng.below(kernel.div_ceil(2));
        let bias = rng.below(2) == 0;
        let op = Op::Conv { filters, kernel, stride: 1, padding, groups: 1, bias };
        last = network.push(op, &[last], None);
        if rng.below(2) == 0 {
            last = network.push(Op::batch_norm(), &[last], None);
        }
    }
    last = network.push(Op::GlobalPool, &[last], None);
    network.push(Op::Linear { units: CLASSES, bias: true }, &[last], None);
    network
}

/// One to three convolutions that are computed in bf16 where that is asked for: none has as many
/// channels at stride 1 as tiles need. No pool is at their end: slopes differ between pixels.
fn paired_network(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let mut side = || 9 + rng.below(6);
    let (height, width) = (side(), side());
    let shape = Shape::Image { channels: 1 + rng.below(4), height, width };
    let mut last = network.push(Op::Input { shape }, &[], None);
    for _ in 0..1 + rng.below(3) {
        let Shape::Image { channels: read, height, width } = shape_of(&network, last) else {
            unreachable!()
        };
        let made = [3, 5, 8, 12, 33, 36, 70][rng.below(7)];
        let mut op = convolution(rng, made, height.min(width));
        match &mut op {
            Op::Conv { groups, .. } if read.is_multiple_of(4) && made.is_multiple_of(4) => {
                *groups = 2;
            }
            Op::Conv { kernel: 3 | 5, stride, .. } if read.min(made) >= 8 => {
                *stride = (*stride).max(2);
            }
            _ => {}
        }
        last = network.push(op, &[last], None);
    }
    last = network.push(Op::Flatten, &[last], None);
    network.push(Op::Linear { units: CLASSES, bias: true }, &[last], None);
    network
}

/// A convolution that fits images whose smaller side is `side`.
fn convolution(rng: &mut Rng, filters: usize, side: usize) -> Op {
    let kernel = [1, 2, 3, 5][rng.below(4)];
    let padding = [kernel / 2, rng.below(kernel)][rng.below(2)];
    let stride = [1, 1, 2, 3][rng.below(4)];
    let kernel = kernel.min(side + 2 * padding);
    let padding = padding.min(kernel - 1);
    Op::Conv { filters, kernel, stride, padding, groups: 1, bias: rng.below(3) == 0 }
}

/// The shape of a node of a network that has no output yet.
fn shape_of(network: &Network, id: NodeId) -> Shape {
    let node = network.node(id).unwrap();
    let inputs: Vec<Shape> = node.inputs.iter().map(|id| shape_of(network, *id)).collect();
    node.op.output_shape(&inputs).unwrap()
}

/// Appends some layers to a node, where they fit its shape.
fn random_layers(network: &mut Network, from: NodeId, rng: &mut Rng) -> NodeId {
    let Shape::Image { channels, height, width } = shape_of(network, from) else { return from };
    let mut push = |op: Op, inputs: &[NodeId]| network.push(op, inputs, None);
    let filters = [1 + rng.below(20), 4, 8, 24, 32, 40, 70][rng.below(7)];
    match rng.below(10) {
        0 if height > 2 && width > 2 => {
            let size = 2 + rng.below(2);
            push(Op::MaxPool { size, stride: 1 + rng.below(2), padding: rng.below(2) }, &[from])
        }
        1 if height > 2 && width > 2 => {
            push(Op::AveragePool { size: 2, stride: 1 + rng.below(2) }, &[from])
        }
        2 => {
            // Groups, up to a depthwise convolution.
            let groups = if rng.below(2) == 0 { channels } else { 1 };
            let filters = groups * (1 + rng.below(3));
            let op = Op::Conv { filters, kernel: 3, stride: 1, padding: 1, groups, bias: false };
            push(op, &[from])
        }
        3 => {
            let mut branch = push(Op::conv(channels, 3), &[from]);
            branch = push(Op::batch_norm(), &[branch]);
            let sum = push(Op::Add, &[branch, from]);
            push(Op::Relu, &[sum])
        }
        4 | 5 => {
            // A dense block of two layers, with or without bottlenecks.
            let mut last = from;
            let bottleneck = rng.below(2) == 0;
            for _ in 0..2 {
                let mut body = push(Op::batch_norm(), &[last]);
                body = push(Op::Relu, &[body]);
                if bottleneck {
                    body = push(Op::conv(filters, 1), &[body]);
                    body = push(Op::batch_norm(), &[body]);
                    body = push(Op::Relu, &[body]);
                }
                body = push(Op::conv(1 + rng.below(12), 3), &[body]);
                let pair = if rng.below(2) == 0 { [last, body] } else { [body, last] };
                last = push(Op::Concat, &pair);
            }
            last
        }
        6 => {
            // One value read in every way at once.
            let norm = push(Op::batch_norm(), &[from]);
            let relu = push(Op::Relu, &[from]);
            let other = push(Op::Relu, &[norm]);
            let sum = push(Op::Add, &[norm, relu, from]);
            push(Op::Concat, &[from, other, sum, from])
        }
        7 => push(Op::Dropout { rate: [0.0, 0.25][rng.below(2)] }, &[from]),
        _ => {
            let last = push(convolution(rng, filters, height.min(width)), &[from]);
            let last = if rng.below(2) == 0 { push(Op::batch_norm(), &[last]) } else { last };
            if rng.below(2) == 0 { push(Op::Relu, &[last]) } else { last }
        }
    }
}

/// A model whose batch norms are not the identity, and images for it.
fn random_model(network: Network, rng: &mut Rng) -> (Model, Batch) {
    random_model_for(BATCH, network, rng)
}

fn random_model_for(count: usize, network: Network, rng: &mut Rng) -> (Model, Batch) {
    let model = Model::initialise(network, rng).unwrap();
    let (network, mut weights) = model.into_parts();
    for (id, values) in &mut weights {
        for value in values.iter_mut() {
            match id.role {
                Role::Weight => {}
                Role::Bias | Role::Beta | Role::Mean => *value = 0.3 * rng.normal() as f32,
                Role::Gamma => *value = 1.0 + 0.3 * rng.normal() as f32,
                Role::Variance => *value = 0.5 + rng.unit() as f32,
            }
        }
    }
    let model = Model::new(network, weights).unwrap();
    let Shape::Image { channels, height, width } = model.input_shape() else { unreachable!() };
    let images =
        Images::from_shape_simple_fn((count, channels, height, width), || rng.normal() as f32);
    let labels = (0..count).map(|_| rng.below(CLASSES)).collect();
    (model, Batch::new(images, labels))
}

fn update() -> Nesterov {
    Nesterov { learning_rate: 0.05, momentum: 0.9, weight_decay: 1e-3, ..Nesterov::default() }
}

/// The largest difference, relative to the largest value.
fn gap<'a>(
    found: impl IntoIterator<Item = &'a f32>,
    expected: impl IntoIterator<Item = &'a f32> + Clone,
) -> f32 {
    let largest = expected.clone().into_iter().fold(1e-30f32, |most, value| most.max(value.abs()));
    let pairs = found.into_iter().zip(expected);
    pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max) / largest
}

/// Checks that a program computes what the oracle does.
fn check_against_oracle(isa: Isa, kind: fn(&mut Rng) -> Network, seed: u64) {
    let mut rng = Rng::new(seed);
    let (model, batch) = random_model(kind(&mut rng), &mut rng);
    let network = model.network();
    let mut oracle = Oracle.compile(network).unwrap();
    let mut program = CpuProgram::with_instructions(network, isa).unwrap();
    let parameters = FlatParameters::new(&model, None).unwrap();
    let dropout = rng.split("dropout");
    let options = StepOptions {
        update: update(),
        label_smoothing: 0.1,
        precision: Precision::F32,
        dropout: Some(&dropout),
    };

    for mode in [Mode::Training, Mode::Evaluation] {
        let expected = oracle.logits(&parameters, &batch.images, mode).unwrap();
        let found = program.logits(&parameters, &batch.images, mode).unwrap();
        let gap = gap(&found, &expected);
        assert!(gap < 1e-5, "seed {seed}, {isa:?}, {mode:?}: logits off by {gap}\n{network}");
    }

    let (expected, report) = oracle.gradient(&parameters, &batch, &options).unwrap();
    let (found, found_report) = program.gradient(&parameters, &batch, &options).unwrap();
    let off = (report.loss - found_report.loss).abs();
    assert!(off < 1e-5, "seed {seed}, {isa:?}: loss off by {off}\n{network}");
    assert_eq!(report.correct, found_report.correct, "seed {seed}, {isa:?}\n{network}");
    let size = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
    };
    let apart = found.iter().zip(&expected).map(|(found, expected)| found - expected);
    let whole = size(&mut apart.clone()) / size(&mut expected.iter().copied());
    assert!(whole < 1e-5, "seed {seed}, {isa:?}: gradient off by {whole}\n{network}");
    let mean = size(&mut expected.iter().copied()) / (expected.len() as f64).sqrt();
    let apart: Vec<f32> = apart.collect();
    for slot in parameters.slots() {
        // A gradient that cancels is as exact as the sums that it comes from.
        let floor = mean * (slot.range().len() as f64).sqrt();
        let own = size(&mut expected[slot.range()].iter().copied());
        let gap = size(&mut apart[slot.range()].iter().copied()) / own.max(floor);
        assert!(gap < 5e-5, "seed {seed}, {isa:?}: {} off by {gap}\n{network}", slot.id);
    }

    let (mut expected, mut found) = (parameters.clone(), parameters.clone());
    oracle.step(&mut expected, &batch, &options).unwrap();
    program.step(&mut found, &batch, &options).unwrap();
    let gap = gap(&found.values, &expected.values);
    assert!(gap < 1e-5, "seed {seed}, {isa:?}: a step off by {gap}\n{network}");

    let nodes: Vec<NodeId> = network.nodes().iter().map(|node| node.id).collect();
    let expected = oracle.moments(&parameters, &batch.images, &nodes).unwrap();
    let found = program.moments(&parameters, &batch.images, &nodes).unwrap();
    for id in nodes {
        let (expected, found) = (&expected[&id], &found[&id]);
        let scale = expected.mean.iter().zip(&expected.variance);
        let scale = scale.map(|(m, v)| (m * m + v).sqrt()).fold(1e-6, f64::max);
        for channel in 0..expected.mean.len() {
            let mean = (expected.mean[channel] - found.mean[channel]).abs() / scale;
            let variance =
                (expected.variance[channel] - found.variance[channel]).abs() / (scale * scale);
            let off = mean.max(variance);
            assert!(off < 1e-5, "seed {seed}, {isa:?}: moments of {id} off by {off}\n{network}");
        }
    }
}

#[test]
fn it_computes_what_the_oracle_does() {
    for (place, isa) in Isa::available().into_iter().enumerate() {
        let (random, wide) = if place == 0 { (150, 20) } else { (40, 5) };
        (0..random).for_each(|seed| check_against_oracle(isa, random_network, seed));
        (0..wide).for_each(|seed| check_against_oracle(isa, wide_network, seed));
        (0..wide).for_each(|seed| check_against_oracle(isa, few_filters_network, seed));
    }
}

/// Convolutions of few filters in images so wide that their outputs and the gradients of their inputs go by planes; to
/// one of these another is added.
fn few_filters_network(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let (height, width) = (6 + rng.below(8), 12 + rng.below(12));
    let input =
        network.push(Op::Input { shape: Shape::Image { channels: 3, height, width } }, &[], None);
    let filters = 1 + rng.below(7);
    let mut conv = |from: NodeId, groups: usize| {
        let bias = rng.below(2) == 0;
        let op = Op::Conv { filters, kernel: 3, stride: 1, padding: 1, groups, bias };
        network.push(op, &[from], None)
    };
    let first = conv(input, 1);
    let second = conv(first, 1);
    let third = conv(second, filters);
    let sum = network.push(Op::Add, &[first, third], None);
    let normalised = network.push(Op::batch_norm(), &[sum], None);
    let last = network.push(Op::GlobalPool, &[normalised], None);
    network.push(Op::Linear { units: CLASSES, bias: true }, &[last], None);
    network
}

/// Convolutions of images so large, in batches so large, that the gradients of their weights are summed
/// in parts: directly, over windows of images and of slopes, and by tiles.
fn parted_network(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let shape = Shape::Image { channels: 3, height: 16, width: 16 };
    let mut last = network.push(Op::Input { shape }, &[], None);
    for (filters, kernel) in [(12, 3), (32, 1), (6, 3), (32, 1), (32, 3), (160, 1), (160, 3)] {
        let padding = kernel / 2;
        let bias = rng.below(2) == 0;
        let op = Op::Conv { filters, kernel, stride: 1, padding, groups: 1, bias };
        last = network.push(op, &[last], None);
        last = network.push(Op::batch_norm(), &[last], None);
    }
    last = network.push(Op::GlobalPool, &[last], None);
    network.push(Op::Linear { units: CLASSES, bias: true }, &[last], None);
    network
}

/// A trained step's loss, gradient and parameters on so many threads.
fn step_on(
    threads: usize,
    precision: Precision,
    (kind, images): (fn(&mut Rng) -> Network, usize),
    seed: u64,
) -> (f64, Vec<f32>, FlatParameters) {
    let mut rng = Rng::new(seed);
    let (model, batch) = random_model_for(images, kind(&mut rng), &mut rng);
    let dropout = rng.split("dropout");
    let options =
        StepOptions { update: update(), label_smoothing: 0.0, precision, dropout: Some(&dropout) };
    let mut parameters = FlatParameters::new(&model, None).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut program = CpuProgram::new(model.network()).unwrap();
        let (gradient, _) = program.gradient(&parameters, &batch, &options).unwrap();
        let report = program.step(&mut parameters, &batch, &options).unwrap();
        (report.loss, gradient, parameters)
    })
}

#[test]
fn results_are_bit_identical_on_any_number_of_threads() {
    for seed in 0..42 {
        let kind: (fn(&mut Rng) -> Network, usize) = match seed {
            40.. => (parted_network, 32),
            _ if seed % 4 == 0 => (wide_network, BATCH),
            _ if seed % 4 == 1 => (few_filters_network, BATCH),
            _ => (random_network, BATCH),
        };
        for precision in [Precision::F32, Precision::Bf16] {
            let one = step_on(1, precision, kind, seed);
            for threads in [2, 8] {
                let same = step_on(threads, precision, kind, seed) == one;
                assert!(same, "seed {seed}, {precision:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn a_smaller_batch_after_a_larger_one_is_as_if_it_came_first() {
    for (seed, precision) in
        (0..20).map(|seed| (seed, [Precision::F32, Precision::Bf16][seed as usize % 2]))
    {
        let mut rng = Rng::new(seed);
        let (model, batch) = random_model(random_network(&mut rng), &mut rng);
        let options =
            StepOptions { update: update(), label_smoothing: 0.0, precision, dropout: None };
        let images = batch.images.slice(ndarray::s![..4, .., .., ..]).to_owned();
        let small = Batch::new(images, batch.labels[..4].to_vec());
        let parameters = FlatParameters::new(&model, None).unwrap();
        let mut used = CpuProgram::new(model.network()).unwrap();
        used.gradient(&parameters, &batch, &options).unwrap();
        let mut fresh = CpuProgram::new(model.network()).unwrap();
        assert_eq!(
            used.gradient(&parameters, &small, &options).unwrap(),
            fresh.gradient(&parameters, &small, &options).unwrap(),
            "seed {seed}, {precision:?}"
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut rng = Rng::new(1);
    let (model, batch) = random_model(random_network(&mut rng), &mut rng);
    let parameters = FlatParameters::new(&model, None).unwrap();
    let mut program = CpuProgram::new(model.network()).unwrap();
    let options = StepOptions {
        update: update(),
        label_smoothing: 0.0,
        precision: Precision::F32,
        dropout: None,
    };
    let mut refusal =
        |batch: &Batch| program.gradient(&parameters, batch, &options).unwrap_err().to_string();
    let (_, channels, height, width) = batch.images.dim();
    let larger =
        Batch { images: Images::zeros((BATCH, channels, height + 1, width)), ..batch.clone() };
    assert!(refusal(&larger).starts_with("expected images of"), "{}", refusal(&larger));
    let fewer = Batch { labels: vec![0], ..batch.clone() };
    assert_eq!(refusal(&fewer), format!("expected {BATCH} labels, found 1"));
    let outside = Batch { labels: vec![CLASSES; BATCH], ..batch.clone() };
    assert_eq!(refusal(&outside), "expected labels below 5, found 5");
}

/// Checks that each parameter's gradient in bf16 is the oracle's but for rounding.
fn check_bf16_against_oracle(isa: Isa, kind: fn(&mut Rng) -> Network, seed: u64) {
    // Both factors of a product are off by a 256th at most, and a gradient has come through every
    // layer there and back. In a weight's such errors have no common sign; a bias (or a norm's
    // parameter) is summed over pixels that share the rounding of weights.
    let product = 2.0 / 256.0;
    let mut rng = Rng::new(seed);
    let (model, batch) = random_model(kind(&mut rng), &mut rng);
    let network = model.network();
    let parameters = FlatParameters::new(&model, None).unwrap();
    let precision = Precision::Bf16;
    let options = StepOptions { update: update(), label_smoothing: 0.1, precision, dropout: None };
    let mut oracle = Oracle.compile(network).unwrap();
    let (expected, _) = oracle.gradient(&parameters, &batch, &options).unwrap();
    let mut program = CpuProgram::with_instructions(network, isa).unwrap();
    let (found, _) = program.gradient(&parameters, &batch, &options).unwrap();
    let mean_square = |values: &mut dyn Iterator<Item = f32>| {
        let (count, sum) = values.fold((0, 0.0), |(count, sum), value| {
            (count + 1, sum + f64::from(value) * f64::from(value))
        });
        sum / f64::from(count)
    };
    let layers = parameters.slots().iter().filter(|slot| slot.id.role == Role::Weight).count();
    let passes = 2.0 * layers as f64;
    for slot in parameters.slots() {
        // A bias of few filters may cancel by chance: it is as exact as its layer's others.
        let of_layer = parameters.slots().iter().filter(|other| other.id.node == slot.id.node);
        let mut layer = of_layer.flat_map(|slot| &expected[slot.range()]).copied();
        let own = mean_square(&mut expected[slot.range()].iter().copied());
        let scale = own.max(mean_square(&mut layer));
        let pairs = found[slot.range()].iter().zip(&expected[slot.range()]);
        let off = (mean_square(&mut pairs.map(|(f, e)| f - e)) / scale).sqrt();
        let is_weight = slot.id.role == Role::Weight;
        let bound = product * if is_weight { passes.sqrt() } else { passes };
        let case = format!("seed {seed}, {isa:?}: gradient of {} off by {off}", slot.id);
        assert!(off < bound, "{case}, expected {bound} at most\n{network}");
        // What matrix units can't be put to use for stays f32, and what they are put to use for is below.
        let is_rounded = is_weight && !isa.has_matrix_units();
        assert!(!is_rounded || off > 1e-4, "{case}, expected rounding\n{network}");
    }
}

#[test]
fn gradients_in_bf16_are_the_oracles_within_its_rounding() {
    for isa in Isa::available() {
        (0..100).for_each(|seed| check_bf16_against_oracle(isa, paired_network, seed));
        (0..20).for_each(|seed| check_bf16_against_oracle(isa, wide_network, seed));
        (0..2).for_each(|seed| check_bf16_against_oracle(isa, parted_network, seed));
    }
}

#[test]
fn matrix_units_are_put_to_use_in_bf16() {
    for isa in Isa::available().into_iter().filter(|isa| isa.has_matrix_units()) {
        let mut rng = Rng::new(1);
        let (model, batch) = random_model(parted_network(&mut rng), &mut rng);
        let parameters = FlatParameters::new(&model, None).unwrap();
        let of = |precision| {
            let options =
                StepOptions { update: update(), label_smoothing: 0.0, precision, dropout: None };
            let mut program = CpuProgram::with_instructions(model.network(), isa).unwrap();
            program.gradient(&parameters, &batch, &options).unwrap().0
        };
        let (single, bf16) = (of(Precision::F32), of(Precision::Bf16));
        for slot in parameters.slots().iter().filter(|slot| slot.id.role == Role::Weight) {
            let gap = gap(&bf16[slot.range()], &single[slot.range()]);
            assert!(gap > 1e-4, "{isa:?}: {} isn't rounded", slot.id);
        }
    }
}

#[test]
fn bf16_computes_the_same_on_all_machines_without_matrix_units() {
    for seed in 0..20 {
        let is_wide = seed % 4 == 0;
        let kind = if is_wide { wide_network } else { paired_network };
        let mut rng = Rng::new(seed);
        let (model, batch) = random_model(kind(&mut rng), &mut rng);
        let parameters = FlatParameters::new(&model, None).unwrap();
        let precision = Precision::Bf16;
        let options =
            StepOptions { update: update(), label_smoothing: 0.1, precision, dropout: None };
        let of = |isa| {
            let mut program = CpuProgram::with_instructions(model.network(), isa).unwrap();
            program.gradient(&parameters, &batch, &options).unwrap()
        };
        // Tiles are in f32, for which plain loops have no fused multiply-adds.
        let mut machines = Isa::available();
        machines.retain(|isa| !isa.has_matrix_units());
        machines.retain(|isa| !is_wide || *isa != Isa::Portable);
        let found: Vec<_> = machines.into_iter().map(|isa| (isa, of(isa))).collect();
        for (isa, gradient) in found.iter().skip(1) {
            assert!(*gradient == found[0].1, "seed {seed}, {isa:?}\n{}", model.network());
        }
    }
}

#[test]
fn dense_blocks_are_not_copied_together() {
    let text = include_str!("../../../../benches/networks/densenet.toml");
    let plan = Plan::new(&Network::from_toml(text).unwrap(), Isa::detect()).unwrap();
    let copies = plan.steps.iter().filter(|step| matches!(step.work, Work::Concat { .. }));
    let nodes: Vec<NodeId> = copies.map(|step| step.node).collect();
    assert_eq!(nodes, []);
}

#[test]
fn a_step_of_drawn_images_is_bit_for_bit_that_of_the_batch() {
    for (channels, height, width) in [(1, 7, 9), (3, 8, 8), (3, 5, 33), (4, 6, 5)] {
        let mut rng = Rng::new(channels as u64);
        let shape = Shape::Image { channels, height, width };
        let (count, size) = (21, channels * height * width);
        let pixels = (0..count * size).map(|_| rng.next_u32() as u8).collect();
        let labels = (0..count).map(|_| rng.below(CLASSES) as u8).collect();
        let classes = (0..CLASSES).map(|class| class.to_string()).collect();
        let source = Labelled::new(shape, classes, pixels, labels).unwrap();
        let mut network = Network::new();
        let mut last = network.push(Op::Input { shape }, &[], None);
        last = network.push(Op::conv(6, 3), &[last], None);
        last = network.push(Op::GlobalPool, &[last], None);
        network.push(Op::Linear { units: CLASSES, bias: true }, &[last], None);
        let model = Model::initialise(network, &rng).unwrap();
        let mirrors = [Mirror::Off, Mirror::Random, Mirror::Alternating];
        for (mirror, mixup) in mirrors.into_iter().flat_map(|mirror| [(mirror, 0.0), (mirror, 0.4)])
        {
            let augment = Augment { pad_crop: 3, mirror, cutout: 4, mixup };
            let options = DataOptions { validation: 0, train: None, augment };
            let data = split(source.clone(), options, &rng).unwrap();
            let recipe = Recipe { batch: 8, label_smoothing: 0.1, ..Recipe::quick() };
            for isa in [Isa::detect(), Isa::Portable] {
                let of = |is_drawn: bool| {
                    let mut parameters = FlatParameters::new(&model, None).unwrap();
                    let mut program = CpuProgram::with_instructions(model.network(), isa).unwrap();
                    let mut reports = Vec::new();
                    for step in steps_of_epoch(&data, &recipe, &Rng::new(3), 1, 0) {
                        if is_drawn {
                            let mut one = std::iter::once(step);
                            reports.extend(program.steps(&mut parameters, &mut one).unwrap());
                        } else {
                            let (batch, options) = (step.drawn.batch(), step.options());
                            let report = program.step(&mut parameters, &batch, &options).unwrap();
                            reports.push(report);
                        }
                    }
                    (parameters.values, reports)
                };
                assert_eq!(of(true), of(false), "{shape}, {augment:?}, {isa:?}");
            }
        }
    }
}
