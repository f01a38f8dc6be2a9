//! The content-addressed store: folders of files, named by the digest of what is in them.
//!
//! An object is written elsewhere, on the same file system, and comes here whole by a rename. It never
//! changes, so equal contents are kept once, and whoever reads one can tell whether it is what was
//! written.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Digest, check_plain};
use crate::failpoint::{failpoint, writing};

/// Something isn't what was kept: an object whose bytes aren't those that its name promises, here or in
/// a trial's words.
#[derive(Debug)]
pub(crate) struct Damaged(pub(crate) String);

impl Damaged {
    fn object(path: &Path, found: &str) -> Self {
        let path = path.display();
        Damaged(format!("{path}: damaged: expected the contents of this name, found {found}"))
    }
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Damaged {}

/// An object that was removed since nothing needed it.
#[derive(Debug)]
pub(crate) struct Gone(PathBuf);

impl std::fmt::Display for Gone {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: collected: nothing in the run needed it any more", self.0.display())
    }
}

impl std::error::Error for Gone {}

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

    /// The empty folder that is left of an object that was collected.
    fn remains(&self, digest: Digest) -> PathBuf {
        self.object(digest).with_extension(REMAINS)
    }

    /// Takes a folder in; it is gone from where it was.
    pub(crate) fn take(&self, folder: &Path) -> anyhow::Result<Digest> {
        let digest = digest_of(folder)?;
        let object = self.object(digest);
        let shelf = object.parent().unwrap_or(&self.root);
        fs::create_dir_all(shelf).with_context(|| format!("can't make {}", shelf.display()))?;
        ensure!(is_folder(shelf), "{}: expected a folder, found a link", shelf.display());
        failpoint("store.written");
        if object.exists() && digest_of(&object)? != digest {
            // What is there was damaged since; these are the bytes it should have had.
            fs::remove_dir_all(&object)
                .with_context(|| format!("can't remove {}", object.display()))?;
        }
        match writing(folder).and_then(|()| fs::rename(folder, &object)) {
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
        ensure!(!self.is_collected(digest), Gone(object));
        ensure!(is_folder(&object), Damaged::object(&object, "nothing"));
        let found = digest_of(&object)?;
        ensure!(found == digest, Damaged::object(&object, &format!("those of {found}")));
        Ok(object)
    }
}

impl Store {
    /// As long as the value lives, objects are taken in and named in a result, and none is removed.
    pub(crate) fn publishing(&self) -> anyhow::Result<File> {
        let (path, file) = self.door()?;
        file.lock_shared().with_context(|| format!("can't lock {}", path.display()))?;
        Ok(file)
    }

    /// As long as the value lives, no object is taken in; nothing where some are just then.
    pub(super) fn alone(&self) -> anyhow::Result<Option<File>> {
        let (path, file) = self.door()?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("can't lock {}", path.display()));
                }
            }
        }
        Ok(None)
    }

    fn door(&self) -> anyhow::Result<(PathBuf, File)> {
        let path = self.root.join("lock");
        fs::create_dir_all(&self.root)
            .and_then(|()| check_plain(&path))
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path))
            .with_context(|| format!("can't open {}", path.display()))
            .map(|file| (path, file))
    }

    /// Every object, with its bytes.
    pub(super) fn objects(&self) -> anyhow::Result<Vec<(Digest, u64)>> {
        let mut objects = Vec::new();
        for shelf in names(&self.root)? {
            for rest in names(&self.root.join(&shelf))? {
                if let Ok(digest) = format!("{shelf}{rest}").parse()
                    && is_folder(&self.object(digest))
                {
                    objects.push((digest, self.bytes(digest)?));
                }
            }
        }
        Ok(objects)
    }

    /// Bytes of an object.
    pub(super) fn bytes(&self, digest: Digest) -> anyhow::Result<u64> {
        let object = self.object(digest);
        let lengths = || -> io::Result<u64> {
            fs::read_dir(&object)?.map(|file| Ok(file?.metadata()?.len())).sum()
        };
        lengths().with_context(|| format!("can't read {}", object.display()))
    }

    /// Removes an object, and leaves an empty folder that says so. That appears with the first step and
    /// needs no room, so that no object is ever half there, and a full disk can be cleared.
    pub(super) fn collect(&self, digest: Digest) -> anyhow::Result<()> {
        let remains = self.remains(digest);
        let remove = || -> io::Result<()> {
            empty(&remains)?;
            fs::rename(self.object(digest), &remains)?;
            failpoint("collect.renamed");
            empty(&remains)
        };
        remove().with_context(|| format!("can't remove {}", self.object(digest).display()))
    }

    /// Does what is left to do of collections that were interrupted.
    pub(super) fn sweep(&self) -> anyhow::Result<()> {
        for shelf in names(&self.root)? {
            let shelf = self.root.join(shelf);
            let remains = names(&shelf)?.into_iter().filter(|name| name.ends_with(REMAINS));
            for path in remains.map(|name| shelf.join(name)) {
                empty(&path).with_context(|| format!("can't remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Whether an object was collected, and did not come back since.
    pub(super) fn is_collected(&self, digest: Digest) -> bool {
        self.remains(digest).is_dir() && !self.object(digest).exists()
    }
}

/// What stands behind the name of an object that was collected.
const REMAINS: &str = "collected";
/// A trial publishes for a moment, and a collection waits as often.
const TRIES: u32 = 100;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether a path is a folder itself, rather than a link to one.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
}

/// The names in a folder, none where it isn't one.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    if !is_folder(folder) {
        return Ok(Vec::new());
    }
    let read = || -> io::Result<Vec<OsString>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    let names = read().with_context(|| format!("can't read {}", folder.display()))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Removes the files of a folder that may not be there. A link to one is left as it is.
fn empty(folder: &Path) -> io::Result<()> {
    if !is_folder(folder) {
        return Ok(());
    }
    fs::read_dir(folder)?.try_for_each(|entry| fs::remove_file(entry?.path()))
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
            check_plain(&folder.join(&name))?;
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
