//! One search under fire: its processes, its files, and what it comes to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use eas_ir::Rng;
use serde_json::Value;
use tempfile::TempDir;

use super::system::{children, kill};

/// Time that a command may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Resumptions after which a search must be done.
const MOST_RESUMED: usize = 20;

/// Searches of seconds: with promotions and a frontier in the smallest store; with comparisons.
pub(super) const SPECS: [(&str, &str); 2] =
    [("promoted", include_str!("promoted.toml")), ("compared", include_str!("compared.toml"))];

/// All that a search comes to: results with the digests of their weights, the report, the model.
pub(super) type Outcome = BTreeMap<String, Value>;

/// A search in a folder of its own.
#[derive(Debug)]
pub(super) struct Search {
    eas: PathBuf,
    folder: Option<TempDir>,
    root: PathBuf,
    pub(super) coordinator: Option<Child>,
    /// What the coordinator is started with.
    pub(super) environment: Vec<(&'static str, String)>,
    finished: bool,
    /// Whether it was damaged in a way that only `eas verify` finds.
    damaged: bool,
    commands: usize,
}

impl Search {
    pub(super) fn new(eas: &Path, spec: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("eas-campaign-").tempdir()?;
        fs::write(folder.path().join("spec.toml"), spec)?;
        // A disk of its own may be mounted there.
        fs::create_dir(folder.path().join("disk"))?;
        Ok(Search {
            eas: eas.to_owned(),
            root: folder.path().to_owned(),
            folder: Some(folder),
            coordinator: None,
            environment: Vec::new(),
            finished: false,
            damaged: false,
            commands: 0,
        })
    }

    /// A path in its folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn run(&self) -> PathBuf {
        self.root.join("disk/run")
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether there is a run to be resumed.
    pub(super) fn is_run(&self) -> bool {
        self.run().join("run.json").exists()
    }

    fn command(&mut self, arguments: &[&str]) -> anyhow::Result<Command> {
        self.commands += 1;
        let log = self.path(&format!("command-{:03}-{}.log", self.commands, arguments[0]));
        let log = File::create(log)?;
        let mut command = Command::new(&self.eas);
        command.args(arguments).current_dir(&self.root).env_remove("EAS_DATA");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// The command that begins the search, or goes on with it.
    pub(super) fn next_command(&mut self) -> anyhow::Result<Command> {
        if self.is_run() {
            return self.command(&["resume", "disk/run"]);
        }
        // Killed before it was a run, it is begun anew.
        if self.run().exists() {
            fs::remove_dir_all(self.run())?;
        }
        self.command(&["search", "spec.toml", "--run", "disk/run"])
    }

    /// Starts it, if it isn't under way.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        if self.coordinator.is_none() {
            let environment = std::mem::take(&mut self.environment);
            let mut command = self.next_command()?;
            self.coordinator = Some(command.envs(environment).spawn()?);
        }
        Ok(())
    }

    /// Starts it anew, with something in its environment.
    pub(super) fn start_with(&mut self, name: &'static str, value: String) -> anyhow::Result<()> {
        self.kill_coordinator()?;
        self.environment.push((name, value));
        self.start()
    }

