//! The embedded data set: 10,000 images of Fashion-MNIST's training split (Xiao et al. 2017; MIT
//! licence, see `assets/`), so that a first search needs no download.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use eas_ir::{Built, Plugin, Shape, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::{Augment, DataOptions, DataPlugin, DataSource, Labelled};

/// Filtered and deflated images; `assets/make_fashion_mnist_subset.py` describes the format.
const PACKED: &[u8] = include_bytes!("../../assets/fashion_mnist_subset.bin");
/// BLAKE3 of the unpacked images.
const CHECKSUM: &str = "61a57a23ad14ed44fb16c864c9f531661fc9a9be952d5476a9e5f4e414c70b78";

const SIDE: usize = 28;
const PIXELS: usize = SIDE * SIDE;
const PER_CLASS: usize = 1000;
/// Of each class; the rest are for testing.
const TRAINING_PER_CLASS: usize = 800;
const CLASSES: [&str; 10] = [
    "t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle_boot",
];

/// The embedded subset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FashionMnistSubset {
    validation: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    train: Option<usize>,
    augment: Augment,
}

impl Default for FashionMnistSubset {
    fn default() -> Self {
        let augment = Augment { pad_crop: 2, mirror: true };
        FashionMnistSubset { validation: 2000, train: None, augment }
    }
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "fashion_mnist_subset",
        "10,000 images of Fashion-MNIST, built in",
        r#"validation = 2000  # of the 8,000 training images, held out to compare networks on
# train = 6000  # training images used; all that are left if not given
augment = { pad_crop = 2, mirror = true }  # shift by up to 2 pixels, mirror
"#,
        |options| {
            let data = parse_options::<FashionMnistSubset>(options)?;
            Ok(Built { options: resolved_options(&data)?, implementation: Box::new(data) })
        },
    ))
}

impl DataSource for FashionMnistSubset {
    fn shape(&self) -> Shape {
        Shape::Image { channels: 1, height: SIDE, width: SIDE }
    }

    fn classes(&self) -> Vec<String> {
        CLASSES.map(str::to_owned).to_vec()
    }

    fn options(&self) -> DataOptions {
        DataOptions { validation: self.validation, train: self.train, augment: self.augment }
    }

    fn path(&self) -> Option<&Path> {
        None
    }

    fn train(&self, _: &Path) -> anyhow::Result<Labelled> {
        ranks(0..TRAINING_PER_CLASS)
    }

    fn test(&self, _: &Path) -> anyhow::Result<Labelled> {
        ranks(TRAINING_PER_CLASS..PER_CLASS)
    }
}

/// The images of these ranks within their classes.
fn ranks(range: std::ops::Range<usize>) -> anyhow::Result<Labelled> {
    let all = unpack()?;
    let (first, last) = (range.start * CLASSES.len(), range.end * CLASSES.len());
    let labels = (first..last).map(|index| (index % CLASSES.len()) as u8).collect();
    Labelled::new(all[first * PIXELS..last * PIXELS].to_vec(), labels, (1, SIDE, SIDE))
}

/// All images, one after another: rank 0 of every class, rank 1 of every class, …
fn unpack() -> anyhow::Result<Vec<u8>> {
    let expected = CLASSES.len() * PER_CLASS * PIXELS;
    let mut images = Vec::with_capacity(expected);
    flate2::read::DeflateDecoder::new(PACKED)
        .take(expected as u64 + 1)
        .read_to_end(&mut images)
        .context("the embedded images are damaged")?;
    ensure!(images.len() == expected, "the embedded images are damaged");
    images.chunks_exact_mut(PIXELS).for_each(unfilter);
    let found = blake3::hash(&images).to_hex();
    ensure!(found.as_str() == CHECKSUM, "the embedded images are damaged: checksum {found}");
    Ok(images)
}

/// Undoes the Paeth filter (PNG specification, section 9.4) of one image in place.
fn unfilter(image: &mut [u8]) {
    for row in 0..SIDE {
        for column in 0..SIDE {
            let at = row * SIDE + column;
            let left = if column > 0 { image[at - 1] } else { 0 };
            let up = if row > 0 { image[at - SIDE] } else { 0 };
            let corner = if row > 0 && column > 0 { image[at - SIDE - 1] } else { 0 };
            image[at] = image[at].wrapping_add(paeth(left, up, corner));
        }
    }
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let guess = i16::from(left) + i16::from(up) - i16::from(corner);
    let distance = |value: u8| (guess - i16::from(value)).abs();
    if distance(left) <= distance(up) && distance(left) <= distance(corner) {
        left
    } else if distance(up) <= distance(corner) {
        up
    } else {
        corner
    }
}
