//! The built-in transforms, a file each.

mod add_block;
mod deepen;
mod deepen_dense;
mod dense;
mod grow_kernel;
mod replicate;
mod skip;
mod widen;
mod widen_growth;
mod widen_transition;

pub use add_block::AddBlock;
pub use deepen::Deepen;
pub use deepen_dense::DeepenDense;
pub(crate) use dense::{DenseLayer, dense_layers, portion};
pub use grow_kernel::GrowKernel;
pub use replicate::Replicate;
pub use skip::Skip;
pub use widen::{NewFilters, Widen};
pub use widen_growth::WidenGrowth;
pub use widen_transition::WidenTransition;

use anyhow::Context;
use eas_ir::{Label, Network, NodeId, ParamId, Role};

use crate::edit::{Candidate, Target};
use crate::patch::Derive;
use crate::space::SearchSpace;

/// The label of a new layer behind the one of this label; the later layers of its block move on by one.
fn label_behind(network: &mut Network, label: &Label) -> anyhow::Result<Label> {
    let next = |layer: u32| {
        layer.checked_add(1).with_context(|| format!("{label}: no layer number is left behind it"))
    };
    let new = Label { layer: next(label.layer)?, ..label.clone() };
    for later in network.labels_mut() {
        let same_block = (&later.kind, later.block) == (&new.kind, new.block);
        if same_block && later.layer >= new.layer {
            later.layer = next(later.layer)?;
        }
    }
    Ok(new)
}

/// The edits that insert a convolution at a site, one for each of the kernels that the space has too; a
/// policy picks the kernel where `path` ends.
fn with_kernels(
    site: NodeId,
    path: &[usize],
    kernels: &[usize],
    space: &dyn SearchSpace,
) -> impl Iterator<Item = Candidate> {
    let known = kernels.iter().enumerate().filter(|(_, kernel)| space.kernels().contains(kernel));
    known.map(move |(option, kernel)| {
        let target = Target::Kernel(*kernel);
        Candidate { site, target, path: [path, &[option]].concat() }
    })
}

/// The parameters of a new batch norm that is the identity until the data say what mean and variance are:
/// gamma / √(variance + epsilon) = 1.
fn identity_batch_norm(
    id: NodeId,
    epsilon: f32,
    channels: usize,
) -> impl Iterator<Item = (ParamId, Derive)> {
    let gamma = (1.0 + f64::from(epsilon)).sqrt() as f32;
    let values =
        [(Role::Gamma, gamma), (Role::Beta, 0.0), (Role::Mean, 0.0), (Role::Variance, 1.0)];
    values.into_iter().map(move |(role, value)| {
        (ParamId::new(id, role), Derive::Fill { shape: vec![channels], value })
    })
}
