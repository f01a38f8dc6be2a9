//! Tests of edits, in one binary.

mod calibration;
mod chains;
mod densenet;
mod laws;
mod networks;
mod onnx;
mod residual;
mod spaces;
