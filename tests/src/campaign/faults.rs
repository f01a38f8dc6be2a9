//! What happens to searches.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use eas_ir::Rng;

use super::search::Search;
use super::system::{children, kill, may_mount, mount, signal, succeeds, unmount};

/// One kind of fault.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// Why it can't be had here.
    pub(super) available: fn() -> anyhow::Result<()>,
    /// Injects it; false where the search was over before, had nothing to be hit, or didn't show that it was.
    pub(super) inject: fn(&mut Search, &mut Rng) -> anyhow::Result<bool>,
}

/// A moment, at most so long after the last thing that happened.
const MOMENT: Duration = Duration::from_millis(1500);
/// Time for what was hit to show it.
const PATIENCE: Duration = Duration::from_secs(120);

fn always() -> anyhow::Result<()> {
    Ok(())
}

pub(super) const FAULTS: [Fault; 17] = [
    Fault { name: "SIGKILL of the coordinator", available: always, inject: kill_coordinator },
    Fault {
        name: "SIGKILL of a trial, as for want of memory",
        available: always,
        inject: kill_trial,
    },
    Fault { name: "SIGINT to the coordinator", available: always, inject: interrupt },
    Fault { name: "death at a publishing step", available: always, inject: die_publishing },
    Fault { name: "no room at a write", available: always, inject: no_room },
    Fault { name: "a small disk that is full", available: may_mount, inject: small_disk },
    Fault { name: "a read-only run", available: may_mount, inject: read_only },
    Fault { name: "a torn file in the store", available: always, inject: torn_object },
    Fault { name: "a flipped bit in the store", available: always, inject: flipped_object },
    Fault { name: "a torn or flipped checkpoint", available: always, inject: bad_checkpoint },
    Fault { name: "a torn or flipped index", available: always, inject: bad_index },
    Fault { name: "an index from the future", available: always, inject: future_index },
    Fault { name: "a deleted index", available: always, inject: deleted_index },
    Fault { name: "a trial that hangs (SIGSTOP)", available: always, inject: hang },
    Fault { name: "a failed allocation (RLIMIT_AS)", available: may_limit, inject: no_memory },
    Fault { name: "a second coordinator", available: always, inject: second_coordinator },
    Fault { name: "a jump of the clock", available: may_fake_time, inject: clock_jump },
];

fn kill_coordinator(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let hit = search.get_on(rng, MOMENT)?;
    search.kill_coordinator()?;
    Ok(hit)
}

/// A process of a trial, at some moment.
fn some_trial(search: &mut Search, rng: &mut Rng) -> anyhow::Result<Option<u32>> {
    let started = Instant::now();
    while search.get_on(rng, MOMENT)? && started.elapsed() < PATIENCE {
        let trial = search.trial(rng);
        if trial.is_some() {
            return Ok(trial);
        }
    }
    Ok(None)
}

fn kill_trial(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let trial = some_trial(search, rng)?;
    trial.into_iter().for_each(kill);
    Ok(trial.is_some())
}

fn interrupt(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let hit = search.get_on(rng, MOMENT)?;
    if let Some(coordinator) = search.coordinator.as_ref().filter(|_| hit) {
        signal(coordinator.id(), "-INT");
        search.wait()?;
    }
    Ok(hit)
}

/// The steps that publish.
const STEPS: [&str; 18] = [
    "run.before",
    "run.created",
    "trial.before",
    "trial.begun",
    "trial.built",
    "trial.step",
    "checkpoint.before",
    "checkpoint.written",
    "trial.trained",
    "store.written",
    "store.renamed",
    "result.before",
    "result.linked",
    "event.before",
    "event.written",
    "report.before",
    "report.written",
    "collect.renamed",
];

fn die_publishing(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    at_a_place(search, rng, &STEPS, "abort")
}

/// What is written.
const WRITES: [&str; 17] = [
    "write.spec.toml",
    "write.plan.toml",
    "write.eas",
    "write.build.json",
    "write.run.json",
    "write.trial.json",
    "write.heartbeat.json",
    "write.epochs.jsonl",
    "write.checkpoint",
    "write.model",
    "write.momentum.safetensors",
    "write.momentum",
    "write.result",
    "write.link",
    "write.clock.json",
    "write.events.jsonl",
    "write.report.json",
];

