//! NumPy's archives of arrays (`.npz`, Harris et al. 2020; NEP 1 is the format of each array).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_ir::{Built, Plugin, Shape, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::files::{MOST_PIXELS, Stream, open, product};
use super::options::AugmentOptions;
use super::{Augment, DataOptions, DataPlugin, DataSource, Description, Labelled, resolve};

/// Longest header of an array that is read; NumPy writes some 100 bytes.
const LONGEST_HEADER: u64 = 10_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Npz {
    path: PathBuf,
    #[serde(default = "default_training")]
    training: [String; 2],
    #[serde(default = "default_testing")]
    testing: [String; 2],
    #[serde(default)]
    channels: Channels,
    #[serde(default = "default_validation")]
    validation: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train: Option<usize>,
    #[serde(default)]
    augment: AugmentOptions,
}

/// Where images have their channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Channels {
    /// `[count, height, width, channels]`.
    #[default]
    Last,
    /// `[count, channels, height, width]`.
    First,
}

fn default_training() -> [String; 2] {
    ["x_train", "y_train"].map(str::to_owned)
}

fn default_testing() -> [String; 2] {
    ["x_test", "y_test"].map(str::to_owned)
}

fn default_validation() -> usize {
    1000
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "npz",
        "images and labels in a NumPy .npz file",
        r#"path = "data"  # the file; images are u8, [count, height, width] or with channels, labels whole numbers
training = ["x_train", "y_train"]  # names of the arrays to train and validate on, images and labels
testing = ["x_test", "y_test"]  # names of the arrays to test on
channels = "last"  # the axis of the channels: "last", or "first" after the count
validation = 1000  # training images held out to compare networks on
# train = 50000  # training images used; all that are left if not given
augment = { pad_crop = 0, mirror = false }  # shift by up to so many pixels; mirror
"#,
        |options| {
            let mut data = parse_options::<Npz>(options)?;
            data.augment = data.augment.or(Augment::NONE).into();
            Ok(Built { options: resolved_options(&data)?, implementation: Box::new(data) })
        },
    ))
}

