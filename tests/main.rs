//! Tests that cross crates, in one binary.

mod campaign;
mod cifar10;
mod commands;
mod harness;
mod layering;
mod models;
mod pictures;
mod plugin;
mod readme;
mod specs;