fn no_room(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    at_a_place(search, rng, &WRITES, "full")
}

/// Something happens the next time that one of these places is come to.
fn at_a_place(
    search: &mut Search,
    rng: &mut Rng,
    places: &[&str],
    action: &str,
) -> anyhow::Result<bool> {
    let place = places[rng.below(places.len())];
    let marker = search.path(&format!("marker-{}", rng.next_u32()));
    search.start_with("EAS_FAILPOINT", format!("{place}={action}={}", marker.display()))?;
    comes(search, || marker.exists())
}

/// Waits for something to be seen, as long as the search is under way, or for two moments. Whether it was.
fn comes(search: &mut Search, is_there: impl Fn() -> bool) -> anyhow::Result<bool> {
    let started = Instant::now();
    while !is_there() && search.ended()?.is_none() && started.elapsed() < 2 * MOMENT {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(is_there())
}

/// Its files are moved to a small file system, which is made larger once it was full.
fn small_disk(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    search.get_on(rng, MOMENT)?;
    search.kill_coordinator()?;
    if search.is_finished() || !search.is_run() {
        return Ok(false);
    }
    let (disk, aside) = (search.path("disk"), search.path("aside"));
    let copy = |from: &Path, to: &Path| {
        succeeds("cp", &["-a", &from.display().to_string(), &to.display().to_string()])
    };
    // One that it was moved to before is left.
    ensure!(copy(&search.run(), &aside), "can't copy the run");
    unmount(&disk);
    let _ = fs::remove_dir_all(search.run());
    let size = bytes_below(&aside)? + rng.below(200 << 10) as u64;
    ensure!(mount(&disk, &["-t", "tmpfs", "tmpfs", "-o", &format!("size={}", size + (1 << 20))]));
    ensure!(copy(&aside, &search.run()), "can't copy the run");
    fs::remove_dir_all(&aside)?;
    // What is left of it is filled, but for a little.
    let ballast = disk.join("ballast");
    let room = rng.below(150 << 10) as u64;
    fill(&ballast, room)?;
    search.start()?;
    let status = search.wait()?;
    let full = status.code() == Some(5);
    ensure!(full || status.success(), "on a full disk it ends with {status}");
    fs::remove_file(&ballast)?;
    ensure!(mount(&disk, &["-o", "remount,size=8g"]), "can't make the disk larger");
    Ok(full)
}

/// Fills a file system, but for so many bytes.
fn fill(ballast: &Path, room: u64) -> anyhow::Result<()> {
    let mut file = File::create(ballast)?;
    let block = [0; 4096];
    let mut written = 0u64;
    while file.write_all(&block).is_ok() {
        written += block.len() as u64;
    }
    file.set_len(written.saturating_sub(room))?;
    Ok(())
}

fn bytes_below(folder: &Path) -> anyhow::Result<u64> {
    Ok(files_below(folder)?
        .iter()
        .map(|path| {
            fs::symlink_metadata(path).map_or(0, |about| about.len().next_multiple_of(4096))
        })
        .sum())
}

fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What a process takes away meanwhile is none of the files.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files.sort();
    Ok(files)
}

fn read_only(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    if !search.get_on(rng, MOMENT)? {
        return Ok(false);
    }
    let (disk, aside) = (search.path("disk"), search.path("read-only"));
    let (text, from) = (disk.display().to_string(), aside.display().to_string());
    fs::create_dir_all(&aside)?;
    // Made read-only where nobody writes, since no mount can be in which a file is being written.
    ensure!(mount(&aside, &["--bind", &text]), "can't bind {text}");
    let locked = mount(&aside, &["-o", "remount,ro,bind"]) && mount(&disk, &["--bind", &from]);
    let started = Instant::now();
    while locked && search.ended()?.is_none() && started.elapsed() < 2 * MOMENT {
        std::thread::sleep(Duration::from_millis(5));
    }
    if locked {
        succeeds("umount", &["-l", &text]);
    }
    succeeds("umount", &["-l", &from]);
    ensure!(locked, "can't make {text} read-only");
    Ok(true)
}

