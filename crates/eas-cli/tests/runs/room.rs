//! Full disks: a run that finds no room says so, and goes on once there is some.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Place, assert_undisturbed, eas, output, resume, said};

/// The exit code of a full disk.
const NO_ROOM: i32 = 5;

#[test]
fn a_disk_that_is_full_at_any_write_leaves_a_run_that_goes_on() {
    for name in [
        "spec.toml",
        "plan.toml",
        "eas",
        "build.json",
        "run.json",
        "trial.json",
        "heartbeat.json",
        "epochs.jsonl",
        "checkpoint",
        "model",
        "momentum.safetensors",
        "momentum",
        "result",
        "link",
        "clock.json",
        "events.jsonl",
        "report.json",
    ] {
        let place = Place::new();
        let (run, marker) = (place.path("run"), place.path("marker"));
        let wish = format!("write.{name}=full={}", marker.display());
        let first = output(place.search("run", &[]).env("EAS_FAILPOINT", wish));
        assert!(marker.exists(), "{name} was never written: {}", said(&first));
        assert_eq!(first.status.code(), Some(NO_ROOM), "{name}: {}", said(&first));
        if run.join("run.json").exists() {
            for part in ["the disk of", "is full", "free there", "may write", "eas resume"] {
                assert!(said(&first).contains(part), "{name}: no `{part}`: {}", said(&first));
            }
            resume(&run, None);
        } else {
            assert!(!run.exists(), "{name}: what is no run takes room");
            super::succeeds(&mut place.search("run", &[]));
        }
        assert_undisturbed(&run, name);
    }
}

/// A file system in memory of so many bytes; nothing where it can't be had, which is said.
struct Disk(PathBuf);

impl Disk {
    fn new(folder: PathBuf, bytes: u64) -> Option<Self> {
        fs::create_dir_all(&folder).unwrap();
        let mounted = mount(&folder, &["-t", "tmpfs", "tmpfs", "-o", &format!("size={bytes}")]);
        if !mounted {
            let text = "skipped: this user may mount no tmpfs\n";
            std::io::stderr().write_all(text.as_bytes()).unwrap();
        }
        mounted.then(|| Disk(folder))
    }

    fn grow(&self, bytes: u64) {
        assert!(mount(&self.0, &["-o", &format!("remount,size={bytes}")]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(folder: &Path, options: &[&str]) -> bool {
    let mount = Command::new("mount").args(options).arg(folder).output();
    mount.is_ok_and(|done| done.status.success())
}

#[test]
fn a_small_disk_is_filled_and_made_larger_until_the_run_is_done() {
    let program = fs::metadata(env!("CARGO_BIN_EXE_eas")).unwrap().len();
    let place = Place::new();
    let folder = place.path("disk");
    // The program alone fills it.
    let mut size = program - 4096;
    let Some(disk) = Disk::new(folder.clone(), size) else { return };
    let run = folder.join("run");
    let mut full = 0;
    loop {
        let done = match run.join("run.json").exists() {
            true => output(&mut eas("resume", &run)),
            false => output(eas("search", &place.path("spec.toml")).arg("--run").arg(&run)),
        };
        if done.status.success() {
            break;
        }
        assert_eq!(done.status.code(), Some(NO_ROOM), "{size} bytes: {}", said(&done));
        full += 1;
        assert!(full < 100, "{size} bytes: {}", said(&done));
        size += 48 << 10;
        disk.grow(size);
    }
    assert!(full > 5, "it was full {full} times alone");
    assert_undisturbed(&run, "a disk that was full");
}
