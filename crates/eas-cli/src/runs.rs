//! The run directory: the only module that knows its file names.
//!
//! ```text
//! RUN/spec.toml              what the user wrote
//!     plan.toml              everything resolved; read as a spec, it gives the same plan
//!     trials/0007/trial.json         what is to be done
//!                 attempts/1/epochs.jsonl   a line an epoch
//!                 model/                    network.toml and weights.safetensors
//!                 momentum.safetensors      where children carry it on
//!                 result.json               published once, when all else is in place
//!     best/                  the model that is handed over
//!     report.json            the final comparison; says when the test images were opened
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_controller::{Ending, TrialId};
use eas_ir::{Fingerprint, SavedModel, Weights, tensor};
use eas_train::EpochRecord;
use eas_transform::{Certificate, Step};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

/// The version of the run directory's layout.
const FORMAT: u32 = 1;
/// The longest JSON file that is read back.
const LONGEST: u64 = 64 << 20;

/// What a trial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// The start network.
    Start,
    /// A child of a stage.
    Child,
    /// One of the best, trained on.
    Final,
    /// The start network, trained as long as the best one's line of ancestors: to compare.
    StartLonger,
    /// The best network, from fresh weights, as long: to compare.
    Scratch,
}

impl Purpose {
    /// What tables and reports call it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Purpose::Start => "start",
            Purpose::Child => "child",
            Purpose::Final => "final",
            Purpose::StartLonger => "start, longer",
            Purpose::Scratch => "from scratch",
        }
    }
}

/// What a trial is to do, and all that its result depends on besides the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrialRecord {
    pub(crate) format: u32,
    pub(crate) trial: TrialId,
    pub(crate) purpose: Purpose,
    pub(crate) parent: Option<TrialId>,
    pub(crate) steps: Vec<Step>,
    pub(crate) fingerprint: String,
    pub(crate) seed: u64,
    pub(crate) epochs: usize,
}

/// How a trial went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrialResult {
    pub(crate) format: u32,
    pub(crate) trial: TrialId,
    pub(crate) purpose: Purpose,
    pub(crate) parent: Option<TrialId>,
    pub(crate) steps: Vec<Step>,
    pub(crate) fingerprint: String,
    /// The trial whose result this one repeats, where the same child had been trained before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) same_as: Option<TrialId>,
    pub(crate) ending: Ending,
    pub(crate) epochs: usize,
    pub(crate) parameters: u64,
    pub(crate) macs: u64,
    pub(crate) depth: usize,
    /// Of the whole chain of edits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<Certificate>,
    /// How far the child's function in training mode was from its parent's, before training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drift: Option<f64>,
    pub(crate) seconds: f64,
}

impl TrialResult {
    /// Whether the trial was trained to its end.
    pub(crate) fn is_trained(&self) -> bool {
        matches!(self.ending, Ending::Trained { .. })
    }

    /// The validation accuracy, if the trial was trained to its end and not on the validation images.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        match self.ending {
            Ending::Trained { accuracy } => accuracy,
            Ending::Diverged { .. } | Ending::Refused { .. } | Ending::Failed { .. } => None,
        }
    }

    /// How it ended, in a few words.
    pub(crate) fn ending_words(&self) -> String {
        match &self.ending {
            Ending::Trained { accuracy } => {
                accuracy.map_or("trained".to_owned(), crate::print::percent)
            }
            Ending::Diverged { epoch } => format!("diverged in epoch {epoch}"),
            Ending::Refused { .. } => "refused".to_owned(),
            Ending::Failed { .. } => "failed".to_owned(),
        }
    }
}

/// A run's folder.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    root: PathBuf,
}

