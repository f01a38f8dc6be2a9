//! Means, how far they can be trusted, and whether two rankings agree.

use serde::Serialize;

/// What some numbers come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many there are.
    pub(crate) count: usize,
    pub(crate) mean: f64,
    /// Standard deviation of one of them; nothing of fewer than two.
    pub(crate) deviation: Option<f64>,
}

impl Summary {
    /// Of some numbers; nothing where there are none.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        (count > 0).then_some(Summary { count, mean, deviation })
    }

    /// Half the width of the 95 % confidence interval of the mean, by Student's t.
    pub(crate) fn margin(&self) -> Option<f64> {
        let freedom = self.count.checked_sub(2)? + 1;
        Some(student(freedom) * self.deviation? / (self.count as f64).sqrt())
    }
}

/// The 97.5 % quantile of Student's t for this many degrees of freedom: tabulated, and beyond the table by
/// the series around the normal quantile (Abramowitz and Stegun, 26.7.5), whose error is below 1e-4 there.
fn student(freedom: usize) -> f64 {
    let Some(quantile) = STUDENT.get(freedom - 1) else {
        let (normal, freedom) = (1.959_964_f64, freedom as f64);
        let first = (normal.powi(3) + normal) / 4.0;
        let second = (5.0 * normal.powi(5) + 16.0 * normal.powi(3) + 3.0 * normal) / 96.0;
        return normal + first / freedom + second / freedom.powi(2);
    };
    *quantile
}

/// The quantiles for 1, 2, … degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// Kendall's tau-b of pairs: 1 where both numbers order them alike, -1 where they do so in reverse;
/// nothing where one of the two orders nothing.
pub(crate) fn kendall(pairs: &[(f64, f64)]) -> Option<f64> {
    let sign = |a: f64, b: f64| f64::from(i8::from(a > b) - i8::from(a < b));
    let (mut agreed, mut first, mut second) = (0.0, 0.0, 0.0);
    for (index, (a, b)) in pairs.iter().enumerate() {
        for (c, d) in &pairs[..index] {
            let (one, other) = (sign(*a, *c), sign(*b, *d));
            agreed += one * other;
            first += one.abs();
            second += other.abs();
        }
    }
    let scale = f64::sqrt(first * second);
    (scale > 0.0).then(|| agreed / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paired_difference_has_students_interval() {
        // scipy.stats.t.interval(0.95, 4, loc=mean(x), scale=sem(x)) of x = [1, 2, 3, 4, 5].
        let summary = Summary::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!((summary.count, summary.mean), (5, 3.0));
        assert!((summary.margin().unwrap() - 1.963_24).abs() < 1e-3, "{summary:?}");
        assert_eq!(Summary::of(&[1.0]).unwrap().margin(), None);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn quantiles_go_on_behind_the_table() {
        // scipy.stats.t.ppf(0.975, freedom).
        for (freedom, expected) in [(30, 2.0423), (31, 2.0395), (40, 2.0211), (120, 1.9799)] {
            let found = student(freedom);
            assert!((found - expected).abs() < 1e-3, "{freedom}: {found}");
        }
    }

    #[test]
    fn tau_is_1_of_equal_orders_and_less_of_others() {
        // scipy.stats.kendalltau, tau-b.
        for (second, expected) in [
            ([1.0, 2.0, 3.0, 4.0], Some(1.0)),
            ([4.0, 3.0, 2.0, 1.0], Some(-1.0)),
            ([1.0, 3.0, 2.0, 4.0], Some(2.0 / 3.0)),
            ([1.0, 1.0, 2.0, 3.0], Some(5.0 / 30.0_f64.sqrt())),
            ([1.0, 1.0, 1.0, 1.0], None),
        ] {
            let pairs: Vec<(f64, f64)> = [1.0, 2.0, 3.0, 4.0].into_iter().zip(second).collect();
            match (kendall(&pairs), expected) {
                (Some(found), Some(expected)) => {
                    assert!((found - expected).abs() < 1e-12, "{second:?}: {found}");
                }
                (found, expected) => assert_eq!(found, expected, "{second:?}"),
            }
        }
    }
}
