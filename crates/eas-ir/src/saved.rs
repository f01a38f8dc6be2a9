//! Models on disk: a folder of `network.toml` and `weights.safetensors`.
//!
//! `network.toml` holds the architecture and what a model needs to be used: class names,
//! normalisation. `weights.safetensors` holds a tensor for each parameter under its id, and the probe
//! batch with its logits as `probe.images` and `probe.logits`. Reading treats the folder as hostile:
//! nothing is allocated for what a file claims rather than holds.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array4};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::model::{Model, ModelError};
use crate::network::Network;
use crate::text::{FORMAT, NetworkError, NodeText};
use crate::weights::{ParamId, Weights, tensor};

const NETWORK: &str = "network.toml";
const WEIGHTS: &str = "weights.safetensors";
const PROBE_IMAGES: &str = "probe.images";
const PROBE_LOGITS: &str = "probe.logits";

/// The longest `network.toml` that is read: far more than [`MAX_NODES`](crate::MAX_NODES) nodes.
const LONGEST_NETWORK: u64 = 8 << 20;
/// The longest `weights.safetensors` that is read.
const LONGEST_WEIGHTS: u64 = 10 << 30;
/// The most classes and colours that metadata may name.
const MOST_NAMES: usize = 100_000;

/// How images become what a network reads: `(pixel / 255 - mean) / deviation`, a number a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Mean of each channel of the training images, 0 to 1.
    pub mean: Vec<f32>,
    /// Deviation of each channel.
    pub deviation: Vec<f32>,
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
    /// `network.toml` is no network.
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
    /// The weights don't fit the network.
    #[error("{}: {error}", .path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ModelError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    format: u32,
    #[serde(default)]
    next: u32,
    #[serde(default)]
    metadata: MetadataText,
    #[serde(default)]
    node: Vec<NodeText>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetadataText {
    #[serde(default)]
    classes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    normalisation: Option<Normalisation>,
}

impl SavedModel {
    /// Writes the folder `directory`, which must not exist or be an earlier model: into a sibling
    /// first, then by renaming, so that no reader sees half a model.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, directory: &Path) -> Result<(), LoadError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| LoadError::Io { path, error }
        };
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parent = directory.parent().unwrap_or(Path::new(""));
        let sibling =
            |purpose: &str| parent.join(format!(".{name}.{purpose}-{}", std::process::id()));
        let fresh = sibling("new");
        if !parent.as_os_str().is_empty() {
            fs::create_dir_all(parent).map_err(io(parent))?;
        }
        fs::create_dir_all(&fresh).map_err(io(&fresh))?;
        self.write_files(&fresh)?;
        if directory.exists() {
            let old = sibling("old");
            fs::rename(directory, &old).map_err(io(directory))?;
            fs::rename(&fresh, directory).map_err(io(directory))?;
            fs::remove_dir_all(&old).map_err(io(&old))?;
        } else {
            fs::rename(&fresh, directory).map_err(io(directory))?;
        }
        Ok(())
    }

    fn write_files(&self, directory: &Path) -> Result<(), LoadError> {
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
            written.map_err(|error| LoadError::Io { path, error })
        };
        write(NETWORK, self.network_text().as_bytes())?;
        write(WEIGHTS, &self.weight_bytes(directory)?)
    }

    fn network_text(&self) -> String {
        let metadata = MetadataText {
            classes: self.metadata.classes.clone(),
            normalisation: self.metadata.normalisation.clone(),
        };
        let metadata = toml::to_string(&metadata).expect("names and numbers have a TOML form");
        let metadata = metadata.replace("[normalisation]", "[metadata.normalisation]");
        let nodes = self.model.network().nodes_to_toml();
        let (next, nodes) = nodes.split_once('\n').expect("the text begins with `next`");
        format!("format = {FORMAT}\n{next}\n\n[metadata]\n{metadata}{nodes}")
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

    /// Reads a folder.
    ///
    /// # Errors
    /// Whatever is wrong with it: the file, the place in it, what was expected and what was found.
    pub fn load(directory: &Path) -> Result<Self, LoadError> {
        let path = directory.join(NETWORK);
        let text = read_network(&path)?;
        if text.metadata.classes.len() > MOST_NAMES {
            let message = format!("expected at most {MOST_NAMES} classes");
            return Err(LoadError::Metadata { path, message });
        }
        let network = Network::from_text(text.next, text.node);
        network
            .verify()
            .map_err(|error| LoadError::Network { path: path.clone(), error: error.into() })?;
        let weights_path = directory.join(WEIGHTS);
        let bytes = read_bounded(&weights_path, LONGEST_WEIGHTS)?;
        let (weights, probe) = read_weights(&weights_path, &bytes)?;
        let model = Model::new(network, weights)
            .map_err(|error| LoadError::Model { path: weights_path.clone(), error })?;
        let MetadataText { classes, normalisation } = text.metadata;
        let metadata = Metadata { classes, normalisation, probe };
        metadata.check(&model).map_err(|message| LoadError::Metadata { path, message })?;
        Ok(SavedModel { model, metadata })
    }
}

