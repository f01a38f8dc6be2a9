#![no_main]
//! A run whose trials, events, report and index are hostile: looked at, and its index made anew.

use std::ffi::OsString;
use std::fs;

use eas_fuzz::{RUN_FILES, files, folder, write};
use libfuzzer_sys::fuzz_target;

fn eas(arguments: &[&str]) {
    let run = OsString::from(folder().join("run"));
    let arguments = ["eas"].iter().chain(arguments).map(OsString::from).chain([run]);
    let code = eas_cli::fuzzing::command(arguments);
    assert!(code < 6, "exit code {code}");
}

fuzz_target!(
    init: {
        let about = format!("{{\"format\": 2, \"directory\": {:?}}}", folder());
        write("run/run.json", about.as_bytes());
        write("run/plan.toml", include_bytes!("../../tests/tiny.toml"));
    },
    |bytes: &[u8]| {
        let parts: [&[u8]; RUN_FILES.len()] = files(bytes);
        for (name, bytes) in RUN_FILES.iter().zip(parts) {
            let path = write(&format!("run/{name}"), bytes);
            if bytes.is_empty() {
                fs::remove_file(path).expect("a file that was written");
            }
        }
        for arguments in [
            &["status"][..],
            &["trials", "--format", "json"],
            &["lineage"],
            &["show"],
            &["verify", "--rebuild"],
            &["trials"],
        ] {
            eas(arguments);
        }
    }
);
