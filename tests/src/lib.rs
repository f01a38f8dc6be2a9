//! Nothing but tests lives in this package, and the campaign, which anyone can run for as long as they
//! like.

pub mod campaign;

/// Cargo, from within a program that it runs. What it tells of this package is not passed on: build scripts
/// that ask for it (ring's) would run again, and all that stands on them be built anew each time.
pub fn cargo() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("CARGO_PKG_") || shown.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}
