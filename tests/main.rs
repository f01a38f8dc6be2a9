//! Tests that cross crates, in one binary.

mod automatic;
mod cifar10;
mod commands;
mod fetch;
mod harness;
mod layering;
mod models;
mod pictures;
mod plugin;
mod readme;
mod specs;
