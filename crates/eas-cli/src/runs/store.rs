//! The content-addressed store: folders of files, named by the digest of what is in them.
//!
//! An object is written elsewhere, on the same file system, and comes here whole by a rename. It never
//! changes, so equal contents are kept once, and whoever reads one can tell whether it is what was
//! written.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::Digest;
use crate::failpoint::failpoint;

/// An object whose bytes are not those that its name promises.
#[derive(Debug)]
pub(crate) struct Damaged {
    object: PathBuf,
    found: String,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{}: damaged: expected the contents of this name, found {}",
            self.object.display(),
            self.found
        )
    }
}

impl std::error::Error for Damaged {}

/// A store of a run.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Self {
        Store { root }
    }

    /// The path of an object within a store.
    pub(super) fn name(digest: Digest) -> PathBuf {
        let name = digest.to_string();
        Path::new(&name[..2]).join(&name[2..])
    }

    fn object(&self, digest: Digest) -> PathBuf {
        self.root.join(Self::name(digest))
    }

    /// Takes a folder in; it is gone from where it was.
    pub(crate) fn take(&self, folder: &Path) -> anyhow::Result<Digest> {
        let digest = digest_of(folder)?;
        let object = self.object(digest);
        let shelf = object.parent().unwrap_or(&self.root);
        fs::create_dir_all(shelf).with_context(|| format!("can't make {}", shelf.display()))?;
        failpoint("store.written");
        if object.exists() && digest_of(&object)? != digest {
            // What is there was damaged since; these are the bytes it should have had.
            fs::remove_dir_all(&object)
                .with_context(|| format!("can't remove {}", object.display()))?;
        }
        match fs::rename(folder, &object) {
            // Someone else brought the same contents first.
            Err(_) if object.exists() => fs::remove_dir_all(folder)
                .with_context(|| format!("can't remove {}", folder.display()))?,
            renamed => renamed.with_context(|| format!("can't write {}", object.display()))?,
        }
        sync_folder(shelf)?;
        failpoint("store.renamed");
        Ok(digest)
    }

    /// The folder of an object, once its contents are known to be those that were taken in.
    ///
    /// # Errors
    /// [`Damaged`], or an object that isn't there.
    pub(crate) fn get(&self, digest: Digest) -> anyhow::Result<PathBuf> {
        let object = self.object(digest);
        ensure!(object.is_dir(), Damaged { object, found: "nothing".to_owned() });
        let found = digest_of(&object)?;
        ensure!(found == digest, Damaged { object, found: format!("those of {found}") });
        Ok(object)
    }
}

/// The digest of a folder of files: their names, lengths and bytes.
fn digest_of(folder: &Path) -> anyhow::Result<Digest> {
    let read = || -> io::Result<blake3::Hash> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            files.push(entry?.file_name());
        }
        files.sort();
        let mut hasher = blake3::Hasher::new();
        for name in files {
            let file = File::open(folder.join(&name))?;
            let text = name.to_string_lossy();
            for number in [text.len() as u64, file.metadata()?.len()] {
                hasher.update(&number.to_le_bytes());
            }
            hasher.update(text.as_bytes()).update_reader(file)?;
        }
        Ok(hasher.finalize())
    };
    read().map(Digest).with_context(|| format!("can't read {}", folder.display()))
}

/// Makes new names in a folder survive a loss of power.
pub(super) fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("can't sync {}", folder.display()))
}
