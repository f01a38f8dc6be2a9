//! Softmax and cross-entropy with label smoothing.

use crate::engine::StepReport;

/// The mean cross-entropy of logits `[batch][classes]`, and its slope.
pub(super) fn cross_entropy(
    logits: &[f32],
    labels: &[usize],
    smoothing: f64,
    slopes: &mut [f32],
) -> StepReport {
    let classes = logits.len() / labels.len();
    let spread = smoothing / classes as f64;
    let (mut loss, mut correct) = (0.0, 0);
    let rows = logits.chunks_exact(classes).zip(slopes.chunks_exact_mut(classes));
    for ((logits, slopes), label) in rows.zip(labels) {
        let (best, largest) =
            logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (class, logit)| {
                if *logit > best.1 { (class, *logit) } else { best }
            });
        correct += usize::from(best == *label);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        let log_sum = sum.ln();
        for (class, (logit, slope)) in logits.iter().zip(slopes).enumerate() {
            let target = spread + if class == *label { 1.0 - smoothing } else { 0.0 };
            let log_probability = f64::from(logit - largest) - log_sum;
            loss -= target * log_probability;
            *slope = ((log_probability.exp() - target) / labels.len() as f64) as f32;
        }
    }
    StepReport { loss: loss / labels.len() as f64, correct }
}
