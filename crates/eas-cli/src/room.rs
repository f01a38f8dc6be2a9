//! Room on disks: whether an error is for want of it, and how much there is.

use std::io;
use std::path::Path;

use eas_ir::LoadError;

/// A disk was full where a trial wrote, in the trial's words.
#[derive(Debug)]
pub(crate) struct NoRoom(pub(crate) String);

impl std::fmt::Display for NoRoom {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for NoRoom {}

/// Whether something could not be written because a disk, or this user's part of it, is full.
pub(crate) fn is_wanting(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let system = match cause.downcast_ref::<LoadError>() {
            Some(LoadError::Io { error, .. }) => Some(error),
            _ => cause.downcast_ref::<io::Error>(),
        };
        let index = cause.downcast_ref::<rusqlite::Error>();
        cause.is::<NoRoom>()
            || system.is_some_and(|error| {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            })
            || index.and_then(rusqlite::Error::sqlite_error_code)
                == Some(rusqlite::ErrorCode::DiskFull)
    })
}

/// Bytes that this user may still write where a path lies; nothing where it can't be told.
pub(crate) fn free(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}
