//! Fits the test bed's landscape to the recorded trainings: prints its constants, and how good the
//! fit is where it was fitted and where it wasn't.

#![expect(clippy::print_stdout, reason = "the fit is what this program is for")]
#![allow(dead_code, reason = "of the test bed, only the record and its features are needed")]

#[path = "../tests/landscape/mod.rs"]
mod landscape;
#[path = "../tests/settings.rs"]
mod settings;

use landscape::{features, trainings};

/// Parts of the record, each of which is predicted from the others.
const PARTS: usize = 10;

type Row = ([f64; 10], f64);

fn main() {
    let rows: Vec<Row> =
        trainings().iter().map(|(network, accuracy)| (features(network), *accuracy)).collect();
    let count = rows.len() as f64;
    let mean = rows.iter().map(|row| row.1).sum::<f64>() / count;
    let total: f64 = rows.iter().map(|row| (row.1 - mean).powi(2)).sum();
    let coefficients = fit(&rows);
    let error = |rows: &[Row], by: &[f64; 10]| -> f64 {
        rows.iter().map(|(features, accuracy)| (accuracy - predict(features, by)).powi(2)).sum()
    };
    let left = error(&rows, &coefficients);
    let unseen: f64 = (0..PARTS)
        .map(|part| {
            let (mut own, mut others) = (Vec::new(), Vec::new());
            for (place, row) in rows.iter().enumerate() {
                if place % PARTS == part { own.push(*row) } else { others.push(*row) }
            }
            error(&own, &fit(&others))
        })
        .sum();
    println!("coefficients {coefficients:.4?}");
    println!("noise {:.5}", (left / (count - 10.0)).sqrt());
    println!("{count} trainings, mean {mean:.4}, deviation {:.5}", (total / (count - 1.0)).sqrt());
    println!("R2 {:.3}, of parts unseen {:.3}", 1.0 - left / total, 1.0 - unseen / total);
}

fn predict(features: &[f64; 10], coefficients: &[f64; 10]) -> f64 {
    let logit: f64 = features.iter().zip(coefficients).map(|(a, b)| a * b).sum();
    1.0 / (1.0 + (-logit).exp())
}

/// Least squares on logits: solves the normal equations by elimination with pivots.
#[expect(clippy::needless_range_loop, reason = "indices are what elimination is about")]
fn fit(rows: &[Row]) -> [f64; 10] {
    let mut equations = [[0.0; 11]; 10];
    for (features, accuracy) in rows {
        let logit = (accuracy / (1.0 - accuracy)).ln();
        for i in 0..10 {
            for j in 0..10 {
                equations[i][j] += features[i] * features[j];
            }
            equations[i][10] += features[i] * logit;
        }
    }
    for step in 0..10 {
        let size = |row: &usize| equations[*row][step].abs();
        let pivot = (step..10).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(step);
        equations.swap(step, pivot);
        let pivot = equations[step];
        for (_, equation) in equations.iter_mut().enumerate().filter(|(row, _)| *row != step) {
            let share = equation[step] / pivot[step];
            for j in step..11 {
                equation[j] -= share * pivot[j];
            }
        }
    }
    std::array::from_fn(|i| equations[i][10] / equations[i][i])
}
