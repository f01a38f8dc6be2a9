//! Models on disk: a folder of `network.toml` and `weights.safetensors`.
//!
//! `network.toml` holds the architecture and what a model needs to be used: class names,
//! normalisation. `weights.safetensors` holds a tensor for each parameter under its id, and the probe
//! batch with its logits as `probe.images` and `probe.logits`. Reading treats the folder as hostile:
//! nothing is allocated for what a file claims rather than holds.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ndarray::{Array, Array2, Array4, ArrayD, Dimension, IxDyn};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::forward::Forward;
use crate::model::{Model, ModelError};
use crate::network::Network;
use crate::onnx::{self, Given, OnnxError};
use crate::text::{FORMAT, NetworkError, read};
use crate::weights::{ParamId, Weights};

const NETWORK: &str = "network.toml";
const WEIGHTS: &str = "weights.safetensors";
const PROBE_IMAGES: &str = "probe.images";
const PROBE_LOGITS: &str = "probe.logits";

/// The longest `network.toml` that is read: twice what [`MAX_NODES`](crate::MAX_NODES) nodes with
/// long labels take.
const LONGEST_NETWORK: u64 = 4 << 20;
/// The longest `weights.safetensors` that is read.
const LONGEST_WEIGHTS: u64 = 10 << 30;
/// The most characters of another library's message that are passed on: it may quote a hostile file.
const LONGEST_MESSAGE: usize = 400;

/// How images become what a network reads: `(pixel / 255 - mean) / deviation`, a number a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Mean of each channel of the training images, 0 to 1.
    pub mean: Vec<f32>,
    /// Deviation of each channel.
    pub deviation: Vec<f32>,
}

/// How a picture becomes as large as what a network reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Cut to the part in its middle that has the right sides, which is scaled.
    #[default]
    Crop,
    /// Both sides scaled.
    Stretch,
}

impl Fit {
    fn is_default(&self) -> bool {
        *self == Fit::default()
    }
}

/// A few images and what the model makes of them, so that whoever runs it elsewhere can tell whether
/// it still is the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Raw images, `[batch, channels, height, width]`.
    pub images: Array4<u8>,
    /// Their logits, `[batch, classes]`.
    pub logits: Array2<f32>,
}

/// What a model needs to be used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// A name for each class, in the order of the logits; empty where they have none.
    pub classes: Vec<String>,
    /// What is done to images first.
    pub normalisation: Option<Normalisation>,
    /// What is done to pictures of another size before that.
    pub fit: Fit,
    /// A check.
    pub probe: Option<Probe>,
}

/// A model and its metadata, as kept in a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedModel {
    /// The network and its weights.
    pub model: Model,
    /// What it needs to be used.
    pub metadata: Metadata,
}

/// Why a folder can't be read as a model, or written.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file can't be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A folder that a model can't be written to.
    #[error("{}: expected the name of a new folder or of an earlier model, found {found}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A file is longer than any real one.
    #[error("{}: expected at most {limit} bytes, found {found}", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
        /// Its length.
        found: u64,
    },
    /// `network.toml` is no text, no TOML, or not the TOML of a network.
    #[error("{}:{line}:{column}: {message}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// `network.toml` is TOML, but no network that this version knows.
    #[error("{}: {error}", .path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: NetworkError,
    },
    /// Metadata that doesn't fit the network.
    #[error("{}: {message}", .path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// `weights.safetensors` is damaged.
    #[error("{}: not a safetensors file: {message}", .path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A tensor that no model has.
    #[error("{}: tensor `{tensor}`: {message}", .path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// What is wrong.
        message: String,
    },
    /// An ONNX file is damaged, or holds what has no form here.
    #[error("{}: {error}", .path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: OnnxError,
    },
    /// The weights don't fit the network.
    #[error("{}: {error}", .path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ModelError,
    },
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetadataText {
    #[serde(default)]
    classes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    normalisation: Option<Normalisation>,
    #[serde(default, skip_serializing_if = "Fit::is_default")]
    fit: Fit,
}

