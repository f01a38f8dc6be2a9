//! A chain of edits replayed on a model.

use anyhow::Context;
use eas_ir::{Model, Network, NodeId, Rng, Weights};

use crate::apply::{Noise, apply, carry_momentum};
use crate::edit::Step;
use crate::patch::{GradientMap, Patch};
use crate::registry::Transforms;

/// What a chain of edits made of a parent.
#[derive(Clone, Debug)]
pub struct Growth {
    /// The child.
    pub model: Model,
    /// The parent's momentum carried along, where there was any.
    pub momentum: Option<Weights>,
    /// Inserted batch norms, to calibrate.
    pub calibrate: Vec<NodeId>,
    /// Exact where every edit's map was.
    pub gradient: GradientMap,
}

/// Replays steps on a parent. What is replicated, and what new kernels start as, depends on `rng` and
/// each edit's place in the chain, so the same call gives the same child; noise comes from the same stream where it is on.
///
/// # Errors
/// An edit that can't be made; the error names it and its place.
pub fn grow(
    parent: &Model,
    momentum: Option<&Weights>,
    steps: &[Step],
    transforms: &Transforms,
    rng: &Rng,
    noise: bool,
) -> anyhow::Result<Growth> {
    let mut growth = Growth {
        model: parent.clone(),
        momentum: momentum.cloned(),
        calibrate: Vec::new(),
        gradient: GradientMap::Exact,
    };
    for (place, edit) in steps.iter().flatten().enumerate() {
        let stream = rng.split("edit").split_index(place as u64);
        let made = || -> anyhow::Result<Growth> {
            let mut choices = stream.split("choices");
            let patch = transforms.patch(growth.model.network(), edit, &mut choices)?;
            extend(&growth, patch, if noise { Noise::On(&stream) } else { Noise::Off })
        };
        growth = made().with_context(|| format!("edit {} of the chain: {edit}", place + 1))?;
    }
    Ok(growth)
}

fn extend(growth: &Growth, patch: Patch, noise: Noise<'_>) -> anyhow::Result<Growth> {
    let momentum = match &growth.momentum {
        Some(momentum) => Some(carry_momentum(momentum, &growth.model, &patch)?),
        None => None,
    };
    let model = apply(&growth.model, &patch, noise)?;
    let mut calibrate = growth.calibrate.clone();
    calibrate.extend(patch.calibrate);
    let gradient = match (growth.gradient, patch.gradient) {
        (GradientMap::Exact, GradientMap::Exact) => GradientMap::Exact,
        _ => GradientMap::Approximate,
    };
    Ok(Growth { model, momentum, calibrate, gradient })
}

/// The architecture that a chain of edits makes, without weights.
///
/// # Errors
/// As [`grow`].
pub fn grow_network(
    parent: &Network,
    steps: &[Step],
    transforms: &Transforms,
) -> anyhow::Result<Network> {
    let mut network = parent.clone();
    for (place, edit) in steps.iter().flatten().enumerate() {
        // The architecture doesn't depend on which channels are replicated.
        network = transforms
            .patch(&network, edit, &mut Rng::new(0))
            .with_context(|| format!("edit {} of the chain: {edit}", place + 1))?
            .network;
    }
    Ok(network)
}
