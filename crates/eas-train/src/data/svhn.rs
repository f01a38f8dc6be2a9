//! Street View House Numbers, cropped digits (Netzer et al. 2011): MAT-files of `X`, `[height, width,
//! channels, count]` in column-major order, and `y`, in which 10 stands for the digit 0.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_ir::{Built, Plugin, Shape, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::files::{MOST_PIXELS, Stream, open};
use super::mat;
use super::options::AugmentOptions;
use super::{Augment, DataOptions, DataPlugin, DataSource, Description, Labelled, names, resolve};

const SIDE: usize = 32;
const TESTING: &str = "test_32x32.mat";
const PIXELS: usize = 3 * SIDE * SIDE;
const SHAPE: Shape = Shape::Image { channels: 3, height: SIDE, width: SIDE };
const CLASSES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Svhn {
    path: PathBuf,
    #[serde(default)]
    extra: bool,
    #[serde(default = "default_validation")]
    validation: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train: Option<usize>,
    #[serde(default)]
    augment: AugmentOptions,
}

fn default_validation() -> usize {
    6000
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "svhn",
        "SVHN, house numbers, cropped digits, from their .mat files",
        r#"path = "data"  # the folder of train_32x32.mat and test_32x32.mat, or the one that holds it as svhn; default: $EAS_DATA, or where eas data fetch puts it
extra = false  # train on the 531,131 easier images of extra_32x32.mat too
validation = 6000  # training images held out to compare networks on
# train = 60000  # training images used; all that are left if not given
augment = { pad_crop = 0, mirror = false }  # shift by up to so many pixels; mirror (digits have a left and a right)
"#,
        |options| {
            let mut data = parse_options::<Svhn>(options)?;
            data.augment = data.augment.or(Augment::NONE).into();
            Ok(Built { options: resolved_options(&data)?, implementation: Box::new(data) })
        },
    ))
}

impl DataSource for Svhn {
    fn licence(&self) -> &str {
        "for non-commercial use only (Netzer et al. 2011)"
    }

    fn options(&self) -> DataOptions {
        let augment = self.augment.or(Augment::NONE);
        DataOptions { validation: self.validation, train: self.train, augment }
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn describe(&self, directory: &Path) -> anyhow::Result<Description> {
        let count_of = |path: &Path| {
            mat::find(stream(path)?, "X", |header, array| count(header, &array.here()))
        };
        let mut images = 0;
        for path in self.training(directory)? {
            images += count_of(&path)?;
        }
        let test = self.file(directory, TESTING).ok();
        let test_images = test.map_or(Ok(0), |path| count_of(&path))?;
        Ok(Description { shape: SHAPE, classes: names(&CLASSES), images, test_images })
    }

    fn train(&self, directory: &Path) -> anyhow::Result<Labelled> {
        read(&self.training(directory)?)
    }

    fn test(&self, directory: &Path) -> anyhow::Result<Labelled> {
        read(&[self.file(directory, TESTING)?])
    }
}

impl Svhn {
    fn training(&self, directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let names: &[&str] = &["train_32x32.mat", "extra_32x32.mat"];
        let names = if self.extra { names } else { &names[..1] };
        names.iter().map(|name| self.file(directory, name)).collect()
    }

    fn file(&self, directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let path = resolve(directory, &self.path);
        let places = [path.join("svhn").join(name), path.join(name)];
        places.into_iter().find(|file| file.exists()).with_context(|| {
            format!(
                "{}: expected {name}, \"format 2: cropped digits\" of \
                 http://ufldl.stanford.edu/housenumbers, found no such file; `eas data fetch svhn` \
                 fetches it",
                path.display()
            )
        })
    }
}

fn stream(path: &Path) -> anyhow::Result<Stream<impl BufRead>> {
    Ok(Stream::new(open(path, "a MAT-file of SVHN")?, path.display().to_string()))
}

/// How many images an array `X` has.
fn count(header: &mat::Header, here: &str) -> anyhow::Result<usize> {
    let (side, sizes) = (SIDE as u64, &header.dimensions);
    let (images, count) = match sizes[..] {
        // A single image has lost its last dimension.
        [height, width, channels] => ([height, width, channels], 1),
        [height, width, channels, count] => ([height, width, channels], count),
        _ => bail!("{here}: expected X to have 4 dimensions, found {sizes:?}"),
    };
    let most = MOST_PIXELS / PIXELS as u64;
    ensure!(
        images == [side, side, 3] && header.is_u8() && (1..=most).contains(&count),
        "{here}: expected X to be u8 values, [32, 32, 3, 1 to {most}], found {sizes:?}"
    );
    Ok(count as usize)
}

fn read(paths: &[PathBuf]) -> anyhow::Result<Labelled> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in paths {
        pixels.append(&mut images(stream(path)?)?);
        let count = (pixels.len() / PIXELS - labels.len()) as u64;
        labels.append(&mut digits(stream(path)?, count)?);
    }
    Labelled::new(SHAPE, names(&CLASSES), pixels, labels)
}

/// Images, `[count, channels, height, width]`.
pub(super) fn images(from: Stream<impl BufRead>) -> anyhow::Result<Vec<u8>> {
    mat::find(from, "X", |header, array| {
        count(header, &array.here())?;
        let mut pixels = mat::bytes(header, array, MOST_PIXELS)?;
        for plane in pixels.chunks_exact_mut(SIDE * SIDE) {
            for (row, column) in (0..SIDE).flat_map(|row| (0..row).map(move |column| (row, column)))
            {
                plane.swap(row * SIDE + column, column * SIDE + row);
            }
        }
        Ok(pixels)
    })
}

/// The digits of this many images.
pub(super) fn digits(from: Stream<impl BufRead>, count: u64) -> anyhow::Result<Vec<u8>> {
    mat::find(from, "y", |header, array| {
        let here = array.here();
        let dimensions = &header.dimensions;
        ensure!(
            dimensions[..] == [count, 1] || dimensions[..] == [1, count],
            "{here}: expected y to be [{count}, 1], as many labels as images, found {dimensions:?}"
        );
        let numbers = mat::numbers(header, array, 8 * count)?;
        let digit = |(image, label): (usize, &f64)| {
            let known = (1..=10).find(|known| f64::from(*known) == *label);
            let known = known.with_context(|| {
                format!("{here}: label of image {image}: expected 1 to 10, found {label}")
            })?;
            Ok((known % 10) as u8)
        };
        numbers.iter().enumerate().map(digit).collect()
    })
}
