#![no_main]
//! Images and logits beside an ONNX file.

use eas_fuzz::{files, folder, model, write};
use eas_ir::Reference;
use eas_ir::onnx::{self, OnnxOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        let bytes = onnx::write(&model(), &OnnxOptions::default()).expect("a model");
        write("model.onnx", &bytes);
    },
    |bytes: &[u8]| {
        let [images, logits] = files(bytes);
        write("test_data_set_0/input_0.pb", images);
        write("test_data_set_0/output_0.pb", logits);
        let _ = onnx::read_compared(&folder().join("model.onnx"), &Reference);
    }
);
