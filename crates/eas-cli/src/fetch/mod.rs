//! Fetching published data sets. [`published`] is the table of their files.

mod download;
mod published;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

pub(crate) use download::Patience;
pub(crate) use published::{DATA_SETS, DataFiles, Published};
#[cfg(feature = "fuzzing")]
pub(crate) use unpack::unpack;

use crate::print::Bar;

/// How a data set is fetched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// An address that holds the files, instead of the official ones.
    pub(crate) mirror: Option<String>,
    /// Whether to fetch what isn't needed, too.
    pub(crate) extra: bool,
    pub(crate) patience: Patience,
}

/// The files of a data set, where it can be fetched.
pub(crate) fn files_of(name: &str) -> Option<&'static DataFiles<'static>> {
    DATA_SETS.iter().find(|files| files.name == name)
}

/// `$EAS_DATA`; a relative path starts where the command does, as on any command line.
fn named_folder() -> Option<PathBuf> {
    let named = std::env::var_os("EAS_DATA").filter(|path| !path.is_empty())?;
    std::path::absolute(named).ok()
}

/// Where data sets are put unless it is said: `$EAS_DATA`, or else `data` in the user's cache.
pub(crate) fn data_folder() -> Option<PathBuf> {
    named_folder().or_else(|| Some(eas_train::cache_folder()?.join("data")))
}

/// Where a data set is looked for that isn't said to be anywhere: in `$EAS_DATA`, or where it was
/// fetched to.
pub(crate) fn default_path(name: &str) -> Option<PathBuf> {
    let fetched = || {
        let (files, folder) = (files_of(name)?, data_folder()?);
        files.mark(&folder).exists().then_some(folder)
    };
    named_folder().or_else(fetched)
}

/// What to do about a data set that isn't said to be anywhere.
pub(crate) fn advice(name: &str) -> String {
    let fetch = match files_of(name) {
        Some(_) => format!("fetch it with `eas data fetch {name}`, "),
        None => String::new(),
    };
    format!("expected `path`, the folder of the data; {fetch}or set the variable EAS_DATA")
}

/// Fetches what is missing of a data set into a folder of data. Returns how many bytes were missing.
///
/// # Errors
/// No place has a file, or what it has is another one; an archive that holds something else; a folder
/// that can't be written.
pub(crate) fn fetch(
    files: &DataFiles<'_>,
    to: &Path,
    wishes: &Wishes,
    bar: &Bar,
) -> anyhow::Result<u64> {
    if is_unpacked(files, to) {
        return Ok(0);
    }
    for unpacked in unpack::folders(files.unpacked).into_iter().map(|folder| to.join(folder)) {
        ensure!(
            !unpacked.exists(),
            "{}: expected all the files of {} or no such folder; move it away to have it fetched",
            unpacked.display(),
            files.name
        );
    }
    let folder = to.join(files.folder);
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let extra = if wishes.extra { files.extra } else { &[] };
    let wanted: Vec<Published<'_>> = files.files.iter().chain(extra).copied().collect();
    bar.set_length(wanted.iter().map(|file| file.bytes).sum());
    let places: Vec<String> = match &wishes.mirror {
        Some(mirror) => vec![mirror.clone()],
        None => files.places.iter().map(|place| (*place).to_owned()).collect(),
    };
    let (mut before, mut missing) = (0, 0);
    for file in &wanted {
        let path = folder.join(file.name);
        bar.message(file.name);
        bar.begin_at(before);
        let fetched = !download::is_there(&path, file)?;
        if fetched {
            missing += file.bytes;
            let at = |bytes| bar.set(before + bytes);
            let note = |text: &str| bar.line(text);
            let watcher = download::Watcher { at: &at, note: &note };
            download::download(file, &places, &path, &wishes.patience, &watcher)?;
            bar.line(&format!("fetched {}", path.display()));
        }
        before += file.bytes;
        if !files.unpacked.is_empty() {
            bar.message(&format!("unpacking {}", file.name));
            unpack::unpack(&path, files.unpacked, to)?;
            // An archive that was there before is its owner's.
            if fetched {
                fs::remove_file(&path)
                    .with_context(|| format!("can't remove {}", path.display()))?;
            }
        }
    }
    Ok(missing)
}

/// Whether all that its archive holds is there.
fn is_unpacked(files: &DataFiles<'_>, to: &Path) -> bool {
    let whole = |(path, bytes): &(&str, u64)| {
        fs::metadata(to.join(path)).is_ok_and(|found| found.is_file() && found.len() == *bytes)
    };
    !files.unpacked.is_empty() && files.unpacked.iter().all(whole)
}