impl SavedModel {
    /// Writes the folder `directory`, which must not exist or be an earlier model: into a sibling
    /// first, then by renaming. Wherever it is cut off, [`SavedModel::load`] finds the whole new model
    /// or the whole old one, and the next save clears away what is left. One process at a time may
    /// save to a folder.
    ///
    /// # Errors
    /// Metadata that doesn't fit the model; a folder with other files in it; what the file system
    /// says.
    pub fn save(&self, directory: &Path) -> Result<(), LoadError> {
        let network_path = directory.join(NETWORK);
        self.metadata
            .check(&self.model)
            .map_err(|message| LoadError::Metadata { path: network_path, message })?;
        if directory.file_name().is_none() {
            let found = "no name".to_owned();
            return Err(LoadError::Folder { path: directory.to_owned(), found });
        }
        let (fresh, old) = (sibling(directory, "new"), sibling(directory, "old"));
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        at(parent, fs::create_dir_all(parent))?;
        if whole(directory) == old {
            at(directory, fs::rename(&old, directory))?;
        }
        if directory.exists() {
            check_replaceable(directory)?;
        }
        for stale in [&fresh, &old] {
            if stale.exists() {
                at(stale, fs::remove_dir_all(stale))?;
            }
        }
        self.write_files(&fresh).inspect_err(|_| {
            // What was written of it only takes room; the error that stopped it matters more.
            let _ = fs::remove_dir_all(&fresh);
        })?;
        let replaces = directory.exists();
        if replaces {
            at(directory, fs::rename(directory, &old))?;
        }
        at(directory, fs::rename(&fresh, directory))?;
        at(parent, sync_directory(parent))?;
        if replaces { at(&old, fs::remove_dir_all(&old)) } else { Ok(()) }
    }

    fn write_files(&self, directory: &Path) -> Result<(), LoadError> {
        let write = |name: &str, limit: u64, bytes: &[u8]| {
            let path = directory.join(name);
            let found = bytes.len() as u64;
            if found > limit {
                return Err(LoadError::TooLong { path, limit, found });
            }
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
            at(&path, written)
        };
        at(directory, fs::create_dir(directory))?;
        write(NETWORK, LONGEST_NETWORK, self.network_text().as_bytes())?;
        write(WEIGHTS, LONGEST_WEIGHTS, &self.weight_bytes(directory)?)?;
        at(directory, sync_directory(directory))
    }

    fn network_text(&self) -> String {
        #[derive(Serialize)]
        struct Header {
            format: u32,
            next: u32,
            metadata: MetadataText,
        }
        let metadata = MetadataText {
            classes: self.metadata.classes.clone(),
            normalisation: self.metadata.normalisation.clone(),
            fit: self.metadata.fit,
        };
        let network = self.model.network();
        let header = Header { format: FORMAT, next: network.next(), metadata };
        let header = toml::to_string(&header).expect("names and numbers have a TOML form");
        header + &network.nodes_to_toml()
    }

