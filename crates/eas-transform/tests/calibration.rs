//! Certificates, calibration and momentum, on networks with random weights.

use eas_ir::{Forward, Mode, Model, ParamId, Reference, Rng, Role};
use eas_transform::{
    ConvNet, Deepen, Derive, Edit, GradientMap, Noise, Patch, SearchSpace, Transforms, Verdict,
    Widen, apply, calibrate, certify, drift, grow, law,
};
use ndarray::Axis;

fn transforms() -> Transforms {
    Transforms::new([
        ("widen".to_owned(), Box::new(Widen::default()) as _),
        ("deepen".to_owned(), Box::new(Deepen::default()) as _),
    ])
}

fn model(seed: u64) -> (Model, Rng, Box<dyn SearchSpace>) {
    let rng = Rng::new(seed);
    let space = ConvNet::small().miniature(&mut rng.split("space")).unwrap();
    let model = law::random_model(space.start(&law::problem()).unwrap(), &rng).unwrap();
    (model, rng, space)
}

/// A chain of edits, drawn at random from those of both transforms.
fn chain(model: &Model, space: &dyn SearchSpace, length: usize, rng: &mut Rng) -> Vec<Edit> {
    let transforms = transforms();
    let mut network = model.network().clone();
    let mut chain = Vec::new();
    for _ in 0..length {
        let name = ["widen", "deepen"][rng.below(2)];
        let edits = transforms.edits(name, &network, space, 1).unwrap();
        if edits.is_empty() {
            continue;
        }
        let (edit, _) = edits[rng.below(edits.len())].clone();
        network = transforms.patch(&network, &edit, &mut Rng::new(0)).unwrap().network;
        chain.push(edit);
    }
    chain
}

#[test]
fn calibration_keeps_the_evaluated_function_and_brings_training_mode_closer() {
    for seed in 0..20 {
        let (random, rng, space) = model(seed);
        let images = law::random_images(random.input_shape(), 128, &rng);
        // A parent as training leaves it: its running statistics are those of the data.
        let nodes = random.network().nodes().iter();
        let own: Vec<_> =
            nodes.filter(|node| node.op.name() == "batch_norm").map(|node| node.id).collect();
        let parent = calibrate(random, &own, &images, &Reference).unwrap().model;
        let edits = chain(&parent, space.as_ref(), 6, &mut rng.split("chain"));
        let grown =
            grow(&parent, None, std::slice::from_ref(&edits), &transforms(), &rng, false).unwrap();
        let calibrated =
            calibrate(grown.model.clone(), &grown.calibrate, &images, &Reference).unwrap();
        assert_eq!(calibrated.batch_norms, grown.calibrate.len());
        let probe = law::random_images(parent.input_shape(), 64, &rng.split("probe"));
        let certificate = certify(&parent, &calibrated.model, &probe, &Reference).unwrap();
        assert_eq!(
            certificate.verdict,
            Verdict::Preserved,
            "seed {seed}, {edits:?}: {certificate}"
        );
        assert!(certificate.gap < 1e-5, "seed {seed}, {edits:?}: {certificate}");
        if grown.calibrate.is_empty() {
            continue;
        }
        let before = drift(&parent, &grown.model, &probe, &Reference).unwrap();
        let after = drift(&parent, &calibrated.model, &probe, &Reference).unwrap();
        assert!(
            after < 0.1 && after < 0.25 * before,
            "seed {seed}, {edits:?}: drift {before} without calibration, {after} with it"
        );
    }
}

#[test]
fn a_dead_channel_keeps_a_gamma_it_can_live_with() {
    let (parent, rng, _) = model(1);
    let site = parent.network().nodes().iter().find(|node| node.op.name() == "conv").unwrap().id;
    let edit: Edit = format!("deepen {site} with kernel 3").parse().unwrap();
    // The channel before the insertion is always negative, so the ReLU gives zeros.
    let beta = parent
        .network()
        .nodes()
        .iter()
        .find(|node| node.inputs == [site])
        .map(|node| ParamId::new(node.id, Role::Beta))
        .unwrap();
    let (network, mut weights) = parent.into_parts();
    weights.get_mut(&beta).unwrap()[0] = -100.0;
    let parent = Model::new(network, weights).unwrap();
    let grown = grow(&parent, None, &[vec![edit]], &transforms(), &rng, false).unwrap();
    let images = law::random_images(parent.input_shape(), 64, &rng);
    let child = calibrate(grown.model, &grown.calibrate, &images, &Reference).unwrap().model;
    let gamma = child.values(ParamId::new(grown.calibrate[0], Role::Gamma)).unwrap();
    let variance = child.values(ParamId::new(grown.calibrate[0], Role::Variance)).unwrap();
    let mean = variance[1..].iter().sum::<f32>() / (variance.len() - 1) as f32;
    assert!(variance[0] > 1e-3 * mean && gamma[0] > 0.02, "{variance:?}, {gamma:?}");
}

