//! The numbers of a file: in it, or in files beside it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use ndarray::IxDyn;
use prost::bytes::Bytes;

use super::messages::{EXTERNAL, FLOAT, INT64, Tensor as FileTensor};
use super::quoted;
use crate::weights::Tensor;

/// The most bytes that are taken from files beside a model: a sparse file takes no room on a disk.
const MOST_EXTERNAL: u64 = 4 << 30;

/// Whoever reads the files beside a model; a reader of bytes alone has none.
#[derive(Debug, Default)]
pub(super) struct External {
    folder: Option<PathBuf>,
    /// Bytes taken so far from each file: none twice, so that a small file can't fill the memory.
    taken: BTreeMap<PathBuf, u64>,
}

impl External {
    /// Files in this folder.
    pub(super) fn of(folder: &Path) -> Self {
        External { folder: Some(folder.to_owned()), taken: BTreeMap::new() }
    }

    fn read(&mut self, tensor: &FileTensor, expected: u64) -> Result<Vec<u8>, String> {
        let entry = |key: &str| {
            let entry = tensor.external_data.iter().find(|entry| entry.key == key);
            entry.map(|entry| entry.value.as_str())
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                format!("external data: expected a number as {key}, found {}", quoted(text))
            }),
        };
        let location = entry("location").ok_or("external data: expected a location, found none")?;
        let name = quoted(location);
        let folder =
            self.folder.as_ref().ok_or("external data: there is no folder to read from")?;
        let plain = Path::new(location).components().all(|c| matches!(c, Component::Normal(_)));
        if location.is_empty() || !plain {
            return Err(format!(
                "external data: expected a file in the model's folder, found {name}"
            ));
        }
        let wrong = |error: std::io::Error| format!("external data {name}: {error}");
        let path = folder.join(location);
        let (real, root) =
            (fs::canonicalize(&path).map_err(wrong)?, fs::canonicalize(folder).map_err(wrong)?);
        if !real.starts_with(&root) {
            return Err(format!(
                "external data {name}: a link that leads out of the model's folder"
            ));
        }
        let metadata = fs::metadata(&real).map_err(wrong)?;
        if !metadata.is_file() {
            return Err(format!("external data {name}: expected a file"));
        }
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        if length.is_some_and(|length| length != expected) {
            let found = length.unwrap_or(0);
            return Err(format!("external data {name}: expected {expected} bytes, found {found}"));
        }
        let size = metadata.len();
        let end = offset.checked_add(expected).filter(|end| *end <= size);
        let all = self.taken.values().fold(expected, |all, taken| all.saturating_add(*taken));
        if all > MOST_EXTERNAL {
            return Err(format!(
                "external data {name}: expected at most {MOST_EXTERNAL} bytes in all, found {all}"
            ));
        }
        let taken = self.taken.entry(real.clone()).or_default();
        *taken = taken.saturating_add(expected);
        if end.is_none() || *taken > size {
            return Err(format!(
                "external data {name}: expected {expected} bytes from byte {offset} on, none of them \
                 twice, found a file of {size}"
            ));
        }
        let mut bytes = Vec::new();
        let mut file = File::open(&real).map_err(wrong)?;
        file.seek(SeekFrom::Start(offset)).map_err(wrong)?;
        file.take(expected).read_to_end(&mut bytes).map_err(wrong)?;
        match bytes.len() as u64 {
            found if found == expected => Ok(bytes),
            found => Err(format!("external data {name}: expected {expected} bytes, found {found}")),
        }
    }
}

/// Sides and numbers of a tensor.
pub(super) enum Numbers {
    Floats(Tensor),
    Integers(Vec<usize>, Vec<i64>),
}

/// The numbers of a tensor.
///
/// # Errors
/// Another type than float32 and int64; another number of values than its sides say.
pub(super) fn numbers(tensor: &FileTensor, external: &mut External) -> Result<Numbers, String> {
    let sides = sides(&tensor.dims)?;
    let count = sides.iter().try_fold(1usize, |count, side| count.checked_mul(*side));
    let count = count.filter(|count| count.checked_mul(8).is_some());
    let count = count.ok_or_else(|| format!("the sides {} are too long", few(&tensor.dims)))?;
    match tensor.data_type {
        FLOAT => {
            let values = match &tensor.float_data {
                stored if stored.is_empty() => {
                    let word = |word: &[u8; 4]| f32::from_le_bytes(*word);
                    raw(tensor, count, external)?.as_chunks().0.iter().map(word).collect()
                }
                stored => check_count(stored.clone(), count)?,
            };
            let shaped = Tensor::from_shape_vec(IxDyn(&sides), values);
            shaped.map(Numbers::Floats).map_err(|error| error.to_string())
        }
        INT64 => {
            let values = match &tensor.int64_data {
                stored if stored.is_empty() => {
                    let word = |word: &[u8; 8]| i64::from_le_bytes(*word);
                    raw(tensor, count, external)?.as_chunks().0.iter().map(word).collect()
                }
                stored => check_count(stored.clone(), count)?,
            };
            Ok(Numbers::Integers(sides, values))
        }
        other => Err(format!(
            "expected values of type FLOAT (1) or INT64 (7), found type {other}; convert the model to \
             float32"
        )),
    }
}

fn raw(tensor: &FileTensor, count: usize, external: &mut External) -> Result<Bytes, String> {
    let width = if tensor.data_type == FLOAT { 4 } else { 8 };
    if tensor.data_location == EXTERNAL {
        return external.read(tensor, (count * width) as u64).map(Bytes::from);
    }
    let found = tensor.raw_data.len();
    if found == count * width {
        Ok(tensor.raw_data.clone())
    } else {
        let sides = few(&tensor.dims);
        Err(format!("expected {} bytes for the sides {sides}, found {found}", count * width))
    }
}

fn check_count<T>(values: Vec<T>, count: usize) -> Result<Vec<T>, String> {
    match values.len() {
        found if found == count => Ok(values),
        found => Err(format!("expected {count} values, found {found}")),
    }
}

/// The sides of a tensor, none of which may be negative.
fn sides(dims: &[i64]) -> Result<Vec<usize>, String> {
    let sides: Option<Vec<usize>> = dims.iter().map(|side| usize::try_from(*side).ok()).collect();
    // Nothing here has more axes than a kernel, and a few in front that are 1.
    let sides = sides.filter(|sides| sides.len() <= 8);
    sides.ok_or_else(|| format!("expected at most 8 sides of at least 0, found {}", few(dims)))
}

/// The first of some numbers, for a message.
pub(super) fn few<T: std::fmt::Debug>(numbers: &[T]) -> String {
    match numbers.len() {
        0..=8 => format!("{numbers:?}"),
        count => format!("{:?} and {} more", &numbers[..8], count - 8),
    }
}
