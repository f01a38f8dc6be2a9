//! The built-in transforms, a file each.

mod add_block;
mod deepen;
mod dense;
mod grow_kernel;
mod replicate;
mod skip;
mod widen;
mod widen_growth;

pub use add_block::AddBlock;
pub use deepen::Deepen;
pub use grow_kernel::GrowKernel;
pub use replicate::Replicate;
pub use skip::Skip;
pub use widen::Widen;
pub use widen_growth::WidenGrowth;

use anyhow::Context;
use eas_ir::{Label, Network};

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
