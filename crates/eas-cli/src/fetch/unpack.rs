//! Archives: unpacked beside where they go, and moved there once they are whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use flate2::read::GzDecoder;
use tar::{Archive, EntryType};

/// Bytes that an archive may hold besides the files that are known, and the headers between them.
const OTHERS: u64 = 1 << 20;
/// The most entries of an archive.
const MOST_ENTRIES: usize = 1000;

/// Unpacks a `.tar.gz` that holds these files, all within one folder, into `to`.
///
/// # Errors
/// An entry that isn't a file or folder, or whose path leads elsewhere; more bytes than the files have;
/// a file that is missing or of another size; a folder that is there already.
pub(crate) fn unpack(archive: &Path, expected: &[(&str, u64)], to: &Path) -> anyhow::Result<()> {
    let shown = archive.display();
    let beside = tempfile::Builder::new().prefix(".eas-unpacked-").tempdir_in(to);
    let beside = beside.with_context(|| format!("can't write to {}", to.display()))?;
    let file = File::open(archive).with_context(|| format!("can't read {shown}"))?;
    entries(file, expected, beside.path()).with_context(|| shown.to_string())?;
    for folder in folders(expected) {
        let target = to.join(folder);
        fs::rename(beside.path().join(folder), &target)
            .with_context(|| format!("can't write {}", target.display()))?;
    }
    Ok(())
}

/// The topmost folders of these paths.
pub(super) fn folders<'a>(paths: &[(&'a str, u64)]) -> BTreeSet<&'a str> {
    paths.iter().map(|(path, _)| path.split_once('/').map_or(*path, |(folder, _)| folder)).collect()
}

fn entries(from: impl Read, expected: &[(&str, u64)], to: &Path) -> anyhow::Result<()> {
    let most = expected.iter().map(|(_, bytes)| bytes).sum::<u64>() + OTHERS;
    let mut left = most;
    // Names that are too long for a header are entries of their own, which are read as a whole.
    let bounded = GzDecoder::new(from).take(most);
    let mut archive = Archive::new(bounded);
    for (count, entry) in archive.entries()?.enumerate() {
        ensure!(count < MOST_ENTRIES, "expected at most {MOST_ENTRIES} entries, found more");
        let mut entry = entry.context("expected a whole archive")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = inside(&name)?;
        let bytes = entry.size();
        ensure!(
            bytes <= left,
            "`{name}`: expected at most {most} bytes in all, found an entry of {bytes}"
        );
        left -= bytes;
        let target = to.join(&path);
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir_all(&target)?,
            EntryType::Regular | EntryType::Continuous => {
                fs::create_dir_all(target.parent().unwrap_or(to))?;
                let mut file = File::create_new(&target)
                    .with_context(|| format!("`{name}`: expected a path of its own"))?;
                let copied = std::io::copy(&mut entry, &mut file)
                    .with_context(|| format!("`{name}`: expected a whole entry"))?;
                ensure!(
                    copied == bytes,
                    "`{name}`: expected {bytes} bytes, found {copied} up to the end"
                );
                file.sync_all()?;
            }
            kind => bail!("`{name}`: expected a file or folder, found {kind:?}"),
        }
    }
    for (path, bytes) in expected {
        let found = fs::metadata(to.join(path)).ok().filter(fs::Metadata::is_file);
        let found = found.map(|found| found.len());
        ensure!(found == Some(*bytes), "expected `{path}` of {bytes} bytes, found {found:?}");
    }
    Ok(())
}

/// A path of an archive, where it stays within the folder that is unpacked to.
fn inside(name: &str) -> anyhow::Result<PathBuf> {
    let mut path = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                bail!("`{name}`: expected a path within the archive")
            }
        }
    }
    Ok(path)
}
