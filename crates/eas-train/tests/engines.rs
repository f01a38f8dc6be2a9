//! What holds of every engine, on every device that is here, against the oracle: one body for all.

use std::io::Write;
use std::ops::ControlFlow;

use eas_ir::{Forward, Images, Mode, Model, Network, NodeId, Op, Reference, Rng, Role, Shape};
use eas_train::{
    Augment, Batch, Device, Engine, FlatParameters, Mirror, Oracle, Precision, Program, Recipe,
    StepOptions, StepReport, TrainingData, TrainingEnd, steps_of_epoch, survey_cuda, train,
};

use crate::random;

/// The devices that are here: the processor always, a GPU where there is one.
fn engines(test: &str) -> Vec<(Device, Box<dyn Engine>)> {
    let missing = survey_cuda().missing;
    let mut devices = vec![Device::Cpu];
    if missing.is_empty() {
        devices.push(Device::Cuda(0));
    } else {
        let why = missing.join("; ");
        let text = format!("{test}: SKIPPED on CUDA, checked on the CPU alone: {why}\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    devices.into_iter().map(|device| (device, device.engine().unwrap())).collect()
}

/// How far two lists of numbers are apart, relative to the second's length.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |value: f32| f64::from(value) * f64::from(value);
    let gap: f64 = found.iter().zip(expected).map(|(found, other)| square(found - other)).sum();
    let length: f64 = expected.iter().map(|value| square(*value)).sum();
    (gap / length.max(1e-60)).sqrt()
}

/// A network whose layers are as wide as real ones: whole vectors, and channels that are none.
fn wide(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let side = 8 + rng.below(9);
    let shape = Shape::Image { channels: 3, height: side, width: side };
    let mut last = network.push(Op::Input { shape }, &[], None);
    let mut push = |op: Op, inputs: &[NodeId]| network.push(op, inputs, None);
    let widths = [16, 24, 32, 40, 52, 64, 72];
    let mut filters = || widths[rng.below(widths.len())];
    let layer = |push: &mut dyn FnMut(Op, &[NodeId]) -> NodeId, filters, kernel, from| {
        let conv = push(Op::conv(filters, kernel), &[from]);
        let norm = push(Op::batch_norm(), &[conv]);
        push(Op::Relu, &[norm])
    };
    last = layer(&mut push, filters(), 3, last);
    last = push(Op::MaxPool { size: 3, stride: 2, padding: 1 }, &[last]);
    let width = filters();
    last = layer(&mut push, width, 5, last);
    let branch = layer(&mut push, width, 3, last);
    let sum = push(Op::Add, &[branch, last]);
    let other = layer(&mut push, 12, 1, sum);
    last = push(Op::Concat, &[sum, other]);
    last = push(Op::AveragePool { size: 2, stride: 2 }, &[last]);
    last = layer(&mut push, filters(), 1, last);
    last = push(Op::GlobalPool, &[last]);
    last = push(Op::Linear { units: 64, bias: true }, &[last]);
    last = push(Op::Relu, &[last]);
    last = push(Op::Dropout { rate: 0.25 }, &[last]);
    push(Op::Linear { units: 10, bias: true }, &[last]);
    network
}

/// Models with a batch each: small ones of every operation, and wide ones.
fn cases(small: u64, large: u64) -> Vec<(u64, Model, Batch)> {
    let one = |seed: u64| {
        let mut rng = Rng::new(seed).split("engines");
        let (network, images) = match seed < small {
            true => (random::network(&mut rng), 5),
            false => (wide(&mut rng), 24),
        };
        let model = random::model(network, &mut rng);
        let batch = random::batch(&model, images, &mut rng);
        (seed, model, batch)
    };
    (0..small + large).map(one).collect()
}

fn options<'a>(seed: u64, dropout: Option<&'a Rng>) -> StepOptions<'a> {
    let mut update = Recipe::quick().update(0.05);
    (update.weight_decay, update.momentum) = (1e-2, 0.9);
    (update.decoupled, update.decay_all) = (seed % 2 == 1, seed % 3 == 1);
    StepOptions { update, label_smoothing: 0.1, precision: Precision::F32, dropout }
}

