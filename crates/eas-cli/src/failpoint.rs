//! Places where a test makes this process die or hang, to show that nothing is lost there.

/// Where the variable `EAS_FAILPOINT` is `NAME=ACTION=MARKER` and names this place: dies (`abort`) or
/// sleeps for good (`hang`), once, as the marker is a file that is made first and must be new. Without
/// a marker it does so each time.
#[cfg(debug_assertions)]
pub(crate) fn failpoint(name: &str) {
    let Ok(wish) = std::env::var("EAS_FAILPOINT") else { return };
    let mut parts = wish.splitn(3, '=');
    if parts.next() != Some(name) {
        return;
    }
    let action = parts.next();
    if parts.next().is_some_and(|marker| std::fs::File::create_new(marker).is_err()) {
        return;
    }
    match action {
        Some("hang") => loop {
            std::thread::park();
        },
        _ => std::process::abort(),
    }
}

/// Nothing: release builds have no such places.
#[cfg(not(debug_assertions))]
pub(crate) fn failpoint(_: &str) {}