    fn weight_bytes(&self, directory: &Path) -> Result<Vec<u8>, LoadError> {
        let bytes = |values: &[f32]| -> Vec<u8> {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        let mut entries: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (id, weights) in self.model.weights() {
            let values = weights.as_slice().expect("a model's weights are row-major");
            let shape = weights.shape().to_vec();
            entries.push((id.to_string(), Dtype::F32, shape, bytes(values)));
        }
        if let Some(probe) = &self.metadata.probe {
            let images: Vec<u8> = probe.images.iter().copied().collect();
            let logits: Vec<f32> = probe.logits.iter().copied().collect();
            let shape = probe.images.shape().to_vec();
            entries.push((PROBE_IMAGES.to_owned(), Dtype::U8, shape, images));
            let shape = probe.logits.shape().to_vec();
            entries.push((PROBE_LOGITS.to_owned(), Dtype::F32, shape, bytes(&logits)));
        }
        let damaged = |error: safetensors::SafeTensorError| LoadError::Safetensors {
            path: directory.join(WEIGHTS),
            message: error.to_string(),
        };
        let views = entries
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(damaged)?;
        safetensors::serialize(views, None).map_err(damaged)
    }

    /// Whether a path is that of a model with weights, and not of a network alone: a folder with weights
    /// in it, or an ONNX file.
    pub fn has_weights(path: &Path) -> bool {
        is_onnx(path) || whole(path).join(WEIGHTS).exists()
    }

    /// Reads a model as [`SavedModel::load`] does, and holds an ONNX file against the logits that lie
    /// beside it ([`onnx::read_compared`]).
    ///
    /// # Errors
    /// As [`SavedModel::load`]; also other logits than those.
    pub fn load_compared(path: &Path, forward: &dyn Forward) -> Result<(Self, Given), LoadError> {
        if is_onnx(path) {
            onnx::read_compared(path, forward)
        } else {
            Ok((SavedModel::load(path)?, Given::default()))
        }
    }

    /// Reads a folder, or the earlier model that a save which was cut off left beside it; or an ONNX
    /// file, by its ending.
    ///
    /// # Errors
    /// Whatever is wrong with it: the file, the place in it, what was expected and what was found.
    pub fn load(directory: &Path) -> Result<Self, LoadError> {
        if is_onnx(directory) {
            return onnx::read(directory);
        }
        let directory = whole(directory);
        let path = directory.join(NETWORK);
        let (network, MetadataText { classes, normalisation, fit }) = read_network(&path)?;
        let weights_path = directory.join(WEIGHTS);
        let bytes = read_bounded(&weights_path, LONGEST_WEIGHTS)?;
        let (weights, probe) = read_weights(&weights_path, &bytes)?;
        let model = Model::new(network, weights)
            .map_err(|error| LoadError::Model { path: weights_path, error })?;
        let metadata = Metadata { classes, normalisation, fit, probe };
        metadata.check(&model).map_err(|message| LoadError::Metadata { path, message })?;
        Ok(SavedModel { model, metadata })
    }
}

impl Metadata {
    pub(crate) fn check(&self, model: &Model) -> Result<(), String> {
        let classes = model.classes();
        if !self.classes.is_empty() && self.classes.len() != classes {
            let found = self.classes.len();
            return Err(format!("metadata.classes: expected {classes} names, found {found}"));
        }
        let channels = model.input_shape().channels();
        if let Some(Normalisation { mean, deviation }) = &self.normalisation {
            if mean.len() != channels || deviation.len() != channels {
                return Err(format!(
                    "metadata.normalisation: expected {channels} means and deviations, found {} and {}",
                    mean.len(),
                    deviation.len()
                ));
            }
            let usable = deviation.iter().all(|value| value.is_finite() && *value > 0.0);
            if !usable || !mean.iter().all(|value| value.is_finite()) {
                return Err(
                    "metadata.normalisation: expected finite means and positive deviations"
                        .to_owned(),
                );
            }
        }
        if let Some(Probe { images, logits }) = &self.probe {
            let (count, channels, height, width) = images.dim();
            let fits = match model.input_shape() {
                shape @ crate::Shape::Image { .. } => {
                    shape == crate::Shape::Image { channels, height, width }
                }
                crate::Shape::Flat { features } => features == channels * height * width,
            };
            if !fits || count == 0 || logits.dim() != (count, classes) {
                return Err(format!(
                    "the probe of shape {:?} with logits {:?} doesn't fit the network",
                    images.shape(),
                    logits.shape()
                ));
            }
            if !logits.iter().all(|logit| logit.is_finite()) {
                return Err("the probe: expected finite logits".to_owned());
            }
        }
        Ok(())
    }
}

impl Network {
    /// Reads the architecture from a network file, a model's folder, or an ONNX file.
    ///
    /// # Errors
    /// As [`SavedModel::load`].
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        if is_onnx(path) {
            return onnx::read(path).map(|saved| saved.model.into_parts().0);
        }
        let path = whole(path);
        let file = if path.is_dir() { path.join(NETWORK) } else { path };
        read_network(&file).map(|(network, _)| network)
    }
}

/// Whether a path is that of an ONNX file, and not of a folder.
fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "onnx") && !path.is_dir()
}

/// What the system says, with the path it says it of.
fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T, LoadError> {
    result.map_err(|error| LoadError::Io { path: path.to_owned(), error })
}

/// A hidden folder beside a model's, for the time of a save: `new` is being written, `old` is the
/// earlier model between the two renames.
fn sibling(directory: &Path, purpose: &str) -> PathBuf {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    directory.with_file_name(format!(".{name}.{purpose}"))
}

/// The folder itself, or the earlier model beside it where a save was cut off between its renames.
fn whole(directory: &Path) -> PathBuf {
    let old = sibling(directory, "old");
    if !directory.exists() && old.exists() { old } else { directory.to_owned() }
}

