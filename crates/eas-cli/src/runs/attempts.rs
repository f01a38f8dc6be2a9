//! Attempts at a trial: each a process of its own, in a folder of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use eas_ir::{Model, Network, Weights, parameter_list, tensor};
use eas_train::{EpochRecord, Position};
use eas_transform::Certificate;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{LONGEST, check_plain, read_json, read_within, write, write_unsynced};
use crate::failpoint::{failpoint, writing};

/// Bytes of a log that an ending quotes.
const TAIL: u64 = 2000;
const HEARTBEAT: &str = "heartbeat.json";
const ENDING: &str = "ending.json";

/// An attempt's folder.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    folder: PathBuf,
}

/// What an attempt is at, for whoever watches; it changes as long as the attempt gets on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    /// Rises.
    pub(crate) beat: u64,
    /// Share of the trial that is done.
    pub(crate) share: f64,
}

/// How an attempt ended that published nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AttemptEnding {
    pub(crate) kind: AttemptEnd,
    pub(crate) why: String,
    pub(crate) seconds: f64,
    /// The end of its log.
    pub(crate) log: String,
}

/// Whose fault that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AttemptEnd {
    /// Nobody's: it was asked to stop, or the coordinator was gone.
    Stopped,
    /// The machine's: it was killed, or made no progress.
    Lost,
    /// The program's.
    Failed,
}

/// How far a trial has come.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) model: Model,
    pub(crate) momentum: Weights,
    pub(crate) progress: Progress,
}

/// What a checkpoint says besides tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Which of the trial's recipes is under way.
    pub(crate) recipe: usize,
    pub(crate) position: Position,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) drift: Option<f64>,
    /// Seconds of work so far.
    pub(crate) seconds: f64,
    /// Rises from checkpoint to checkpoint of a trial.
    pub(crate) number: u64,
}

impl Attempt {
    /// An attempt in this folder.
    pub(crate) fn at(folder: PathBuf, number: u32) -> Self {
        Attempt { number, folder }
    }

    /// Where its process writes what it has to say.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    /// Where objects are written before the store takes them.
    pub(crate) fn aside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Adds an epoch.
    pub(crate) fn epoch(&self, epoch: &EpochRecord) -> anyhow::Result<()> {
        let path = self.folder.join("epochs.jsonl");
        let line = serde_json::to_string(epoch)? + "\n";
        writing(&path)
            .and_then(|()| check_plain(&path))
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path))
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("can't write {}", path.display()))
    }

    pub(crate) fn beat(&self, heartbeat: &Heartbeat) -> anyhow::Result<()> {
        write_unsynced(&self.folder.join(HEARTBEAT), &serde_json::to_vec(heartbeat)?)
    }

    /// The last heartbeat, if there was one.
    pub(crate) fn heartbeat(&self) -> Option<Heartbeat> {
        read_json(&self.folder.join(HEARTBEAT)).ok()
    }

    /// Records how it ended.
    pub(crate) fn end(
        &self,
        kind: AttemptEnd,
        why: String,
        seconds: f64,
    ) -> anyhow::Result<AttemptEnding> {
        let ending = AttemptEnding { kind, why, seconds, log: self.tail() };
        write(&self.folder.join(ENDING), &serde_json::to_vec_pretty(&ending)?)?;
        Ok(ending)
    }

    /// How it ended, if it did and published nothing.
    pub(crate) fn ending(&self) -> anyhow::Result<Option<AttemptEnding>> {
        let path = self.folder.join(ENDING);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    fn tail(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            check_plain(&self.log())?;
            let mut file = File::open(self.log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
    }

    /// Keeps a checkpoint, and drops the attempt's older ones. Its name ends with its own digest.
    pub(crate) fn keep(&self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let Checkpoint { model, momentum, progress } = checkpoint;
        let values = model.weights().iter().map(|(id, values)| (format!("value.{id}"), values));
        let momentum = momentum.iter().map(|(id, values)| (format!("momentum.{id}"), values));
        let about = serde_json::to_string(progress)?;
        let bytes = to_safetensors(values.chain(momentum), Some(about))?;
        let digest = blake3::hash(&bytes).to_hex();
        let older = self.checkpoints();
        let name = format!("checkpoint-{:08}-{digest}.safetensors", progress.number);
        failpoint("checkpoint.before");
        write(&self.folder.join(name), &bytes)?;
        failpoint("checkpoint.written");
        for (_, path) in older {
            fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
        Ok(())
    }

    /// The checkpoints of this attempt with their numbers.
    fn checkpoints(&self) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = name.to_str()?.strip_prefix("checkpoint-")?.split('-').next()?;
                entry.path().extension().is_some_and(|end| end == "safetensors").then_some(())?;
                Some((number.parse().ok()?, entry.path()))
            })
            .collect()
    }

    /// Removes checkpoints and half-written objects: a published trial needs them no more.
    pub(crate) fn tidy(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let path = entry.path();
            // What can't be removed only takes space.
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let _ = if is_folder {
                fs::remove_dir_all(&path)
            } else if entry.file_name().to_string_lossy().starts_with("checkpoint-") {
                fs::remove_file(&path)
            } else {
                Ok(())
            };
        }
    }

    /// The newest checkpoint of any attempt at a trial of this network that is whole; damaged ones
    /// are passed over.
    pub(crate) fn newest_checkpoint(attempts: &[Attempt], network: &Network) -> Option<Checkpoint> {
        let mut found: Vec<_> = attempts.iter().flat_map(Attempt::checkpoints).collect();
        found.sort();
        found.iter().rev().find_map(|(_, path)| read_checkpoint(path, network).ok())
    }
}

fn read_checkpoint(path: &Path, network: &Network) -> anyhow::Result<Checkpoint> {
    let parameters = parameter_list(network, &network.verify()?);
    let values: usize = parameters.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    // Values and momentum of four bytes each, and what says where they are.
    let bytes = read_within(path, 8 * values as u64 + LONGEST)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let digest = blake3::hash(&bytes).to_hex();
    ensure!(name.ends_with(digest.as_str()), "{}: damaged", path.display());
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let about = header.metadata().as_ref().and_then(|about| about.get(ABOUT));
    let progress = serde_json::from_str(about.context("a checkpoint without its position")?)?;
    let weights = from_safetensors(&bytes, "value.")?;
    let momentum = from_safetensors(&bytes, "momentum.")?;
    Ok(Checkpoint { model: Model::new(network.clone(), weights)?, momentum, progress })
}

const ABOUT: &str = "eas";

/// Tensors by name, and a text about them, as a safetensors file.
pub(super) fn to_safetensors<'a>(
    tensors: impl Iterator<Item = (String, &'a eas_ir::Tensor)>,
    about: Option<String>,
) -> anyhow::Result<Vec<u8>> {
    let entries: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, values)| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, values.shape().to_vec(), bytes)
        })
        .collect();
    let views = entries
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let about = about.map(|text| [(ABOUT.to_owned(), text)].into());
    Ok(safetensors::serialize(views, about)?)
}

/// The tensors of a safetensors file whose names begin so; the rest of the name is a parameter's.
pub(super) fn from_safetensors(bytes: &[u8], beginning: &str) -> anyhow::Result<Weights> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut weights = Weights::new();
    for (name, view) in file.iter() {
        let Some(name) = name.strip_prefix(beginning) else { continue };
        ensure!(view.dtype() == Dtype::F32, "{name}: expected f32, found {:?}", view.dtype());
        let words = view.data().chunks_exact(4);
        let values = words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
        weights.insert(name.parse()?, tensor(view.shape(), values));
    }
    Ok(weights)
}