#[test]
fn logits_and_moments_are_the_oracles() {
    for (device, engine) in engines("logits_and_moments_are_the_oracles") {
        for (seed, model, batch) in cases(60, 8) {
            for mode in [Mode::Evaluation, Mode::Training] {
                let of = |engine: &dyn Forward| engine.logits(&model, &batch.images, mode).unwrap();
                let (found, expected) = (of(&*engine), of(&Reference));
                let gap = eas_ir::deviation_of_logits(&expected);
                let off = (&found - &expected).fold(0f64, |most, gap| most.max(gap.abs())) / gap;
                assert!(off < 1e-4, "{device}, seed {seed}, {mode:?}: {off}\n{}", model.network());
            }
            let nodes: Vec<NodeId> = model.network().nodes().iter().map(|node| node.id).collect();
            let found = engine.moments(&model, &batch.images, &nodes).unwrap();
            let expected = Oracle.moments(&model, &batch.images, &nodes).unwrap();
            for node in nodes {
                let narrow = |values: &[f64]| Vec::from_iter(values.iter().map(|v| *v as f32));
                let (found, expected) = (&found[&node], &expected[&node]);
                let deviation = random::largest(&narrow(&expected.variance)).sqrt();
                let size = deviation.max(random::largest(&narrow(&expected.mean)));
                let mean = random::gap(&narrow(&found.mean), &narrow(&expected.mean), size);
                let (found, expected) = (narrow(&found.variance), narrow(&expected.variance));
                let variance = random::gap(&found, &expected, deviation * size);
                assert!(mean < 1e-4, "{device}, seed {seed}, {node}: means off by {mean}");
                assert!(variance < 1e-4, "{device}, seed {seed}, {node}: off by {variance}");
            }
        }
    }
}

