#![no_main]
//! A checkpoint under its own digest.

use eas_fuzz::{folder, network, safetensors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = safetensors(bytes);
    eas_cli::fuzzing::checkpoint(&bytes, &network(), folder()).expect("a folder in memory");
});