impl Run {
    /// Makes the folder of a new run.
    pub(crate) fn create(root: &Path, spec: &str, plan: &str) -> anyhow::Result<Self> {
        ensure!(
            !root.exists(),
            "{}: this already exists; name another folder with --run, or remove it",
            root.display()
        );
        let run = Run { root: root.to_owned() };
        fs::create_dir_all(run.root.join("trials"))
            .with_context(|| format!("can't make {}", root.display()))?;
        write(&run.root.join("spec.toml"), spec.as_bytes())?;
        write(&run.root.join("plan.toml"), plan.as_bytes())?;
        Ok(run)
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
            "{}: expected a run: a folder with plan.toml and trials",
            root.display()
        );
        Ok(Run { root: root.to_owned() })
    }

    /// Whether a folder looks like a run.
    pub(crate) fn is_run(root: &Path) -> bool {
        root.join("plan.toml").is_file() && root.join("trials").is_dir()
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn trial(&self, trial: TrialId) -> PathBuf {
        self.root.join("trials").join(trial.to_string())
    }

    /// The folder of a trial's model.
    pub(crate) fn model(&self, trial: TrialId) -> PathBuf {
        self.trial(trial).join("model")
    }

    /// The folder of the model that is handed over.
    pub(crate) fn best(&self) -> PathBuf {
        self.root.join("best")
    }

    /// Begins a trial.
    pub(crate) fn begin(&self, record: &TrialRecord) -> anyhow::Result<()> {
        let folder = self.trial(record.trial);
        let attempt = folder.join("attempts/1");
        fs::create_dir_all(&attempt)
            .with_context(|| format!("can't make {}", attempt.display()))?;
        write(&folder.join("trial.json"), &serde_json::to_vec_pretty(record)?)
    }

    /// Adds an epoch to a trial's record.
    pub(crate) fn epoch(&self, trial: TrialId, epoch: &EpochRecord) -> anyhow::Result<()> {
        let path = self.trial(trial).join("attempts/1/epochs.jsonl");
        let line = serde_json::to_string(epoch)? + "\n";
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("can't write {}", path.display()))
    }

    /// Keeps a trial's model.
    pub(crate) fn keep_model(&self, trial: TrialId, model: &SavedModel) -> anyhow::Result<()> {
        Ok(model.save(&self.model(trial))?)
    }

    /// A trial's model.
    pub(crate) fn load_model(&self, trial: TrialId) -> anyhow::Result<SavedModel> {
        Ok(SavedModel::load(&self.model(trial))?)
    }

    /// Keeps a trial's momentum.
    pub(crate) fn keep_momentum(&self, trial: TrialId, momentum: &Weights) -> anyhow::Result<()> {
        let entries: Vec<(String, Vec<usize>, Vec<u8>)> = momentum
            .iter()
            .map(|(id, values)| {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                (id.to_string(), values.shape().to_vec(), bytes)
            })
            .collect();
        let views = entries
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let path = self.trial(trial).join("momentum.safetensors");
        write(&path, &safetensors::serialize(views, None)?)
    }

    /// A trial's momentum, if it was kept.
    pub(crate) fn load_momentum(&self, trial: TrialId) -> anyhow::Result<Option<Weights>> {
        let path = self.trial(trial).join("momentum.safetensors");
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let wrong = || format!("{}: not the momentum of a trial", path.display());
        let file = SafeTensors::deserialize(&bytes).with_context(wrong)?;
        let mut momentum = Weights::new();
        for (name, view) in file.iter() {
            ensure!(view.dtype() == Dtype::F32, wrong());
            let words = view.data().chunks_exact(4);
            let values = words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
            momentum.insert(name.parse().with_context(wrong)?, tensor(view.shape(), values));
        }
        Ok(Some(momentum))
    }

    /// Publishes a trial's result: once, by a hard link, which fails where there is one already.
    pub(crate) fn publish(&self, result: &TrialResult) -> anyhow::Result<()> {
        let folder = self.trial(result.trial);
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let fresh = folder.join(".result.json");
        write(&fresh, &serde_json::to_vec_pretty(result)?)?;
        let published = folder.join("result.json");
        let linked = fs::hard_link(&fresh, &published);
        fs::remove_file(&fresh).with_context(|| format!("can't remove {}", fresh.display()))?;
        linked.with_context(|| format!("can't publish {}", published.display()))
    }

    /// Every published result, by trial.
    pub(crate) fn results(&self) -> anyhow::Result<Vec<TrialResult>> {
        let folder = self.root.join("trials");
        let mut results = Vec::new();
        let entries =
            fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path().join("result.json");
            if path.exists() {
                let result: TrialResult = read_json(&path)?;
                ensure!(
                    result.format <= FORMAT,
                    "{}: expected format {FORMAT} or older, found {}: a newer version of EAS wrote it",
                    path.display(),
                    result.format
                );
                results.push(result);
            }
        }
        results.sort_by_key(|result| result.trial);
        Ok(results)
    }

    /// The result of one trial.
    pub(crate) fn result(&self, trial: TrialId) -> anyhow::Result<TrialResult> {
        let path = self.trial(trial).join("result.json");
        if !path.exists() {
            let ids: Vec<u32> = self.results()?.iter().map(|result| result.trial.0).collect();
            match (ids.first(), ids.last()) {
                (Some(first), Some(last)) => bail!(
                    "{}: no finished trial {trial}; there are {first} to {last}",
                    self.root.display()
                ),
                _ => bail!("{}: no trial has finished yet", self.root.display()),
            }
        }
        read_json(&path)
    }

    /// Keeps the final comparison.
    pub(crate) fn keep_report(&self, report: &impl Serialize) -> anyhow::Result<()> {
        write(&self.root.join("report.json"), &serde_json::to_vec_pretty(report)?)
    }

    /// The final comparison, if the run came so far.
    pub(crate) fn report<T: for<'de> Deserialize<'de>>(&self) -> anyhow::Result<Option<T>> {
        let path = self.root.join("report.json");
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }
}

/// A trial that is about to begin.
pub(crate) fn record(
    trial: TrialId,
    purpose: Purpose,
    parent: Option<TrialId>,
    steps: &[Step],
    fingerprint: Fingerprint,
    seed: u64,
    epochs: usize,
) -> TrialRecord {
    let fingerprint = fingerprint.to_string();
    let steps = steps.to_vec();
    TrialRecord { format: FORMAT, trial, purpose, parent, steps, fingerprint, seed, epochs }
}

/// Writes a file so that readers see all of it or nothing.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    File::create(&part)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("can't write {}", path.display()))
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
        .with_context(|| format!("can't read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= LONGEST, "{}: longer than {LONGEST} bytes", path.display());
    Ok(bytes)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<T> {
    let bytes = read_bounded(path)?;
    serde_json::from_slice(&bytes).with_context(|| format!("{}: damaged", path.display()))
}
