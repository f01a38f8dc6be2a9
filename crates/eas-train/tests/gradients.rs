//! The oracle engine against the reference evaluator and against finite differences.

use std::collections::BTreeSet;

use eas_ir::{Forward, Gradients, Mode, Model, NodeId, Reference, Rng};
use eas_train::{
    Batch, Cpu, Engine, FlatParameters, Mixed, Nesterov, Oracle, Precision, Recipe, StepOptions,
};

use crate::random;

/// Every operation that a network may have.
const OPERATIONS: usize = 12;

/// Random models with a batch each; between them they have every operation.
fn cases(count: u64) -> Vec<(u64, Model, Batch)> {
    let cases: Vec<_> = (0..count)
        .map(|seed| {
            let mut rng = Rng::new(seed).split("gradients");
            let network = random::network(&mut rng);
            let model = random::model(network, &mut rng);
            let batch = random::batch(&model, 5, &mut rng);
            (seed, model, batch)
        })
        .collect();
    let seen: BTreeSet<_> =
        cases.iter().flat_map(|(_, model, _)| random::operations(model.network())).collect();
    assert_eq!(seen.len(), OPERATIONS, "{seen:?}");
    cases
}

#[test]
fn gradients_are_the_reference_evaluators() {
    for (seed, model, batch) in cases(60) {
        let found = Oracle.gradients(&model, &batch.images, &batch.labels).unwrap();
        let expected = Reference.gradients(&model, &batch.images, &batch.labels).unwrap();
        assert_eq!(Vec::from_iter(found.keys()), Vec::from_iter(expected.keys()), "seed {seed}");
        // A bias that a batch norm takes away again has slope 0 but for rounding.
        let scale = 1e-2 * random::largest(expected.values().flatten());
        for (id, expected) in &expected {
            let (found, expected) = (found[id].as_slice().unwrap(), expected.as_slice().unwrap());
            let gap = random::gap(found, expected, scale);
            assert!(gap < 1e-4, "seed {seed}, {id}: off by {gap}\n{}", model.network());
        }
    }
}

/// A batch with something mixed into every image; each keeps `own`, or a share of its own.
fn mixed(batch: &Batch, classes: usize, own: Option<f64>, rng: &mut Rng) -> Batch {
    let mixed = (0..batch.labels.len())
        .map(|_| Mixed { label: rng.below(classes), own: own.unwrap_or_else(|| rng.unit()) })
        .collect();
    Batch { mixed, ..batch.clone() }
}

const PLAIN: StepOptions<'_> = StepOptions {
    update: Nesterov {
        learning_rate: 0.0,
        momentum: 0.0,
        weight_decay: 0.0,
        decoupled: false,
        decay_all: false,
    },
    label_smoothing: 0.0,
    precision: Precision::F32,
    dropout: None,
};

#[test]
fn gradients_of_mixed_images_are_the_reference_evaluators() {
    for (seed, model, batch) in cases(40) {
        let mut rng = Rng::new(seed).split("mixed");
        let batch = mixed(&batch, model.classes(), None, &mut rng);
        let mut targets = ndarray::Array2::zeros((batch.labels.len(), model.classes()));
        for (image, (label, mixed)) in batch.labels.iter().zip(&batch.mixed).enumerate() {
            targets[[image, *label]] += mixed.own;
            targets[[image, mixed.label]] += 1.0 - mixed.own;
        }
        let expected = Reference.gradients_of(&model, &batch.images, &targets).unwrap();
        let scale = 1e-2 * random::largest(expected.values().flatten());
        let parameters = FlatParameters::new(&model, None).unwrap();
        for engine in [&Oracle as &dyn Engine, &Cpu] {
            let mut program = engine.compile(model.network()).unwrap();
            let (gradient, _) = program.gradient(&parameters, &batch, &PLAIN).unwrap();
            for slot in parameters.slots().iter().filter(|slot| slot.is_trainable()) {
                let expected = expected[&slot.id].as_slice().unwrap();
                let gap = random::gap(&gradient[slot.range()], expected, scale);
                assert!(gap < 1e-4, "seed {seed}, {}: off by {gap}\n{}", slot.id, model.network());
            }
        }
    }
}

#[test]
fn a_mixed_images_loss_is_its_classes_losses_by_their_shares() {
    for (seed, model, batch) in cases(40) {
        let mut rng = Rng::new(seed).split("shares");
        let own = rng.unit();
        let batch = mixed(&batch, model.classes(), Some(own), &mut rng);
        let others = batch.mixed.iter().map(|mixed| mixed.label).collect();
        let parts = [batch.labels.clone(), others];
        let parameters = FlatParameters::new(&model, None).unwrap();
        let options = StepOptions { label_smoothing: 0.1, ..PLAIN };
        for engine in [&Oracle as &dyn Engine, &Cpu] {
            let mut program = engine.compile(model.network()).unwrap();
            let mut of = |batch: &Batch| program.gradient(&parameters, batch, &options).unwrap();
            let (gradient, report) = of(&batch);
            let [(first, its), (second, theirs)] =
                parts.clone().map(|labels| of(&Batch::new(batch.images.clone(), labels)));
            let loss = own * its.loss + (1.0 - own) * theirs.loss;
            assert!((report.loss - loss).abs() < 1e-5 * loss.max(1.0), "seed {seed}: {report:?}");
            let share = own as f32;
            let expected: Vec<f32> = first
                .iter()
                .zip(&second)
                .map(|(first, second)| share * first + (1.0 - share) * second)
                .collect();
            let largest = random::largest(first.iter().chain(&second));
            let gap = random::gap(&gradient, &expected, largest);
            assert!(gap < 1e-4, "seed {seed}: off by {gap}\n{}", model.network());
        }
    }
}

