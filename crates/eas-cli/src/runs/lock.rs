//! One coordinator a run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::{check_plain, read_json};

/// Readers hold the lock for a moment to see whether it is free; a coordinator tries as often.
const TRIES: u32 = 5;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Who coordinates a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) host: String,
}

/// Held as long as this process coordinates the run; the system lets go of it when the process ends,
/// however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path) -> anyhow::Result<Self> {
        let options =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).clone();
        let mut file = check_plain(path)
            .and_then(|()| options.open(path))
            .with_context(|| format!("can't open {}", path.display()))?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => {
                    let holder = Holder { pid: std::process::id(), host: host() };
                    let text = serde_json::to_vec(&holder)?;
                    // Whoever makes room on a full disk holds it too: who that is may not fit.
                    let _ = file.set_len(0).and_then(|()| file.write_all(&text));
                    return Ok(Lock { _file: file });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("can't lock {}", path.display()));
                }
            }
        }
        match read_json::<Holder>(path) {
            Ok(Holder { pid, host }) => bail!(
                "another process coordinates this run: process {pid} on {host}; eas watch shows it"
            ),
            Err(_) => bail!("another process coordinates this run; eas watch shows it"),
        }
    }

    /// Who coordinates the run now, if anybody does.
    pub(super) fn holder(path: &Path) -> Option<Holder> {
        check_plain(path).ok()?;
        let file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let unknown = || Holder { pid: 0, host: "a machine that isn't known".to_owned() };
                Some(read_json(path).unwrap_or_else(|_| unknown()))
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

/// This machine's name.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "this machine".to_owned() } else { name.trim().to_owned() }
}
