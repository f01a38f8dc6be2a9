#![no_main]
//! Files of CIFAR-10 and CIFAR-100: the last bytes of a record, or whole files.

use eas_fuzz::{files, read, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [first, rest @ ..] = bytes else { return };
    let padded = |bytes: &[u8], record: usize| match first {
        b'=' => bytes.to_vec(),
        _ => [bytes, &vec![0; bytes.len().next_multiple_of(record) - bytes.len()]].concat(),
    };
    for (place, bytes) in files::<5>(rest).into_iter().enumerate() {
        write(&format!("cifar10/data_batch_{}.bin", place + 1), &padded(bytes, 3073));
    }
    write("cifar100/train.bin", &padded(rest, 3074));
    read("cifar10", "cifar10");
    read("cifar100", "cifar100");
});
