//! A model written for other programs, and the proof that it does the same there.
//!
//! Everything is written into a folder aside, read again from there and run; only what agrees with the
//! stored network gets its final name.

mod card;
mod pytorch;
#[cfg(test)]
mod tests;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use eas_ir::onnx::{self, OnnxOptions};
use eas_ir::{Images, Normalisation, SavedModel, Shape};
use eas_train::{Labelled, Split, normalise};
use ndarray::Array4;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub(crate) use card::{Counts, Story};
use pytorch::PyTorch;
pub(crate) use verify::{Checks, Disagreement, Yardstick};

const NETWORK: &str = "network.toml";
const WEIGHTS: &str = "weights.safetensors";
const ONNX: &str = "model.onnx";
const CODE: &str = "model.py";
const CODE_WEIGHTS: &str = "model.safetensors";
const CARD: &str = "README.md";
/// What makes a folder one of an export.
const MANIFEST: &str = "export.json";

/// A form that a model is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Form {
    Safetensors,
    Onnx,
    Pytorch,
}

impl Form {
    pub(crate) const ALL: [Form; 3] = [Form::Safetensors, Form::Onnx, Form::Pytorch];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Form::Safetensors => "safetensors",
            Form::Onnx => "onnx",
            Form::Pytorch => "pytorch",
        }
    }

    /// The files that it consists of.
    pub(crate) fn files(self) -> &'static [&'static str] {
        match self {
            Form::Safetensors => &[NETWORK, WEIGHTS],
            Form::Onnx => &[ONNX],
            Form::Pytorch => &[CODE, CODE_WEIGHTS],
        }
    }
}

/// `export.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The version of EAS that wrote it.
    pub(crate) eas: String,
    /// What was exported.
    pub(crate) model: String,
    pub(crate) fingerprint: String,
    pub(crate) onnx_batch_norms_folded: bool,
    pub(crate) onnx_normalisation_folded: bool,
    /// The images that it was run on, in words.
    pub(crate) images: Option<String>,
    pub(crate) forms: Vec<Written>,
}

/// A form as it was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) form: Form,
    pub(crate) files: Vec<String>,
    /// Of all its files.
    pub(crate) bytes: u64,
    /// Largest difference of a logit from the stored network's, in deviations of the logits; nothing
    /// where it was not run.
    pub(crate) gap: Option<f64>,
    /// Images that it was run on.
    pub(crate) images: usize,
    /// Why it was not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_verified: Option<String>,
}

/// A folder that is being written, in a hidden one beside the place that it is for; what isn't finished is taken
/// away.
#[derive(Debug)]
pub(crate) struct Aside {
    out: PathBuf,
    folder: PathBuf,
    hidden: TempDir,
}

impl Aside {
    /// Begins to write a folder of this name.
    ///
    /// # Errors
    /// A name that holds something other than an earlier export; what the file system says.
    pub(crate) fn begin(out: &Path) -> anyhow::Result<Self> {
        check_replaceable(out)?;
        let name = out.file_name().with_context(|| format!("{}: not a name", out.display()))?;
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let begin = || -> std::io::Result<_> {
            fs::create_dir_all(parent)?;
            let hidden = tempfile::Builder::new().prefix(".export-").tempdir_in(parent)?;
            let folder = hidden.path().join(name);
            fs::create_dir(&folder)?;
            Ok(Aside { out: out.to_owned(), folder, hidden })
        };
        begin().with_context(|| format!("can't make {}", out.display()))
    }

    /// The folder where it is now.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file of it.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        let write = || -> std::io::Result<()> {
            fs::write(&path, bytes)?;
            fs::File::open(&path)?.sync_all()
        };
        write().with_context(|| format!("can't write {}", path.display()))
    }

    /// Gives the folder its place, that of an earlier export.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let finish = || -> std::io::Result<()> {
            if self.out.exists() {
                fs::rename(&self.out, self.hidden.path().join(".earlier"))?;
            }
            fs::rename(&self.folder, &self.out)
        };
        finish().with_context(|| format!("can't write {}", self.out.display()))
    }
}

/// Refuses to replace, and so to delete, anything but an empty folder and what an export wrote.
fn check_replaceable(out: &Path) -> anyhow::Result<()> {
    let shown = out.display();
    let expected = "expected the name of a new folder, of an empty one or of an earlier export";
    if !out.exists() {
        ensure!(!out.is_symlink(), "{shown}: {expected}, found a link to nothing");
        return Ok(());
    }
    ensure!(out.is_dir(), "{shown}: {expected}, found a file");
    let names: Vec<std::ffi::OsString> = fs::read_dir(out)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .with_context(|| format!("can't read {shown}"))?;
    let is_ours = |name: &std::ffi::OsString| {
        let files = Form::ALL.iter().flat_map(|form| form.files());
        // Python leaves a cache of the module.
        files.chain(&[CARD, MANIFEST, "__pycache__"]).any(|known| name == known)
    };
    let is_export = names.iter().any(|name| name == MANIFEST);
    match names.iter().find(|name| !is_export || !is_ours(name)) {
        None => Ok(()),
        Some(name) => {
            anyhow::bail!("{shown}: {expected}, found a folder with `{}` in it", name.display())
        }
    }
}

/// Writes a model in one form.
///
/// # Errors
/// What can't be written, or not in this form.
pub(crate) fn write(
    aside: &Aside,
    form: Form,
    saved: &SavedModel,
    onnx: &OnnxOptions,
) -> anyhow::Result<()> {
    match form {
        Form::Safetensors => {
            // A model's folder holds nothing but its files, so it is written whole and moved in.
            let part = aside.folder.join("model");
            saved.save(&part)?;
            for name in form.files() {
                fs::rename(part.join(name), aside.folder.join(name))?;
            }
            fs::remove_dir(&part).with_context(|| part.display().to_string())
        }
        Form::Onnx => aside.write(ONNX, &onnx::write(saved, onnx)?),
        Form::Pytorch => {
            let PyTorch { code, weights } = PyTorch::of(saved)?;
            aside.write(CODE, code.as_bytes())?;
            aside.write(CODE_WEIGHTS, &weights)
        }
    }
}

/// What was written of a form, with what its check found.
pub(crate) fn written(aside: &Aside, form: Form) -> anyhow::Result<Written> {
    let mut bytes = 0;
    for name in form.files() {
        bytes += fs::metadata(aside.folder.join(name))?.len();
    }
    let files = form.files().iter().map(|name| (*name).to_owned()).collect();
    Ok(Written { form, files, bytes, gap: None, images: 0, not_verified: None })
}

/// Completes an export: the model card and the manifest, then the folder's name.
pub(crate) fn finish(
    aside: Aside,
    saved: &SavedModel,
    story: &Story,
    manifest: &Manifest,
) -> anyhow::Result<()> {
    aside.write(CARD, card::card(saved, story, manifest).as_bytes())?;
    aside.write(MANIFEST, &serde_json::to_vec_pretty(manifest)?)?;
    aside.finish()
}

/// Raw images as a network reads them, by the arithmetic of training: `[batch, channels, height, width]`.
///
/// # Errors
/// Images of no pixels.
pub(crate) fn normalised(
    images: &Array4<u8>,
    normalisation: &Normalisation,
) -> anyhow::Result<Images> {
    let (count, channels, height, width) = images.dim();
    let shape = Shape::Image { channels, height, width };
    let pixels = images.iter().copied().collect();
    let split = Split::all(Labelled::new(shape, vec![String::new()], pixels, vec![0; count])?);
    Ok(normalise(&split, split.indices(), normalisation))
}
