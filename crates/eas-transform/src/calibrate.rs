//! Inserted batch norms meet the data.
//!
//! An inserted batch norm is the identity in evaluation mode whatever its statistics, if gamma and
//! beta undo them. In training mode it uses each batch's own statistics, so the function stays close
//! only if its running ones are the data's. One evaluation-mode pass finds them for a whole chain of
//! edits, because calibration leaves the evaluated function as it is.

use anyhow::Context;
use eas_ir::{Forward, Images, Mode, Model, NodeId, Op, ParamId, Role, tensor};

/// The smallest variance that calibration sets, as a share of the layer's mean variance: a channel
/// that is dead on the calibration images keeps a gamma it can live with when it wakes.
const VARIANCE_FLOOR: f64 = 1e-2;

/// A calibrated model.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The model; in evaluation mode it computes what it did before.
    pub model: Model,
    /// Batch norms that were calibrated.
    pub batch_norms: usize,
}

/// Sets the running statistics of these batch norms to those of their inputs over `images`, and
/// adjusts gamma and beta so that the evaluated function stays.
///
/// # Errors
/// A node that is no batch norm of the model, images that don't fit, or the evaluator's failure.
pub fn calibrate(
    model: Model,
    batch_norms: &[NodeId],
    images: &Images,
    forward: &dyn Forward,
) -> anyhow::Result<Calibrated> {
    if batch_norms.is_empty() {
        return Ok(Calibrated { model, batch_norms: 0 });
    }
    let mut sites = Vec::new();
    for &id in batch_norms {
        let node = model.network().node(id).with_context(|| format!("no node {id}"))?;
        let Op::BatchNorm { epsilon } = node.op else {
            anyhow::bail!("{id}: expected a batch norm, found {}", node.op.name());
        };
        sites.push((id, node.inputs[0], f64::from(epsilon)));
    }
    let inputs: Vec<NodeId> = sites.iter().map(|(_, input, _)| *input).collect();
    let moments = forward.moments(&model, images, &inputs)?;
    let (network, mut weights) = model.into_parts();
    for (id, input, epsilon) in sites {
        let measured = moments.get(&input).with_context(|| format!("no moments of {input}"))?;
        let channels = measured.mean.len();
        let typical = measured.variance.iter().sum::<f64>() / channels.max(1) as f64;
        let old = |role| -> anyhow::Result<Vec<f64>> {
            let values = weights.get(&ParamId::new(id, role)).context("a parameter is missing")?;
            Ok(values.iter().map(|value| f64::from(*value)).collect())
        };
        let (gamma, beta) = (old(Role::Gamma)?, old(Role::Beta)?);
        let (mean, variance) = (old(Role::Mean)?, old(Role::Variance)?);
        let mut new: [Vec<f32>; 4] = std::array::from_fn(|_| Vec::with_capacity(channels));
        for channel in 0..channels {
            let floored = measured.variance[channel].max(VARIANCE_FLOOR * typical);
            // Rounded to f32 first, so that gamma undoes the variance that is stored.
            let new_mean = measured.mean[channel] as f32;
            let new_variance = if floored > 0.0 { floored as f32 } else { 1.0 };
            let slope = gamma[channel] / (variance[channel] + epsilon).sqrt();
            let new_gamma = slope * (f64::from(new_variance) + epsilon).sqrt();
            let new_beta = beta[channel] + slope * (f64::from(new_mean) - mean[channel]);
            for (list, value) in
                new.iter_mut().zip([new_gamma as f32, new_beta as f32, new_mean, new_variance])
            {
                list.push(value);
            }
        }
        for (role, values) in
            [Role::Gamma, Role::Beta, Role::Mean, Role::Variance].into_iter().zip(new)
        {
            weights.insert(ParamId::new(id, role), tensor(&[channels], values));
        }
    }
    Ok(Calibrated { model: Model::new(network, weights)?, batch_norms: batch_norms.len() })
}

/// How far a child's function in training mode, with each batch's own statistics, is from its
/// parent's: root mean square difference of the logits, in deviations of the parent's.
///
/// # Errors
/// As [`calibrate`].
pub fn drift(
    parent: &Model,
    child: &Model,
    images: &Images,
    forward: &dyn Forward,
) -> anyhow::Result<f64> {
    let before = forward.logits(parent, images, Mode::Training)?;
    let after = forward.logits(child, images, Mode::Training)?;
    let count = before.len().max(1) as f64;
    let mean = before.sum() / count;
    let deviation = (before.mapv(|logit| (logit - mean).powi(2)).sum() / count).sqrt();
    let difference = ((&after - &before).mapv(|gap| gap * gap).sum() / count).sqrt();
    Ok(difference / deviation.max(f64::MIN_POSITIVE))
}
