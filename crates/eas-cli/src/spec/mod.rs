//! A spec as written: TOML in which a table's name is a plugin's name.
//!
//! It is read into a tree that knows where each key and value stands, so that whatever is found wrong
//! later points at its place. `--set` arguments are read behind the file, as if they were its last
//! lines, and replace what the file says.

mod errors;
mod read;
mod tables;

pub use errors::SpecErrors;
pub use read::read_plan;
pub(crate) use read::{MOST_TRIALS, as_toml};