/// Some file of the run, with the processes at rest.
fn some_file(
    search: &mut Search,
    rng: &mut Rng,
    wanted: fn(&Path) -> bool,
) -> anyhow::Result<Option<PathBuf>> {
    search.get_on(rng, MOMENT)?;
    search.kill_coordinator()?;
    if search.is_finished() || !search.is_run() {
        return Ok(None);
    }
    search.wait_for_orphans()?;
    let mut files = files_below(&search.run())?;
    files.retain(|path| !path.is_symlink() && wanted(path));
    Ok((!files.is_empty()).then(|| files.swap_remove(rng.below(files.len()))))
}

fn tear(path: &Path, rng: &mut Rng) -> anyhow::Result<()> {
    let length = fs::metadata(path)?.len();
    let file = OpenOptions::new().write(true).open(path)?;
    Ok(file.set_len(rng.below(length.max(1) as usize) as u64)?)
}

fn flip(path: &Path, rng: &mut Rng) -> anyhow::Result<()> {
    let mut bytes = fs::read(path)?;
    ensure!(!bytes.is_empty(), "{}: nothing to flip", path.display());
    let place = rng.below(bytes.len());
    bytes[place] ^= 1 << rng.below(8);
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(place as u64))?;
    Ok(file.write_all(&bytes[place..=place])?)
}

fn is_object(path: &Path) -> bool {
    let parent = path.parent().and_then(Path::parent).and_then(Path::parent);
    parent.is_some_and(|store| store.ends_with("store"))
}

fn damage_object(
    search: &mut Search,
    rng: &mut Rng,
    damage: fn(&Path, &mut Rng) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let Some(file) = some_file(search, rng, is_object)? else { return Ok(false) };
    damage(&file, rng)?;
    // What reads it stops; nothing is trained from it.
    search.get_on(rng, MOMENT)?;
    search.kill_coordinator()?;
    search.repair()?;
    Ok(true)
}

fn torn_object(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    damage_object(search, rng, tear)
}

fn flipped_object(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    damage_object(search, rng, flip)
}

fn is_checkpoint(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"))
}

fn bad_checkpoint(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let Some(file) = some_file(search, rng, is_checkpoint)? else { return Ok(false) };
    if rng.below(2) == 0 {
        tear(&file, rng)?
    } else {
        flip(&file, rng)?
    }
    Ok(true)
}

fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "index.sqlite")
}

fn bad_index(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let Some(file) = some_file(search, rng, is_index)? else { return Ok(false) };
    if rng.below(2) == 0 {
        tear(&file, rng)?
    } else {
        flip(&file, rng)?
    }
    search.get_on(rng, MOMENT)?;
    search.kill_coordinator()?;
    search.repair()?;
    Ok(true)
}

/// A column of the index, in the words that made it, which SQLite keeps as they are.
const COLUMN: &[u8] = b"seconds REAL";
/// As a schema of the future might call it, in as many bytes.
const FUTURE_COLUMN: &[u8] = b"moments REAL";

fn place_of(words: &[u8], bytes: &[u8]) -> Option<usize> {
    bytes.windows(words.len()).position(|part| part == words)
}

