//! What holds where a batch's children are compared before they are trained to the end, and where a
//! network is trained again.

use std::collections::BTreeMap;

use eas_controller::{
    Assignment, Batches, Controller, Ending, Evaluator, Evolution, EvolutionOptions, Halving,
    HillClimb, HillClimbOptions, Outcome, Random, Reinforce, ReinforceOptions, Repeat, StopReason,
    Trial, TrialId, search,
};
use eas_ir::Rng;

use crate::settings::Setting;

const EPOCHS: usize = 9;

/// Trains at once: what a network is good for, seen through noise of the seed, grows with the epochs.
#[derive(Default)]
struct Trainer {
    waiting: Vec<Assignment>,
    last_first: bool,
    epochs: usize,
}

impl Evaluator for Trainer {
    fn submit(&mut self, assignments: Vec<Assignment>) -> anyhow::Result<()> {
        self.epochs += assignments.iter().map(|assigned| assigned.epochs.len()).sum::<usize>();
        self.waiting.extend(assignments);
        Ok(())
    }

    fn collect(&mut self) -> anyhow::Result<Vec<Outcome>> {
        let place = if self.last_first { self.waiting.len() - 1 } else { 0 };
        let Assignment { trial, network, epochs, seed, .. } = self.waiting.remove(place);
        let good = 1.0 / (1.0 + f64::from(network.fingerprint().to_string().as_bytes()[3]));
        let accuracy = 0.4 + good + 0.01 * epochs.end as f64 + 0.002 * Rng::new(seed).normal();
        let ending = match epochs.end {
            EPOCHS => Ending::Trained { accuracy: Some(accuracy) },
            epochs => Ending::Stopped { epochs, accuracy },
        };
        Ok(vec![Outcome { trial, ending, seconds: 0.0 }])
    }
}

fn controllers() -> Vec<(&'static str, Box<dyn Controller>)> {
    let reinforce = ReinforceOptions { units: 8, ..ReinforceOptions::default() };
    vec![
        ("random", Box::new(Random::default())),
        ("reinforce", Box::new(Reinforce::new(reinforce))),
        ("hill_climb", Box::new(HillClimb::new(HillClimbOptions::default()))),
        ("evolution", Box::new(Evolution::new(EvolutionOptions::default()))),
    ]
}

/// Four batches of six networks of the small space.
fn run(
    controller: &mut dyn Controller,
    trainer: &mut Trainer,
    halving: Halving,
    repeat: Repeat,
    lag: usize,
) -> Vec<Trial> {
    let setting = Setting::new("preset = 'small'", &["deepen x1"]);
    let (networks, parent) = (6, TrialId(0));
    let first_trials = (0..4).map(|batch| TrialId(1 + 20 * batch)).collect();
    let stage = Batches { parent, first_trials, networks, lag, epochs: EPOCHS, halving, repeat };
    let rng = Rng::new(5);
    let (trials, reason) =
        search(&setting.scope(), &stage, controller, trainer, &rng, &mut |_| Ok(())).unwrap();
    assert_eq!(reason, StopReason::Finished);
    trials
}

fn halving() -> Halving {
    Halving { rungs: vec![1, 3], eta: 2 }
}

#[test]
fn every_controller_halves_and_no_order_of_outcomes_matters() {
    for (repeat, lag) in
        [(Repeat::Reuse, 0), (Repeat::Reuse, 2), (Repeat::Retrain, 0), (Repeat::Retrain, 1)]
    {
        for ((name, mut one), (_, mut other)) in controllers().into_iter().zip(controllers()) {
            let mut trainer = Trainer::default();
            let forwards = run(one.as_mut(), &mut trainer, halving(), repeat, lag);
            let mut last_first = Trainer { last_first: true, ..Trainer::default() };
            let backwards = run(other.as_mut(), &mut last_first, halving(), repeat, lag);
            assert_eq!(forwards, backwards, "{name}, {repeat:?}, lag {lag}");
            assert!(
                trainer.epochs <= 4 * halving().epochs(6, EPOCHS),
                "{name}, {repeat:?}, lag {lag}"
            );
        }
    }
}

