//! What a training depends on, what it leaves alone, and how it ends.

use std::ops::{ControlFlow, Range};

use eas_ir::{Model, Network, NodeId, Op, ParamId, Rng, Role, Shape, Weights, tensor};
use eas_train::{
    Batch, Cpu, Engine, EpochRecord, FlatParameters, Nesterov, Oracle, Position, Precision,
    Progress, Recipe, Schedule, Start, StepOptions, Training, TrainingData, TrainingEnd,
    nesterov_step, train, train_from,
};

use crate::random;

fn recipe() -> Recipe {
    Recipe { epochs: 3, batch: 32, label_smoothing: 0.1, ..Recipe::quick() }
}

fn model() -> Model {
    random::model(random::learner(0.2), &mut Rng::new(1))
}

/// Trains, measuring after every epoch.
fn run(
    model: &Model,
    momentum: Option<&Weights>,
    data: &TrainingData,
    recipe: &Recipe,
    epochs: Range<usize>,
    seed: u64,
) -> Training {
    let go_on = &mut |_: Progress<'_>| ControlFlow::Continue(());
    let rng = Rng::new(seed);
    train(&Oracle, model, momentum, data, recipe, epochs, &|_| true, &rng, go_on).unwrap()
}

/// All of a training but the time it took, exactly.
fn outcome(training: &Training) -> String {
    let bits = |weights: &Weights| -> Vec<_> {
        let bits = |(id, values): (&ParamId, &eas_ir::Tensor)| {
            (*id, values.iter().map(|value| value.to_bits()).collect::<Vec<_>>())
        };
        weights.iter().map(bits).collect()
    };
    let without_time = |epoch: &EpochRecord| EpochRecord { seconds: 0.0, ..epoch.clone() };
    let epochs: Vec<_> = training.epochs.iter().map(without_time).collect();
    let (weights, momentum) = (bits(training.model.weights()), bits(&training.momentum));
    format!("{epochs:?} {:?} {weights:?} {momentum:?}", training.end)
}

#[test]
fn a_training_is_a_function_of_model_data_recipe_and_seed() {
    let (model, data) = (model(), random::stripes(160, 40));
    let first = run(&model, None, &data, &recipe(), 0..2, 7);
    assert_eq!(outcome(&run(&model, None, &data, &recipe(), 0..2, 7)), outcome(&first));
    let other_recipe = Recipe { weight_decay: 1e-3, ..recipe() };
    for (why, other) in [
        ("seed", run(&model, None, &data, &recipe(), 0..2, 8)),
        ("recipe", run(&model, None, &data, &other_recipe, 0..2, 7)),
        ("data", run(&model, None, &random::stripes(159, 40), &recipe(), 0..2, 7)),
        ("momentum", run(&model, Some(&first.momentum), &data, &recipe(), 0..2, 7)),
    ] {
        assert_ne!(outcome(&other), outcome(&first), "another {why}");
    }
}

/// Where a copy of the next test, in a process of its own, leaves what it found.
const OUTCOME: &str = "EAS_TRAIN_TEST_OUTCOME";

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (model, data) = (model(), random::stripes(96, 40));
    let here = outcome(&run(&model, None, &data, &recipe(), 0..1, 7));
    if let Some(path) = std::env::var_os(OUTCOME) {
        std::fs::write(path, here).unwrap();
        return;
    }
    for threads in [1, 2, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| outcome(&run(&model, None, &data, &recipe(), 0..1, 7)));
        assert!(found == here, "a pool of {threads} threads trains differently");
        // candle's matrix product takes its number of threads from the environment alone.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outcome");
        let test = "training::the_number_of_threads_changes_no_bit";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env("RAYON_NUM_THREADS", threads.to_string())
            .env(OUTCOME, &path)
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        let found = std::fs::read_to_string(&path).unwrap();
        assert!(found == here, "RAYON_NUM_THREADS={threads} trains differently");
    }
}

