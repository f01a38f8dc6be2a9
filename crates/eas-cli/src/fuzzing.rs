//! Readers of strangers' files that no other crate has to do with, opened to `fuzz/`.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs;
use std::path::Path;

use eas_ir::Network;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::commands;
use crate::report::Report;
use crate::runs::{Attempt, Event, Heartbeat, Progress, TrialRecord, TrialResult};

/// Runs a command line, and returns its exit code.
pub fn command(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    commands::run(arguments)
}

/// Reads bytes as each kind of record that a run keeps; what can be read must come back when it is
/// written.
pub fn records(bytes: &[u8]) {
    round_trip::<TrialRecord>(bytes);
    round_trip::<Event>(bytes);
    round_trip::<Heartbeat>(bytes);
    round_trip::<Progress>(bytes);
    round_trip::<Report>(bytes);
    if let Some(result) = round_trip::<TrialResult>(bytes) {
        result.line();
    }
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&read).expect("a record has a JSON form");
    let again: T = serde_json::from_slice(&written).expect("what is written can be read");
    assert_eq!(again, read);
    Some(read)
}

/// Reads bytes as a checkpoint of this network, in an attempt's folder under `folder`; whether it is whole.
///
/// # Errors
/// What the file system says.
pub fn checkpoint(bytes: &[u8], network: &Network, folder: &Path) -> anyhow::Result<bool> {
    let name = format!("checkpoint-00000001-{}.safetensors", blake3::hash(bytes).to_hex());
    let path = folder.join(name);
    fs::write(&path, bytes)?;
    let found = Attempt::newest_checkpoint(&[Attempt::at(folder.to_owned(), 1)], network);
    fs::remove_file(&path)?;
    Ok(found.is_some())
}

/// Unpacks a `.tar.gz` that holds these files into `to`, as a fetched one is.
///
/// # Errors
/// What is wrong with it.
pub fn unpack(archive: &Path, expected: &[(&str, u64)], to: &Path) -> anyhow::Result<()> {
    crate::fetch::unpack(archive, expected, to)
}
