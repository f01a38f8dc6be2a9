#![no_main]
//! Arrays of NumPy in an archive, or the archive as it is.

use std::io::{Cursor, Write};

use eas_fuzz::{files, read, write};
use libfuzzer_sys::fuzz_target;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// An archive of these arrays, whose sums no fuzzer finds by itself.
fn archive(arrays: [&[u8]; 2]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, array) in ["x_train.npy", "y_train.npy"].iter().zip(arrays) {
        let started = archive.start_file(*name, SimpleFileOptions::default());
        started.expect("a name of its own");
        archive.write_all(array).expect("memory takes all bytes");
    }
    archive.finish().expect("memory takes all bytes").into_inner()
}

fuzz_target!(|bytes: &[u8]| {
    let [first, rest @ ..] = bytes else { return };
    write("data.npz", &if *first == b'=' { rest.to_vec() } else { archive(files(rest)) });
    read("npz", "data.npz");
});
