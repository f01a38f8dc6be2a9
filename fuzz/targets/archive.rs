#![no_main]
//! A fetched archive: it writes nothing but what it is known to hold, whole or not at all.

use std::fs;
use std::path::Path;

use eas_fuzz::{folder, gz, write};
use libfuzzer_sys::fuzz_target;

const EXPECTED: [(&str, u64); 2] = [("data/a", 3), ("data/b/c", 5)];

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> = entries.map(|e| name(e).display().to_string()).collect();
    names.sort();
    names
}

fuzz_target!(|bytes: &[u8]| {
    let [first, rest @ ..] = bytes else { return };
    let packed = if *first == b'=' { rest.to_vec() } else { gz(rest) };
    let archive = write("archive.tar.gz", &packed);
    let to = folder().join("to");
    fs::create_dir_all(&to).expect("a folder");
    let unpacked = eas_cli::fuzzing::unpack(&archive, &EXPECTED, &to).is_ok();
    assert_eq!(names(folder()), ["archive.tar.gz", "to"]);
    assert_eq!(names(&to), if unpacked { vec!["data"] } else { vec![] });
    if unpacked {
        for (path, length) in EXPECTED {
            let found = fs::symlink_metadata(to.join(path)).expect("a file of the archive");
            assert!(found.is_file() && found.len() == length, "{path}: {found:?}");
        }
        fs::remove_dir_all(to.join("data")).expect("a folder");
    }
});
