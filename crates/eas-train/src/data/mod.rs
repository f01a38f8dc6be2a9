//! Data sets, splits, normalisation and augmentation.
//!
//! Images stay u8 until a batch is made. Data sets are plugins: `[data.NAME]` in a spec. The test
//! images are opened by a call of their own, so that a search never touches them.

mod batches;
mod cifar10;
mod fashion_mnist;
mod split;
mod synthetic;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::ensure;
use eas_ir::{DuplicatePlugin, Plugin, Registry, Shape};
use serde::{Deserialize, Serialize};

pub use batches::{Batches, calibration_images, normalise};
pub use split::{Split, TrainingData, normalisation_of, split};

/// Images and what they show.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// u8 values, `[count, channels, height, width]`.
    pixels: Arc<[u8]>,
    /// A class each, `[count]`.
    labels: Arc<[u8]>,
    channels: usize,
    height: usize,
    width: usize,
}

impl Labelled {
    /// Images of this shape; `pixels` are `[count, channels, height, width]`, `labels` a class each.
    ///
    /// # Errors
    /// Numbers of pixels and labels that don't fit.
    pub fn new(
        pixels: Vec<u8>,
        labels: Vec<u8>,
        (channels, height, width): (usize, usize, usize),
    ) -> anyhow::Result<Self> {
        let expected = labels.len() * channels * height * width;
        ensure!(
            pixels.len() == expected,
            "expected {expected} pixel values for {} images of {channels}x{height}x{width}, found {}",
            labels.len(),
            pixels.len()
        );
        let (pixels, labels) = (pixels.into(), labels.into());
        Ok(Labelled { pixels, labels, channels, height, width })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The shape of one image.
    pub fn shape(&self) -> Shape {
        Shape::Image { channels: self.channels, height: self.height, width: self.width }
    }

    /// One image, `[channels, height, width]`.
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.channels * self.height * self.width;
        &self.pixels[index * size..][..size]
    }

    /// What one image shows.
    pub fn label(&self, index: usize) -> usize {
        usize::from(self.labels[index])
    }
}

/// Random changes to training images (Cai et al. 2018, section 4: standard augmentation, "C10+").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Pixels of border from which a crop of the image's size is cut, at any of the offsets 0 to
    /// twice this; the border is the mean of the training images.
    pub pad_crop: usize,
    /// Whether each image is mirrored with probability ½.
    pub mirror: bool,
}

impl Default for Augment {
    fn default() -> Self {
        Augment { pad_crop: 4, mirror: true }
    }
}

/// What every data set lets a spec say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// Images held out of the training images to compare networks on, as many of each class.
    pub validation: usize,
    /// Training images that are used, as many of each class; without it, all that are left.
    pub train: Option<usize>,
    /// Augmentation of the training images.
    pub augment: Augment,
}

/// A data set.
pub trait DataSource: Debug + Send + Sync {
    /// The shape of an image.
    fn shape(&self) -> Shape;

    /// A name for each class.
    fn classes(&self) -> Vec<String>;

    /// What the spec says about its use.
    fn options(&self) -> DataOptions;

    /// Where its files are, if it reads any.
    fn path(&self) -> Option<&Path>;

    /// The images to train and to validate on. Relative paths start at `directory`.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    fn train(&self, directory: &Path) -> anyhow::Result<Labelled>;

    /// The images that only the final report may see.
    ///
    /// # Errors
    /// As [`DataSource::train`].
    fn test(&self, directory: &Path) -> anyhow::Result<Labelled>;
}

/// A registered data set: `inventory::submit! { DataPlugin(Plugin::new(..)) }`.
#[derive(Debug)]
pub struct DataPlugin(pub Plugin<dyn DataSource>);

inventory::collect!(DataPlugin);

/// Every linked data set.
///
/// # Errors
/// Two of one name.
pub fn data_sets() -> Result<Registry<dyn DataSource>, DuplicatePlugin> {
    let linked = inventory::iter::<DataPlugin>.into_iter().map(|plugin| &plugin.0);
    Registry::collect("data set", linked)
}

/// A path as a spec has it: relative ones start at `directory`.
fn resolve(directory: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { directory.to_owned() } else { directory.join(path) }
}
