//! All weight arithmetic: [`Derive`] evaluated on weights, and on momentum.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use eas_ir::{Model, ParamId, Rng, Tensor, Weights, parameter_list, tensor};
use ndarray::Axis;

use crate::patch::{Derive, Patch};

/// Whether replicas get the noise that tells them apart.
#[derive(Clone, Copy, Debug)]
pub enum Noise<'a> {
    /// The child computes exactly what its parent does.
    Off,
    /// Drawn from this stream; each parameter's noise depends on its id alone.
    On(&'a Rng),
}

/// The model that a patch makes of a parent.
///
/// # Errors
/// A patch whose network doesn't verify, or whose weights can't be derived or don't fit.
pub fn apply(parent: &Model, patch: &Patch, noise: Noise<'_>) -> anyhow::Result<Model> {
    let shapes = patch.network.verify().context("the patched network breaks rules")?;
    let mut weights = Weights::new();
    for (parameter, _) in parameter_list(&patch.network, &shapes) {
        let value = match (patch.weights.get(&parameter), parent.weights().get(&parameter)) {
            (Some(derive), _) => {
                let mut stream = match noise {
                    Noise::Off => None,
                    Noise::On(rng) => Some(rng.split("noise").split(&parameter.to_string())),
                };
                evaluate(derive, parent.weights(), stream.as_mut())
                    .with_context(|| format!("{parameter} can't be derived"))?
            }
            (None, Some(kept)) => kept.clone(),
            (None, None) => bail!("{parameter} is new, and the patch doesn't say what it is"),
        };
        weights.insert(parameter, value);
    }
    Model::new(patch.network.clone(), weights).context("the patched weights don't fit")
}

/// One stream runs through all parts of a parameter, so that no two of them get the same noise.
fn evaluate(derive: &Derive, old: &Weights, mut noise: Option<&mut Rng>) -> anyhow::Result<Tensor> {
    Ok(match derive {
        Derive::Old(id) => old.get(id).with_context(|| format!("no old parameter {id}"))?.clone(),
        Derive::Gather { of, axis, index, scale } => {
            gather(&evaluate(of, old, noise)?, *axis, index, scale)?
        }
        Derive::Concat { axis, parts } => {
            let parts = parts
                .iter()
                .map(|part| evaluate(part, old, noise.as_deref_mut()))
                .collect::<anyhow::Result<Vec<_>>>()?;
            concat(*axis, &parts)?
        }
        Derive::Identity { shape } => identity(shape)?,
        Derive::Fill { shape, value } => tensor(shape, vec![*value; shape.iter().product()]),
        Derive::Normal { shape, deviation, seed } => {
            let mut rng = Rng::new(*seed);
            let draw = |_| (rng.normal() * deviation) as f32;
            tensor(shape, (0..shape.iter().product()).map(draw).collect())
        }
        Derive::Noisy { of, ratio, source, only } => {
            let exact = evaluate(of, old, noise.as_deref_mut())?;
            let source = old.get(source).with_context(|| format!("no old parameter {source}"))?;
            match noise {
                None => exact,
                Some(rng) => add_noise(exact, ratio * deviation(source), only, rng)?,
            }
        }
    })
}

fn gather(of: &Tensor, axis: usize, index: &[usize], scale: &[f32]) -> anyhow::Result<Tensor> {
    ensure!(axis < of.ndim(), "axis {axis} of a tensor of shape {:?}", of.shape());
    ensure!(index.len() == scale.len(), "{} indices, {} scales", index.len(), scale.len());
    let length = of.len_of(Axis(axis));
    if let Some(outside) = index.iter().find(|entry| **entry >= length) {
        bail!("entry {outside} of an axis of {length}");
    }
    let mut gathered = of.select(Axis(axis), index);
    for (mut lane, scale) in gathered.axis_iter_mut(Axis(axis)).zip(scale) {
        if *scale != 1.0 {
            lane.mapv_inplace(|value| value * scale);
        }
    }
    Ok(gathered.into_shared())
}

fn concat(axis: usize, parts: &[Tensor]) -> anyhow::Result<Tensor> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    let shapes = || parts.iter().map(|part| part.shape().to_vec()).collect::<Vec<_>>();
    let joined = ndarray::concatenate(Axis(axis), &views)
        .with_context(|| format!("shapes {:?} don't join along axis {axis}", shapes()))?;
    Ok(joined.into_shared())
}