impl Metadata {
    fn check(&self, model: &Model) -> Result<(), String> {
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
            if !fits || logits.dim() != (count, classes) {
                return Err(format!(
                    "the probe of shape {:?} with logits {:?} doesn't fit the network",
                    images.shape(),
                    logits.shape()
                ));
            }
        }
        Ok(())
    }
}

impl Network {
    /// Reads the architecture from a network file, or from a model's folder.
    ///
    /// # Errors
    /// As [`SavedModel::load`].
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let path = if path.is_dir() { path.join(NETWORK) } else { path.to_owned() };
        let text = read_network(&path)?;
        let network = Network::from_text(text.next, text.node);
        match network.verify() {
            Ok(_) => Ok(network),
            Err(error) => Err(LoadError::Network { path, error: error.into() }),
        }
    }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let io = |error| LoadError::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?.len();
    if found > limit {
        return Err(LoadError::TooLong { path: path.to_owned(), limit, found });
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn read_network(path: &Path) -> Result<FileText, LoadError> {
    let bytes = read_bounded(path, LONGEST_NETWORK)?;
    let text = String::from_utf8(bytes).map_err(|error| LoadError::Metadata {
        path: path.to_owned(),
        message: format!("expected text in UTF-8, found other bytes ({})", error.utf8_error()),
    })?;
    let read: FileText = toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let before = &text[..text.floor_char_boundary(start)];
        LoadError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
            message: error.message().to_owned(),
        }
    })?;
    if read.format > FORMAT {
        let error = NetworkError::Format(read.format);
        return Err(LoadError::Network { path: path.to_owned(), error });
    }
    Ok(read)
}

fn read_weights(path: &Path, bytes: &[u8]) -> Result<(Weights, Option<Probe>), LoadError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| LoadError::Safetensors {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    let wrong = |tensor: &str, message: String| LoadError::Tensor {
        path: path.to_owned(),
        tensor: tensor.chars().take(80).collect(),
        message,
    };
    let (mut weights, mut images, mut logits) = (Weights::new(), None, None);
    for (name, view) in file.iter() {
        let shape = view.shape();
        let shaped = |expected: Dtype| {
            if view.dtype() == expected {
                Ok(view.data())
            } else {
                let found = view.dtype();
                Err(wrong(name, format!("expected {expected:?} values, found {found:?}")))
            }
        };
        let floats = |bytes: &[u8]| -> Vec<f32> {
            let words = bytes.chunks_exact(4);
            words.map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
        };
        let unfit = |_| wrong(name, format!("the shape {shape:?} doesn't fit its name"));
        match name {
            PROBE_IMAGES => {
                let dimensions: [usize; 4] = shape.try_into().map_err(unfit)?;
                let values = shaped(Dtype::U8)?.to_vec();
                images = Some(
                    Array4::from_shape_vec(dimensions, values)
                        .map_err(|error| wrong(name, error.to_string()))?,
                );
            }
            PROBE_LOGITS => {
                let dimensions: [usize; 2] = shape.try_into().map_err(unfit)?;
                let values = floats(shaped(Dtype::F32)?);
                logits = Some(
                    Array2::from_shape_vec(dimensions, values)
                        .map_err(|error| wrong(name, error.to_string()))?,
                );
            }
            _ => {
                let id: ParamId = name.parse().map_err(|error| wrong(name, format!("{error}")))?;
                weights.insert(id, tensor(shape, floats(shaped(Dtype::F32)?)));
            }
        }
    }
    let probe = match (images, logits) {
        (Some(images), Some(logits)) => Some(Probe { images, logits }),
        (None, None) => None,
        (Some(_), None) => return Err(wrong(PROBE_LOGITS, "missing beside probe.images".into())),
        (None, Some(_)) => return Err(wrong(PROBE_IMAGES, "missing beside probe.logits".into())),
    };
    Ok((weights, probe))
}