    /// Lets it get on for a random while. Whether it is still under way then.
    pub(super) fn get_on(&mut self, rng: &mut Rng, most: Duration) -> anyhow::Result<bool> {
        self.start()?;
        let until = Instant::now() + most.mul_f64(rng.unit());
        while Instant::now() < until {
            if self.ended()?.is_some() {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(self.ended()?.is_none())
    }

    /// How its coordinator ended, if it did.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(coordinator) = &mut self.coordinator else { return Ok(None) };
        let Some(status) = coordinator.try_wait()? else { return Ok(None) };
        self.coordinator = None;
        self.finished |= status.success();
        Ok(Some(status))
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            ensure!(self.coordinator.is_some(), "nothing is under way");
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the search hangs");
    }

    pub(super) fn kill_coordinator(&mut self) -> anyhow::Result<()> {
        if let Some(mut coordinator) = self.coordinator.take() {
            let _ = coordinator.kill();
            self.finished |= coordinator.wait()?.success();
        }
        Ok(())
    }

    /// One of its trials' processes.
    pub(super) fn trial(&self, rng: &mut Rng) -> Option<u32> {
        let trials = children(self.coordinator.as_ref()?.id());
        (!trials.is_empty()).then(|| trials[rng.below(trials.len())])
    }

    /// Resumes it until it is done.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        for _ in 0..MOST_RESUMED {
            if self.finished {
                return Ok(());
            }
            self.start()?;
            self.wait()?;
            if self.damaged {
                self.repair()?;
            }
        }
        ensure!(self.finished, "it isn't done after {MOST_RESUMED} resumptions");
        Ok(())
    }

    /// Takes back what is damaged, and makes the index anew.
    pub(super) fn repair(&mut self) -> anyhow::Result<()> {
        self.damaged = true;
        self.wait_for_orphans()?;
        self.ask(&["verify", "disk/run", "--rebuild", "--repair"])?;
        self.finished = self.run().join("report.json").exists();
        Ok(())
    }

    /// Waits until the trials of a coordinator that was killed have left.
    pub(super) fn wait_for_orphans(&self) -> anyhow::Result<()> {
        let run = self.run().join("bin/eas");
        let started = Instant::now();
        while super::system::runs(&run) {
            ensure!(started.elapsed() < PATIENCE, "trials outlive their coordinator");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Runs another command on the run to its end; returns what it said with its code.
    pub(super) fn ask(&mut self, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let mut command = self.command(arguments)?;
        let log = self.path(&format!("command-{:03}-{}.log", self.commands, arguments[0]));
        let mut child = command.spawn()?;
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok((status.code(), fs::read_to_string(log)?));
            }
            if started.elapsed() > PATIENCE {
                kill(child.id());
                bail!("eas {} hangs", arguments.join(" "));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn outcome(&self) -> anyhow::Result<Outcome> {
        let run = self.run();
        let mut all = Outcome::new();
        for entry in fs::read_dir(run.join("trials"))? {
            let trial = entry?;
            for name in ["trial.json", "result.json"] {
                let path = trial.path().join(name);
                if path.exists() {
                    all.insert(format!("{}/{name}", trial.file_name().display()), timeless(&path)?);
                }
            }
        }
        all.insert("report".to_owned(), timeless(&run.join("report.json"))?);
        let weights = fs::read(run.join("best/weights.safetensors"))?;
        all.insert("best".to_owned(), weights.into());
        Ok(all)
    }

    /// Whether it came to what it should have, and verifies.
    pub(super) fn check(&mut self, expected: &Outcome) -> anyhow::Result<()> {
        let (code, said) = self.ask(&["verify", "disk/run"])?;
        ensure!(code == Some(0), "eas verify ends with {code:?}: {said}");
        let found = self.outcome()?;
        let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let differ: Vec<_> =
            keys.into_iter().filter(|key| expected.get(*key) != found.get(*key)).collect();
        ensure!(differ.is_empty(), "another outcome: {differ:?}");
        Ok(())
    }

    /// Keeps the folder for good.
    pub(super) fn keep(&mut self) -> PathBuf {
        let _ = self.kill_coordinator();
        // It may lie on a disk that goes.
        let (run, kept) = (self.run().display().to_string(), self.path("run"));
        super::system::succeeds("cp", &["-a", &run, &kept.display().to_string()]);
        self.folder.take().map_or(self.root.clone(), TempDir::keep)
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        let _ = self.kill_coordinator();
        super::system::unmount(&self.path("disk"));
    }
}

/// The JSON of a file without what may differ between two runs of the same search.
fn timeless(path: &Path) -> anyhow::Result<Value> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let mut value: Value = serde_json::from_slice(&bytes)?;
    let object = value.as_object_mut().context("a record is an object")?;
    for key in ["seconds", "attempt", "test_opened"] {
        object.remove(key);
    }
    Ok(value)
}
