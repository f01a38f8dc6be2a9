//! Polynomials by their coefficients and by their values at points, the one-dimensional maps of Winograd's tiles
//! ([`super::winograd`]).

#![expect(clippy::needless_range_loop, reason = "constant indices keep values in registers")]

use super::kernels::simd::{Arithmetic, Vector};

/// Points that a polynomial is known by come as 0, pairs of these numbers and their negatives, and infinity.
const DISTANCES: [f32; 3] = [1.0, 2.0, 0.5];

/// The most points.
const MOST_POINTS: usize = 2 * DISTANCES.len() + 2;

/// A polynomial's values at the points, from its coefficients.
#[inline(always)]
pub(super) fn evaluate<const N: usize, const POINTS: usize, L: Arithmetic>(
    of: [Vector<L>; N],
) -> [Vector<L>; POINTS] {
    let mut values = [of[0]; POINTS];
    for index in 0..Points::<POINTS>::OPPOSITES {
        let powers = POWERS[index];
        let (mut even, mut odd) = (of[0], of[1] * powers[1]);
        for power in 2..N {
            let half = if power % 2 == 0 { &mut even } else { &mut odd };
            *half = *half + of[power] * powers[power];
        }
        values[2 * index + 1] = even + odd;
        values[2 * index + 2] = even - odd;
    }
    values[POINTS - 1] = of[N - 1];
    values
}

/// The transpose of [`evaluate`].
#[inline(always)]
pub(super) fn gather<const N: usize, const POINTS: usize, L: Arithmetic>(
    values: [Vector<L>; POINTS],
) -> [Vector<L>; N] {
    let mut found = [values[0]; N];
    for power in 0..N {
        for index in 0..Points::<POINTS>::OPPOSITES {
            let (plus, minus) = (values[2 * index + 1], values[2 * index + 2]);
            let half = if power % 2 == 0 { plus + minus } else { plus - minus };
            let term = half * POWERS[index][power];
            found[power] = if index == 0 { term } else { found[power] + term };
        }
    }
    found[0] = found[0] + values[0];
    found[N - 1] = found[N - 1] + values[POINTS - 1];
    found
}

/// The transpose of the interpolation of a polynomial from its values, but for the factors that
/// [`scaled`] has.
#[inline(always)]
pub(super) fn interpolate<const POINTS: usize, L: Arithmetic>(
    of: [Vector<L>; POINTS],
) -> [Vector<L>; POINTS] {
    let count = Points::<POINTS>::OPPOSITES;
    let mut values = of;
    for index in 0..count {
        let zeros = Points::<POINTS>::ZEROS_BUT[index];
        let even = every_second(of, 2 * count, count, zeros);
        let odd = every_second(of, 2 * count - 1, count, zeros) * DISTANCES[index];
        values[2 * index + 1] = even + odd;
        values[2 * index + 2] = even - odd;
    }
    values[0] = every_second(of, 2 * count, count + 1, Points::<POINTS>::ZEROS);
    values[POINTS - 1] = every_second(of, 2 * count + 1, count + 1, Points::<POINTS>::ZEROS);
    values
}

/// The sum of so many of the numbers, from the `last` on backwards, times factors of which the first is one.
#[inline(always)]
fn every_second<const POINTS: usize, L: Arithmetic>(
    of: [Vector<L>; POINTS],
    last: usize,
    terms: usize,
    factors: [f32; DISTANCES.len() + 1],
) -> Vector<L> {
    let mut sum = of[last];
    for term in 1..terms {
        sum = sum + of[last - 2 * term] * factors[term];
    }
    sum
}

/// Each point's value over the product of its distances to the other finite points.
#[inline(always)]
pub(super) fn scaled<const POINTS: usize, L: Arithmetic>(
    mut values: [Vector<L>; POINTS],
) -> [Vector<L>; POINTS] {
    for point in 0..POINTS {
        values[point] = values[point] * Points::<POINTS>::FACTORS[point];
    }
    values
}

/// The powers of the distances, so many as a polynomial may have coefficients.
const POWERS: [[f32; MOST_POINTS]; DISTANCES.len()] = {
    let mut powers = [[1.0; MOST_POINTS]; DISTANCES.len()];
    let mut index = 0;
    while index < DISTANCES.len() {
        let mut power = 1;
        while power < MOST_POINTS {
            powers[index][power] = powers[index][power - 1] * DISTANCES[index];
            power += 1;
        }
        index += 1;
    }
    powers
};

/// What is known of so many points.
struct Points<const POINTS: usize>;

impl<const POINTS: usize> Points<POINTS> {
    /// Pairs of a number and its negative.
    const OPPOSITES: usize = (POINTS - 2) / 2;

    /// The polynomial in x² whose zeros are the numbers' squares, from its highest coefficient on.
    const ZEROS: [f32; DISTANCES.len() + 1] = Self::zeros_but(DISTANCES.len());

    /// The same without the zero of each.
    const ZEROS_BUT: [[f32; DISTANCES.len() + 1]; DISTANCES.len()] = {
        let mut found = [[0.0; DISTANCES.len() + 1]; DISTANCES.len()];
        let mut index = 0;
        while index < DISTANCES.len() {
            found[index] = Self::zeros_but(index);
            index += 1;
        }
        found
    };

    /// Each point's factor in [`scaled`].
    const FACTORS: [f32; MOST_POINTS] = {
        let mut factors = [1.0; MOST_POINTS];
        let mut point = 0;
        while point < POINTS - 1 {
            let (mut product, mut other) = (1.0, 0);
            while other < POINTS - 1 {
                if other != point {
                    product *= Self::point(point) - Self::point(other);
                }
                other += 1;
            }
            factors[point] = 1.0 / product;
            point += 1;
        }
        factors
    };

    /// A finite point.
    const fn point(index: usize) -> f32 {
        match index {
            0 => 0.0,
            _ if index % 2 == 1 => DISTANCES[index / 2],
            _ => -DISTANCES[index / 2 - 1],
        }
    }

    const fn zeros_but(without: usize) -> [f32; DISTANCES.len() + 1] {
        let mut found = [0.0; DISTANCES.len() + 1];
        found[0] = 1.0;
        let mut index = 0;
        while index < Self::OPPOSITES {
            if index != without {
                let mut term = DISTANCES.len();
                while term > 0 {
                    found[term] -= DISTANCES[index] * DISTANCES[index] * found[term - 1];
                    term -= 1;
                }
            }
            index += 1;
        }
        found
    }
}