/// Refuses to replace, and so to delete, anything that isn't a model.
fn check_replaceable(directory: &Path) -> Result<(), LoadError> {
    let refuse = |found| Err(LoadError::Folder { path: directory.to_owned(), found });
    if !directory.is_dir() {
        return refuse("a file".to_owned());
    }
    for entry in at(directory, fs::read_dir(directory))? {
        let name = at(directory, entry)?.file_name();
        if name != NETWORK && name != WEIGHTS {
            return refuse(format!("a folder with `{}` in it", name.display()));
        }
    }
    Ok(())
}

/// Makes the names in a folder last beyond a power cut; only Unix can open a folder for it.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    // Opening a pipe would wait for a writer, and a device never ends.
    let metadata = at(path, fs::metadata(path))?;
    if !metadata.is_file() {
        return at(path, Err(std::io::Error::other("expected a file, found a folder or device")));
    }
    let found = metadata.len();
    if found > limit {
        return Err(LoadError::TooLong { path: path.to_owned(), limit, found });
    }
    let mut bytes = Vec::new();
    at(path, File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)))?;
    Ok(bytes)
}

/// The verified network and the metadata of a `network.toml`.
fn read_network(path: &Path) -> Result<(Network, MetadataText), LoadError> {
    let bytes = read_bounded(path, LONGEST_NETWORK)?;
    let syntax = |before: &str, message: &str| LoadError::Syntax {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
        message: excerpt(message),
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let (before, _) = bytes.split_at(error.valid_up_to());
        syntax(&String::from_utf8_lossy(before), "expected text in UTF-8, found other bytes")
    })?;
    read(text).map_err(|error| match error {
        NetworkError::Syntax(error) => {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            syntax(&text[..text.floor_char_boundary(start)], error.message())
        }
        error @ (NetworkError::Format(_) | NetworkError::Rules(_)) => {
            LoadError::Network { path: path.to_owned(), error }
        }
    })
}

/// The beginning of another library's message.
fn excerpt(message: &str) -> String {
    message.chars().take(LONGEST_MESSAGE).collect()
}

fn read_weights(path: &Path, bytes: &[u8]) -> Result<(Weights, Option<Probe>), LoadError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| LoadError::Safetensors {
        path: path.to_owned(),
        message: excerpt(&error.to_string()),
    })?;
    // By name, so that of several faults the same one is always reported.
    let mut tensors = file.tensors();
    tensors.sort_by(|(name, _), (other, _)| name.cmp(other));
    let wrong = |tensor: &str, message: String| LoadError::Tensor {
        path: path.to_owned(),
        tensor: tensor.chars().take(80).collect(),
        message,
    };
    let (mut weights, mut images, mut logits) = (Weights::new(), None, None);
    for (name, view) in tensors {
        let mut keep = || -> Result<(), String> {
            match name.as_str() {
                PROBE_IMAGES => images = Some(shaped(&view, content(&view, Dtype::U8)?.to_vec())?),
                PROBE_LOGITS => logits = Some(shaped(&view, floats(&view)?)?),
                _ => {
                    let id: ParamId = name.parse().map_err(|error| format!("{error}"))?;
                    let values: ArrayD<f32> = shaped(&view, floats(&view)?)?;
                    weights.insert(id, values.into_shared());
                }
            }
            Ok(())
        };
        keep().map_err(|message| wrong(&name, message))?;
    }
    let probe = match (images, logits) {
        (Some(images), Some(logits)) => Some(Probe { images, logits }),
        (None, None) => None,
        (Some(_), None) => return Err(wrong(PROBE_LOGITS, "missing beside probe.images".into())),
        (None, Some(_)) => return Err(wrong(PROBE_IMAGES, "missing beside probe.logits".into())),
    };
    Ok((weights, probe))
}

fn content<'a>(view: &TensorView<'a>, expected: Dtype) -> Result<&'a [u8], String> {
    match view.dtype() {
        found if found == expected => Ok(view.data()),
        found => Err(format!("expected {expected:?} values, found {found:?}")),
    }
}

fn floats(view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let words = content(view, Dtype::F32)?.chunks_exact(4);
    Ok(words.map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

fn shaped<T, D: Dimension>(view: &TensorView<'_>, values: Vec<T>) -> Result<Array<T, D>, String> {
    ArrayD::from_shape_vec(IxDyn(view.shape()), values)
        .and_then(ArrayD::into_dimensionality)
        .map_err(|_| excerpt(&format!("the shape {:?} doesn't fit its name", view.shape())))
}
