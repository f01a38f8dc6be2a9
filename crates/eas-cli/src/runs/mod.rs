//! The run directory: the only module that knows its file names.
//!
//! ```text
//! RUN/run.json               the layout's version, and where relative paths of the plan start
//!     spec.toml              what the user wrote
//!     plan.toml              everything resolved; read as a spec, it gives the same plan
//!     build.json             the program that made it
//!     bin/eas                that program, kept: trials run it
//!     lock                   held by the one process that coordinates the run
//!     clock.json             seconds of work on the run so far
//!     index.sqlite           the results as a table, made anew by `eas verify --rebuild`
//!     events.jsonl           what a clock or a person forced upon it
//!     log.jsonl              what happened, for people who look for a cause
//!     trials/0007/trial.json         what is to be done
//!                 attempts/1/log.txt, epochs.jsonl, heartbeat.json, checkpoint-*.safetensors
//!                            ending.json     how it ended, where it published nothing
//!                 result.json        published once, when all else is in place
//!                 model              leads to the trained model in the store
//!     store/ab/cdef…/        models and momentum, named by the digest of their bytes
//!              cdef….collected/   the empty remains of one that nothing needed any more
//!     best/                  the model that is handed over
//!     report.json            the final comparison; says when the test images were opened
//! ```
//!
//! Nothing else is needed to go on: decisions are a function of the plan, the events and the published
//! results.

mod attempts;
mod build;
mod digest;
mod events;
mod garbage;
mod index;
mod listing;
mod lock;
mod records;
mod repair;
mod store;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_controller::TrialId;
use eas_ir::{Network, SavedModel, Weights};
use eas_transform::{Transforms, grow_network};
use serde::{Deserialize, Serialize};

pub(crate) use attempts::{Attempt, AttemptEnd, Checkpoint, Heartbeat, Progress};
pub(crate) use build::Build;
pub(crate) use digest::Digest;
pub(crate) use events::Event;
pub(crate) use garbage::{Amount, Collected, Reason};
pub(crate) use index::Index;
pub(crate) use lock::{Holder, Lock, host};
pub(crate) use records::{Continued, Origin, Part, Purpose, Training, TrialRecord, TrialResult};
pub(crate) use store::{Damaged, Gone, Store};

use crate::failpoint::{failpoint, writing};
use crate::room;

/// The version of the run directory's layout.
const FORMAT: u32 = 2;
/// The longest JSON file that is read back.
const LONGEST: u64 = 64 << 20;
/// The longest file of momentum.
const LONGEST_MOMENTUM: u64 = 16 << 30;

/// `run.json`.
#[derive(Serialize, Deserialize)]
struct About {
    format: u32,
    directory: PathBuf,
}

/// `clock.json`.
#[derive(Default, Serialize, Deserialize)]
struct Clock {
    seconds: f64,
}

/// A run's folder.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    root: PathBuf,
    /// Where relative paths of the plan start.
    directory: PathBuf,
    store: Store,
    /// Whether it may be changed.
    writable: bool,
}

/// A trial has no result yet, in a run that is only read.
#[derive(Debug)]
pub(crate) struct Unfinished(pub(crate) TrialId);

impl std::fmt::Display for Unfinished {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "trial {} has no result: the run is not finished", self.0)
    }
}

impl std::error::Error for Unfinished {}

