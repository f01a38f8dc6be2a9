//! Weights fit their network, and fresh ones have the deviations they should.

use eas_ir::{Model, ModelError, Network, NodeId, Op, ParamId, Rng, Role, Shape, Weights, tensor};

use crate::networks::random_network;

#[test]
fn weights_in_another_memory_order_are_kept_row_major() {
    let mut network = Network::new();
    let input = network.push(Op::Input { shape: Shape::Flat { features: 3 } }, &[], None);
    let linear = network.push(Op::Linear { units: 2, bias: false }, &[input], None);
    let columns = tensor(&[3, 2], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]).reversed_axes();
    let id = ParamId::new(linear, Role::Weight);
    let model = Model::new(network, [(id, columns)].into()).unwrap();
    assert_eq!(model.values(id), Some([1.0, 2.0, 3.0, 4.0, 5.0, 6.0].as_slice()));
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let flat = Op::Input { shape: Shape::Flat { features: 2 } };
    let mut network = Network::new();
    let input = network.push(flat, &[], None);
    network.push(Op::batch_norm(), &[input], None);
    let id = |role| ParamId::new(NodeId::new(1), role);
    let fitting: Weights = [Role::Gamma, Role::Beta, Role::Mean, Role::Variance]
        .map(|role| (id(role), tensor(&[2], vec![1.0, 2.0])))
        .into();
    Model::new(network.clone(), fitting.clone()).unwrap();
    let with = |role, values: &[f32]| {
        let mut weights = fitting.clone();
        weights.insert(id(role), tensor(&[values.len()], values.to_vec()));
        weights
    };
    let without = |role| {
        let mut weights = fitting.clone();
        weights.remove(&id(role));
        weights
    };
    let cases: [(Weights, &str); 7] = [
        (without(Role::Beta), "n1.beta: expected weights of shape [2], found none"),
        (with(Role::Bias, &[0.0]), "n1.bias: the network has no such parameter"),
        (with(Role::Gamma, &[1.0; 3]), "n1.gamma: expected shape [2], found [3]"),
        (with(Role::Gamma, &[]), "n1.gamma: expected shape [2], found [0]"),
        (
            with(Role::Mean, &[0.0, f32::NAN]),
            "n1.mean: expected finite values, found NaN at position 1",
        ),
        (with(Role::Beta, &[f32::INFINITY, 0.0]), "found inf at position 0"),
        (
            with(Role::Variance, &[1.0, -1.0]),
            "n1.variance: expected finite variances of at least 0, found -1",
        ),
    ];
    for (weights, expected) in cases {
        let error = Model::new(network.clone(), weights).expect_err(expected).to_string();
        assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
    }
    let error = Model::new(Network::new(), Weights::new()).unwrap_err();
    assert!(matches!(error, ModelError::Network(_)), "{error}");
}

#[test]
fn fresh_weights_have_the_deviation_of_their_fan_in() {
    let mut network = Network::new();
    let image = Shape::Image { channels: 32, height: 4, width: 4 };
    let mut tip = network.push(Op::Input { shape: image }, &[], None);
    let grouped = Op::Conv { filters: 64, kernel: 3, stride: 1, padding: 1, groups: 2, bias: true };
    let classifier = Op::Linear { units: 100, bias: true };
    for op in [grouped, Op::batch_norm(), Op::Relu, Op::GlobalPool, classifier] {
        tip = network.push(op, &[tip], None);
    }
    let model = Model::initialise(network, &Rng::new(1)).unwrap();
    // A filter of a group sees 16 channels of 9 pixels; no ReLU follows the classifier.
    for (parameter, fan_in, gain) in [("n1.weight", 16.0 * 9.0, 2.0), ("n5.weight", 64.0, 1.0)] {
        let values = model.values(parameter.parse().unwrap()).unwrap();
        let square: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        let ratio = (square / values.len() as f64 / (gain / fan_in)).sqrt();
        // With thousands of values the sample's deviation is within some percent.
        assert!((ratio - 1.0).abs() < 0.05, "{parameter}: {ratio} times the deviation");
    }
    let constants = [
        ("n1.bias", 0.0),
        ("n2.gamma", 1.0),
        ("n2.beta", 0.0),
        ("n2.mean", 0.0),
        ("n2.variance", 1.0),
        ("n5.bias", 0.0),
    ];
    for (parameter, expected) in constants {
        let values = model.values(parameter.parse().unwrap()).unwrap();
        assert!(values.iter().all(|value| *value == expected), "{parameter}: {values:?}");
    }
}

#[test]
fn fresh_weights_depend_on_the_seed_and_their_id_alone() {
    for seed in 0..50 {
        let network = random_network(&mut Rng::new(seed));
        let mut longer = network.clone();
        let first = network.nodes()[0].id;
        longer.insert_after(first, Op::Dropout { rate: 0.5 }, None).expect("a node");
        let rng = &Rng::new(seed);
        let (model, other) = (
            Model::initialise(network.clone(), rng).unwrap(),
            Model::initialise(longer, rng).unwrap(),
        );
        assert_eq!(model.weights(), other.weights(), "seed {seed}");
        let other = Model::initialise(network, &Rng::new(seed + 1)).unwrap();
        assert_ne!(model.weights(), other.weights(), "seed {seed}");
    }
}
