//! Files from strangers: read in order, within a bound, every error with the file and the byte.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use eas_ir::{Built, Value, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::options::AugmentOptions;
use super::{Augment, DataOptions, DataSource};

/// The most bytes of pixels of one part of a data set: 4 GiB. Images are held in memory, and while they are
/// brought into order some twice.
pub(super) const MOST_PIXELS: u64 = 4 << 30;

/// What a spec says of a data set in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileOptions {
    /// The folder of the files, or one that holds it.
    pub(super) path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    train: Option<usize>,
    #[serde(default)]
    augment: AugmentOptions,
}

impl FileOptions {
    pub(super) fn options(&self, defaults: DataOptions) -> DataOptions {
        DataOptions {
            validation: self.validation.unwrap_or(defaults.validation),
            train: self.train,
            augment: self.augment.or(defaults.augment),
        }
    }
}

/// Builds a data set that has no options but those of any in files, with its own defaults.
pub(super) fn build<S: DataSource + 'static>(
    options: Value<'_>,
    validation: usize,
    augment: Augment,
    source: impl FnOnce(PathBuf, DataOptions) -> S,
) -> Result<Built<dyn DataSource>, toml::de::Error> {
    let written = parse_options::<FileOptions>(options)?;
    let used = written.options(DataOptions { validation, train: None, augment });
    let resolved = FileOptions {
        path: written.path.clone(),
        validation: Some(used.validation),
        train: used.train,
        augment: used.augment.into(),
    };
    let implementation = Box::new(source(written.path, used));
    Ok(Built { options: resolved_options(&resolved)?, implementation })
}

/// The user's cache: `$XDG_CACHE_HOME/eas`, or `~/.cache/eas`. Packed images are kept there, and data
/// sets that were fetched.
pub fn cache_folder() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("eas"))
}

/// Opens a file for reading.
pub(super) fn open(path: &Path, what: &str) -> anyhow::Result<BufReader<File>> {
    let shown = path.display();
    let expected = || format!("{shown}: expected {what}");
    // Before it is opened, since opening a pipe waits until something writes to it.
    ensure!(fs::metadata(path).with_context(expected)?.is_file(), "{shown}: expected a file");
    Ok(BufReader::new(File::open(path).with_context(expected)?))
}

/// Bytes in order, and how far they have been read.
pub(super) struct Stream<R> {
    from: R,
    place: String,
    at: u64,
}

impl<R: BufRead> Stream<R> {
    /// Whether no byte is left.
    pub(super) fn is_at_end(&mut self) -> anyhow::Result<bool> {
        let here = self.here();
        Ok(self.from.fill_buf().with_context(|| format!("{here}: expected the end"))?.is_empty())
    }
}

impl<R: Read> Stream<R> {
    /// `place` names the file in errors.
    pub(super) fn new(from: R, place: impl Into<String>) -> Self {
        Stream { from, place: place.into(), at: 0 }
    }

    /// How many bytes have been read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Where the stream is, for a message.
    pub(super) fn here(&self) -> String {
        self.at_byte(self.at)
    }

    /// A place of the stream, for a message.
    pub(super) fn at_byte(&self, at: u64) -> String {
        format!("{}: byte {at}", self.place)
    }

    /// The next `count` bytes. Memory grows with what is there, not with what is claimed.
    pub(super) fn bytes(&mut self, count: u64, what: &str) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(count.min(1 << 20) as usize);
        (&mut self.from)
            .take(count)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{}: expected {what}", self.here()))?;
        let found = bytes.len() as u64;
        let here = self.here();
        ensure!(
            found == count,
            "{here}: expected {count} bytes of {what}, found {found} up to the end"
        );
        self.at += count;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> anyhow::Result<[u8; N]> {
        let bytes = self.bytes(N as u64, what)?;
        Ok(bytes.try_into().expect("as many bytes as were asked for"))
    }

    /// Passes over `count` bytes.
    pub(super) fn skip(&mut self, count: u64, what: &str) -> anyhow::Result<()> {
        let here = self.here();
        let found = std::io::copy(&mut (&mut self.from).take(count), &mut std::io::sink())
            .with_context(|| format!("{here}: expected {what}"))?;
        ensure!(
            found == count,
            "{here}: expected {count} bytes of {what}, found {found} up to the end"
        );
        self.at += count;
        Ok(())
    }

    /// The next bytes as a stream of their own, counted from 0.
    pub(super) fn part(&mut self, count: u64) -> std::io::Take<&mut R> {
        self.at += count;
        (&mut self.from).take(count)
    }
}

/// The product of some numbers, where it is at most `most`.
pub(super) fn product(numbers: &[u64], most: u64) -> Option<u64> {
    let product = numbers.iter().try_fold(1u64, |all, number| all.checked_mul(*number))?;
    (product <= most).then_some(product)
}
