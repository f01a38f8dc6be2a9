//! Whether learning pays: REINFORCE against random search on the test bed.

use eas_controller::{Random, Reinforce, ReinforceOptions};

use crate::landscape::{Landscape, accuracies, sign_test};

const SEEDS: u64 = 20;

/// At how many seeds the networks that REINFORCE proposes late are better than those of random search.
fn wins(landscape: Landscape) -> usize {
    let learned =
        accuracies(landscape, SEEDS, &|| Box::new(Reinforce::new(ReinforceOptions::default())));
    let random = accuracies(landscape, SEEDS, &|| Box::new(Random::default()));
    learned.iter().zip(random).filter(|(learned, random)| *learned > random).count()
}

#[test]
fn reinforce_beats_random_search_where_there_is_structure() {
    let wins = wins(Landscape::Structured);
    let chance = sign_test(wins, SEEDS as usize);
    assert!(chance < 0.01, "{wins} of {SEEDS} seeds, p = {chance}");
}

#[test]
fn reinforce_does_not_beat_random_search_where_there_is_nothing_to_learn() {
    let wins = wins(Landscape::Flat);
    let chance = sign_test(wins, SEEDS as usize);
    assert!(chance >= 0.01, "{wins} of {SEEDS} seeds, p = {chance}");
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
