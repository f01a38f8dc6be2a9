//! What a spec says about the use of a data set.

use anyhow::ensure;
use eas_ir::Shape;
use serde::{Deserialize, Serialize};

use super::Description;

/// Random changes to training images (Cai et al. 2018, section 4: standard augmentation, "C10+").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Pixels of border from which a crop of the image's size is cut, at any of the offsets 0 to
    /// twice this in both directions. The border is the mean of the training images, which is 0
    /// once normalised, so that it tells a network nothing.
    pub pad_crop: usize,
    /// Whether each image is mirrored left to right with probability ½.
    pub mirror: bool,
}

impl Augment {
    /// Images as they are.
    pub const NONE: Augment = Augment { pad_crop: 0, mirror: false };
}

impl Default for Augment {
    fn default() -> Self {
        Augment { pad_crop: 4, mirror: true }
    }
}

/// What every data set lets a spec say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// Images held out of the training images to compare networks on, of each class in proportion.
    pub validation: usize,
    /// Training images that are used, of each class in proportion; without it, all that are left.
    pub train: Option<usize>,
    /// Augmentation of the training images.
    pub augment: Augment,
}

impl DataOptions {
    /// Whether a data set can be used so.
    ///
    /// # Errors
    /// More images asked for than there are, or a crop that may miss the image.
    pub fn check(&self, data: &Description) -> anyhow::Result<()> {
        let DataOptions { validation, train, augment } = *self;
        let all = data.images;
        ensure!(
            validation < all,
            "validation = {validation}: expected fewer than the {all} images there are"
        );
        let left = all - validation;
        if let Some(train) = train {
            ensure!(
                (1..=left).contains(&train),
                "train = {train}: expected 1 to the {left} images that validation = {validation} leaves"
            );
        }
        if let Shape::Image { height, width, .. } = data.shape {
            let side = height.min(width);
            ensure!(
                augment.pad_crop < side,
                "augment.pad_crop = {}: expected less than {side}, the shorter side of the images",
                augment.pad_crop
            );
        }
        Ok(())
    }
}
