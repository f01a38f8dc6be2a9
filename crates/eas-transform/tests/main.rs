//! Tests of edits, in one binary.

mod calibration;
mod laws;
mod networks;
mod spaces;
