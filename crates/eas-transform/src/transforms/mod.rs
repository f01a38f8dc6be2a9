//! The built-in transforms, a file each.

mod deepen;
mod dense;
mod replicate;
mod widen;
mod widen_growth;

pub use deepen::Deepen;
pub use replicate::Replicate;
pub use widen::Widen;
pub use widen_growth::WidenGrowth;