impl DataSource for Npz {
    fn options(&self) -> DataOptions {
        let augment = self.augment.or(Augment::NONE);
        DataOptions { validation: self.validation, train: self.train, augment }
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn describe(&self, directory: &Path) -> anyhow::Result<Description> {
        let path = resolve(directory, &self.path);
        let images =
            |name: &str| self.array(&path, name, |from| header(from)?.images(self.channels));
        let (shape, count) = images(&self.training[0])?;
        let archive = archive(&path)?;
        let is_there = |name: &String| archive.index_for_name(&file_of(name)).is_some();
        let is_tested = self.testing.iter().all(is_there);
        let test_count = if is_tested { images(&self.testing[0])?.1 } else { 0 };
        let (images, test_images) = (count as usize, test_count as usize);
        Ok(Description { shape, classes: self.classes(&path)?, images, test_images })
    }

    fn train(&self, directory: &Path) -> anyhow::Result<Labelled> {
        self.read(&resolve(directory, &self.path), &self.training)
    }

    fn test(&self, directory: &Path) -> anyhow::Result<Labelled> {
        self.read(&resolve(directory, &self.path), &self.testing)
    }
}

impl Npz {
    /// Reads one array of the file.
    fn array<T>(
        &self,
        path: &Path,
        name: &str,
        read: impl FnOnce(&mut Stream<&mut dyn BufRead>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let shown = path.display();
        let mut archive = archive(path)?;
        let mut entry = archive
            .by_name(&file_of(name))
            .with_context(|| format!("{shown}: expected an array `{name}`"))?;
        let mut entry = BufReader::new(&mut entry);
        read(&mut Stream::new(&mut entry as &mut dyn BufRead, format!("{shown}: {name}.npy")))
    }

    /// A class for each number up to the largest label of the training images.
    fn classes(&self, path: &Path) -> anyhow::Result<Vec<String>> {
        let last = self.array(path, &self.training[1], labels)?.into_iter().max().unwrap_or(0);
        Ok((0..=last).map(|class| class.to_string()).collect())
    }

    fn read(&self, path: &Path, names: &[String; 2]) -> anyhow::Result<Labelled> {
        let (shape, pixels) = self.array(path, &names[0], |from| images(from, self.channels))?;
        let labels = self.array(path, &names[1], labels)?;
        Labelled::new(shape, self.classes(path)?, pixels, labels).with_context(|| {
            format!("{}: arrays `{}` and `{}`", path.display(), names[0], names[1])
        })
    }
}

fn archive(path: &Path) -> anyhow::Result<zip::ZipArchive<BufReader<File>>> {
    let file = open(path, "a NumPy .npz file")?;
    let shown = path.display();
    zip::ZipArchive::new(file).with_context(|| format!("{shown}: expected a NumPy .npz file"))
}

/// The file in an archive that holds an array.
fn file_of(array: &str) -> String {
    format!("{array}.npy")
}

/// What an array's header says.
#[derive(Debug, PartialEq)]
struct Header {
    /// Place of the header, for a message.
    place: String,
    /// Type of the values, such as `|u1` or `<i8`.
    kind: String,
    shape: Vec<u64>,
}

impl Header {
    /// The shape of an image, and how many there are.
    fn images(&self, channels_at: Channels) -> anyhow::Result<(Shape, u64)> {
        let Header { place, kind, shape } = self;
        ensure!(kind == "|u1", "{place}: expected images of type |u1, found {kind}");
        let (count, size) = match (shape[..].as_ref(), channels_at) {
            ([count, height, width], _) => (*count, [1, *height, *width]),
            ([count, height, width, channels], Channels::Last)
            | ([count, channels, height, width], Channels::First) => {
                (*count, [*channels, *height, *width])
            }
            _ => bail!("{place}: expected images of 3 or 4 dimensions, found {shape:?}"),
        };
        let fits = !shape.contains(&0) && product(shape, MOST_PIXELS).is_some();
        ensure!(fits, "{place}: expected 1 to {MOST_PIXELS} pixels in all, found {shape:?}");
        let [channels, height, width] = size.map(|size| size as usize);
        let seem_first = channels > 4 && shape.len() == 4 && [1, 3].contains(&shape[1]);
        ensure!(
            channels_at == Channels::First || !seem_first,
            "{place}: expected images of [height, width, channels], found {:?}; where the channels \
             come first, say channels = \"first\"",
            &shape[1..]
        );
        Ok((Shape::Image { channels, height, width }, count))
    }
}

fn header(from: &mut Stream<&mut dyn BufRead>) -> anyhow::Result<Header> {
    let place = from.here();
    let magic: [u8; 8] = from.array("a header")?;
    ensure!(magic.starts_with(b"\x93NUMPY"), "{place}: expected a NumPy array");
    let length: u64 = match magic[6] {
        1 => u16::from_le_bytes(from.array("a header")?).into(),
        2 | 3 => u32::from_le_bytes(from.array("a header")?).into(),
        other => bail!("{place}: expected version 1 to 3, found {other}"),
    };
    ensure!(
        length <= LONGEST_HEADER,
        "{place}: expected a header of at most {LONGEST_HEADER} bytes, found {length}"
    );
    let text = from.bytes(length, "a header")?;
    let text = String::from_utf8_lossy(&text);
    // A Python dictionary of three keys, each value up to the next key or the end.
    let value = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let parse = || {
        let kind = value("descr")?.strip_prefix('\'')?.split_once('\'')?.0.to_owned();
        let sizes = value("shape")?.strip_prefix('(')?.split_once(')')?.0;
        let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape = sizes.map(|size| size.parse().ok()).collect::<Option<Vec<u64>>>()?;
        value("fortran_order")?.starts_with("False").then_some((kind, shape))
    };
    let (kind, shape) = parse().with_context(|| {
        format!("{place}: expected plain values in C order, found the header `{}`", text.trim())
    })?;
    Ok(Header { place, kind, shape })
}

/// Images, with their channels first.
pub(super) fn images(
    from: &mut Stream<&mut dyn BufRead>,
    channels: Channels,
) -> anyhow::Result<(Shape, Vec<u8>)> {
    let header = header(from)?;
    let (shape, count) = header.images(channels)?;
    let Shape::Image { channels: depth, height, width } = shape else {
        unreachable!("images have it")
    };
    let size = depth * height * width;
    let pixels = from.bytes(count * size as u64, "pixels")?;
    ends(from)?;
    if channels == Channels::First || depth == 1 {
        return Ok((shape, pixels));
    }
    let planes = pixels.chunks_exact(size).flat_map(|image| {
        (0..depth).flat_map(move |channel| image[channel..].iter().step_by(depth).copied())
    });
    Ok((shape, planes.collect()))
}

/// Reads up to the end, where an archive's sums are checked.
fn ends(from: &mut Stream<&mut dyn BufRead>) -> anyhow::Result<()> {
    ensure!(from.is_at_end()?, "{}: expected the end, found more", from.here());
    Ok(())
}

/// Labels from 0 to 255.
pub(super) fn labels(from: &mut Stream<&mut dyn BufRead>) -> anyhow::Result<Vec<u8>> {
    let Header { place, kind, shape } = header(from)?;
    let count = match shape[..] {
        [count] | [count, 1] if count <= MOST_PIXELS / 8 => count,
        _ => bail!("{place}: expected labels in one dimension, found {shape:?}"),
    };
    let size: usize = match kind.as_str() {
        "|u1" | "|i1" => 1,
        "<u2" | "<i2" => 2,
        "<u4" | "<i4" => 4,
        "<u8" | "<i8" => 8,
        _ => bail!("{place}: expected labels that are whole numbers, found type {kind}"),
    };
    let bytes = from.bytes(count * size as u64, "labels")?;
    ends(from)?;
    let mut labels = Vec::with_capacity(count as usize);
    for (image, label) in bytes.chunks_exact(size).enumerate() {
        // Little-endian: what is above the first byte must be 0.
        let signed = kind.ends_with("i1") && label[0] > 127;
        ensure!(
            label[1..].iter().all(|byte| *byte == 0) && !signed,
            "{place}: label of image {image}: expected 0 to 255, found another number"
        );
        labels.push(label[0]);
    }
    Ok(labels)
}