fn future_index(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let Some(path) = some_file(search, rng, is_index)? else { return Ok(false) };
    let mut bytes = fs::read(&path)?;
    // Where there is a report, nothing is left to do, and nobody opens the index to write to it.
    if search.run().join("report.json").exists() || place_of(COLUMN, &bytes).is_none() {
        return Ok(false);
    }
    while let Some(place) = place_of(COLUMN, &bytes) {
        bytes[place..place + COLUMN.len()].copy_from_slice(FUTURE_COLUMN);
    }
    fs::write(&path, bytes)?;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_modified(SystemTime::now() + Duration::from_secs(86_400 * 365))?;
    // What was being written when the coordinator was killed would bring the old schema back.
    let _ = fs::remove_file(search.run().join("index.sqlite-journal"));
    let started = Instant::now();
    loop {
        search.ended()?;
        let finished = search.is_finished();
        if fs::read(&path).is_ok_and(|bytes| place_of(COLUMN, &bytes).is_some()) {
            return Ok(true);
        }
        let late = finished || started.elapsed() > PATIENCE;
        ensure!(!late, "an index of another schema isn't made anew");
        search.start()?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn deleted_index(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    search.get_on(rng, MOMENT)?;
    let path = search.run().join("index.sqlite");
    Ok(!search.is_finished() && fs::remove_file(path).is_ok())
}

fn hang(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let Some(trial) = some_trial(search, rng)? else { return Ok(false) };
    signal(trial, "-STOP");
    let coordinator = search.coordinator.as_ref().context("it has a trial")?.id();
    let started = Instant::now();
    while children(coordinator).contains(&trial) && search.ended()?.is_none() {
        if started.elapsed() > PATIENCE {
            bail!("a trial that hangs is never stopped");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

fn may_limit() -> anyhow::Result<()> {
    let own = std::process::id().to_string();
    ensure!(succeeds("prlimit", &["--as", "--pid", &own]), "there is no prlimit");
    Ok(())
}

fn no_memory(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let Some(trial) = some_trial(search, rng)? else { return Ok(false) };
    let Some(ending) = ending_of(search, trial) else { return Ok(false) };
    // Whatever it has stays; the next that it asks for fails. One that asks for nothing more isn't hit.
    let limit = format!("--as={}", 1 << 20);
    let limited = succeeds("prlimit", &[&limit, "--pid", &trial.to_string()]);
    Ok(limited && comes(search, || ending.exists())?)
}

/// Where it is written how the attempt of this process ended, if it comes to no result.
fn ending_of(search: &Search, trial: u32) -> Option<PathBuf> {
    let line = fs::read_to_string(format!("/proc/{trial}/cmdline")).ok()?;
    let mut words = line.trim_end_matches('\0').rsplit('\0');
    let (attempt, trial) = (words.next()?, words.next()?);
    Some(search.run().join(format!("trials/{trial}/attempts/{attempt}/ending.json")))
}

/// One of the two is refused; where the first had just ended, neither is.
fn second_coordinator(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    search.get_on(rng, MOMENT)?;
    if search.is_finished() || !search.is_run() {
        return Ok(false);
    }
    let mut second = search.next_command()?.spawn()?;
    search.start()?;
    let started = Instant::now();
    loop {
        if let Some(status) = second.try_wait()? {
            // Where it came when the first had just ended, it had nothing to do.
            let over = search.ended()?.is_some() || search.is_finished();
            ensure!(!status.success() || over || search.coordinator.is_none(), "two at once");
            return Ok(!status.success());
        }
        if let Some(status) = search.ended()? {
            search.coordinator = Some(second);
            return Ok(!status.success());
        }
        if started.elapsed() > PATIENCE {
            kill(second.id());
            bail!("two coordinators work on one run");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where Debian puts libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

fn may_fake_time() -> anyhow::Result<()> {
    ensure!(Path::new(FAKETIME).exists(), "libfaketime isn't installed");
    Ok(())
}

/// The time of day jumps, as when someone sets it; the time that has passed doesn't.
fn clock_jump(search: &mut Search, rng: &mut Rng) -> anyhow::Result<bool> {
    let offset = search.path("offset");
    fs::write(&offset, "+0")?;
    search.environment = vec![
        ("LD_PRELOAD", FAKETIME.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
    ];
    search.start_with("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned())?;
    if !search.get_on(rng, MOMENT)? {
        return Ok(false);
    }
    let sign = if rng.below(2) == 0 { '+' } else { '-' };
    let days = format!("{sign}{}", 1 + rng.below(4000));
    let log = search.run().join("log.jsonl");
    let before = fs::metadata(&log).map_or(0, |about| about.len() as usize);
    fs::write(&offset, format!("{days}d"))?;
    // What the coordinator logs from here on is of the day that it finds itself in.
    let stamp = format!("\"timestamp\":\"{}", day_in(&days)?);
    let is_stamped = || {
        let bytes = fs::read(&log).unwrap_or_default();
        place_of(stamp.as_bytes(), bytes.get(before..).unwrap_or_default()).is_some()
    };
    comes(search, is_stamped)
}

/// The day that lies so many days ahead, or behind.
fn day_in(days: &str) -> anyhow::Result<String> {
    let away = format!("{days} days");
    let said = Command::new("date").args(["-u", "-d", &away, "+%F"]).output()?;
    ensure!(said.status.success(), "date doesn't know the day {away} from here");
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}
