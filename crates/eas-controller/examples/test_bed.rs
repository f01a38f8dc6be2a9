//! The table of `docs/results.md` on controllers over the test bed, ablations among them.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[path = "../tests/landscape.rs"]
mod landscape;

use eas_controller::{BaselineKind, Controller, Random, Reinforce, ReinforceOptions};
use landscape::{Landscape, accuracies, sign_test};

const SEEDS: u64 = 20;

fn main() {
    let paper = ReinforceOptions::default;
    let arms = [
        ("reinforce", paper()),
        ("no baseline", ReinforceOptions { baseline: BaselineKind::None, ..paper() }),
        ("released baseline", ReinforceOptions { baseline: BaselineKind::Released, ..paper() }),
        ("no entropy", ReinforceOptions { entropy: 0.0, ..paper() }),
        ("entropy 1e-2", ReinforceOptions { entropy: 1e-2, ..paper() }),
    ];
    println!("| landscape | controller | mean % | deviation | wins of {SEEDS} | p |");
    println!("|---|---|---|---|---|---|");
    for landscape in [Landscape::Structured, Landscape::Flat] {
        let random = accuracies(landscape, SEEDS, &|| Box::new(Random::default()));
        row(landscape, "random", &random, None);
        for (name, options) in &arms {
            let make = || Box::new(Reinforce::new(options.clone())) as Box<dyn Controller>;
            row(landscape, name, &accuracies(landscape, SEEDS, &make), Some(&random));
        }
    }
}

fn row(landscape: Landscape, name: &str, accuracies: &[f64], random: Option<&[f64]>) {
    let count = accuracies.len() as f64;
    let mean = accuracies.iter().sum::<f64>() / count;
    let squares = accuracies.iter().map(|accuracy| (accuracy - mean).powi(2));
    let deviation = (squares.sum::<f64>() / (count - 1.0)).sqrt();
    let test = random.map_or("| |".to_owned(), |random| {
        let wins = accuracies.iter().zip(random).filter(|(own, other)| own > other).count();
        format!("| {wins} | {:.2e}", sign_test(wins, accuracies.len()))
    });
    println!("| {landscape:?} | {name} | {:.2} | {:.2} {test} |", 100.0 * mean, 100.0 * deviation);
}
