//! Tests of edits, in one binary.

mod calibration;
mod densenet;
mod laws;
mod networks;
mod spaces;
