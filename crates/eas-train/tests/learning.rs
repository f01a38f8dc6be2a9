//! A network learns, and by the recipe.

use std::ops::ControlFlow;

use eas_ir::{Model, Network, Op, Rng, Role, Shape};
use eas_train::{
    Batch, Engine, FlatParameters, Oracle, Precision, Recipe, Schedule, StepOptions, TrainingEnd,
    accuracy, train,
};

use crate::random;

#[test]
fn a_small_network_learns_the_synthetic_images_in_a_few_epochs() {
    let data = random::stripes(600, 200);
    let model = Model::initialise(random::learner(0.1), &Rng::new(1)).unwrap();
    let before = accuracy(&Oracle, &model, &data, &data.validation, &mut |_| ()).unwrap().share();
    assert!(before < 0.6, "chance is 0.25, found {before} before training");
    let recipe = Recipe { batch: 32, ..Recipe::quick() };
    let training = train(
        &Oracle,
        &model,
        None,
        &data,
        &recipe,
        0..recipe.epochs,
        &|_| true,
        &Rng::new(1),
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap();
    assert_eq!(training.end, TrainingEnd::Finished);
    let last = training.epochs.last().unwrap();
    let measured = last.validation_accuracy.unwrap();
    assert!(measured > 0.85, "{:?}", training.epochs);
    assert!(last.training_loss < 0.5 * training.epochs[0].training_loss, "{:?}", training.epochs);
    let again = accuracy(&Oracle, &training.model, &data, &data.validation, &mut |_| ()).unwrap();
    assert_eq!(again.share(), measured);
}

#[test]
fn the_loss_is_the_cross_entropy_with_the_targets_spread_over_all_classes() {
    let logits = [1.0f32, -2.0, 0.5];
    let mut network = Network::new();
    let input = network.push(Op::Input { shape: Shape::Flat { features: 1 } }, &[], None);
    network.push(Op::Linear { units: 3, bias: true }, &[input], None);
    let model = Model::initialise(network.clone(), &Rng::new(0)).unwrap();
    let mut parameters = FlatParameters::new(&model, None).unwrap();
    parameters.get_mut(random::id(1, Role::Weight)).unwrap().fill(0.0);
    parameters.get_mut(random::id(1, Role::Bias)).unwrap().copy_from_slice(&logits);
    let batch = Batch::new(ndarray::Array4::ones((4, 1, 1, 1)), vec![0, 1, 2, 0]);
    // exp(1) + exp(-2) + exp(0.5) = 4.502338, whose logarithm is 1.504597.
    let mean_of_right = 1.504_597 - (1.0 - 2.0 + 0.5 + 1.0) / 4.0;
    let mean_of_all = 1.504_597 - (1.0 - 2.0 + 0.5) / 3.0;
    for smoothing in [0.0, 0.1, 0.5] {
        let update = Recipe::quick().update(0.1);
        let options = StepOptions {
            update,
            label_smoothing: smoothing,
            precision: Precision::F32,
            dropout: None,
        };
        let mut program = Oracle.compile(&network).unwrap();
        let (_, report) = program.gradient(&parameters, &batch, &options).unwrap();
        let expected = (1.0 - smoothing) * mean_of_right + smoothing * mean_of_all;
        assert!((report.loss - expected).abs() < 1e-5, "smoothing {smoothing}: {report:?}");
        assert_eq!(report.correct, 2, "the first class is the likeliest");
        let outside = Batch { labels: vec![0, 1, 2, 3], ..batch.clone() };
        let refusal = program.gradient(&parameters, &outside, &options).unwrap_err().to_string();
        assert_eq!(refusal, "expected labels below 3, found 3");
    }
}

#[test]
fn a_learning_rate_rises_in_equal_parts_then_falls_and_never_below_0() {
    let steps = 5;
    for schedule in [Schedule::Cosine, Schedule::CosineSteps, Schedule::Constant] {
        for warmup_epochs in [0, 1, 3] {
            let recipe = Recipe { epochs: 8, schedule, warmup_epochs, ..Recipe::quick() };
            let rates: Vec<f64> = (0..recipe.epochs * steps)
                .map(|step| recipe.rate(step / steps, step % steps, steps))
                .collect();
            let (rising, falling) = rates.split_at(warmup_epochs * steps);
            for (step, rate) in rising.iter().enumerate() {
                let share = (step + 1) as f64 / rising.len() as f64;
                let gap = (rate - share * recipe.learning_rate).abs();
                assert!(gap < 1e-12, "{schedule:?}, {warmup_epochs}, step {step}: {rate}");
            }
            let why = format!("{schedule:?}, {warmup_epochs}: {falling:?}");
            assert!((falling[0] - recipe.learning_rate).abs() < 1e-12, "{why}");
            assert!(falling.windows(2).all(|pair| pair[1] <= pair[0]), "{why}");
            let by_epoch = falling.chunks(steps).all(|epoch| epoch.iter().all(|r| *r == epoch[0]));
            assert_eq!(by_epoch, schedule != Schedule::CosineSteps, "{why}");
            let beyond = recipe.rate(recipe.epochs, 0, steps);
            let stays = schedule == Schedule::Constant;
            assert_eq!(beyond, if stays { recipe.learning_rate } else { 0.0 }, "{why}");
        }
    }
}
