//! Numeric arrays of MATLAB's level 5 MAT-files (The MathWorks, *MAT-File Format*), little-endian,
//! compressed or not.
//!
//! A file is a header of 128 bytes and then elements: a tag of type and size, and data. An array is
//! an element of elements: flags, dimensions, name, values.

use std::io::{BufRead, Read};

use anyhow::{bail, ensure};
use flate2::read::ZlibDecoder;

use super::files::Stream;

const COMPRESSED: u32 = 15;
const MATRIX: u32 = 14;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const INT8: u32 = 1;
/// More than any array of a data set has.
const MOST_DIMENSIONS: u64 = 8;
const LONGEST_NAME: u64 = 63;

/// What is known of an array before its values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) dimensions: Vec<u64>,
    /// How each value is stored.
    kind: u32,
    /// Bytes of all values.
    bytes: u64,
    /// The values, where they are so few that they are within the tag.
    within: Option<Vec<u8>>,
}

impl Header {
    /// Whether values are u8.
    pub(super) fn is_u8(&self) -> bool {
        self.kind == 2
    }
}

/// Finds the array of this name. `read` gets its header and the stream at its values, which
/// [`bytes`] and [`numbers`] read.
pub(super) fn find<R: BufRead, T>(
    mut file: Stream<R>,
    name: &str,
    read: impl FnOnce(&Header, &mut Stream<&mut dyn Read>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = file.here();
    let text = file.bytes(128, "a MAT-file's header")?;
    ensure!(
        text[124..] == [0, 1, b'I', b'M'],
        "{start}: expected a MAT-file of level 5, little-endian, found {}",
        if text.starts_with(b"MATLAB 7.3") { "version 7.3" } else { "another header" }
    );
    loop {
        let place = file.here();
        ensure!(!file.is_at_end()?, "{place}: expected an array `{name}`, found the end");
        let tag: [u8; 8] = file.array("a tag")?;
        let (kind, size) = (word(&tag[..4]), u64::from(word(&tag[4..])));
        let mut part = file.part(size);
        match kind {
            COMPRESSED => {
                let place = format!("{place}: unpacked");
                let mut unpacked = ZlibDecoder::new(&mut part);
                let mut inner = Stream::new(&mut unpacked as &mut dyn Read, place);
                let here = inner.here();
                let tag: [u8; 8] = inner.array("a tag")?;
                let kind = word(&tag[..4]);
                ensure!(kind == MATRIX, "{here}: expected an array, type 14, found type {kind}");
                if let Some(header) = look(&mut inner, name)? {
                    return read(&header, &mut inner);
                }
            }
            MATRIX => {
                let mut inner = Stream::new(&mut part as &mut dyn Read, format!("{place}: array"));
                if let Some(header) = look(&mut inner, name)? {
                    return read(&header, &mut inner);
                }
            }
            other => bail!("{place}: expected an array, type 14 or 15, found type {other}"),
        }
        let left = part.limit();
        let skipped = std::io::copy(&mut part, &mut std::io::sink())?;
        ensure!(
            skipped == left,
            "{place}: expected an element of {size} bytes, found the end after {}",
            size - left + skipped
        );
    }
}

/// Reads the header of an array and returns it if it has this name.
fn look(array: &mut Stream<&mut dyn Read>, name: &str) -> anyhow::Result<Option<Header>> {
    let flags = element(array, UINT32, 8, "flags")?;
    let here = array.here();
    let sizes = element(array, INT32, 4 * MOST_DIMENSIONS, "dimensions")?;
    let dimensions: Vec<u64> = sizes.chunks_exact(4).map(|size| word(size).into()).collect();
    ensure!(
        dimensions.len() >= 2,
        "{here}: expected at least two dimensions, found {dimensions:?}"
    );
    let found = element(array, INT8, LONGEST_NAME, "a name")?;
    let found = String::from_utf8_lossy(&found).into_owned();
    if found != name {
        return Ok(None);
    }
    let class = flags.first().copied().unwrap_or(0);
    // Classes 6 to 13 are numbers; others hold values of other forms.
    ensure!(
        (6..=13).contains(&class),
        "{here}: expected numbers in `{name}`, class 6 to 13, found class {class}"
    );
    let (kind, bytes, within) = tag(array)?;
    Ok(Some(Header { name: found, dimensions, kind, bytes, within }))
}

/// All values of an array, as they are stored; `most` bytes are too many.
pub(super) fn bytes(
    header: &Header,
    array: &mut Stream<&mut dyn Read>,
    most: u64,
) -> anyhow::Result<Vec<u8>> {
    let (here, Header { name, dimensions, bytes, .. }) = (array.here(), header);
    let count = super::files::product(dimensions, most);
    let expected = count.and_then(|count| count.checked_mul(size_of_value(header.kind)?));
    ensure!(
        expected == Some(*bytes) && *bytes <= most,
        "{here}: expected the values of `{name}`, {dimensions:?}, at most {most} bytes, found {bytes} \
         bytes"
    );
    match &header.within {
        Some(values) => Ok(values.clone()),
        None => array.bytes(*bytes, "values"),
    }
}

/// All values of an array, as numbers; more than `most` bytes are too many.
pub(super) fn numbers(
    header: &Header,
    array: &mut Stream<&mut dyn Read>,
    most: u64,
) -> anyhow::Result<Vec<f64>> {
    let bytes = bytes(header, array, most)?;
    let size = size_of_value(header.kind).unwrap_or(1) as usize;
    let number = |value: &[u8]| match (header.kind, value) {
        (1, [a]) => f64::from(*a as i8),
        (2, [a]) => f64::from(*a),
        (3, [a, b]) => f64::from(i16::from_le_bytes([*a, *b])),
        (4, [a, b]) => f64::from(u16::from_le_bytes([*a, *b])),
        (5, value) => f64::from(word(value) as i32),
        (6, value) => f64::from(word(value)),
        (7, value) => f64::from(f32::from_bits(word(value))),
        (_, value) => value.try_into().map_or(f64::NAN, f64::from_le_bytes),
    };
    Ok(bytes.chunks_exact(size).map(number).collect())
}

/// Bytes of a value of these types: i8 to u32, f32 and f64.
fn size_of_value(kind: u32) -> Option<u64> {
    match kind {
        1 | 2 => Some(1),
        3 | 4 => Some(2),
        5..=7 => Some(4),
        9 => Some(8),
        _ => None,
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A tag: the type and the bytes of data, and the data themselves where they are within the tag.
fn tag(from: &mut Stream<&mut dyn Read>) -> anyhow::Result<(u32, u64, Option<Vec<u8>>)> {
    let here = from.here();
    let tag: [u8; 8] = from.array("a tag")?;
    let (kind, size) = (word(&tag[..4]), word(&tag[4..]));
    let small = kind >> 16;
    if small == 0 {
        return Ok((kind, size.into(), None));
    }
    ensure!(small <= 4, "{here}: expected at most 4 bytes within a tag, found {small}");
    Ok((kind & 0xffff, small.into(), Some(tag[4..4 + small as usize].to_vec())))
}

/// A whole element of this type, of at most `most` bytes.
fn element(
    from: &mut Stream<&mut dyn Read>,
    expected: u32,
    most: u64,
    what: &str,
) -> anyhow::Result<Vec<u8>> {
    let here = from.here();
    let (kind, size, within) = tag(from)?;
    ensure!(
        kind == expected && size <= most,
        "{here}: expected {what}, type {expected} and at most {most} bytes, found type {kind} and \
         {size} bytes"
    );
    match within {
        Some(data) => Ok(data),
        None => {
            let data = from.bytes(size, what)?;
            // Elements begin at multiples of 8 bytes.
            from.skip(size.next_multiple_of(8) - size, "padding")?;
            Ok(data)
        }
    }
}
