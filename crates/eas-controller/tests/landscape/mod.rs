//! A test bed for controllers: evaluators that know an accuracy without training.
//!
//! [`Landscape::Structured`] is fitted to real trainings, recorded in `trainings.csv` beside this file:
//! children of the released small start network, four epochs on 15,000 images of CIFAR-10 with the
//! CPU engine (`record.toml`). The logit of the accuracy is linear in [`features`], which is smooth
//! and keeps an accuracy below 1. `examples/fit_landscape.rs` computes the coefficients and says how
//! good the fit is. They are frozen: controllers are judged by them and not fitted to them.
//! [`Landscape::Flat`] has no structure: nothing that a controller does matters. On both, an accuracy
//! has the noise that the trainings have around the fit.
//!
//! The space is bounded to what was recorded, so that no controller wins by where the fit
//! extrapolates: up to twelve filters, and one layer more than the start network has.

use eas_controller::{
    Assignment, Batches, Controller, Ending, Evaluator, Halving, Outcome, Repeat, TrialId, search,
};
use eas_ir::{Network, Op, Rng};
use eas_transform::{Edit, Step, grow_network};

use crate::settings::Setting;

/// What accuracy depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landscape {
    Structured,
    Flat,
}

/// Of [`features`], fitted to the logits of the recorded accuracies.
pub(crate) const COEFFICIENTS: [f64; 10] =
    [-0.2470, 0.0255, 0.0062, -0.0048, -0.0076, 0.0, 0.0019, 0.0311, 0.0440, 0.0011];

/// Deviation of the recorded accuracies from the fit.
pub(crate) const NOISE: f64 = 0.00628;

/// What the fit knows of a network: 1; for each block of convolutions, and for the linear layers, the
/// mean binary logarithm of a layer's width over the start network's; how many layers more than the
/// start network it has, of convolutions with kernel 1, 3 and 5, and of linear layers.
pub(crate) fn features(network: &Network) -> [f64; 10] {
    let mut widths = [const { Vec::new() }; 5];
    let mut layers = [0.0, -4.0, 0.0, -1.0];
    for node in network.nodes() {
        let Some(label) = &node.label else { continue };
        let block = label.block as usize;
        match node.op {
            Op::Conv { filters, kernel, .. } => {
                widths[block].push((filters as f64 / 4.0).log2());
                layers[kernel / 2] += 1.0;
            }
            // The classifier has a block of its own, behind these.
            Op::Linear { units, .. } if block < widths.len() => {
                widths[block].push((units as f64 / 8.0).log2());
                layers[3] += 1.0;
            }
            _ => {}
        }
    }
    let mean = |logs: &Vec<f64>| logs.iter().sum::<f64>() / logs.len() as f64;
    let mut features = [1.0; 10];
    features[1..6].copy_from_slice(&widths.each_ref().map(mean));
    features[6..].copy_from_slice(&layers);
    features
}

impl Landscape {
    /// The accuracy without noise.
    pub(crate) fn accuracy(self, network: &Network) -> f64 {
        match self {
            Landscape::Structured => {
                let parts = features(network).into_iter().zip(COEFFICIENTS);
                let logit: f64 = parts.map(|(feature, coefficient)| feature * coefficient).sum();
                1.0 / (1.0 + (-logit).exp())
            }
            Landscape::Flat => 0.45,
        }
    }

    /// The accuracy of one training.
    fn measure(self, network: &Network, rng: &mut Rng) -> f64 {
        self.accuracy(network) + NOISE * rng.normal()
    }
}

/// The recorded trainings: each network, and its accuracy.
pub(crate) fn trainings() -> Vec<(Network, f64)> {
    let setting = Setting::new("preset = 'small'", &[]);
    let lines = include_str!("trainings.csv").lines().skip(1);
    let training = |line: &str| {
        let (accuracy, edits) = line.split_once(',').unwrap();
        let edits = edits.trim_matches('"').split(", ").filter(|edit| !edit.is_empty());
        let step: Step = edits.map(|edit| edit.parse::<Edit>().unwrap()).collect();
        let network = grow_network(&setting.parent, &[step], &setting.transforms).unwrap();
        (network, accuracy.parse().unwrap())
    };
    lines.map(training).collect()
}

