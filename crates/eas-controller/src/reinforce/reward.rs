//! What an accuracy is worth, and what it is compared with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::trial::TrialId;

/// tan(accuracy · π/2), which grows faster towards 1: from 90 to 91 % is worth more than from 60 to
/// 61 % (Cai et al. 2018, section 4). It has no bound, so accuracy is first cut at `clip`.
pub(super) fn reward(accuracy: f64, clip: f64) -> f64 {
    (accuracy.clamp(0.0, clip) * std::f64::consts::FRAC_PI_2).tan()
}

/// What is subtracted from a reward, so that a policy learns which decisions are better than usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaselineKind {
    /// The moving average of the mean rewards of the parent's earlier batches, begun at the first.
    Ema,
    /// As in the released code: begun at 0, with the decay on the new batch, which is included. It
    /// follows each batch so closely that progress between batches is hardly seen.
    Released,
    /// Nothing.
    None,
}

/// The averages so far, one for each parent, so that a reward measures the edits alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Baselines(pub(super) BTreeMap<TrialId, f64>);

impl Baselines {
    /// Takes in a batch's mean reward; returns what to subtract from its rewards.
    pub(super) fn next(
        &mut self,
        kind: BaselineKind,
        decay: f64,
        parent: TrialId,
        mean: f64,
    ) -> f64 {
        match kind {
            BaselineKind::Ema => {
                let average = self.0.entry(parent).or_insert(mean);
                let earlier = *average;
                *average = decay * earlier + (1.0 - decay) * mean;
                earlier
            }
            BaselineKind::Released => {
                let average = self.0.entry(parent).or_insert(0.0);
                *average += decay * (mean - *average);
                *average
            }
            BaselineKind::None => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_are_bounded_and_rise() {
        for (accuracy, expected) in [(0.0, 0.0), (0.5, 1.0), (-1.0, 0.0), (1.0, 63.656_741_162)] {
            let found = reward(accuracy, 0.99);
            assert!((found - expected).abs() < 1e-6, "accuracy {accuracy}: {found}");
        }
        assert!(reward(1.0, 1.0) > 1e16, "the released code's reward isn't clipped");
        let gains = [0.6, 0.9].map(|from| reward(from + 0.01, 0.99) - reward(from, 0.99));
        assert!(gains[1] > 5.0 * gains[0], "{gains:?}");
    }

    #[test]
    fn the_average_sees_progress_and_the_released_one_does_not() {
        let advantages = |kind| {
            let mut baselines = Baselines::default();
            let means = [6.0, 6.0, 6.0, 6.0, 6.0, 8.0, 8.0, 8.0];
            means.map(|mean| mean - baselines.next(kind, 0.95, TrialId(0), mean))
        };
        let cases = [
            (BaselineKind::Ema, [0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 1.9, 1.805]),
            (BaselineKind::Released, [0.3, 0.015, 0.00075, 0.0, 0.0, 0.1, 0.005, 0.00025]),
            (BaselineKind::None, [6.0, 6.0, 6.0, 6.0, 6.0, 8.0, 8.0, 8.0]),
        ];
        for (kind, expected) in cases {
            let found = advantages(kind);
            let near =
                found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-4);
            assert!(near, "{kind:?}: {found:?}");
        }
    }

    #[test]
    fn each_parent_has_a_baseline_of_its_own() {
        let mut baselines = Baselines::default();
        let mut next = |parent, mean| baselines.next(BaselineKind::Ema, 0.5, TrialId(parent), mean);
        assert_eq!([next(0, 2.0), next(7, 8.0), next(0, 4.0), next(7, 8.0)], [2.0, 8.0, 2.0, 8.0]);
        assert_eq!(next(0, 0.0), 3.0);
    }
}