#[test]
fn going_on_is_never_having_stopped() {
    let (model, data, recipe) = (model(), random::stripes(100, 20), recipe());
    let whole = run(&model, None, &data, &recipe, 0..3, 3);
    for stop in 0..=3 {
        let first = run(&model, None, &data, &recipe, 0..stop, 3);
        let mut rest = run(&first.model, Some(&first.momentum), &data, &recipe, stop..3, 3);
        rest.epochs.splice(0..0, first.epochs);
        assert_eq!(outcome(&rest), outcome(&whole), "stopped after {stop} epochs");
    }
}

#[test]
fn a_trained_child_leaves_its_parent_as_it_was() {
    let (parent, data) = (model(), random::stripes(64, 20));
    let child = run(&parent, None, &data, &recipe(), 0..1, 3);
    let child_before = outcome(&child);
    let grandchild = run(&child.model, Some(&child.momentum), &data, &recipe(), 1..2, 3);
    for (id, weights) in parent.weights() {
        assert_ne!(child.model.weights()[id], *weights, "{id} was trained");
        assert_ne!(grandchild.model.weights()[id], child.model.weights()[id], "{id} was trained");
    }
    // A clone would share its tensors with the parent and change with it.
    assert_eq!(parent, model(), "the parent's tensors changed");
    assert_eq!(outcome(&child), child_before, "the child's tensors changed");
}

#[test]
fn momentum_is_of_trainable_parameters_alone() {
    let (model, data) = (model(), random::stripes(64, 20));
    let trained = run(&model, None, &data, &recipe(), 0..1, 3);
    let trainable: Vec<ParamId> =
        model.weights().keys().copied().filter(|id| id.role.trainable()).collect();
    assert_eq!(Vec::from_iter(trained.momentum.keys().copied()), trainable);
    // Momentum of what isn't trained is not taken over.
    let mut given: Weights =
        model.weights().iter().map(|(id, values)| (*id, values.mapv(|_| 1.0).into())).collect();
    let flat = FlatParameters::new(&model, Some(&given)).unwrap();
    given.retain(|id, _| id.role.trainable());
    assert_eq!(flat, FlatParameters::new(&model, Some(&given)).unwrap());
    assert_eq!(flat.to_momentum(), given);
    let mut moved = flat.clone();
    let gradient = vec![1.0; model.weights().values().map(|values| values.len()).sum()];
    nesterov_step(&mut moved, &gradient, recipe().update(0.1));
    for slot in flat.slots() {
        let stayed = moved.get(slot.id) == flat.get(slot.id);
        assert_eq!(stayed, !slot.is_trainable(), "{}", slot.id);
    }
}

#[test]
fn weight_decay_shrinks_weights_and_the_rest_only_where_asked_to() {
    let model = model();
    for (decay_all, decoupled) in [(false, false), (true, false), (false, true), (true, true)] {
        let update =
            Nesterov { learning_rate: 0.5, momentum: 0.0, weight_decay: 0.1, decoupled, decay_all };
        let before = FlatParameters::new(&model, None).unwrap();
        let mut after = before.clone();
        let gradient = vec![0.0; model.weights().values().map(|values| values.len()).sum()];
        nesterov_step(&mut after, &gradient, update);
        for slot in before.slots() {
            let decays = match slot.id.role {
                Role::Weight => true,
                Role::Bias | Role::Gamma | Role::Beta => decay_all,
                Role::Mean | Role::Variance => false,
            };
            let kept = if decays { 0.95 } else { 1.0 };
            let (before, after) = (before.get(slot.id).unwrap(), after.get(slot.id).unwrap());
            let expected: Vec<f32> = before.iter().map(|value| kept * value).collect();
            let gap = random::gap(after, &expected, 0.0);
            assert!(gap < 1e-6, "decay_all {decay_all}, {}: off by {gap}", slot.id);
        }
    }
}

