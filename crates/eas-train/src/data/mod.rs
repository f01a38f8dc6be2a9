//! Data sets, splits, normalisation and augmentation.
//!
//! Images stay u8 until a batch is made. Data sets are plugins: `[data.NAME]` in a spec. The test
//! images are opened by a call of their own, so that a search never touches them.

mod batches;
mod cifar;
mod fashion_mnist;
mod files;
mod folder;
#[cfg(test)]
mod formats;
mod groups;
mod idx;
mod image_file;
mod labelled;
#[cfg(test)]
mod laws;
mod mat;
mod mixup;
mod npz;
mod options;
mod placement;
mod sheet;
mod split;
mod survey;
mod svhn;
mod synthetic;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use eas_ir::{DuplicatePlugin, Plugin, Registry, Shape};

pub use batches::{Batches, Drawn, calibration_images, normalise};
pub use files::cache_folder;
pub use image_file::{image_bytes, image_of, images_in, read_image};
pub use labelled::Labelled;
pub use options::{Augment, DataOptions, Mirror};
#[cfg(feature = "cuda")]
pub(crate) use placement::Placement;
pub(crate) use placement::{Scale, place};
pub use sheet::contact_sheet;
pub use split::{Split, TrainingData, normalisation_of, shared_images, split};
pub use survey::{Survey, survey};

/// What is known of a data set before its images are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The shape of an image.
    pub shape: Shape,
    /// A name for each class.
    pub classes: Vec<String>,
    /// Images to train and to validate on.
    pub images: usize,
    /// Images to test on; none where there is no part for that.
    pub test_images: usize,
}

/// A data set.
pub trait DataSource: Debug + Send + Sync {
    /// What the spec says about its use.
    fn options(&self) -> DataOptions;

    /// What its images may be used for, as far as it is known: a licence, or what their authors say.
    fn licence(&self) -> &str {
        "not known to EAS"
    }

    /// Where its files are, if it reads any.
    fn path(&self) -> Option<&Path>;

    /// What its images are like, without reading them. Relative paths start at `directory`.
    ///
    /// # Errors
    /// Files that are missing or plainly wrong.
    fn describe(&self, directory: &Path) -> anyhow::Result<Description>;

    /// The images to train and to validate on. Relative paths start at `directory`.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    fn train(&self, directory: &Path) -> anyhow::Result<Labelled>;

    /// The images that only the final report may see. Relative paths start at `directory`.
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

/// Owned names of classes.
fn names(classes: &[&str]) -> Vec<String> {
    classes.iter().map(|name| (*name).to_owned()).collect()
}
