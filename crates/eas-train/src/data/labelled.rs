//! Images and what they show, as u8 values.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use eas_ir::{Fit, Shape};

/// Images and what they show. A clone shares the images.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// u8 values, `[count, channels, height, width]`.
    pixels: Arc<Vec<u8>>,
    /// A class each, `[count]`.
    labels: Arc<Vec<u8>>,
    /// A name for each class.
    classes: Arc<Vec<String>>,
    /// A group each, `[count]`, where there are groups.
    groups: Option<Arc<Vec<u32>>>,
    /// How images of other sizes were brought to this one.
    fit: Fit,
    channels: usize,
    height: usize,
    width: usize,
}

impl Labelled {
    /// Images of this shape: `pixels` are `[count, channels, height, width]`, `labels` a place in
    /// `classes` each.
    ///
    /// # Errors
    /// A shape that isn't an image's, or of no pixels; numbers of pixels and labels that don't fit;
    /// a label without a class.
    pub fn new(
        shape: Shape,
        classes: Vec<String>,
        pixels: Vec<u8>,
        labels: Vec<u8>,
    ) -> anyhow::Result<Self> {
        let Shape::Image { channels, height, width } = shape else {
            bail!("expected the shape of an image, found {shape}")
        };
        let size = channels.checked_mul(height).and_then(|size| size.checked_mul(width));
        let size = size.filter(|size| *size > 0);
        let size =
            size.with_context(|| format!("expected images of some pixels, found {shape}"))?;
        ensure!(
            pixels.len().is_multiple_of(size) && pixels.len() / size == labels.len(),
            "expected {} images of {shape} to have {size} pixel values each, found {} values in all",
            labels.len(),
            pixels.len()
        );
        if let Some(image) = labels.iter().position(|label| usize::from(*label) >= classes.len()) {
            let (label, classes) = (labels[image], classes.len());
            bail!(
                "image {image}: expected a label below {classes}, the number of classes, found {label}"
            );
        }
        let (pixels, labels, classes) = (Arc::new(pixels), Arc::new(labels), Arc::new(classes));
        let (groups, fit) = (None, Fit::default());
        Ok(Labelled { pixels, labels, classes, groups, fit, channels, height, width })
    }

    /// The same images in groups, of which a split keeps each on one side: frames of one film, pictures
    /// of one person.
    ///
    /// # Errors
    /// Another number of groups than of images.
    pub fn with_groups(self, groups: Vec<u32>) -> anyhow::Result<Self> {
        let (images, found) = (self.len(), groups.len());
        ensure!(found == images, "expected a group for each of {images} images, found {found}");
        Ok(Labelled { groups: Some(Arc::new(groups)), ..self })
    }

    /// The same images, which were brought to their size in this way.
    #[must_use]
    pub fn with_fit(self, fit: Fit) -> Self {
        Labelled { fit, ..self }
    }

    /// How images of other sizes were brought to this one, and have to be to be classified.
    pub fn fit(&self) -> Fit {
        self.fit
    }

    /// The group of each image, where there are groups.
    pub fn groups(&self) -> Option<&[u32]> {
        self.groups.as_ref().map(|groups| groups.as_slice())
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
        let (channels, height, width) = self.size();
        Shape::Image { channels, height, width }
    }

    /// Channels, height and width of one image, each at least 1.
    pub(crate) fn size(&self) -> (usize, usize, usize) {
        (self.channels, self.height, self.width)
    }

    /// A name for each class.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// One image, `[channels, height, width]`.
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.channels * self.height * self.width;
        &self.pixels[index * size..][..size]
    }

    /// The values of all images, `[count, channels, height, width]`.
    #[cfg(feature = "cuda")]
    pub(crate) fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Whether these are the same images in memory: a clone's.
    #[cfg(feature = "cuda")]
    pub(crate) fn shares_images(&self, other: &Labelled) -> bool {
        Arc::ptr_eq(&self.pixels, &other.pixels)
    }

    /// What one image shows.
    pub fn label(&self, index: usize) -> usize {
        usize::from(self.labels[index])
    }

    /// Number of images of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for label in self.labels.iter() {
            counts[usize::from(*label)] += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(shape: Shape, pixels: usize, labels: &[u8]) -> String {
        let classes = vec!["a".to_owned(), "b".to_owned()];
        Labelled::new(shape, classes, vec![0; pixels], labels.to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn images_that_do_not_agree_are_refused() {
        let shape = Shape::Image { channels: 1, height: 2, width: 3 };
        let none = Shape::Image { channels: 0, height: 2, width: 3 };
        let huge = Shape::Image { channels: usize::MAX, height: 2, width: 3 };
        let short =
            "expected 2 images of 1x2x3 to have 6 pixel values each, found 11 values in all";
        assert_eq!(refusal(shape, 11, &[0, 1]), short);
        assert_eq!(
            refusal(shape, 12, &[0, 2]),
            "image 1: expected a label below 2, the number of classes, found 2"
        );
        assert_eq!(refusal(none, 0, &[0]), "expected images of some pixels, found 0x2x3");
        assert!(refusal(huge, 0, &[0]).starts_with("expected images of some pixels"));
        let flat = refusal(Shape::Flat { features: 6 }, 6, &[0]);
        assert_eq!(flat, "expected the shape of an image, found 6");
    }
}