/// What dropout makes of ones, by the gradient of the linear layer of zeros behind it.
fn mask(network: &Network, dropout: &Rng) -> Vec<f32> {
    let model = Model::initialise(network.clone(), &Rng::new(0)).unwrap();
    let mut weights = model.into_parts().1;
    weights.values_mut().for_each(|values| values.fill(0.0));
    let model = Model::new(network.clone(), weights).unwrap();
    let batch = Batch::new(ndarray::Array4::ones((1, FEATURES, 1, 1)), vec![0]);
    let options = StepOptions {
        update: recipe().update(0.1),
        label_smoothing: 0.0,
        precision: Precision::F32,
        dropout: Some(dropout),
    };
    let parameters = FlatParameters::new(&model, None).unwrap();
    let mut program = Oracle.compile(network).unwrap();
    let (gradient, _) = program.gradient(&parameters, &batch, &options).unwrap();
    // Two equal logits: the slope of the first, whose label it is, is -1/2.
    gradient[..FEATURES].iter().map(|slope| -2.0 * slope).collect()
}

const FEATURES: usize = 4000;

#[test]
fn dropout_depends_on_node_and_step_alone() {
    let (rate, step) = (0.25, Rng::new(9).split("step").split_index(4));
    let mut network = Network::new();
    let input = network.push(Op::Input { shape: Shape::Flat { features: FEATURES } }, &[], None);
    let dropout = network.push(Op::Dropout { rate }, &[input], None);
    network.push(Op::Linear { units: 2, bias: false }, &[dropout], None);
    let found = mask(&network, &step);
    let dropped = found.iter().filter(|value| **value == 0.0).count() as f64 / FEATURES as f64;
    // Six deviations.
    assert!((dropped - f64::from(rate)).abs() < 0.042, "{dropped}");
    let kept = found.iter().all(|value| *value == 0.0 || (value * (1.0 - rate) - 1.0).abs() < 1e-6);
    assert!(kept, "what is kept is scaled by 1 / (1 - rate)");
    assert_eq!(mask(&network, &step), found);
    assert_ne!(mask(&network, &Rng::new(9).split("step").split_index(5)), found, "another step");
    // Other nodes, random ones too, change nothing about this one.
    let mut grown = network.clone();
    let second = grown.insert_after(input, Op::Dropout { rate: 0.5 }, None).unwrap();
    grown.insert_after(second, Op::Relu, None).unwrap();
    let both = mask(&grown, &step);
    let passed = |value: &f32| *value != 0.0;
    let pairs = || found.iter().zip(&both);
    assert!(pairs().all(|(one, both)| passed(one) || !passed(both)), "the first mask still holds");
    let shared = pairs().filter(|(one, both)| passed(one) && passed(both)).count() as f64;
    let share = shared / found.iter().filter(|value| passed(value)).count() as f64;
    assert!((share - 0.5).abs() < 0.06, "the masks are independent: {share}");
}

#[test]
fn a_diverging_training_ends_with_the_last_finite_model() {
    let (model, data) = (model(), random::stripes(64, 20));
    let wild = Recipe { learning_rate: 1e6, ..recipe() };
    let training = run(&model, None, &data, &wild, 0..3, 3);
    let TrainingEnd::Diverged { epoch } = training.end else { panic!("{:?}", training.end) };
    assert_eq!(training.epochs.len(), epoch, "epochs that were done are kept");
    let finite = |weights: &Weights| weights.values().flatten().all(|value| value.is_finite());
    assert!(finite(training.model.weights()) && finite(&training.momentum));
    // From a good first epoch into divergence: the model is the first epoch's.
    let good = run(&model, None, &data, &recipe(), 0..1, 3);
    let wilder = Recipe { learning_rate: 1e30, ..recipe() };
    let bad = run(&good.model, Some(&good.momentum), &data, &wilder, 1..3, 3);
    assert_eq!(bad.end, TrainingEnd::Diverged { epoch: 1 });
    assert_eq!(outcome(&bad), outcome(&Training { epochs: Vec::new(), end: bad.end, ..good }));
}

