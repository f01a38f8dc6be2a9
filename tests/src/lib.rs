//! Nothing but tests lives in this package, and the campaign, which anyone can run for as long as they
//! like.

pub mod campaign;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Where cargo puts what it builds for the profile of the running program, such as `target/debug`.
///
/// # Errors
/// The running program lies nowhere.
pub fn built() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    Ok(folder.context("a program lies in target/PROFILE")?.to_owned())
}

/// Cargo in the workspace, with the profile and the target folder of the running program. What the cargo
/// that runs this program tells of its package is not passed on: build scripts that ask for it (ring's)
/// would run again, and all that stands on them be built anew each time.
///
/// # Errors
/// As [`built`].
pub fn cargo(subcommand: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("CARGO_PKG_") || shown.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    let built = built()?;
    let profile = built.file_name().and_then(|name| name.to_str()).context("a profile's name")?;
    let profile = if profile == "debug" { "dev" } else { profile };
    command.current_dir(root()).args([subcommand, "--locked", "--profile", profile]);
    command.arg("--target-dir").arg(built.parent().context("a target folder")?);
    Ok(command)
}

/// The `eas` of this workspace, built first: cargo builds no binary of another package for a test.
///
/// # Errors
/// It can't be built.
pub fn eas() -> anyhow::Result<PathBuf> {
    let arguments = ["--quiet", "--package", "eas-cli", "--bin", "eas"];
    ensure!(cargo("build")?.args(arguments).status()?.success(), "eas can't be built");
    Ok(built()?.join("eas"))
}
