//! Softmax and cross-entropy with label smoothing.

use crate::engine::StepReport;

/// The mean cross-entropy of logits `[batch][classes]`, and its slope; `shown` are each image's classes,
/// as [`crate::Batch::shown`] has them.
pub(super) fn cross_entropy(
    logits: &[f32],
    shown: impl ExactSizeIterator<Item = (usize, usize, f64)>,
    smoothing: f64,
    slopes: &mut [f32],
) -> StepReport {
    let count = shown.len();
    let classes = logits.len() / count;
    let spread = smoothing / classes as f64;
    let (mut loss, mut correct) = (0.0, 0);
    let rows = logits.chunks_exact(classes).zip(slopes.chunks_exact_mut(classes));
    for ((label, other, share), (logits, slopes)) in shown.zip(rows) {
        let (best, largest) =
            logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (class, logit)| {
                if *logit > best.1 { (class, *logit) } else { best }
            });
        correct += usize::from(best == label);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        let log_sum = sum.ln();
        for (class, (logit, slope)) in logits.iter().zip(slopes).enumerate() {
            let of = |known, share| if class == known { (1.0 - smoothing) * share } else { 0.0 };
            let target = spread + of(label, share) + of(other, 1.0 - share);
            let log_probability = f64::from(logit - largest) - log_sum;
            loss -= target * log_probability;
            *slope = ((log_probability.exp() - target) / count as f64) as f32;
        }
    }
    StepReport { loss: loss / count as f64, correct }
}
