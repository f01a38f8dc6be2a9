//! A test bed for controllers: evaluators that know an accuracy without training.
//!
//! [`Landscape::Structured`] is a synthetic landscape, made to look like the released small
//! experiment (start about 49 %, random networks about 66 %, found networks about 75 %) and not fitted
//! to trainings: each layer adds a gain by its block, width and kernel, with diminishing returns.
//! [`Landscape::Flat`] has no structure: nothing that a controller does matters. On both, an accuracy
//! has the noise of 5,000 validation images.

use eas_controller::{
    Action, Assignment, Batches, Controller, Ending, Evaluator, Outcome, Scope, TrialId, search,
};
use eas_ir::{Network, Op, Rng, Shape};
use eas_transform::{ConvNet, Deepen, Problem, SearchSpace, Transforms, Widen};

/// What accuracy depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landscape {
    Structured,
    Flat,
}

impl Landscape {
    /// The accuracy without noise.
    pub(crate) fn accuracy(self, network: &Network) -> f64 {
        if self == Landscape::Flat {
            return 0.65;
        }
        let gains = network.nodes().iter().map(|node| {
            let block = node.label.as_ref().map_or(0, |label| label.block as usize);
            match node.op {
                Op::Conv { filters, kernel, .. } => {
                    let of_block = [0.5, 1.5, 2.0, 0.5].get(block).copied().unwrap_or(0.0);
                    let of_kernel = [0.1, 1.0, 0.7][kernel / 2];
                    of_block * of_kernel * (filters as f64 / 2.0).log2()
                }
                Op::Linear { units, .. } => 0.2 * (units as f64 / 8.0).log2(),
                _ => 0.0,
            }
        });
        0.8 - 0.4 * (-gains.sum::<f64>() / 18.0).exp()
    }
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
            let expected = self.landscape.accuracy(&assignment.network);
            let noise = (expected * (1.0 - expected) / 5000.0).sqrt();
            let accuracy = expected + noise * Rng::new(assignment.seed).normal();
            let ending = Ending::Trained { accuracy: Some(accuracy) };
            Outcome { trial: assignment.trial, ending, seconds: 0.0 }
        };
        Ok(self.waiting.drain(..).map(outcome).collect())
    }
}

/// Batches of a search on the test bed, of ten networks each.
const BATCHES: usize = 20;

/// The mean accuracy of the networks that a controller proposes in the last third of a search.
pub(crate) fn late_accuracy(
    landscape: Landscape,
    controller: &mut dyn Controller,
    seed: u64,
) -> f64 {
    let space = ConvNet::small();
    let input = Shape::Image { channels: 3, height: 32, width: 32 };
    let problem = Problem { input, classes: 10, directory: std::path::PathBuf::new() };
    let parent = space.start(&problem).unwrap();
    let transforms = Transforms::new([
        ("widen".to_owned(), Box::new(Widen::default()) as _),
        ("deepen".to_owned(), Box::new(Deepen::default()) as _),
    ]);
    let actions: Vec<Action> = ["widen x2", "deepen x1"].map(|text| text.parse().unwrap()).into();
    let scope = Scope {
        space: &space,
        transforms: &transforms,
        actions: &actions,
        batch: 64,
        parent: &parent,
    };
    let first_trials = (0..BATCHES as u32).map(|batch| TrialId(1 + 10 * batch)).collect();
    let stage = Batches { parent: TrialId(0), networks: 10, first_trials };
    let mut evaluator = Lookup { landscape, waiting: Vec::new() };
    let rng = Rng::new(seed);
    let (trials, _) =
        search(&scope, &stage, controller, &mut evaluator, &rng, &mut |_| Ok(())).unwrap();
    let late = &trials[trials.len() * 2 / 3..];
    late.iter().map(|trial| trial.accuracy()).sum::<f64>() / late.len() as f64
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
    seeds: u64,
    make: &(dyn Fn() -> Box<dyn Controller> + Sync),
) -> Vec<f64> {
    std::thread::scope(|scope| {
        let half = |from: u64, to: u64| {
            scope.spawn(move || {
                (from..to).map(|seed| late_accuracy(landscape, make().as_mut(), seed)).collect()
            })
        };
        let halves: [_; 2] = [half(0, seeds / 2), half(seeds / 2, seeds)];
        halves.into_iter().flat_map(|half| -> Vec<f64> { half.join().unwrap() }).collect()
    })
}