#[test]
fn an_image_that_keeps_all_of_itself_is_as_it_was_bit_for_bit() {
    for (seed, model, batch) in cases(40) {
        let whole = mixed(&batch, model.classes(), Some(1.0), &mut Rng::new(seed));
        let parameters = FlatParameters::new(&model, None).unwrap();
        let options = StepOptions { label_smoothing: 0.1, ..PLAIN };
        let mut program = Cpu.compile(model.network()).unwrap();
        let mut of = |batch: &Batch| program.gradient(&parameters, batch, &options).unwrap();
        assert_eq!(of(&whole), of(&batch), "seed {seed}");
    }
}

#[test]
fn logits_and_moments_are_the_reference_evaluators() {
    for (seed, model, batch) in cases(60) {
        for mode in [Mode::Evaluation, Mode::Training] {
            let found = Oracle.logits(&model, &batch.images, mode).unwrap();
            let expected = Reference.logits(&model, &batch.images, mode).unwrap();
            let gap = random::gap(
                found.mapv(|value| value as f32).as_slice().unwrap(),
                expected.mapv(|value| value as f32).as_slice().unwrap(),
                0.0,
            );
            assert!(gap < 1e-5, "seed {seed}, {mode:?}: off by {gap}\n{}", model.network());
        }
        let nodes: Vec<NodeId> = model.network().nodes().iter().map(|node| node.id).collect();
        let found = Oracle.moments(&model, &batch.images, &nodes).unwrap();
        let expected = Reference.moments(&model, &batch.images, &nodes).unwrap();
        for node in nodes {
            let narrow = |values: &[f64]| Vec::from_iter(values.iter().map(|value| *value as f32));
            let (found, expected) = (&found[&node], &expected[&node]);
            // The rounding of either is that of the values themselves, whose size both tell.
            let deviation = random::largest(&narrow(&expected.variance)).sqrt();
            let size = deviation.max(random::largest(&narrow(&expected.mean)));
            let mean = random::gap(&narrow(&found.mean), &narrow(&expected.mean), size);
            let (found, expected) = (narrow(&found.variance), narrow(&expected.variance));
            let variance = random::gap(&found, &expected, deviation * size);
            assert!(mean < 1e-5, "seed {seed}, {node}: means off by {mean}");
            assert!(variance < 1e-5, "seed {seed}, {node}: variances off by {variance}");
        }
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss_with_dropout_and_label_smoothing_too() {
    for (seed, model, batch) in cases(60) {
        let mut rng = Rng::new(seed).split("directions");
        let dropout = Rng::new(seed);
        let options = StepOptions {
            update: Recipe::quick().update(0.1),
            label_smoothing: 0.1,
            precision: Precision::F32,
            dropout: Some(&dropout),
        };
        let mut program = Oracle.compile(model.network()).unwrap();
        let parameters = FlatParameters::new(&model, None).unwrap();
        let (gradient, _) = program.gradient(&parameters, &batch, &options).unwrap();
        let norm = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
        let steepest = norm(&gradient);
        for slot in parameters.slots().iter().filter(|slot| slot.is_trainable()) {
            // Uphill, and as far sideways.
            let slope = &gradient[slot.range()];
            let sideways = norm(slope) / (slope.len() as f32).sqrt();
            if norm(slope) < 1e-2 * steepest {
                continue;
            }
            let direction: Vec<f32> =
                slope.iter().map(|slope| slope + sideways * rng.normal() as f32).collect();
            let expected: f32 = slope.iter().zip(&direction).map(|(slope, by)| slope * by).sum();
            let length = norm(&direction);
            let mut loss_at = |step: f32| {
                let mut moved = parameters.clone();
                let values = moved.get_mut(slot.id).unwrap();
                values.iter_mut().zip(&direction).for_each(|(value, by)| *value += step * by);
                program.gradient(&moved, &batch, &options).unwrap().1.loss
            };
            // A step that crosses a kink says little; it takes bad luck for both to do so.
            let gaps = [4e-3, 1e-3].map(|step| {
                let found =
                    (loss_at(step / length) - loss_at(-step / length)) / f64::from(2.0 * step);
                (found - f64::from(expected / length)).abs() / f64::from(norm(slope))
            });
            let gap = gaps[0].min(gaps[1]);
            assert!(gap < 2e-2, "seed {seed}, {}: off by {gap}\n{}", slot.id, model.network());
        }
    }
}