#[test]
fn the_best_are_trained_to_the_end_and_the_others_count_as_what_they_would_have_had() {
    let (halving, repeat) = (halving(), Repeat::Retrain);
    let mut trainer = Trainer::default();
    let trials = run(&mut Random::default(), &mut trainer, halving.clone(), repeat, 0);
    assert_eq!(trainer.epochs, 4 * halving.epochs(6, EPOCHS));
    for batch in trials.chunks(6) {
        let at = |rung| {
            let here = |trial: &&Trial| matches!(trial.ending, Ending::Stopped { epochs, .. } if epochs == rung);
            batch.iter().filter(here).collect::<Vec<_>>()
        };
        let trained: Vec<&Trial> = batch.iter().filter(|trial| trial.is_trained()).collect();
        assert_eq!((at(1).len(), at(3).len(), trained.len()), (3, 1, 2));
        let measured = |trials: &[&Trial]| -> Vec<f64> {
            trials.iter().map(|trial| trial.measured.unwrap()).collect()
        };
        let best = measured(&trained).into_iter().fold(0.0, f64::max);
        for (rung, gain) in [(1, 0.08), (3, 0.06)] {
            for trial in at(rung) {
                let Ending::Stopped { accuracy, .. } = trial.ending else { unreachable!() };
                let gained = trial.measured.unwrap() - accuracy;
                assert!((gained - gain).abs() < 1e-9, "behind {rung} epochs: {gained}");
                assert!(trial.measured.unwrap() <= best, "{trial:?}");
            }
        }
    }
}

#[test]
fn an_estimate_is_the_mean_of_all_that_a_network_measured() {
    for repeat in [Repeat::Reuse, Repeat::Retrain] {
        let trials =
            run(&mut Random::default(), &mut Trainer::default(), Halving::default(), repeat, 0);
        let mut known: BTreeMap<TrialId, Vec<f64>> = BTreeMap::new();
        let mut again = 0;
        for batch in trials.chunks(6) {
            for trial in batch.iter().filter(|trial| trial.same_as.is_none()) {
                known.entry(trial.first).or_default().extend(trial.measured);
            }
            for trial in batch {
                let results = &known[&trial.first];
                let mean = results.iter().sum::<f64>() / results.len() as f64;
                assert_eq!(trial.estimate, Some(mean), "{repeat:?}: {trial:?}");
                again += usize::from(results.len() > 1);
            }
        }
        assert_eq!(again > 0, repeat == Repeat::Retrain, "{repeat:?}");
    }
}

#[test]
fn a_climber_leaves_what_was_only_lucky_and_goes_on_from_nothing_that_was_stopped() {
    let setting = Setting::new("preset = 'paper'", &["widen x1"]);
    let scope = setting.scope();
    let mut climber = HillClimb::new(HillClimbOptions::default());
    let proposals = climber.propose(&scope, 4, &Rng::new(1)).unwrap();
    let trial = |place: usize, accuracy: f64| {
        let (id, steps) = (TrialId(1 + place as u32), proposals[place].steps.clone());
        let ending = Ending::Trained { accuracy: Some(accuracy) };
        Trial::once(id, TrialId(0), steps, setting.parent.fingerprint(), ending)
    };
    let stopped = Ending::Stopped { epochs: 1, accuracy: 0.9 };
    let value = Some(0.9);
    let stopped = Trial { ending: stopped, measured: value, estimate: value, ..trial(2, 0.0) };
    let mut best = |batch: &[Trial]| {
        climber.observe(&scope, batch).unwrap();
        climber.propose(&scope, 4, &Rng::new(2)).unwrap().pop().unwrap().steps
    };
    assert_eq!(best(&[trial(0, 0.8), trial(1, 0.7), stopped]), proposals[0].steps);
    let again = Trial { estimate: Some(0.6), ..trial(0, 0.4) };
    assert_eq!(best(&[again]), proposals[1].steps);
}
