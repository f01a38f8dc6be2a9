//! What is done to processes and file systems, by the programs that every Linux has.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::ensure;

/// The processes that one has started.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Ends a process at once, if it is there.
pub(super) fn kill(pid: u32) {
    signal(pid, "-KILL");
}

/// Whether a process runs this program.
pub(super) fn runs(program: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut programs = processes.filter_map(|process| process.path().join("exe").read_link().ok());
    programs.any(|running| running == program)
}

/// Sends a signal to a process, if it is there.
pub(super) fn signal(pid: u32, name: &str) {
    succeeds("kill", &[name, &pid.to_string()]);
}

/// Runs a program without a word. Whether it succeeded.
pub(super) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether this user may mount file systems.
pub(super) fn may_mount() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mounted = mount(folder.path(), &["-t", "tmpfs", "tmpfs", "-o", "size=64k"]);
    unmount(folder.path());
    ensure!(mounted, "this user may mount nothing");
    Ok(())
}

/// Mounts on a folder. Whether that worked.
pub(super) fn mount(folder: &Path, options: &[&str]) -> bool {
    let folder = folder.display().to_string();
    let mut arguments = options.to_vec();
    arguments.push(&folder);
    succeeds("mount", &arguments)
}

/// Takes off all that is mounted on a folder.
pub(super) fn unmount(folder: &Path) {
    let folder = folder.display().to_string();
    while succeeds("mountpoint", &["-q", &folder]) && succeeds("umount", &["-l", &folder]) {}
}
