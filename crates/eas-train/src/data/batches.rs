//! Batches of an epoch: every training image once, in random order, augmented and normalised.

use eas_ir::{Images, Normalisation, Rng, Shape};
use rayon::prelude::*;

use super::{Split, TrainingData};
use crate::engine::Batch;

/// The batches of one epoch. The last one is smaller where the images don't divide evenly; a last
/// batch of one image is left out, as it has no batch statistics.
#[derive(Debug)]
pub struct Batches<'a> {
    data: &'a TrainingData,
    order: Vec<usize>,
    size: usize,
    next: usize,
    rng: Rng,
}

impl<'a> Batches<'a> {
    /// The batches of the epoch whose stream is `rng`. The order, and each image's augmentation, are
    /// functions of that stream and the image alone.
    pub fn new(data: &'a TrainingData, size: usize, rng: &Rng) -> Self {
        let mut order = data.train.indices().to_vec();
        rng.split("order").shuffle(&mut order);
        if order.len() % size == 1 {
            order.pop();
        }
        Batches { data, order, size, next: 0, rng: rng.split("augment") }
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let end = (self.next + self.size).min(self.order.len());
        let places = &self.order[self.next..end];
        if places.is_empty() {
            return None;
        }
        self.next = end;
        let TrainingData { train, normalisation, augment, .. } = self.data;
        let images = fill(train, places, normalisation, |index| {
            let mut rng = self.rng.split_index(index as u64);
            let pad = augment.pad_crop;
            let down = rng.below(2 * pad + 1) as isize - pad as isize;
            let right = rng.below(2 * pad + 1) as isize - pad as isize;
            Placement { down, right, mirror: augment.mirror && rng.next_u32() & 1 == 1 }
        });
        let labels = places.iter().map(|index| train.label(*index)).collect();
        Some(Batch { images, labels })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.order.len() - self.next).div_ceil(self.size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches<'_> {}

/// Images at these places of a split's source, normalised but not augmented, `[batch, channels,
/// height, width]`.
pub fn normalise(split: &Split, indices: &[usize], normalisation: &Normalisation) -> Images {
    fill(split, indices, normalisation, |_| Placement { down: 0, right: 0, mirror: false })
}

/// The first training images, normalised: what batch norms are calibrated and children certified on.
/// The order of a split is random, so they are a sample.
pub fn calibration_images(data: &TrainingData, count: usize) -> Images {
    let indices = data.train.indices();
    data.images(&data.train, &indices[..count.min(indices.len())])
}

/// Where an image is cut from its padded form.
#[derive(Clone, Copy, Debug)]
struct Placement {
    /// Rows by which the crop starts below the image's top.
    down: isize,
    /// Columns by which it starts right of the image's left side.
    right: isize,
    mirror: bool,
}

fn fill(
    split: &Split,
    places: &[usize],
    normalisation: &Normalisation,
    placement: impl Fn(usize) -> Placement + Sync,
) -> Images {
    let Shape::Image { channels, height, width } = split.shape() else {
        unreachable!("a data set has images")
    };
    let size = channels * height * width;
    // Padding is the mean, which is 0 once normalised.
    let mut values = vec![0.0f32; places.len() * size];
    values.par_chunks_mut(size.max(1)).zip(places).for_each(|(values, &index)| {
        let image = split.image(index);
        let Placement { down, right, mirror } = placement(index);
        for channel in 0..channels {
            let scale = 1.0 / (255.0 * normalisation.deviation[channel]);
            let shift = normalisation.mean[channel] / normalisation.deviation[channel];
            for row in 0..height {
                let Some(from_row) = row.checked_add_signed(down).filter(|row| *row < height) else {
                    continue;
                };
                let from = &image[(channel * height + from_row) * width..][..width];
                let to = &mut values[(channel * height + row) * width..][..width];
                for (column, value) in to.iter_mut().enumerate() {
                    let column = if mirror { width - 1 - column } else { column };
                    if let Some(pixel) = column.checked_add_signed(right).and_then(|c| from.get(c)) {
                        *value = f32::from(*pixel) * scale - shift;
                    }
                }
            }
        }
    });
    Images::from_shape_vec((places.len(), channels, height, width), values)
        .expect("as many values as the shape has places")
}
