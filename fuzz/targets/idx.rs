#![no_main]
//! MNIST's files of images and labels, plain, compressed, or as a compressed file would be.

use std::fs;

use eas_fuzz::{files, folder, gz, read, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [first, rest @ ..] = bytes else { return };
    let names = ["idx/train-images-idx3-ubyte", "idx/train-labels-idx1-ubyte"];
    for (name, bytes) in names.iter().zip(files::<2>(rest)) {
        let _ = fs::remove_file(folder().join(name));
        let _ = fs::remove_file(folder().join(format!("{name}.gz")));
        match first {
            b'=' => write(&format!("{name}.gz"), bytes),
            b'z' => write(&format!("{name}.gz"), &gz(bytes)),
            _ => write(name, bytes),
        };
    }
    read("idx", "idx");
    read("mnist", "idx");
});