#[test]
fn numbers_that_are_not_finite_reach_no_model_and_no_momentum() {
    let model = model();
    let network = model.network();
    let mut program = Oracle.compile(network).unwrap();
    let batch = random::batch(&model, 4, &mut Rng::new(2));
    let options = StepOptions {
        update: recipe().update(0.1),
        label_smoothing: 0.0,
        precision: Precision::F32,
        dropout: None,
    };
    let bits = |parameters: &FlatParameters| -> Vec<u32> {
        let slots = parameters.slots().iter();
        slots.flat_map(|slot| parameters.get(slot.id).unwrap()).map(|v| v.to_bits()).collect()
    };
    for hostile in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for id in model.weights().keys() {
            let mut parameters = FlatParameters::new(&model, None).unwrap();
            parameters.get_mut(*id).unwrap()[0] = hostile;
            assert!(!parameters.is_finite());
            let refusal = parameters.to_model(network).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("{id}: expected finite")), "{refusal}");
            let before = bits(&parameters);
            let report = program.step(&mut parameters, &batch, &options).unwrap();
            assert!(!report.is_finite() || !hostile.is_nan() || !id.role.trainable(), "{id}");
            let unchanged = bits(&parameters) == before;
            assert_eq!(unchanged, !report.is_finite(), "{id} = {hostile}: {report:?}");
        }
        let id = *model.weights().keys().find(|id| id.role == Role::Weight).unwrap();
        let values = &model.weights()[&id];
        let momentum = Weights::from([(id, values.mapv(|_| hostile).into())]);
        let refusal = FlatParameters::new(&model, Some(&momentum)).unwrap_err().to_string();
        let expected = format!("momentum of {id}: expected finite values, found {hostile}");
        assert_eq!(refusal, expected);
    }
    let id = ParamId::new(NodeId::new(1), Role::Weight);
    let momentum = Weights::from([(id, tensor(&[1], vec![0.0]))]);
    let refusal = FlatParameters::new(&model, Some(&momentum)).unwrap_err().to_string();
    assert_eq!(refusal, "momentum of n1.weight: expected shape [8, 1, 5, 5], found [1]");
}

#[test]
fn an_interrupted_training_returns_the_epochs_that_were_done() {
    let (model, data, recipe) = (model(), random::stripes(64, 20), recipe());
    let rng = Rng::new(3);
    // Interrupted in the second step of an epoch, or behind it.
    for (stop_epoch, within) in [(0, true), (0, false), (1, true), (1, false)] {
        let mut steps = Vec::new();
        let on_progress = &mut |progress: Progress<'_>| {
            let stop = match progress {
                Progress::Step { epoch, done, steps: of, .. } => {
                    steps.push((epoch, done, of));
                    within && (epoch, done) == (stop_epoch, 2)
                }
                Progress::Epoch(record) => !within && record.epoch == stop_epoch,
            };
            if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let measure = |epoch| epoch != 0;
        let training =
            train(&Oracle, &model, None, &data, &recipe, 0..3, &measure, &rng, on_progress)
                .unwrap();
        let done = if within { stop_epoch } else { stop_epoch + 1 };
        let why = format!("epoch {stop_epoch}, within it: {within}");
        assert_eq!(training.end, TrainingEnd::Interrupted, "{why}");
        let expected: Vec<_> = (0..=stop_epoch).flat_map(|e| [(e, 1, 2), (e, 2, 2)]).collect();
        assert_eq!(steps, expected, "{why}");
        let undisturbed = run(&model, None, &data, &recipe, 0..done, 3);
        assert_eq!(training.model, undisturbed.model, "{why}");
        assert_eq!(training.momentum, undisturbed.momentum, "{why}");
        let measured: Vec<bool> =
            training.epochs.iter().map(|epoch| epoch.validation_accuracy.is_some()).collect();
        assert_eq!(measured, [false, true][..done], "{why}");
    }
}

