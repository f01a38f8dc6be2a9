#![no_main]
//! A model as ONNX: what is read comes back when it is written.

use eas_ir::onnx::{OnnxOptions, from_bytes, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(saved) = from_bytes(bytes) else { return };
    let written = write(&saved, &OnnxOptions::default()).expect("a model that was read");
    let again = from_bytes(&written).expect("a model that was written");
    assert_eq!(again.model.network().fingerprint(), saved.model.network().fingerprint());
});
