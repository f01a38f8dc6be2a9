//! Places where a test makes this process die or hang, or finds the disk full, to show that nothing is
//! lost there.

use std::io;

/// Where the variable `EAS_FAILPOINT` is `NAME=ACTION=MARKER` and names this place: dies (`abort`) or
/// sleeps for good (`hang`), once, as the marker is a file that is made first and must be new. Without
/// a marker it does so each time.
#[cfg(debug_assertions)]
pub(crate) fn failpoint(name: &str) {
    match wish(name).as_deref() {
        Some("hang") => loop {
            std::thread::park();
        },
        Some("abort") => std::process::abort(),
        _ => {}
    }
}

/// A place that writes a file: the disk is full there (`full`).
#[cfg(debug_assertions)]
pub(crate) fn writing(path: &std::path::Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Digests and numbers are no part of a place's name.
    let name = name.trim_start_matches('.').split('-').next().unwrap_or_default();
    match wish(&format!("write.{name}")).as_deref() {
        Some("full") => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

/// What a test wants to happen at this place.
#[cfg(debug_assertions)]
fn wish(name: &str) -> Option<String> {
    let wish = std::env::var("EAS_FAILPOINT").ok()?;
    let mut parts = wish.splitn(3, '=');
    if parts.next() != Some(name) {
        return None;
    }
    let action = parts.next().unwrap_or("abort").to_owned();
    let first = parts.next().is_none_or(|marker| std::fs::File::create_new(marker).is_ok());
    first.then_some(action)
}

/// Nothing: release builds have no such places.
#[cfg(not(debug_assertions))]
pub(crate) fn failpoint(_: &str) {}

/// Nothing: release builds have no such places.
#[cfg(not(debug_assertions))]
pub(crate) fn writing(_: &std::path::Path) -> io::Result<()> {
    Ok(())
}