#[test]
fn going_on_from_any_step_is_never_having_stopped() {
    let averaged = Recipe { lookahead: 3, decoupled_decay: true, ..recipe() };
    let bf16 = Recipe { precision: Precision::Bf16, ..averaged.clone() };
    never_stopped(&Oracle, &recipe(), 3 * 4);
    // Between two averages there is nothing to go on from: behind the third step, and the last.
    never_stopped(&Oracle, &averaged, 3 * 2);
    never_stopped(&Cpu, &averaged, 3 * 2);
    never_stopped(&Cpu, &bf16, 3 * 2);
}

fn never_stopped(engine: &dyn Engine, recipe: &Recipe, places: usize) {
    let (model, data) = (model(), random::stripes(100, 20));
    let rng = Rng::new(5);
    let mut kept: Vec<(Position, Model, Weights)> = Vec::new();
    let keep = &mut |progress: Progress<'_>| {
        if let Progress::Step { position, parameters, .. } = progress {
            let here = parameters.to_model(model.network()).unwrap();
            kept.push((position, here, parameters.to_momentum()));
        }
        ControlFlow::Continue(())
    };
    let all = |_| true;
    let whole = train(engine, &model, None, &data, recipe, 0..3, &all, &rng, keep).unwrap();
    assert_eq!(kept.len(), places, "{recipe:?}");
    for (position, model, momentum) in &kept {
        let start = Start { model, momentum: Some(momentum), position: *position };
        let go_on = &mut |_: Progress<'_>| ControlFlow::Continue(());
        let mut rest = train_from(engine, start, &data, recipe, 3, &all, &rng, go_on).unwrap();
        rest.epochs.splice(0..0, whole.epochs[..position.epoch].iter().cloned());
        assert_eq!(outcome(&rest), outcome(&whole), "{recipe:?}, {position:?}");
    }
}

#[test]
fn decay_that_is_decoupled_leaves_momentum_alone() {
    let model = model();
    let gradient = vec![0.25; model.weights().values().map(|values| values.len()).sum()];
    let update = |weight_decay| Nesterov { weight_decay, decoupled: true, ..recipe().update(0.1) };
    let mut plain = FlatParameters::new(&model, None).unwrap();
    let mut decayed = plain.clone();
    for _ in 0..2 {
        nesterov_step(&mut plain, &gradient, update(0.0));
        nesterov_step(&mut decayed, &gradient, update(0.1));
    }
    assert_eq!(plain.to_momentum(), decayed.to_momentum());
    assert_ne!(plain, decayed);
}

#[test]
fn lookahead_sets_the_weights_halfway_back() {
    let (model, data) = (model(), random::stripes(64, 20));
    let plain = Recipe { epochs: 1, schedule: Schedule::Constant, ..recipe() };
    // Two steps: at their end, halfway between where they began and where they led.
    let averaged = Recipe { lookahead: 2, ..plain.clone() };
    let led = run(&model, None, &data, &plain, 0..1, 3);
    let halfway = run(&model, None, &data, &averaged, 0..1, 3);
    assert_eq!(led.momentum, halfway.momentum);
    for (id, before) in model.weights() {
        let expected = (before + &led.model.weights()[id]) * 0.5;
        assert_eq!(halfway.model.weights()[id], expected.into_shared(), "{id}");
    }
}

#[test]
fn nothing_is_measured_where_no_validation_images_are_left() {
    let data = random::stripes(40, 24).with_validation_in_training();
    let training = run(&model(), None, &data, &recipe(), 0..2, 3);
    assert_eq!(training.end, TrainingEnd::Finished);
    assert!(training.epochs.iter().all(|epoch| epoch.validation_accuracy.is_none()));
}
