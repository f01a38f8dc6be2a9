//! The IDX format (LeCun, Cortes and Burges 1998) of MNIST and its family: a header of big-endian
//! numbers, then u8 values; plain or compressed (`.gz`).

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use eas_ir::{Plugin, Shape};
use flate2::read::GzDecoder;

use super::fashion_mnist::CLASSES as CLOTHES;
use super::files::{self, MOST_PIXELS, Stream, open, product};
use super::{
    Augment, DataOptions, DataPlugin, DataSource, Description, Labelled, Mirror, names, resolve,
};

const TRAINING: [&str; 2] = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];
const TESTING: [&str; 2] = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
/// A data set of four IDX files.
#[derive(Clone, Debug, PartialEq)]
struct Idx {
    path: PathBuf,
    options: DataOptions,
    /// What is said where its files are missing.
    advice: &'static str,
    /// Folders within `path` where its files may be.
    folders: &'static [&'static str],
    /// Without any, a class for each number up to the largest label of the training images.
    classes: &'static [&'static str],
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "mnist",
        "MNIST, handwritten digits, from its four IDX files",
        r#"path = "data"  # the folder of the files, plain or .gz, or the one that holds it as mnist; default: $EAS_DATA, or where eas data fetch puts it
validation = 10000  # training images held out to compare networks on
# train = 50000  # training images used; all that are left if not given
augment = { pad_crop = 2, mirror = false }  # shift by up to 2 pixels; mirror (digits have a left and a right)
"#,
        |options| {
            let augment = Augment { pad_crop: 2, ..Augment::NONE };
            files::build(options, 10_000, augment, |path, options| {
                let (folders, classes) = (&["mnist", "MNIST/raw", ""], &DIGITS);
                Idx { path, options, advice: "; `eas data fetch mnist` fetches them", folders, classes }
            })
        },
    ))
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "fashion_mnist",
        "Fashion-MNIST, clothes, from its four IDX files",
        r#"path = "data"  # the folder of the files, plain or .gz, or the one that holds it as fashion_mnist; default: $EAS_DATA, or where eas data fetch puts it
validation = 10000  # training images held out to compare networks on
# train = 50000  # training images used; all that are left if not given
augment = { pad_crop = 2, mirror = true }  # shift by up to 2 pixels, mirror
"#,
        |options| {
            let augment = Augment { pad_crop: 2, mirror: Mirror::Random, ..Augment::NONE };
            files::build(options, 10_000, augment, |path, options| {
                let folders = &["fashion_mnist", "fashion-mnist", "FashionMNIST/raw", ""];
                let advice = "; `eas data fetch fashion_mnist` fetches them";
                Idx { path, options, advice, folders, classes: &CLOTHES }
            })
        },
    ))
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "idx",
        "any images in four IDX files named as MNIST's",
        r#"path = "data"  # the folder of the files, plain or .gz; default: $EAS_DATA
validation = 1000  # training images held out to compare networks on
# train = 50000  # training images used; all that are left if not given
augment = { pad_crop = 0, mirror = false }  # shift by up to so many pixels; mirror
"#,
        |options| {
            files::build(options, 1000, Augment::NONE, |path, options| {
                Idx { path, options, advice: "", folders: &[""], classes: &[] }
            })
        },
    ))
}

impl DataSource for Idx {
    fn options(&self) -> DataOptions {
        self.options
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn describe(&self, directory: &Path) -> anyhow::Result<Description> {
        let [images, _] = self.files(directory, &TRAINING)?;
        let (shape, images) = images_header(&mut stream(&images)?)?;
        let classes = self.classes(directory)?;
        let test_images = match self.files(directory, &TESTING) {
            Ok([images, _]) => images_header(&mut stream(&images)?)?.1 as usize,
            Err(_) => 0,
        };
        Ok(Description { shape, classes, images: images as usize, test_images })
    }

    fn train(&self, directory: &Path) -> anyhow::Result<Labelled> {
        self.read(directory, &TRAINING)
    }

    fn test(&self, directory: &Path) -> anyhow::Result<Labelled> {
        self.read(directory, &TESTING)
    }
}

impl Idx {
    fn files(&self, directory: &Path, wanted: &[&str; 2]) -> anyhow::Result<[PathBuf; 2]> {
        let path = resolve(directory, &self.path);
        for folder in self.folders {
            let folder = path.join(folder);
            let find = |name: &str| {
                let names = [name.to_owned(), format!("{name}.gz")];
                names.iter().map(|name| folder.join(name)).find(|file| file.exists())
            };
            if let (Some(images), Some(labels)) = (find(wanted[0]), find(wanted[1])) {
                return Ok([images, labels]);
            }
        }
        bail!(
            "{}: expected the files {} and {}, plain or with .gz, found {}{}",
            path.display(),
            wanted[0],
            wanted[1],
            if path.exists() { "not both of them" } else { "nothing there" },
            self.advice
        )
    }

