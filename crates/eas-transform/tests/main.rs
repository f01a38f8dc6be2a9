//! Tests of edits, in one binary.

mod calibration;
mod chains;
mod laws;
mod networks;
mod residual;
mod spaces;