/// An evaluator that looks accuracies up.
struct Lookup {
    landscape: Landscape,
    waiting: Vec<Assignment>,
}

impl Evaluator for Lookup {
    fn submit(&mut self, assignments: Vec<Assignment>) -> anyhow::Result<()> {
        self.waiting.extend(assignments);
        Ok(())
    }

    fn collect(&mut self) -> anyhow::Result<Vec<Outcome>> {
        let outcome = |assignment: Assignment| {
            let mut rng = Rng::new(assignment.seed);
            let accuracy = self.landscape.measure(&assignment.network, &mut rng);
            let ending = Ending::Trained { accuracy: Some(accuracy) };
            Outcome { trial: assignment.trial, ending, seconds: 0.0 }
        };
        Ok(self.waiting.drain(..).map(outcome).collect())
    }
}

/// Epochs of the recorded trainings.
const EPOCHS: usize = 4;
/// Networks of a batch of a search on the test bed.
const NETWORKS: usize = 10;

/// The mean accuracy of the networks that a controller proposes in the last third of a search of so
/// many batches, each measured anew: what a controller learned counts, and not that it came back to
/// a network whose noise had been lucky.
pub(crate) fn late_accuracy(
    landscape: Landscape,
    batches: usize,
    controller: &mut dyn Controller,
    seed: u64,
) -> f64 {
    let options =
        "preset = 'small'\nfilters = [4, 8, 12]\nunits = [8, 16, 24]\nlimits = { depth = 7 }";
    let setting = Setting::new(options, &["widen x2", "deepen x1"]);
    let scope = setting.scope();
    let first_trials = (0..batches).map(|batch| TrialId((1 + NETWORKS * batch) as u32)).collect();
    let (halving, repeat) = (Halving::default(), Repeat::Reuse);
    let (parent, networks, lag) = (TrialId(0), NETWORKS, 0);
    let stage = Batches { parent, first_trials, networks, lag, epochs: EPOCHS, halving, repeat };
    let mut evaluator = Lookup { landscape, waiting: Vec::new() };
    let rng = Rng::new(seed);
    let (trials, _) =
        search(&scope, &stage, controller, &mut evaluator, &rng, &mut |_| Ok(())).unwrap();
    let late = &trials[trials.len() * 2 / 3..];
    let again = rng.split("measured again");
    let measured = late.iter().enumerate().map(|(place, trial)| {
        let network = grow_network(scope.parent, &trial.steps, scope.transforms).unwrap();
        let noise = again.split_index(place as u64).split(&trial.fingerprint.to_string());
        landscape.measure(&network, &mut noise.clone())
    });
    measured.sum::<f64>() / late.len() as f64
}

/// The probability that `wins` or more of `pairs` fair coins show heads: what a sign test says where
/// nothing is better than anything.
pub(crate) fn sign_test(wins: usize, pairs: usize) -> f64 {
    let mut ways = 1.0;
    let mut total = 0.0;
    for heads in 0..=pairs {
        if heads >= wins {
            total += ways;
        }
        ways *= (pairs - heads) as f64 / (heads + 1) as f64;
    }
    total / 2f64.powi(pairs as i32)
}

/// What [`late_accuracy`] gives for `seeds` seeds, two at a time.
pub(crate) fn accuracies(
    landscape: Landscape,
    batches: usize,
    seeds: u64,
    make: &(dyn Fn() -> Box<dyn Controller> + Sync),
) -> Vec<f64> {
    std::thread::scope(|scope| {
        let half = |from: u64, to: u64| {
            scope.spawn(move || {
                let of = |seed| late_accuracy(landscape, batches, make().as_mut(), seed);
                (from..to).map(of).collect()
            })
        };
        let halves: [_; 2] = [half(0, seeds / 2), half(seeds / 2, seeds)];
        halves.into_iter().flat_map(|half| -> Vec<f64> { half.join().unwrap() }).collect()
    })
}
