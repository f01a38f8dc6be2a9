//! Three steps of training against PyTorch's numbers, which `pytorch_numbers.py` wrote.

use std::collections::BTreeMap;

use eas_ir::{Images, Model, Network, ParamId, Weights, parameter_list, tensor};
use eas_train::{Batch, Engine, FlatParameters, Oracle, Recipe, Schedule, StepOptions};
use serde::Deserialize;

use crate::random;

#[derive(Deserialize)]
struct Numbers {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    network: String,
    learning_rate: f64,
    momentum: f64,
    weight_decay: f64,
    decay_all: bool,
    label_smoothing: f64,
    before: BTreeMap<String, Vec<f32>>,
    /// Of the first step.
    gradients: BTreeMap<String, Vec<f32>>,
    steps: Vec<Step>,
    after: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct Step {
    images: Vec<f32>,
    shape: [usize; 4],
    labels: Vec<usize>,
    loss: f64,
    correct: usize,
}

impl Case {
    fn model(&self) -> Model {
        let network = Network::from_toml(&self.network).unwrap();
        let parameters = parameter_list(&network, &network.verify().unwrap()).into_iter();
        let weights: Weights = parameters
            .map(|(id, shape)| (id, tensor(&shape, self.before[&id.to_string()].clone())))
            .collect();
        Model::new(network, weights).unwrap()
    }

    fn recipe(&self) -> Recipe {
        Recipe {
            epochs: self.steps.len(),
            learning_rate: self.learning_rate,
            schedule: Schedule::Cosine,
            momentum_decay: self.momentum,
            weight_decay: self.weight_decay,
            decay_all: self.decay_all,
            label_smoothing: self.label_smoothing,
            ..Recipe::paper_child()
        }
    }
}

#[test]
fn losses_gradients_updates_and_running_statistics_are_pytorchs() {
    let numbers: Numbers = serde_json::from_str(include_str!("pytorch_numbers.json")).unwrap();
    assert_eq!(numbers.cases.len(), 6);
    for case in numbers.cases {
        let (model, recipe) = (case.model(), case.recipe());
        let mut program = Oracle.compile(model.network()).unwrap();
        let mut parameters = FlatParameters::new(&model, None).unwrap();
        for (number, step) in case.steps.iter().enumerate() {
            let why = format!("{}, smoothing {}, step {number}", case.name, case.label_smoothing);
            let images = Images::from_shape_vec(step.shape, step.images.clone()).unwrap();
            let batch = Batch::new(images, step.labels.clone());
            let options = StepOptions {
                update: recipe.update(recipe.rate(number, 0, 1)),
                label_smoothing: recipe.label_smoothing,
                precision: recipe.precision,
                dropout: None,
            };
            if number == 0 {
                let (gradient, _) = program.gradient(&parameters, &batch, &options).unwrap();
                // A bias that a batch norm takes away again has slope 0 but for rounding.
                let scale = 0.1 * random::largest(case.gradients.values().flatten());
                for slot in parameters.slots().iter().filter(|slot| slot.is_trainable()) {
                    let expected = &case.gradients[&slot.id.to_string()];
                    let gap = random::gap(&gradient[slot.range()], expected, scale);
                    assert!(gap < 1e-5, "{why}, gradient of {}: off by {gap}", slot.id);
                }
            }
            let report = program.step(&mut parameters, &batch, &options).unwrap();
            assert!((report.loss / step.loss - 1.0).abs() < 1e-5, "{why}: {report:?}");
            assert_eq!(report.correct, step.correct, "{why}");
        }
        for (id, expected) in &case.after {
            let parameter: ParamId = id.parse().unwrap();
            let gap = random::gap(parameters.get(parameter).unwrap(), expected, 0.0);
            assert!(gap < 1e-5, "{}, {id} after training: off by {gap}", case.name);
        }
    }
}
