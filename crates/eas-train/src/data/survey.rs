//! A first look at a folder of images: what they are like, from their headers.

use std::path::Path;

use anyhow::Context;
use image::{ImageDecoder, ImageReader};

use super::files::open;
use super::folder::list;
use super::groups::Groups;

/// Images whose headers are read, at most.
const SAMPLE: usize = 200;

/// What images in a folder for each class are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// How many there are.
    pub images: usize,
    /// The median of their shorter sides, in pixels, of a sample.
    pub side: usize,
    /// Whether all of the sample are grey.
    pub grey: bool,
}

/// Looks at a folder that holds `train/CLASS/…`, or `CLASS/…` alone; nothing where there are no images.
///
/// # Errors
/// A folder or a file that can't be read, or is no image.
pub fn survey(folder: &Path) -> anyhow::Result<Option<Survey>> {
    let within = if folder.join("train").is_dir() { "train" } else { "" };
    let files = list(folder, within, &Groups::Own)?;
    let every = files.len().div_ceil(SAMPLE).max(1);
    let (mut sides, mut grey) = (Vec::new(), true);
    for file in files.iter().step_by(every) {
        let shown = || format!("{}: expected a PNG, JPEG or WebP image", file.path.display());
        let reader = ImageReader::new(open(&file.path, "an image")?).with_guessed_format()?;
        let decoder = reader.into_decoder().with_context(shown)?;
        let (width, height) = decoder.dimensions();
        sides.push(width.min(height) as usize);
        grey &= !decoder.color_type().has_color();
    }
    sides.sort_unstable();
    let side = sides.get(sides.len() / 2);
    Ok(side.map(|side| Survey { images: files.len(), side: *side, grey }))
}
