//! Tests that cross crates, in one binary.

mod campaign;
mod cifar10;
mod commands;
mod export;
mod harness;
mod layering;
mod models;
mod onnx;
mod pictures;
mod plugin;
mod readme;
mod specs;
