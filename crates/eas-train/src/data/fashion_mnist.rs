//! The embedded data set: 10,000 images of Fashion-MNIST's training split (Xiao et al. 2017; MIT
//! licence, see `assets/`), so that a first search needs no download.

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, ensure};
use eas_ir::{Built, Plugin, Shape, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::{Augment, DataOptions, DataPlugin, DataSource, Description, Labelled, names};

/// Filtered and deflated images; `assets/make_fashion_mnist_subset.py` describes the format. Classes
/// take turns, and the images for testing come last.
const PACKED: &[u8] = include_bytes!("../../assets/fashion_mnist_subset.bin");
const TRAINING: Part = Part {
    first: 0,
    count: 8000,
    checksum: "099b4d7a61c0f81be8da819c247923b0f729ae811da82fefbf1265ec432304e4",
};
const TESTING: Part = Part {
    first: 8000,
    count: 2000,
    checksum: "88d041b27ba6d78e871605932a2571872bffd1b4539c6a848c22348022496e6d",
};

const SIDE: usize = 28;
const PIXELS: usize = SIDE * SIDE;
const SHAPE: Shape = Shape::Image { channels: 1, height: SIDE, width: SIDE };
pub(super) const CLASSES: [&str; 10] = [
    "t_shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
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
        let augment = Augment { pad_crop: 2, ..Augment::default() };
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
    fn licence(&self) -> &str {
        "MIT (Zalando SE)"
    }

    fn options(&self) -> DataOptions {
        DataOptions { validation: self.validation, train: self.train, augment: self.augment }
    }

    fn path(&self) -> Option<&Path> {
        None
    }

    fn describe(&self, _: &Path) -> anyhow::Result<Description> {
        let (images, test_images) = (TRAINING.count, TESTING.count);
        Ok(Description { shape: SHAPE, classes: names(&CLASSES), images, test_images })
    }

    fn train(&self, _: &Path) -> anyhow::Result<Labelled> {
        TRAINING.read(PACKED)
    }

    fn test(&self, _: &Path) -> anyhow::Result<Labelled> {
        TESTING.read(PACKED)
    }
}

/// A run of the packed images.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: usize,
    count: usize,
    /// BLAKE3 of the unpacked images.
    checksum: &'static str,
}

impl Part {
    /// Unpacks these images alone; nothing behind them is looked at.
    fn read(&self, packed: &[u8]) -> anyhow::Result<Labelled> {
        let mut pixels = vec![0; self.count * PIXELS];
        let mut unpacked = flate2::read::DeflateDecoder::new(packed);
        let before = (self.first * PIXELS) as u64;
        io::copy(&mut (&mut unpacked).take(before), &mut io::sink())
            .and_then(|_| unpacked.read_exact(&mut pixels))
            .context("the embedded images of Fashion-MNIST are damaged")?;
        pixels.chunks_exact_mut(PIXELS).for_each(unfilter);
        let (found, expected) = (blake3::hash(&pixels).to_hex(), self.checksum);
        ensure!(
            found.as_str() == expected,
            "the embedded images of Fashion-MNIST are damaged: expected checksum {expected}, found {found}"
        );
        let images = self.first..self.first + self.count;
        let labels = images.map(|image| (image % CLASSES.len()) as u8).collect();
        Labelled::new(SHAPE, names(&CLASSES), pixels, labels)
    }
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_1000_images_of_each_class_and_none_occurs_twice() {
        let (train, test) = (TRAINING.read(PACKED).unwrap(), TESTING.read(PACKED).unwrap());
        assert_eq!(train.class_counts(), [800; 10]);
        assert_eq!(test.class_counts(), [200; 10]);
        let all = (0..8000).map(|i| train.image(i)).chain((0..2000).map(|i| test.image(i)));
        assert_eq!(all.collect::<HashSet<_>>().len(), 10_000);
    }

    #[test]
    fn each_class_shows_what_its_name_says() {
        // Mean brightness, and that of the top and the bottom quarter: trousers are dark, sandals
        // darkest, pullovers bright; boots fill the bottom and leave the top empty.
        let train = TRAINING.read(PACKED).unwrap();
        let mut mean = [[0.0f64; 3]; 10];
        for index in 0..train.len() {
            let (image, mean) = (train.image(index), &mut mean[train.label(index)]);
            let parts = [0..PIXELS, 0..PIXELS / 4, PIXELS * 3 / 4..PIXELS];
            for (part, mean) in parts.into_iter().zip(mean) {
                let count = part.len() as f64 * 800.0;
                *mean += image[part].iter().map(|value| f64::from(*value)).sum::<f64>() / count;
            }
        }
        let [_, trouser, pullover, _, coat, sandal, _, sneaker, _, boot] = mean;
        assert!(sandal[0] < 40.0 && sneaker[0] < 50.0, "{mean:?}");
        assert!(trouser[0] < 70.0 && pullover[0] > 90.0 && coat[0] > 90.0, "{mean:?}");
        assert!(boot[2] > 2.0 * boot[1], "{mean:?}");
    }

    #[test]
    fn training_images_are_read_without_the_test_images_and_damage_is_noticed() {
        // About the share of the file that the training images take.
        let training_alone = &PACKED[..PACKED.len() * 81 / 100];
        assert_eq!(TRAINING.read(training_alone).unwrap().len(), 8000);
        let error = format!("{:#}", TESTING.read(training_alone).unwrap_err());
        assert!(error.starts_with("the embedded images of Fashion-MNIST are damaged"), "{error}");
        let mut damaged = PACKED.to_vec();
        damaged[1_000_000] ^= 1;
        let error = format!("{:#}", TRAINING.read(&damaged).unwrap_err());
        assert!(error.starts_with("the embedded images of Fashion-MNIST are damaged"), "{error}");
    }
}