fn identity(shape: &[usize]) -> anyhow::Result<Tensor> {
    let (units, centre) = match *shape {
        [out, from] if out == from => (out, vec![]),
        [out, from, height, width] if out == from && height % 2 == 1 && width % 2 == 1 => {
            (out, vec![height / 2, width / 2])
        }
        _ => bail!("no identity of shape {shape:?}: expected [n, n] or [n, n, k, k] with odd k"),
    };
    let mut values = tensor(shape, vec![0.0; shape.iter().product()]);
    for unit in 0..units {
        let place: Vec<usize> = [unit, unit].into_iter().chain(centre.iter().copied()).collect();
        values[place.as_slice()] = 1.0;
    }
    Ok(values)
}

fn deviation(source: &Tensor) -> f64 {
    let count = source.len().max(1) as f64;
    let mean = source.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let squares = source.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>();
    (squares / count).sqrt()
}

fn add_noise(
    exact: Tensor,
    deviation: f64,
    only: &Option<(usize, Vec<usize>)>,
    rng: &mut Rng,
) -> anyhow::Result<Tensor> {
    let mut noisy = exact;
    let mut add = |value: &mut f32| *value += (rng.normal() * deviation) as f32;
    match only {
        None => noisy.iter_mut().for_each(&mut add),
        Some((axis, entries)) => {
            let length = noisy.shape().get(*axis).copied().unwrap_or(0);
            for entry in entries {
                ensure!(*entry < length, "noise on entry {entry} of an axis of {length}");
                noisy.index_axis_mut(Axis(*axis), *entry).iter_mut().for_each(&mut add);
            }
        }
    }
    Ok(noisy)
}

/// Momentum for a child, from its parent's. Momentum is a sum of gradients, so it follows the
/// gradients and not the weights: along a gathered axis, an entry with k copies and scale s carries
/// 1 / (k · s) of the old one (k copies share the old gradient; a weight scaled by s has a gradient
/// larger by 1 / s on the whole). What is new starts at 0.
///
/// # Errors
/// A patch that doesn't fit the parent.
pub fn carry_momentum(
    momentum: &Weights,
    parent: &Model,
    patch: &Patch,
) -> anyhow::Result<Weights> {
    let shapes = patch.network.verify().context("the patched network breaks rules")?;
    let mut carried = BTreeMap::new();
    for (parameter, shape) in parameter_list(&patch.network, &shapes) {
        if !parameter.role.trainable() {
            continue;
        }
        let zero = || tensor(&shape, vec![0.0; shape.iter().product()]);
        let value = match patch.weights.get(&parameter) {
            Some(derive) => carry(derive, momentum, parent)
                .with_context(|| format!("momentum of {parameter} can't be carried"))?,
            None => momentum.get(&parameter).cloned().unwrap_or_else(zero),
        };
        ensure!(value.shape() == shape, "{parameter}: momentum of shape {:?}", value.shape());
        carried.insert(parameter, value);
    }
    Ok(carried)
}

fn carry(derive: &Derive, momentum: &Weights, parent: &Model) -> anyhow::Result<Tensor> {
    let zeros = |shape: &[usize]| tensor(shape, vec![0.0; shape.iter().product()]);
    Ok(match derive {
        Derive::Old(id) => match momentum.get(id) {
            Some(known) => known.clone(),
            None => zeros(old_shape(parent, *id)?),
        },
        Derive::Gather { of, axis, index, scale } => {
            let of = carry(of, momentum, parent)?;
            let mut copies = vec![0u32; of.shape().get(*axis).copied().unwrap_or(0)];
            for (entry, scale) in index.iter().zip(scale) {
                let copies = copies.get_mut(*entry).context("a gathered entry outside its axis")?;
                *copies += u32::from(*scale != 0.0);
            }
            let share = index.iter().zip(scale).map(|(entry, scale)| {
                // An entry of scale 0 contributes nothing to the function and receives nothing.
                if *scale == 0.0 { 0.0 } else { 1.0 / (copies[*entry] as f32 * scale) }
            });
            gather(&of, *axis, index, &share.collect::<Vec<_>>())?
        }
        Derive::Concat { axis, parts } => {
            let parts = parts
                .iter()
                .map(|part| carry(part, momentum, parent))
                .collect::<anyhow::Result<Vec<_>>>()?;
            concat(*axis, &parts)?
        }
        Derive::Identity { shape } | Derive::Fill { shape, .. } | Derive::Normal { shape, .. } => {
            zeros(shape)
        }
        Derive::Noisy { of, .. } => carry(of, momentum, parent)?,
    })
}

fn old_shape(parent: &Model, id: ParamId) -> anyhow::Result<&[usize]> {
    let known = parent.weights().get(&id).with_context(|| format!("no old parameter {id}"))?;
    Ok(known.shape())
}