#[test]
fn a_certificate_sees_a_change_and_does_not_judge_flat_logits() {
    let (parent, rng, _) = model(2);
    let probe = law::random_images(parent.input_shape(), 16, &rng);
    let classifier = parent.network().output().unwrap().id;
    let changed = |role: Role, change: &dyn Fn(f32) -> f32| {
        let (network, mut weights) = parent.clone().into_parts();
        let id = ParamId::new(classifier, role);
        weights.insert(id, weights[&id].mapv(change).into_shared());
        Model::new(network, weights).unwrap()
    };
    let same = certify(&parent, &parent, &probe, &Reference).unwrap();
    assert_eq!((same.verdict, same.gap), (Verdict::Preserved, 0.0));
    let nudged = changed(Role::Weight, &|weight| weight * 1.001);
    let certificate = certify(&parent, &nudged, &probe, &Reference).unwrap();
    assert_eq!(certificate.verdict, Verdict::Broken, "{certificate}");
    let flat = changed(Role::Weight, &|_| 0.0);
    let certificate = certify(&flat, &flat, &probe, &Reference).unwrap();
    assert_eq!(certificate.verdict, Verdict::NotTestable, "{certificate}");
    // A large constant on every logit drowns what they tell.
    let shifted = changed(Role::Bias, &|bias| bias + 1e6);
    let certificate = certify(&shifted, &shifted, &probe, &Reference).unwrap();
    assert_eq!(certificate.verdict, Verdict::NotTestable, "{certificate}");
    let one = law::random_images(parent.input_shape(), 1, &rng);
    let error = certify(&parent, &parent, &one, &Reference).unwrap_err().to_string();
    assert_eq!(error, "expected a probe of at least two images, found 1");
}

#[test]
fn noise_moves_replicas_alone_and_as_far_as_its_ratio_says() {
    let (parent, rng, _) = model(3);
    let site = parent.network().nodes().iter().find(|node| node.op.name() == "conv").unwrap().id;
    let weight = ParamId::new(site, Role::Weight);
    let old = parent.weights()[&weight].shape()[0];
    let steps = [vec![format!("widen {site} to {}", 100 * old).parse::<Edit>().unwrap()]];
    let grown = |noise| grow(&parent, None, &steps, &transforms(), &rng, noise).unwrap().model;
    let (exact, noisy) = (grown(false), grown(true));
    let differences: Vec<f64> = exact.weights()[&weight]
        .iter()
        .zip(&noisy.weights()[&weight])
        .map(|(exact, noisy)| f64::from(noisy - exact))
        .collect();
    let kept = parent.weights()[&weight].len();
    assert!(differences[..kept].iter().all(|difference| *difference == 0.0));
    let root_mean_square = |values: &[f64]| {
        (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
    };
    let source: Vec<f64> = parent.weights()[&weight].iter().map(|w| f64::from(*w)).collect();
    let mean = source.iter().sum::<f64>() / source.len() as f64;
    let centred: Vec<f64> = source.iter().map(|weight| weight - mean).collect();
    let ratio = root_mean_square(&differences[kept..]) / root_mean_square(&centred);
    assert!((0.009..0.011).contains(&ratio), "noise of {ratio} deviations, expected 1e-2");
    let others = exact.weights().iter().filter(|(id, _)| **id != weight);
    for (id, values) in others {
        assert_eq!(values, &noisy.weights()[id], "{id}");
    }
}

#[test]
fn no_two_parts_of_a_parameter_get_the_same_noise() {
    let (parent, rng, _) = model(3);
    let old = ParamId::new(parent.network().output().unwrap().id, Role::Weight);
    let half = |first: usize| {
        let index: Vec<usize> = (first..first + 2).collect();
        Derive::Old(old).gather(0, index, vec![1.0; 2]).noisy(0.1, old, None)
    };
    let parts = vec![half(0), half(2)];
    let weights = [(old, Derive::Concat { axis: 0, parts })].into();
    let (network, calibrate) = (parent.network().clone(), Vec::new());
    let patch = Patch { network, weights, gradient: GradientMap::Exact, calibrate };
    let noisy = apply(&parent, &patch, Noise::On(&rng)).unwrap();
    let noise = &noisy.weights()[&old] - &parent.weights()[&old];
    let difference = &noise.select(Axis(0), &[0, 1]) - &noise.select(Axis(0), &[2, 3]);
    assert!(difference.iter().all(|value| value.abs() > 1e-6), "{difference}");
}

#[test]
fn a_child_is_a_function_of_its_parent_its_edits_and_the_seed() {
    for seed in 0..10 {
        let (parent, rng, space) = model(seed);
        let edits = chain(&parent, space.as_ref(), 8, &mut rng.split("chain"));
        let before = parent.clone();
        let child = |rng: &Rng, steps: &[Vec<Edit>]| {
            grow(&parent, Some(parent.weights()), steps, &transforms(), rng, true).unwrap()
        };
        let whole = child(&rng, std::slice::from_ref(&edits));
        // How edits are gathered into steps says how they were chosen, not what they do.
        let singly: Vec<Vec<Edit>> = edits.iter().map(|edit| vec![edit.clone()]).collect();
        let again = child(&rng, &singly);
        assert_eq!((&whole.model, &whole.momentum), (&again.model, &again.momentum), "seed {seed}");
        assert_ne!(whole.model, child(&rng.split("other"), &singly).model, "seed {seed}");
        assert_eq!(parent, before, "growing changed the parent");
        let logits = |model: &Model| {
            let probe = law::random_images(model.input_shape(), 4, &rng);
            Reference.logits(model, &probe, Mode::Evaluation).unwrap()
        };
        let gap = (&logits(&whole.model) - &logits(&parent)).mapv(f64::abs);
        let largest = gap.iter().copied().fold(0.0, f64::max);
        assert!(largest < 0.5, "seed {seed}: noise moved the logits by {largest}");
    }
}
