//! Tests that cross crates, in one binary.

mod automatic;
mod campaign;
mod cifar10;
mod commands;
mod devices;
mod export;
mod fetch;
mod harness;
mod layering;
mod models;
mod onnx;
mod pictures;
mod plugin;
mod readme;
mod specs;
