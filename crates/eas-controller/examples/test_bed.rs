//! The table of `docs/results.md` on controllers over the test bed, ablations among them.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]
#![allow(dead_code, reason = "the record that the test bed was fitted to is not needed")]

#[path = "../tests/landscape/mod.rs"]
mod landscape;
#[path = "../tests/settings.rs"]
mod settings;

use eas_controller::{
    BaselineKind, Controller, Evolution, EvolutionOptions, HillClimb, HillClimbOptions, Random,
    Reinforce, ReinforceOptions,
};
use landscape::{Landscape, accuracies, sign_test};

const SEEDS: u64 = 20;
const BATCHES: usize = 20;

type Make = Box<dyn Fn() -> Box<dyn Controller> + Sync>;

fn main() {
    let learner = |options: ReinforceOptions| -> Make {
        Box::new(move || Box::new(Reinforce::new(options.clone())))
    };
    let paper = ReinforceOptions::default;
    let arms: [(&str, Make); 7] = [
        ("reinforce", learner(paper())),
        ("no baseline", learner(ReinforceOptions { baseline: BaselineKind::None, ..paper() })),
        (
            "released baseline",
            learner(ReinforceOptions { baseline: BaselineKind::Released, ..paper() }),
        ),
        ("no entropy", learner(ReinforceOptions { entropy: 0.0, ..paper() })),
        ("no mask", learner(ReinforceOptions { mask: false, ..paper() })),
        ("hill_climb", Box::new(|| Box::new(HillClimb::new(HillClimbOptions::default())))),
        ("evolution", Box::new(|| Box::new(Evolution::new(EvolutionOptions::default())))),
    ];
    println!("| landscape | controller | mean % | deviation | wins of {SEEDS} | p |");
    println!("|---|---|---|---|---|---|");
    for landscape in [Landscape::Structured, Landscape::Flat] {
        let measure = |make: &Make| accuracies(landscape, BATCHES, SEEDS, make.as_ref());
        let random: Make = Box::new(|| Box::new(Random::default()));
        let random = measure(&random);
        row(landscape, "random", &random, None);
        for (name, make) in &arms {
            row(landscape, name, &measure(make), Some(&random));
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
        format!("| {wins} | {:.1e}", sign_test(wins, accuracies.len()))
    });
    println!("| {landscape:?} | {name} | {:.2} | {:.2} {test} |", 100.0 * mean, 100.0 * deviation);
}
