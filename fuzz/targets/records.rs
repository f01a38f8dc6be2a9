#![no_main]
//! The records of a run, each as every kind: what is read comes back when it is written.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| eas_cli::fuzzing::records(bytes));