#[test]
fn gradients_are_the_oracles() {
    for (device, engine) in engines("gradients_are_the_oracles") {
        for (seed, model, batch) in cases(60, 8) {
            let parameters = FlatParameters::new(&model, None).unwrap();
            let rng = Rng::new(seed);
            let options = options(seed, Some(&rng));
            let of = |engine: &dyn Engine| {
                let mut program = engine.compile(model.network()).unwrap();
                program.gradient(&parameters, &batch, &options).unwrap()
            };
            let ((found, report), (expected, its)) = (of(&*engine), of(&Oracle));
            let off = (report.loss - its.loss).abs() / its.loss.max(1.0);
            assert!(off < 1e-5, "{device}, seed {seed}: loss {report:?}, {its:?}");
            assert_eq!(report.correct, its.correct, "{device}, seed {seed}");
            let off = distance(&found, &expected);
            assert!(
                off < 1e-3,
                "{device}, seed {seed}: gradient off by {off}\n{}",
                model.network()
            );
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_has_a_gradient_of_nan() {
    let name = "a_loss_that_is_not_finite_has_a_gradient_of_nan";
    let oracle: (String, Box<dyn Engine>) = ("oracle".to_owned(), Box::new(Oracle));
    let devices = engines(name).into_iter().map(|(device, engine)| (device.to_string(), engine));
    for (device, engine) in devices.chain([oracle]) {
        for (seed, model, batch) in cases(10, 2) {
            let parameters = FlatParameters::new(&model, None).unwrap();
            let mut program = engine.compile(model.network()).unwrap();
            let mut of =
                |batch| program.gradient(&parameters, batch, &options(seed, None)).unwrap();
            let mut diverged = batch.clone();
            diverged.images.fill(f32::NAN);
            let (before, _) = of(&batch);
            let (found, report) = of(&diverged);
            assert!(!report.is_finite(), "{device}, seed {seed}: {report:?}");
            let numbers = found.iter().filter(|value| !value.is_nan()).count();
            assert_eq!((numbers, found.len()), (0, before.len()), "{device}, seed {seed}");
            // Nothing of it is left.
            let off = distance(&of(&batch).0, &before);
            assert!(off < 1e-4, "{device}, seed {seed}: off by {off} behind it");
        }
    }
}

#[test]
fn steps_change_parameters_momentum_and_statistics_as_the_oracles() {
    for (device, engine) in engines("steps_change_parameters_momentum_and_statistics") {
        for (seed, model, batch) in cases(24, 4) {
            let rng = Rng::new(seed);
            let of = |engine: &dyn Engine| {
                let mut parameters = FlatParameters::new(&model, None).unwrap();
                let mut program = engine.compile(model.network()).unwrap();
                for step in 0..3 {
                    let dropout = rng.split_index(step);
                    program.step(&mut parameters, &batch, &options(seed, Some(&dropout))).unwrap();
                }
                parameters
            };
            let (found, expected) = (of(&*engine), of(&Oracle));
            for slot in expected.slots() {
                let (found, expected) =
                    (found.get(slot.id).unwrap(), expected.get(slot.id).unwrap());
                let off = random::gap(found, expected, 0.1);
                assert!(off < 2e-3, "{device}, seed {seed}, {}: off by {off}", slot.id);
            }
            let momentum = |parameters: &FlatParameters| -> Vec<f32> {
                parameters.to_momentum().values().flatten().copied().collect()
            };
            let off = distance(&momentum(&found), &momentum(&expected));
            assert!(off < 2e-3, "{device}, seed {seed}: momentum off by {off}");
        }
    }
}

#[test]
fn bf16_is_f32_to_the_rounding_of_factors() {
    for (device, engine) in engines("bf16_is_f32_to_the_rounding_of_factors") {
        for (seed, model, batch) in cases(0, 8) {
            let parameters = FlatParameters::new(&model, None).unwrap();
            let rng = Rng::new(seed);
            let of = |precision| {
                let options = StepOptions { precision, ..options(seed, Some(&rng)) };
                let mut program = engine.compile(model.network()).unwrap();
                program.gradient(&parameters, &batch, &options).unwrap()
            };
            let ((found, report), (expected, its)) = (of(Precision::Bf16), of(Precision::F32));
            let off = (report.loss - its.loss).abs() / its.loss;
            assert!(off < 2e-2, "{device}, seed {seed}: loss {report:?}, {its:?}");
            let off = distance(&found, &expected);
            // Roundings of 2^-9, of values too where they are kept in bf16, through a dozen layers,
            // and ReLUs that they decide.
            assert!(off < 0.15, "{device}, seed {seed}: gradient off by {off}");
        }
    }
}

/// Data that every kind of augmentation is done to.
fn augmented() -> TrainingData {
    let mut data = random::stripes(203, 40);
    data.augment = Augment { pad_crop: 2, mirror: Mirror::Random, cutout: 3, mixup: 0.4 };
    data
}

/// Some epochs of steps, given as many at once as the program asks for.
fn epochs(
    program: &mut dyn Program,
    parameters: &mut FlatParameters,
    data: &TrainingData,
    recipe: &Recipe,
) -> Vec<StepReport> {
    let mut reports = Vec::new();
    for epoch in 0..2 {
        let mut steps = steps_of_epoch(data, recipe, &Rng::new(3), epoch, 0);
        while steps.len() > 0 {
            let mut some = steps.by_ref().take(program.stride());
            reports.extend(program.steps(parameters, &mut some).unwrap());
        }
    }
    reports
}

#[test]
fn steps_of_drawn_batches_are_those_of_batches_that_are_made() {
    let data = augmented();
    let recipe = Recipe { batch: 32, label_smoothing: 0.1, ..Recipe::quick() };
    let model = random::model(random::learner(0.2), &mut Rng::new(1));
    for (device, engine) in engines("steps_of_drawn_batches_are_those_of_batches_that_are_made") {
        let mut parameters = FlatParameters::new(&model, None).unwrap();
        let mut program = engine.compile(model.network()).unwrap();
        let found = epochs(&mut *program, &mut parameters, &data, &recipe);
        // One by one, from images that the host made.
        let mut expected = FlatParameters::new(&model, None).unwrap();
        let mut program = engine.compile(model.network()).unwrap();
        let mut reports = Vec::new();
        for epoch in 0..2 {
            for step in steps_of_epoch(&data, &recipe, &Rng::new(3), epoch, 0) {
                let batch = step.drawn.batch();
                reports.push(program.step(&mut expected, &batch, &step.options()).unwrap());
            }
        }
        assert_eq!(found.len(), reports.len(), "{device}");
        for (step, (found, expected)) in found.iter().zip(&reports).enumerate() {
            let off = (found.loss - expected.loss).abs() / expected.loss;
            assert!(off < 1e-4, "{device}, step {step}: {found:?}, {expected:?}");
        }
        for slot in expected.slots() {
            let (found, expected) =
                (parameters.get(slot.id).unwrap(), expected.get(slot.id).unwrap());
            let off = random::gap(found, expected, 0.1);
            assert!(off < 1e-3, "{device}, {}: off by {off}", slot.id);
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_ends_the_steps_and_leaves_the_parameters() {
    let data = augmented();
    let model = random::model(random::learner(0.0), &mut Rng::new(1));
    let wild = Recipe { batch: 32, learning_rate: 1e30, ..Recipe::quick() };
    for (device, engine) in engines("a_loss_that_is_not_finite_ends_the_steps") {
        let mut program = engine.compile(model.network()).unwrap();
        let mut parameters = FlatParameters::new(&model, None).unwrap();
        let mut steps = steps_of_epoch(&data, &wild, &Rng::new(3), 0, 0);
        let mut reports = Vec::new();
        while reports.iter().all(StepReport::is_finite) && steps.len() > 0 {
            let mut some = steps.by_ref().take(program.stride());
            reports.extend(program.steps(&mut parameters, &mut some).unwrap());
        }
        let done = reports.len() - 1;
        assert!(!reports[done].is_finite() && (1..6).contains(&done), "{device}: {reports:?}");
        // The same steps but the last, one by one.
        let mut expected = FlatParameters::new(&model, None).unwrap();
        let mut program = engine.compile(model.network()).unwrap();
        for step in steps_of_epoch(&data, &wild, &Rng::new(3), 0, 0).take(done) {
            program.step(&mut expected, &step.drawn.batch(), &step.options()).unwrap();
        }
        let kernel = parameters.slots().iter().find(|slot| slot.id.role == Role::Weight).unwrap();
        let (found, expected) =
            (parameters.get(kernel.id).unwrap(), expected.get(kernel.id).unwrap());
        assert!(random::gap(found, expected, 0.0) < 1e-2, "{device}: not those before it");
    }
}

#[test]
fn a_training_learns_what_it_learns_on_the_cpu() {
    let data = random::stripes(400, 200);
    let model = random::model(random::learner(0.1), &mut Rng::new(1));
    let learnt = |engine: &dyn Engine, precision| {
        let recipe =
            Recipe { epochs: 6, batch: 32, learning_rate: 0.1, precision, ..Recipe::quick() };
        let go_on = &mut |_: eas_train::Progress<'_>| ControlFlow::Continue(());
        let rng = Rng::new(5);
        let training =
            train(engine, &model, None, &data, &recipe, 0..6, &|_| true, &rng, go_on).unwrap();
        assert_eq!(training.end, TrainingEnd::Finished);
        let last = training.epochs.last().unwrap();
        (last.training_loss, last.validation_accuracy.unwrap())
    };
    let expected = learnt(&eas_train::Cpu, Precision::F32);
    for (device, engine) in engines("a_training_learns_what_it_learns_on_the_cpu") {
        for precision in [Precision::F32, Precision::Bf16] {
            let found = learnt(&*engine, precision);
            let near = (found.0 - expected.0).abs() < 0.1 && (found.1 - expected.1).abs() < 0.06;
            assert!(near, "{device}, {precision:?}: {found:?}, on the CPU {expected:?}");
        }
    }
}

#[test]
fn images_of_another_size_are_refused() {
    let model = random::model(random::learner(0.0), &mut Rng::new(1));
    let parameters = FlatParameters::new(&model, None).unwrap();
    for (device, engine) in engines("images_of_another_size_are_refused") {
        let mut program = engine.compile(model.network()).unwrap();
        let images = Images::zeros((2, 1, 12, 13));
        let error = program.logits(&parameters, &images, Mode::Evaluation).unwrap_err();
        let expected = "expected images of 1x12x12, found 1x12x13";
        assert_eq!(error.to_string(), expected, "{device}");
    }
}

#[test]
fn a_program_has_no_memory_of_what_it_did_before() {
    let data = augmented();
    let model = random::model(random::learner(0.2), &mut Rng::new(1));
    let recipe = |precision, batch| Recipe { batch, precision, ..Recipe::quick() };
    // Precisions, sizes of batches down to one, and evaluation in between.
    let trainings = [
        recipe(Precision::F32, 32),
        recipe(Precision::Bf16, 32),
        recipe(Precision::F32, 1),
        recipe(Precision::Bf16, 48),
        recipe(Precision::F32, 32),
    ];
    let images = random::batch(&model, 300, &mut Rng::new(2)).images;
    for (device, engine) in engines("a_program_has_no_memory_of_what_it_did_before") {
        let mut used = engine.compile(model.network()).unwrap();
        for (place, recipe) in trainings.iter().enumerate() {
            let of = |program: &mut dyn Program| {
                let mut parameters = FlatParameters::new(&model, None).unwrap();
                let mut steps = steps_of_epoch(&data, recipe, &Rng::new(3), 0, 0);
                let mut some = steps.by_ref().take(program.stride().min(4));
                let mut reports = Vec::new();
                while reports.len() < 4 {
                    reports.extend(program.steps(&mut parameters, &mut some).unwrap());
                    some = steps.by_ref().take(program.stride().min(4));
                }
                let logits = program.logits(&parameters, &images, Mode::Evaluation).unwrap();
                (reports, logits)
            };
            let mut fresh = engine.compile(model.network()).unwrap();
            let ((found, logits), (expected, others)) = (of(&mut *used), of(&mut *fresh));
            for (found, expected) in found.iter().zip(&expected) {
                let off = (found.loss - expected.loss).abs() / expected.loss.max(0.1);
                assert!(off < 1e-2, "{device}, training {place}: {found:?}, {expected:?}");
            }
            let off = distance(logits.as_slice().unwrap(), others.as_slice().unwrap());
            assert!(off < 2e-2, "{device}, training {place}: logits off by {off}");
        }
    }
}