    fn classes(&self, directory: &Path) -> anyhow::Result<Vec<String>> {
        if !self.classes.is_empty() {
            return Ok(names(self.classes));
        }
        let [_, labels] = self.files(directory, &TRAINING)?;
        let last = read_labels(stream(&labels)?, usize::MAX)?.into_iter().max().unwrap_or(0);
        Ok((0..=last).map(|class| class.to_string()).collect())
    }

    fn read(&self, directory: &Path, wanted: &[&str; 2]) -> anyhow::Result<Labelled> {
        let [images, labels] = self.files(directory, wanted)?;
        let classes = self.classes(directory)?;
        let (shape, pixels) = read_images(stream(&images)?)?;
        let found = read_labels(stream(&labels)?, classes.len())?;
        let Shape::Image { height, width, .. } = shape else { unreachable!("images have it") };
        let count = pixels.len() / (height * width);
        ensure!(
            count == found.len(),
            "{}: expected {count} labels, as many as images, found {}",
            labels.display(),
            found.len()
        );
        Labelled::new(shape, classes, pixels, found)
    }
}

fn stream(path: &Path) -> anyhow::Result<Stream<Box<dyn BufRead>>> {
    let file = open(path, "a file in the IDX format")?;
    let compressed = path.extension().is_some_and(|extension| extension == "gz");
    let file: Box<dyn BufRead> =
        if compressed { Box::new(BufReader::new(GzDecoder::new(file))) } else { Box::new(file) };
    Ok(Stream::new(file, path.display().to_string()))
}

/// Reads a header of u8 values with this many dimensions.
fn header<R: Read>(from: &mut Stream<R>, dimensions: u8) -> anyhow::Result<Vec<u64>> {
    let here = from.here();
    let magic: [u8; 4] = from.array("a header")?;
    ensure!(
        magic == [0, 0, 8, dimensions],
        "{here}: expected 0, 0, 8, {dimensions}, the header of u8 values in {dimensions} dimensions, \
         found {magic:?}"
    );
    (0..dimensions).map(|_| Ok(u32::from_be_bytes(from.array("a size")?).into())).collect()
}

/// The shape of an image, and how many there are.
fn images_header<R: Read>(from: &mut Stream<R>) -> anyhow::Result<(Shape, u64)> {
    let sizes = header(from, 3)?;
    let here = from.here();
    let fits = !sizes.contains(&0) && product(&sizes, MOST_PIXELS).is_some();
    ensure!(fits, "{here}: expected 1 to {MOST_PIXELS} pixels in all, found sizes {sizes:?}");
    let (height, width) = (sizes[1] as usize, sizes[2] as usize);
    Ok((Shape::Image { channels: 1, height, width }, sizes[0]))
}

/// Images, `[count, height, width]`.
pub(super) fn read_images<R: BufRead>(mut from: Stream<R>) -> anyhow::Result<(Shape, Vec<u8>)> {
    let (shape, count) = images_header(&mut from)?;
    let Shape::Image { height, width, .. } = shape else { unreachable!("images have it") };
    let pixels = from.bytes(count * (height * width) as u64, "pixels")?;
    ensure!(from.is_at_end()?, "{}: expected the end, found more", from.here());
    Ok((shape, pixels))
}

/// Labels below a number of classes.
pub(super) fn read_labels<R: BufRead>(
    mut from: Stream<R>,
    classes: usize,
) -> anyhow::Result<Vec<u8>> {
    let count = header(&mut from, 1)?[0];
    let start = from.at();
    let labels = from.bytes(count, "labels")?;
    if let Some(at) = labels.iter().position(|label| usize::from(*label) >= classes) {
        let (place, label) = (from.at_byte(start + at as u64), labels[at]);
        bail!("{place}: expected a label below {classes}, found {label}");
    }
    ensure!(from.is_at_end()?, "{}: expected the end, found more", from.here());
    Ok(labels)
}