impl Run {
    /// Makes the folder of a new run.
    pub(crate) fn create(
        root: &Path,
        spec: &str,
        plan: &str,
        directory: &Path,
        build: &Build,
    ) -> anyhow::Result<Self> {
        let directory = absolute(directory)?;
        // It is this call that makes it: of two at once, one is refused.
        let made = root.parent().map_or(Ok(()), fs::create_dir_all);
        match made.and_then(|()| fs::create_dir(root)) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => bail!(
                "{}: this already exists; name another folder with --run, or remove it",
                root.display()
            ),
            made => made.with_context(|| format!("can't make {}", root.display()))?,
        }
        let run = Run {
            root: root.to_owned(),
            directory,
            store: Store::new(root.join("store")),
            writable: true,
        };
        run.write_new(spec, plan, build).inspect_err(|error| {
            if room::is_wanting(error) {
                // What isn't a run yet only takes room.
                let _ = fs::remove_dir_all(root);
            }
        })?;
        Ok(run)
    }

    fn write_new(&self, spec: &str, plan: &str, build: &Build) -> anyhow::Result<()> {
        let (run, root) = (self, &self.root);
        fs::create_dir(root.join("trials"))
            .with_context(|| format!("can't make {}", root.display()))?;
        write(&run.root.join("spec.toml"), spec.as_bytes())?;
        write(&run.root.join("plan.toml"), plan.as_bytes())?;
        run.keep_build(build)?;
        failpoint("run.before");
        // What makes it a run comes last.
        let about = About { format: FORMAT, directory: run.directory.clone() };
        write(&run.root.join("run.json"), &serde_json::to_vec_pretty(&about)?)?;
        failpoint("run.created");
        Ok(())
    }

    /// The first free folder of a name: `runs/NAME`, `runs/NAME-2`, …
    pub(crate) fn free_folder(name: &str) -> PathBuf {
        let numbered = (2..).map(|number| PathBuf::from(format!("runs/{name}-{number}")));
        std::iter::once(PathBuf::from(format!("runs/{name}")))
            .chain(numbered)
            .find(|path| !path.exists())
            .expect("some number is free")
    }

    /// A run that was made before.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        ensure!(
            Run::is_run(root),
            "{}: expected a run: a folder with run.json and trials",
            root.display()
        );
        for name in ["trials", "store", "bin"] {
            check_folder(&root.join(name))?;
        }
        let path = root.join("run.json");
        let about: About = read_json(&path)?;
        check_format(&path, about.format)?;
        Ok(Run {
            root: root.to_owned(),
            directory: about.directory,
            store: Store::new(root.join("store")),
            writable: true,
        })
    }

    /// The same run, no trial of which can be begun or published.
    pub(crate) fn reading(self) -> Self {
        Run { writable: false, ..self }
    }

    /// Whether a folder looks like a run.
    pub(crate) fn is_run(root: &Path) -> bool {
        root.join("run.json").is_file() && root.join("trials").is_dir()
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where relative paths of the plan start.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The plan, as TOML, and the file that messages about it name.
    pub(crate) fn plan(&self) -> anyhow::Result<(String, String)> {
        let path = self.root.join("plan.toml");
        let name = path.display().to_string();
        let text = String::from_utf8(read_bounded(&path)?);
        Ok((name.clone(), text.with_context(|| format!("{name}: expected text in UTF-8"))?))
    }

    /// The program that trials run.
    pub(crate) fn executable(&self) -> PathBuf {
        self.root.join("bin/eas")
    }

    /// Keeps the program that runs now, and what is known of it.
    pub(crate) fn keep_build(&self, build: &Build) -> anyhow::Result<()> {
        let kept = self.executable();
        let folder = self.root.join("bin");
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let fresh = folder.join(".eas.part");
        let _ = fs::remove_file(&fresh);
        // A copy: a hard link would change with a program that is overwritten in place.
        let program = std::env::current_exe().context("can't tell where this program is")?;
        writing(&kept)
            .and_then(|()| fs::copy(&program, &fresh))
            .and_then(|_| fs::rename(&fresh, &kept))
            .with_context(|| format!("can't copy {} to {}", program.display(), kept.display()))?;
        write(&self.root.join("build.json"), &serde_json::to_vec_pretty(build)?)
    }

    /// Whether the kept program is this one, to the byte: a stranger may have put another in its place.
    pub(crate) fn keeps(&self, build: &Build) -> anyhow::Result<bool> {
        let kept = self.executable();
        let plain = kept.exists() && check_plain(&kept).is_ok();
        Ok(plain && Digest::of_file(&kept)? == build.executable)
    }

    /// The program that made the run, or was accepted since.
    pub(crate) fn build(&self) -> anyhow::Result<Build> {
        read_json(&self.root.join("build.json"))
    }

    /// Makes this process the run's one coordinator.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        Lock::take(&self.root.join("lock")).with_context(|| self.root.display().to_string())
    }

    /// Who coordinates the run now, if anybody does.
    pub(crate) fn holder(&self) -> Option<Holder> {
        Lock::holder(&self.root.join("lock"))
    }

    /// Seconds of work on the run so far, all its coordinators' together.
    pub(crate) fn seconds(&self) -> f64 {
        read_json::<Clock>(&self.root.join("clock.json")).unwrap_or_default().seconds
    }

    pub(crate) fn keep_seconds(&self, seconds: f64) -> anyhow::Result<()> {
        write_unsynced(&self.root.join("clock.json"), &serde_json::to_vec(&Clock { seconds })?)
    }

    /// Records what was forced upon the run, before it takes effect.
    pub(crate) fn add_event(&self, event: &Event) -> anyhow::Result<()> {
        failpoint("event.before");
        events::append(&self.root.join("events.jsonl"), event)?;
        failpoint("event.written");
        Ok(())
    }

    pub(crate) fn events(&self) -> anyhow::Result<Vec<Event>> {
        events::read(&self.root.join("events.jsonl"))
    }

    /// Where the structured log goes.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log.jsonl")
    }

    /// The same, to be added to.
    pub(crate) fn open_log(&self) -> std::io::Result<File> {
        let path = self.log();
        check_plain(&path)?;
        File::options().create(true).append(true).open(&path)
    }

    /// The folder of the model that is handed over.
    pub(crate) fn best(&self) -> PathBuf {
        self.root.join("best")
    }

    fn trial(&self, trial: TrialId) -> PathBuf {
        self.root.join("trials").join(trial.to_string())
    }

    /// Begins a trial: writes down what it is to do, or checks that this is what was written before.
    pub(crate) fn begin(&self, record: &TrialRecord) -> anyhow::Result<()> {
        let folder = self.trial(record.trial);
        check_folder(&folder)?;
        check_folder(&folder.join("attempts"))?;
        let path = folder.join("trial.json");
        if path.exists() {
            let known = self.record(record.trial)?;
            ensure!(
                known == *record,
                "{}: expected what was recorded, found another assignment ({}): the data, the plan \
                 or the program has changed since",
                path.display(),
                difference(&known, record)?
            );
            return Ok(());
        }
        ensure!(self.writable, Unfinished(record.trial));
        fs::create_dir_all(folder.join("attempts"))
            .with_context(|| format!("can't make {}", folder.display()))?;
        store::sync_folder(&self.root.join("trials"))?;
        failpoint("trial.before");
        write(&path, &serde_json::to_vec_pretty(record)?)?;
        failpoint("trial.begun");
        Ok(())
    }

    /// What a trial is to do.
    pub(crate) fn record(&self, trial: TrialId) -> anyhow::Result<TrialRecord> {
        let path = self.trial(trial).join("trial.json");
        let record: TrialRecord = self.read_record(&path)?;
        check_format(&path, record.format)?;
        Ok(record)
    }

    /// Every trial that was begun.
    pub(crate) fn begun(&self) -> anyhow::Result<Vec<TrialId>> {
        let folders = self.trial_folders()?.into_iter();
        Ok(folders.filter(|trial| self.trial(*trial).join("trial.json").exists()).collect())
    }

    /// The trials that have a folder.
    fn trial_folders(&self) -> anyhow::Result<BTreeSet<TrialId>> {
        let folder = self.root.join("trials");
        let entries =
            fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))?;
        let mut trials = BTreeSet::new();
        for entry in entries {
            let name = entry?.file_name();
            let trial = name.to_str().and_then(|name| name.parse::<TrialId>().ok());
            // Another spelling of a number is no trial's folder.
            trials.extend(trial.filter(|trial| trial.to_string().as_str() == name));
        }
        Ok(trials)
    }

    /// The attempts at a trial, oldest first.
    pub(crate) fn attempts(&self, trial: TrialId) -> Vec<Attempt> {
        let folder = self.trial(trial).join("attempts");
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut numbers: Vec<u32> =
            folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|number| self.attempt(trial, number)).collect()
    }

    /// One of them.
    pub(crate) fn attempt(&self, trial: TrialId, number: u32) -> Attempt {
        let folder = self.trial(trial).join("attempts").join(number.to_string());
        Attempt::at(folder, number)
    }

    /// A new attempt at a trial.
    pub(crate) fn new_attempt(&self, trial: TrialId) -> anyhow::Result<Attempt> {
        let last = self.attempts(trial).last().map_or(0, |last| last.number);
        let number = last.checked_add(1).context("no attempt has a higher number")?;
        let folder = self.trial(trial).join("attempts").join(number.to_string());
        fs::create_dir(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        Ok(Attempt::at(folder, number))
    }

    /// Takes a model into the store, by way of an attempt's folder.
    pub(crate) fn keep_model(
        &self,
        attempt: &Attempt,
        model: &SavedModel,
    ) -> anyhow::Result<Digest> {
        let aside = attempt.aside("model");
        model.save(&aside)?;
        self.take(&aside)
    }

    /// Takes momentum into the store.
    pub(crate) fn keep_momentum(
        &self,
        attempt: &Attempt,
        momentum: &Weights,
    ) -> anyhow::Result<Digest> {
        let aside = attempt.aside("momentum");
        fs::create_dir_all(&aside).with_context(|| format!("can't make {}", aside.display()))?;
        let tensors = momentum.iter().map(|(id, values)| (id.to_string(), values));
        let bytes = attempts::to_safetensors(tensors, None)?;
        write(&aside.join(MOMENTUM), &bytes)?;
        self.take(&aside)
    }

    fn take(&self, aside: &Path) -> anyhow::Result<Digest> {
        self.store.take(aside).inspect_err(|_| {
            // It only takes room; the error that stopped it matters more.
            let _ = fs::remove_dir_all(aside);
        })
    }

    /// A model of the store.
    pub(crate) fn model(&self, digest: Digest) -> anyhow::Result<SavedModel> {
        Ok(SavedModel::load(&self.store.get(digest)?)?)
    }

    /// Momentum of the store.
    pub(crate) fn momentum(&self, digest: Digest) -> anyhow::Result<Weights> {
        let path = self.store.get(digest)?.join(MOMENTUM);
        let bytes = read_within(&path, LONGEST_MOMENTUM)?;
        attempts::from_safetensors(&bytes, "").with_context(|| path.display().to_string())
    }

    /// The model of a trained trial.
    pub(crate) fn model_of(&self, result: &TrialResult) -> anyhow::Result<SavedModel> {
        let digest = result.model.with_context(|| {
            format!("trial {} has no model: it was not trained to its end", result.trial)
        })?;
        self.model(digest)
    }

    /// The network that a trial trains, as the records have it: no weights are read.
    pub(crate) fn network(
        &self,
        trial: TrialId,
        transforms: &Transforms,
    ) -> anyhow::Result<Network> {
        let mut line = Vec::new();
        let (mut next, mut seen) = (trial, BTreeSet::new());
        loop {
            // A trial that repeats another stands for that one's network.
            let same = self.published(next)?.and_then(|result| result.same_as);
            let at = same.unwrap_or(next);
            ensure!(seen.insert(at), "trial {trial} is among its own ancestors");
            match self.record(at)?.origin {
                Origin::Fresh { network } | Origin::Given { network, .. } => {
                    let network = Network::from_toml(&network)
                        .with_context(|| format!("trial {at}: trial.json: not a network"))?;
                    let steps = line.into_iter().rev();
                    return steps.into_iter().try_fold(network, |network, steps: Vec<_>| {
                        grow_network(&network, &steps, transforms)
                    });
                }
                Origin::Grown { parent, steps, .. } => {
                    line.push(steps);
                    next = parent;
                }
            }
        }
    }

    /// As long as the value lives, objects are taken in and named in a result, and none is removed.
    pub(crate) fn publishing(&self) -> anyhow::Result<File> {
        self.store.publishing()
    }

    /// Publishes a trial's result: once, by a hard link, which fails where there is one already.
    /// Returns the one that stands.
    pub(crate) fn publish(&self, result: &TrialResult) -> anyhow::Result<TrialResult> {
        ensure!(self.writable, Unfinished(result.trial));
        let folder = self.trial(result.trial);
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let fresh = folder.join(format!(".result-{}.json", std::process::id()));
        write(&fresh, &serde_json::to_vec_pretty(result)?)?;
        let published = folder.join("result.json");
        failpoint("result.before");
        let linked = writing(Path::new("link")).and_then(|()| fs::hard_link(&fresh, &published));
        failpoint("result.linked");
        fs::remove_file(&fresh).with_context(|| format!("can't remove {}", fresh.display()))?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("can't publish {}", published.display()))
            }
            _ => {
                store::sync_folder(&folder)?;
                self.result(result.trial)
            }
        }
    }

    /// Puts a trial's folder in order once its result is there: takes away what only an unfinished
    /// trial needs, and lets `model` lead to its model.
    pub(crate) fn settle(&self, result: &TrialResult) -> anyhow::Result<()> {
        if !self.writable {
            return Ok(());
        }
        self.attempts(result.trial).iter().for_each(Attempt::tidy);
        let Some(digest) = result.model.filter(|model| !self.is_collected(*model)) else {
            return Ok(());
        };
        let link = self.trial(result.trial).join("model");
        let object = Path::new("../../store").join(Store::name(digest));
        match std::os::unix::fs::symlink(object, &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("can't make {}", link.display()))
            }
            _ => Ok(()),
        }
    }

    /// The published result of a trial, if there is one.
    pub(crate) fn published(&self, trial: TrialId) -> anyhow::Result<Option<TrialResult>> {
        let path = self.trial(trial).join("result.json");
        if !path.exists() {
            return Ok(None);
        }
        let result: TrialResult = self.read_record(&path)?;
        check_format(&path, result.format)?;
        Ok(Some(result))
    }

    /// Every published result, by trial.
    pub(crate) fn results(&self) -> anyhow::Result<Vec<TrialResult>> {
        let mut results = Vec::new();
        for trial in self.begun()? {
            results.extend(self.published(trial)?);
        }
        Ok(results)
    }

    /// The result of one trial.
    pub(crate) fn result(&self, trial: TrialId) -> anyhow::Result<TrialResult> {
        if let Some(result) = self.published(trial)? {
            return Ok(result);
        }
        let ids: Vec<u32> = self.results()?.iter().map(|result| result.trial.0).collect();
        match (ids.first(), ids.last()) {
            (Some(first), Some(last)) => bail!(
                "{}: no finished trial {trial}; there are {first} to {last}",
                self.root.display()
            ),
            _ => bail!("{}: no trial has finished yet", self.root.display()),
        }
    }

    /// Keeps the final comparison.
    pub(crate) fn keep_report(&self, report: &impl Serialize) -> anyhow::Result<()> {
        failpoint("report.before");
        write(&self.root.join("report.json"), &serde_json::to_vec_pretty(report)?)?;
        failpoint("report.written");
        Ok(())
    }

    /// The final comparison, if the run came so far.
    pub(crate) fn report<T: for<'de> Deserialize<'de>>(&self) -> anyhow::Result<Option<T>> {
        let path = self.root.join("report.json");
        if path.exists() { self.read_record(&path).map(Some) } else { Ok(None) }
    }

    /// A record that can be made again.
    fn read_record<T: for<'de> Deserialize<'de>>(&self, path: &Path) -> anyhow::Result<T> {
        read_json(path).with_context(|| {
            format!("eas verify {} --repair, then eas resume, make this again", self.root.display())
        })
    }
}

