//! What a spec says about the use of a data set.

use std::fmt;

use anyhow::ensure;
use eas_ir::Shape;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Description;

/// The largest parameter of mixup: the halves are nearly equal.
const MOST_MIXUP: f64 = 100.0;

/// Random changes to training images (Cai et al. 2018, section 4: standard augmentation, "C10+").
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "AugmentOptions", into = "AugmentOptions")]
pub struct Augment {
    /// Pixels of border from which a crop of the image's size is cut, at any of the offsets 0 to
    /// twice this in both directions. The border is the mean of the training images, which is 0
    /// once normalised, so that it tells a network nothing.
    pub pad_crop: usize,
    /// Which images are mirrored left to right.
    pub mirror: Mirror,
    /// Side of a square that is set to the mean, with its centre at any pixel (DeVries and Taylor
    /// 2017); 0 for none.
    pub cutout: usize,
    /// How much images are mixed (Zhang et al. 2018): each keeps a share drawn from the beta
    /// distribution of this parameter twice, and the next image of its batch has the rest; 0 for none.
    pub mixup: f64,
}

/// Which training images are mirrored left to right: `false`, `true` or `"alternating"` in a spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mirror {
    /// None.
    #[default]
    Off,
    /// Each with probability ½ in each epoch.
    Random,
    /// A random half in the first epoch, and the other half in the next, in turn, so that two epochs
    /// show each image both ways (Jordan 2024).
    Alternating,
}

impl Serialize for Mirror {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Mirror::Off => to.serialize_bool(false),
            Mirror::Random => to.serialize_bool(true),
            Mirror::Alternating => to.serialize_str("alternating"),
        }
    }
}

impl<'de> Deserialize<'de> for Mirror {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Mirror;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("true, false or \"alternating\"")
            }

            fn visit_bool<E>(self, on: bool) -> Result<Mirror, E> {
                Ok(if on { Mirror::Random } else { Mirror::Off })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Mirror, E> {
                match text {
                    "alternating" => Ok(Mirror::Alternating),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// Augmentation as a spec writes it: what isn't written is as the data set has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table such as { pad_crop = 4, mirror = true }"
)]
pub(super) struct AugmentOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_crop: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror: Option<Mirror>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cutout: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mixup: Option<f64>,
}

impl AugmentOptions {
    pub(super) fn or(self, defaults: Augment) -> Augment {
        Augment {
            pad_crop: self.pad_crop.unwrap_or(defaults.pad_crop),
            mirror: self.mirror.unwrap_or(defaults.mirror),
            cutout: self.cutout.unwrap_or(defaults.cutout),
            mixup: self.mixup.unwrap_or(defaults.mixup),
        }
    }
}

impl From<AugmentOptions> for Augment {
    fn from(written: AugmentOptions) -> Augment {
        written.or(Augment::default())
    }
}

impl From<Augment> for AugmentOptions {
    fn from(augment: Augment) -> AugmentOptions {
        // Written only where they are on: a plan without them has one text.
        let cutout = (augment.cutout > 0).then_some(augment.cutout);
        let mixup = (augment.mixup != 0.0).then_some(augment.mixup);
        let (pad_crop, mirror) = (Some(augment.pad_crop), Some(augment.mirror));
        AugmentOptions { pad_crop, mirror, cutout, mixup }
    }
}

impl Augment {
    /// Images as they are.
    pub const NONE: Augment = Augment { pad_crop: 0, mirror: Mirror::Off, cutout: 0, mixup: 0.0 };
}

impl Default for Augment {
    fn default() -> Self {
        Augment { pad_crop: 4, mirror: Mirror::Random, ..Augment::NONE }
    }
}

/// What every data set lets a spec say.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// More images asked for than there are, a crop that may miss the image, a cutout larger than it, or
    /// a distribution that there isn't.
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
        ensure!(
            (0.0..=MOST_MIXUP).contains(&augment.mixup),
            "augment.mixup = {}: expected a number from 0 to {MOST_MIXUP}",
            augment.mixup
        );
        if let Shape::Image { height, width, .. } = data.shape {
            let side = height.min(width);
            ensure!(
                augment.pad_crop < side,
                "augment.pad_crop = {}: expected less than {side}, the shorter side of the images",
                augment.pad_crop
            );
            ensure!(
                augment.cutout <= height.max(width),
                "augment.cutout = {}: expected at most {}, the longer side of the images",
                augment.cutout,
                height.max(width)
            );
        }
        Ok(())
    }
}
