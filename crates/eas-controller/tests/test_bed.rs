//! Whether learning pays: REINFORCE against random search on the test bed.

use eas_controller::{
    Controller, Evolution, EvolutionOptions, HillClimb, HillClimbOptions, Random, Reinforce,
    ReinforceOptions,
};

use crate::landscape::{
    COEFFICIENTS, Landscape, NOISE, accuracies, features, sign_test, trainings,
};

const SEEDS: u64 = 20;

fn random() -> Box<dyn Controller> {
    Box::new(Random::default())
}

fn reinforce() -> Box<dyn Controller> {
    Box::new(Reinforce::new(ReinforceOptions::default()))
}

fn hill_climb() -> Box<dyn Controller> {
    Box::new(HillClimb::new(HillClimbOptions::default()))
}

fn evolution() -> Box<dyn Controller> {
    Box::new(Evolution::new(EvolutionOptions::default()))
}

/// The probability that a controller without any merit does as well against random search.
fn chance(landscape: Landscape, batches: usize, make: fn() -> Box<dyn Controller>) -> f64 {
    let own = accuracies(landscape, batches, SEEDS, &make);
    let random = accuracies(landscape, batches, SEEDS, &random);
    let wins = own.iter().zip(random).filter(|(own, random)| *own > random).count();
    sign_test(wins, SEEDS as usize)
}

const LEARNERS: [(&str, fn() -> Box<dyn Controller>); 3] =
    [("reinforce", reinforce), ("hill_climb", hill_climb), ("evolution", evolution)];

#[test]
fn controllers_beat_random_search_where_there_is_structure() {
    for (name, make) in LEARNERS {
        let chance = chance(Landscape::Structured, 12, make);
        assert!(chance < 0.01, "{name}: p = {chance}");
    }
}

#[test]
fn no_controller_beats_random_search_where_there_is_nothing_to_learn() {
    for (name, make) in LEARNERS {
        let chance = chance(Landscape::Flat, 6, make);
        assert!(chance >= 0.01, "{name}: p = {chance}");
    }
}

#[test]
fn the_frozen_landscape_is_the_fit_of_the_recorded_trainings() {
    let trainings = trainings();
    assert!(trainings.len() >= 100, "{} trainings", trainings.len());
    let logit = |accuracy: f64| (accuracy / (1.0 - accuracy)).ln();
    let (mut slopes, mut squares) = ([0.0; 10], 0.0);
    for (network, accuracy) in &trainings {
        let expected = Landscape::Structured.accuracy(network);
        squares += (accuracy - expected).powi(2);
        let left = logit(*accuracy) - logit(expected);
        slopes.iter_mut().zip(features(network)).for_each(|(sum, feature)| *sum += left * feature);
    }
    // Least squares leave nothing that is proportional to a feature, up to the constants' digits.
    for (place, slope) in slopes.into_iter().enumerate() {
        let room = 1e-3 * trainings.len() as f64;
        assert!(slope.abs() < room, "feature {place}: {slope}, coefficients {COEFFICIENTS:?}");
    }
    let noise = (squares / (trainings.len() - COEFFICIENTS.len()) as f64).sqrt();
    assert!((noise - NOISE).abs() < 1e-5, "noise {noise}");
}

#[test]
fn a_sign_test_counts_coins() {
    for (wins, pairs, expected) in
        [(0, 20, 1.0), (2, 2, 0.25), (2, 3, 0.5), (16, 20, 6196.0 / 1048576.0)]
    {
        let found = sign_test(wins, pairs);
        assert!((found - expected).abs() < 1e-12, "{wins} of {pairs}: {found}");
    }
}