const MOMENTUM: &str = "momentum.safetensors";

/// The keys in which two records differ.
fn difference(known: &TrialRecord, found: &TrialRecord) -> anyhow::Result<String> {
    let (known, found) = (serde_json::to_value(known)?, serde_json::to_value(found)?);
    let keys = known.as_object().into_iter().flatten();
    let keys: Vec<&str> = keys
        .filter(|(key, value)| found.get(key.as_str()) != Some(value))
        .map(|(key, _)| key.as_str())
        .collect();
    Ok(format!("other {}", keys.join(", ")))
}

fn check_format(path: &Path, found: u32) -> anyhow::Result<()> {
    let path = path.display();
    ensure!(
        found <= FORMAT,
        "{path}: expected format {FORMAT}, found {found}: a newer version of EAS wrote it"
    );
    ensure!(
        found == FORMAT,
        "{path}: expected format {FORMAT}, found {found}: an older version of EAS wrote it"
    );
    Ok(())
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fs::canonicalize(path).with_context(|| format!("can't find {}", path.display()))
}

/// Writes a file so that readers see all of it or nothing, and that survives a loss of power.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_with(path, bytes, true)
}

/// As [`write`], for what may be lost.
fn write_unsynced(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_with(path, bytes, false)
}

fn write_with(path: &Path, bytes: &[u8], sync: bool) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = writing(path).and_then(|()| {
        // What is there is torn, or a stranger's link.
        let _ = fs::remove_file(&part);
        let mut file = File::create_new(&part)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?
        }
        fs::rename(&part, path)?;
        if sync {
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
        }
        Ok(())
    });
    if written.is_err() {
        // What was written of it only takes room; the error that stopped it matters more.
        let _ = fs::remove_file(&part);
    }
    written.with_context(|| format!("can't write {}", path.display()))
}

/// Refuses what stands in a file's place in a stranger's run: a link leads elsewhere, and a pipe has no
/// end. That there is nothing is fine.
fn check_plain(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(about) if !about.is_file() => {
            Err(std::io::Error::other("expected a file, found a link, a folder or a device"))
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The same where a folder should be.
fn check_folder(path: &Path) -> anyhow::Result<()> {
    ensure!(!path.is_symlink(), "{}: expected a folder, found a link", path.display());
    Ok(())
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_within(path, LONGEST)
}

fn read_within(path: &Path, longest: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    check_plain(path)
        .and_then(|()| File::open(path))
        .and_then(|file| file.take(longest + 1).read_to_end(&mut bytes))
        .with_context(|| format!("can't read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= longest, "{}: longer than {longest} bytes", path.display());
    Ok(bytes)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<T> {
    let bytes = read_bounded(path)?;
    serde_json::from_slice(&bytes).with_context(|| format!("{}: damaged", path.display()))
}
