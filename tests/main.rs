//! Tests that cross crates, in one binary.

mod harness;
mod specs;
