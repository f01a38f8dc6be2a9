//! Mixing images of a batch (Zhang, Cissé, Dauphin and Lopez-Paz, *mixup: beyond empirical risk
//! minimization*, ICLR 2018): λ x + (1 − λ) x′ counts as λ of x's class and 1 − λ of that of x′.

use eas_ir::Rng;
use ndarray::{ArrayViewMut2, Axis};

use crate::engine::Mixed;

/// What is mixed into each image of a batch: the one that follows it, into the last the first. The order
/// of a batch is random, so that is any other image. `own` is the share that the image at a place keeps.
pub(super) fn mixed(labels: &[usize], own: impl Fn(usize) -> f64) -> Vec<Mixed> {
    let count = labels.len();
    (0..count).map(|image| Mixed { label: labels[(image + 1) % count], own: own(image) }).collect()
}

/// Mixes into each image of a batch, `[batch][values]`, the one that follows it, as it was; with nothing to mix,
/// they stay as they are.
///
/// # Panics
/// Where the values aren't as many images of one size as there are shares.
pub(super) fn mix(mixed: &[Mixed], values: &mut [f32]) {
    if mixed.is_empty() {
        return;
    }
    assert!(values.len().is_multiple_of(mixed.len()), "images are of one size");
    let shape = (mixed.len(), values.len() / mixed.len());
    let images = ArrayViewMut2::from_shape(shape, values).expect("as many values as the shape has");
    mix_columns(mixed, images);
}

/// [`mix`], of the same values of all images.
fn mix_columns(mixed: &[Mixed], mut images: ArrayViewMut2<'_, f32>) {
    /// Columns that one thread mixes at once, at most.
    const PIECE: usize = 256;
    let columns = images.ncols();
    if columns > PIECE {
        let (left, right) = images.split_at(Axis(1), columns / 2);
        rayon::join(|| mix_columns(mixed, left), || mix_columns(mixed, right));
        return;
    }
    // The last image needs the first one as it was.
    let mut first = [0.0; PIECE];
    first.iter_mut().zip(images.row(0)).for_each(|(kept, value)| *kept = *value);
    let rows = images.outer_iter_mut();
    let mut rows =
        rows.map(|row| row.into_slice().expect("a row's values are side by side")).peekable();
    for mixed in mixed {
        let row = rows.next().expect("an image each");
        let next = rows.peek().map_or(&first[..columns], |next| &**next);
        let own = mixed.own as f32;
        for (value, next) in row.iter_mut().zip(next) {
            *value = own * *value + (1.0 - own) * next;
        }
    }
}

/// A share from the beta distribution Beta(α, α), α above 0.
pub(super) fn share(alpha: f64, rng: &mut Rng) -> f64 {
    let (own, other) = (gamma(alpha, rng), gamma(alpha, rng));
    // Of a very small α, both may be too small for a number.
    if own + other > 0.0 { own / (own + other) } else { 1.0 }
}

/// A number from the gamma distribution of this shape and scale 1 (Marsaglia and Tsang 2000; for shapes
/// below 1 by their power of a uniform number).
fn gamma(shape: f64, rng: &mut Rng) -> f64 {
    if shape < 1.0 {
        let power = (1.0 - rng.unit()).powf(1.0 / shape);
        return gamma(shape + 1.0, rng) * power;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = rng.normal();
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - rng.unit()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_the_moments_of_the_beta_distribution() {
        for alpha in [0.1, 0.2, 0.5, 1.0, 2.0, 8.0] {
            let mut rng = Rng::new(9);
            let draws: Vec<f64> = (0..40_000).map(|_| share(alpha, &mut rng)).collect();
            assert!(draws.iter().all(|share| (0.0..=1.0).contains(share)), "alpha {alpha}");
            let count = draws.len() as f64;
            let mean = draws.iter().sum::<f64>() / count;
            let moment =
                |power| draws.iter().map(|x| (x - 0.5f64).powi(power)).sum::<f64>() / count;
            // Variance 1 / (4 (2 α + 1)), fourth moment 3 / (16 (2 α + 1) (2 α + 3)).
            let variance = 0.25 / (2.0 * alpha + 1.0);
            let fourth = 3.0 / (16.0 * (2.0 * alpha + 1.0) * (2.0 * alpha + 3.0));
            assert!((mean - 0.5).abs() < 0.015, "alpha {alpha}: mean {mean}");
            let (second, found) = (moment(2), moment(4));
            assert!((second / variance - 1.0).abs() < 0.05, "alpha {alpha}: variance {second}");
            assert!((found / fourth - 1.0).abs() < 0.1, "alpha {alpha}: fourth moment {found}");
        }
        assert!((0..1000).all(|seed| share(1e-4, &mut Rng::new(seed)).is_finite()));
    }
}
