//! What holds of controllers that go on from their own children.

use eas_controller::{
    Controller, Ending, Evolution, EvolutionOptions, HillClimb, HillClimbOptions, Scope, Trial,
    TrialId, controllers,
};
use eas_ir::{Network, Rng, cost};
use eas_transform::{Step, grow_network};

use crate::settings::{Setting, controller};

const NAMES: [&str; 2] = ["evolution", "hill_climb"];

/// A batch of trials of what a controller proposes, as accurate as `judge` says.
fn batch(
    controller: &mut dyn Controller,
    scope: &Scope<'_>,
    networks: usize,
    rng: &Rng,
    judge: &mut dyn FnMut(&Network) -> Ending,
) -> Vec<Trial> {
    let proposals = controller.propose(scope, networks, rng).unwrap();
    let trial = |(index, steps): (usize, Vec<Step>)| {
        let network = grow_network(scope.parent, &steps, scope.transforms).unwrap();
        let (id, fingerprint) = (TrialId(1 + index as u32), network.fingerprint());
        // The same network is the same in every batch.
        let first = TrialId(u32::from_str_radix(&fingerprint.to_string()[2..10], 16).unwrap());
        let trial = Trial::once(id, TrialId(0), steps, fingerprint, judge(&network));
        Trial { first, ..trial }
    };
    let steps = proposals.into_iter().map(|proposal| proposal.steps);
    let trials: Vec<Trial> = steps.enumerate().map(trial).collect();
    controller.observe(scope, &trials).unwrap();
    trials
}

/// The more parameters, the better.
fn by_size(network: &Network) -> Ending {
    let parameters = cost(network, &network.verify().unwrap(), 1).parameters as f64;
    Ending::Trained { accuracy: Some(1.0 - 1000.0 / (1000.0 + parameters)) }
}

fn accuracies(trials: &[Trial]) -> Vec<f64> {
    trials.iter().filter_map(|trial| trial.measured).collect()
}

#[test]
fn no_chain_leaves_the_space() {
    for name in NAMES {
        for (options, depth) in [("", 9), ("limits = { depth = 8 }", 8)] {
            let options = format!("preset = 'small'\n{options}");
            let setting = Setting::new(&options, &["widen x2", "deepen x1"]);
            let scope = setting.scope();
            let mut controller = controller(name);
            let mut deepest = 0;
            for number in 0..20 {
                let stream = Rng::new(4).split_index(number);
                batch(controller.as_mut(), &scope, 4, &stream, &mut |network| {
                    let admitted = scope.space.admits(network, scope.batch);
                    assert!(admitted.is_ok(), "{name}, {options}, batch {number}: {admitted:?}");
                    deepest = deepest.max(network.depth());
                    by_size(network)
                });
            }
            // The start network has six layers, and an episode inserts one.
            assert!(deepest >= depth, "{name}, {options}: depth {deepest}, expected {depth}");
        }
    }
}

#[test]
fn what_was_observed_decides() {
    let setting = Setting::new("preset = 'small'", &["widen x2", "deepen x1"]);
    let scope = setting.scope();
    for name in NAMES {
        let run = |judge: fn(&Network) -> Ending| -> Vec<Vec<Trial>> {
            let mut controller = controller(name);
            let stream = |number| Rng::new(9).split_index(number);
            (0..12)
                .map(|number| {
                    batch(controller.as_mut(), &scope, 5, &stream(number), &mut |n| judge(n))
                })
                .collect()
        };
        // A resumed search makes the controller anew and tells it the same again.
        assert_eq!(run(by_size), run(by_size), "{name}");
        let worst = run(|_| Ending::Trained { accuracy: Some(0.1) });
        let steps = |trials: &[Trial]| -> Vec<Vec<Step>> {
            trials.iter().map(|trial| trial.steps.clone()).collect()
        };
        assert_eq!(steps(&run(by_size)[0]), steps(&worst[0]), "{name}: nothing was known yet");
        assert_ne!(steps(&run(by_size)[11]), steps(&worst[11]), "{name}");
    }
}

#[test]
fn a_trial_that_says_nothing_is_nobodys_parent() {
    let setting = Setting::new("preset = 'small'", &["widen x1"]);
    let scope = setting.scope();
    let mut climber = HillClimb::new(HillClimbOptions::default());
    let why = "no memory".to_owned();
    batch(&mut climber, &scope, 4, &Rng::new(1), &mut |_| Ending::Failed { why: why.clone() });
    let next = batch(&mut climber, &scope, 4, &Rng::new(2), &mut by_size);
    assert_eq!(next[3].steps, Vec::<Step>::new(), "the last of a batch is the best, unchanged");
}

