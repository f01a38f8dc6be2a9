#![no_main]
//! A MAT-file of SVHN, as it is or with its elements compressed.

use std::io::Write;

use eas_fuzz::{SEPARATOR, read, write};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use libfuzzer_sys::fuzz_target;

/// The header, and a compressed element of each part of the rest.
fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes[..bytes.len().min(128)].to_vec();
    let mut rest = &bytes[file.len()..];
    while !rest.is_empty() {
        let end = rest.windows(SEPARATOR.len()).position(|found| found == SEPARATOR);
        let (element, behind) = rest.split_at(end.unwrap_or(rest.len()));
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::new(1));
        packed.write_all(element).expect("memory takes all bytes");
        let packed = packed.finish().expect("memory takes all bytes");
        file.extend(15u32.to_le_bytes());
        file.extend((packed.len() as u32).to_le_bytes());
        file.extend(packed);
        rest = behind.strip_prefix(SEPARATOR).unwrap_or(behind);
    }
    file
}

fuzz_target!(|bytes: &[u8]| {
    let [first, rest @ ..] = bytes else { return };
    let file = if *first == b'z' { compressed(rest) } else { rest.to_vec() };
    write("svhn/train_32x32.mat", &file);
    read("svhn", "svhn");
});
