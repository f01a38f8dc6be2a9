//! The proof, by numbers, that an edit kept the function.

use anyhow::ensure;
use eas_ir::{Forward, Images, Mode, Model};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

/// The largest difference of logits that counts as none, in deviations of the parent's logits.
pub const TOLERANCE: f64 = 1e-4;

/// Logits that vary less than this over the probe, relative to their size, can't show a difference:
/// rounding of the weights alone would then be near the tolerance.
const FLAT: f64 = 1e-2;

/// Whether the function stayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The gap is within the tolerance.
    Preserved,
    /// It is not.
    Broken,
    /// The parent's logits hardly vary over the probe, so no gap could show.
    NotTestable,
}

/// What a comparison of a child with its parent found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Largest difference of a logit, in deviations of the parent's logits over the probe; the bare
    /// difference where nothing could be tested, as they hardly deviate.
    pub gap: f64,
    /// Deviation of the parent's logits: of each class over the probe, root mean square over
    /// classes.
    pub deviation: f64,
    /// The conclusion.
    pub verdict: Verdict,
}

impl std::fmt::Display for Certificate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = match self.verdict {
            Verdict::Preserved => "function preserved",
            Verdict::Broken => "function CHANGED",
            Verdict::NotTestable => {
                return out.write_str("not testable: the logits hardly vary over the probe");
            }
        };
        match self.gap {
            0.0 => write!(out, "{verdict} (to the last bit)"),
            gap => write!(out, "{verdict} (largest difference {gap:.1e} deviations of the logits)"),
        }
    }
}

/// Compares a child with its parent in evaluation mode on a probe of images.
///
/// # Errors
/// A probe of fewer than two images, models that don't fit it or one another, or the evaluator's
/// failure.
pub fn certify(
    parent: &Model,
    child: &Model,
    probe: &Images,
    forward: &dyn Forward,
) -> anyhow::Result<Certificate> {
    let before = forward.logits(parent, probe, Mode::Evaluation)?;
    let after = forward.logits(child, probe, Mode::Evaluation)?;
    compare(&before, &after)
}

/// As [`certify`], of the logits that a parent and its child gave to the same probe:
/// `[batch, classes]` each.
///
/// # Errors
/// Logits of fewer than two images, or of different shapes.
pub(crate) fn compare(before: &Array2<f64>, after: &Array2<f64>) -> anyhow::Result<Certificate> {
    let images = before.nrows();
    ensure!(images >= 2, "expected a probe of at least two images, found {images}");
    ensure!(
        before.dim() == after.dim(),
        "expected logits of shape {:?}, found {:?}",
        before.dim(),
        after.dim()
    );
    let count = images as f64;
    let variances: Vec<f64> = before
        .columns()
        .into_iter()
        .map(|class| {
            let mean = class.sum() / count;
            class.iter().map(|logit| (logit - mean).powi(2)).sum::<f64>() / count
        })
        .collect();
    let deviation = (variances.iter().sum::<f64>() / variances.len().max(1) as f64).sqrt();
    let size = before.iter().fold(0.0f64, |size, logit| size.max(logit.abs()));
    let largest = before.iter().zip(after).fold(0.0f64, |largest, (before, after)| {
        // NaN must count as the largest difference, not vanish in a comparison.
        let difference = (before - after).abs();
        if difference.is_nan() { f64::INFINITY } else { largest.max(difference) }
    });
    if !(deviation > FLAT * size && deviation > 0.0) {
        return Ok(Certificate { gap: largest, deviation, verdict: Verdict::NotTestable });
    }
    let gap = largest / deviation;
    let verdict = if gap <= TOLERANCE { Verdict::Preserved } else { Verdict::Broken };
    Ok(Certificate { gap, deviation, verdict })
}