#[test]
fn a_climber_never_steps_down() {
    let setting = Setting::new("preset = 'paper'", &["widen x2", "deepen x1"]);
    let scope = setting.scope();
    let mut climber = HillClimb::new(HillClimbOptions::default());
    let mut best = (Vec::new(), 0.0);
    for number in 0..8 {
        let trials = batch(&mut climber, &scope, 4, &Rng::new(number), &mut by_size);
        let (neighbours, unchanged) = trials.split_at(3);
        assert_eq!(unchanged[0].steps, best.0, "batch {number}");
        for trial in neighbours {
            let (shared, own) = trial.steps.split_at(best.0.len());
            assert_eq!((shared, own.len()), (best.0.as_slice(), 5), "batch {number}");
        }
        for (trial, accuracy) in trials.iter().zip(accuracies(&trials)) {
            if accuracy > best.1 {
                best = (trial.steps.clone(), accuracy);
            }
        }
    }
}

#[test]
fn what_a_transform_always_does_ends_each_chain() {
    let setting = Setting::new("preset = 'paper'", &["deepen x1", "widen_all x1"]);
    let scope = setting.scope();
    let mut climber = HillClimb::new(HillClimbOptions::default());
    for number in 0..2 {
        let trials = batch(&mut climber, &scope, 3, &Rng::new(number), &mut by_size);
        for trial in &trials[..2] {
            let always = |step: &Step| step[0].transform == "widen_all";
            let places: Vec<bool> = trial.steps.iter().map(always).collect();
            let once = [[false; 5].as_slice(), &[true]].concat();
            assert_eq!(places, once.repeat(1 + number as usize), "batch {number}");
        }
        let unchanged = trials[2].steps.len();
        assert_eq!(unchanged, 6 * number as usize, "batch {number}: the best, unchanged");
    }
}

#[test]
fn a_new_parent_begins_new_chains() {
    let mut setting = Setting::new("preset = 'paper'", &["widen x2", "deepen x1"]);
    let mut climber = HillClimb::new(HillClimbOptions::default());
    let trials = batch(&mut climber, &setting.scope(), 3, &Rng::new(1), &mut by_size);
    setting.parent = grow_network(&setting.parent, &trials[0].steps, &setting.transforms).unwrap();
    let trials = batch(&mut climber, &setting.scope(), 3, &Rng::new(2), &mut by_size);
    let edits: Vec<usize> = trials.iter().map(|trial| trial.steps.len()).collect();
    assert_eq!(edits, [5, 5, 0]);
}

#[test]
fn the_oldest_die_however_good_they_were() {
    let setting = Setting::new("preset = 'small'", &["widen x1"]);
    let scope = setting.scope();
    let count = |number| std::num::NonZeroUsize::new(number).unwrap();
    let options = EvolutionOptions { population: count(4), sample: count(40), edits: count(1) };
    let mut evolution = Evolution::new(options);
    let mut first = batch(&mut evolution, &scope, 4, &Rng::new(1), &mut by_size);
    first.sort_by(|a, b| a.measured.partial_cmp(&b.measured).unwrap());
    let best = &first[3].steps;
    // With forty draws from four, the best is in the sample but for one time in 100,000.
    let bad = &mut |_: &Network| Ending::Trained { accuracy: Some(0.0) };
    let second = batch(&mut evolution, &scope, 4, &Rng::new(2), bad);
    assert!(second.iter().all(|child| child.steps.starts_with(best)), "{second:?}");
    let third = batch(&mut evolution, &scope, 4, &Rng::new(3), bad);
    for child in &third {
        let parent = &child.steps[..child.steps.len() - 1];
        assert!(second.iter().any(|dead| dead.steps == parent), "{child:?}");
    }
}

#[test]
fn numbers_of_nothing_are_refused() {
    for (name, option) in [
        ("hill_climb", "edits"),
        ("evolution", "edits"),
        ("evolution", "population"),
        ("evolution", "sample"),
    ] {
        let text = format!("{option} = 0");
        let table = toml::de::DeTable::parse(&text).unwrap();
        let (span, table) = (table.span(), table.into_inner());
        let options = toml::Spanned::new(span, toml::de::DeValue::Table(table));
        let registry = controllers().unwrap();
        let error = registry.get(name).unwrap().build(options).unwrap_err().to_string();
        assert!(error.contains("expected a nonzero usize"), "{name}, {option}: {error}");
    }
}
