//! Tests that cross crates, in one binary.

mod harness;
mod models;
mod specs;
