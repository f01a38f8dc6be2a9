//! Batches of an epoch: every training image once, in random order, augmented and normalised.

use eas_ir::{Images, Normalisation, Rng};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::Labelled;
use super::mixup::{mix, mixed, share};
use super::{Augment, Mirror, Split, TrainingData};
#[cfg(feature = "cuda")]
use crate::engine::shown;
use crate::engine::{Batch, Mixed};

/// The batches of one epoch.
///
/// Every training image comes exactly once. Where they don't divide evenly, the last batch is kept
/// and is smaller; were it to hold a single image, whose batch statistics say nothing, it gets one of
/// the batch before it. [`Batches::without_partial`] leaves it out instead.
#[derive(Debug)]
pub struct Batches<'a> {
    data: &'a TrainingData,
    order: Vec<usize>,
    size: usize,
    next: usize,
    rng: Rng,
    /// Which images an alternating mirror begins with, and how many epochs there have been.
    halves: (Rng, usize),
}

impl<'a> Batches<'a> {
    /// The batches of `size` images, at least 1, of the epoch whose stream is `rng`. The order is a
    /// function of that stream, each image's augmentation one of the stream and the image's place in
    /// its source, whatever batch it is in and on however many threads; with which one it is mixed
    /// depends on the batch. An alternating mirror starts anew; see [`Batches::of_epoch`].
    pub fn new(data: &'a TrainingData, size: usize, rng: &Rng) -> Self {
        let mut order = data.train.indices().to_vec();
        rng.split("order").shuffle(&mut order);
        let halves = (rng.split("mirror"), 0);
        Batches { data, order, size: size.max(1), next: 0, rng: rng.split("augment"), halves }
    }

    /// The batches of an epoch of a training whose stream is `rng`.
    pub fn of_epoch(data: &'a TrainingData, size: usize, rng: &Rng, epoch: usize) -> Self {
        let stream = rng.split("epoch").split_index(epoch as u64);
        let halves = (rng.split("mirror"), epoch);
        Batches { halves, ..Batches::new(data, size, &stream) }
    }

    /// Only batches of the full size: what is left over of this epoch's order isn't trained on.
    #[must_use]
    pub fn without_partial(mut self) -> Self {
        self.order.truncate(self.order.len() / self.size * self.size);
        self
    }

    /// The batches after the first `steps`, as they would have come.
    #[must_use]
    pub fn after(mut self, steps: usize) -> Self {
        for _ in 0..steps {
            self.next = self.end();
        }
        self
    }

    /// Where the batch that starts at `next` ends.
    fn end(&self) -> usize {
        let end = (self.next + self.size).min(self.order.len());
        let leaves_one = self.order.len() - end == 1 && self.size > 2;
        if leaves_one { end - 1 } else { end }
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Drawn<'a>;

    fn next(&mut self) -> Option<Drawn<'a>> {
        let places = self.order[self.next..self.end()].to_vec();
        if places.is_empty() {
            return None;
        }
        self.next += places.len();
        let TrainingData { train, augment, .. } = self.data;
        let (_, height, width) = train.source().size();
        let placements = places.iter().map(|index| {
            let mut rng = self.rng.split_index(*index as u64);
            let mut place = Placement::draw(*augment, (height, width), &mut rng);
            if augment.mirror == Mirror::Alternating {
                let (halves, epoch) = &self.halves;
                let begins = halves.split_index(*index as u64).next_u32() & 1 == 1;
                place.mirror = begins ^ (epoch % 2 == 1);
            }
            place
        });
        let placements = placements.collect();
        let labels: Vec<usize> = places.iter().map(|index| train.label(*index)).collect();
        let stream = self.rng.split("mixup");
        let own = |place: usize| share(augment.mixup, &mut stream.split_index(place as u64));
        let mixed = match augment.mixup > 0.0 {
            true => mixed(&labels, |image| own(places[image])),
            false => Vec::new(),
        };
        Some(Drawn { data: self.data, places, placements, labels, mixed })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.order.len() - self.next).div_ceil(self.size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches<'_> {}

/// A batch before its images are made: which they are, and what is done to each.
#[derive(Clone, Debug)]
pub struct Drawn<'a> {
    data: &'a TrainingData,
    /// Places in the source, `[batch]`.
    places: Vec<usize>,
    placements: Vec<Placement>,
    /// A class each, `[batch]`.
    labels: Vec<usize>,
    /// What is mixed into each, `[batch]`; empty where images are as they are.
    mixed: Vec<Mixed>,
}

impl Drawn<'_> {
    /// Number of images.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// The images that places are among.
    #[cfg(feature = "cuda")]
    pub(crate) fn source(&self) -> &Labelled {
        self.data.train.source()
    }

    /// An image's place in the source, how it is cut, and the share it keeps where another is mixed in.
    #[cfg(feature = "cuda")]
    pub(crate) fn image(&self, image: usize) -> (usize, Placement, Option<f32>) {
        let own = self.mixed.get(image).map(|mixed| mixed.own as f32);
        (self.places[image], self.placements[image], own)
    }

    /// As [`Batch::shown`].
    #[cfg(feature = "cuda")]
    pub(crate) fn shown(&self, image: usize) -> (usize, usize, f64) {
        shown(&self.labels, &self.mixed, image)
    }

    /// What channels are multiplied by and what is taken from them, to normalise them.
    #[cfg(feature = "cuda")]
    pub(crate) fn scales(&self) -> (Vec<f32>, Vec<f32>) {
        let normalisation = &self.data.normalisation;
        (0..normalisation.mean.len()).map(|channel| scale(normalisation, channel)).unzip()
    }

    /// The batch: images augmented, normalised and mixed.
    pub fn batch(&self) -> Batch {
        let TrainingData { train, normalisation, .. } = self.data;
        let mut images = fill(train, &self.places, normalisation, |image| self.placements[image]);
        mix(&mut images, &self.mixed);
        Batch { images, labels: self.labels.clone(), mixed: self.mixed.clone() }
    }
}

/// Images at these places of a split's source, normalised but not augmented, `[batch, channels,
/// height, width]`.
///
/// # Panics
/// Where the normalisation is for fewer channels than the images have.
pub fn normalise(split: &Split, indices: &[usize], normalisation: &Normalisation) -> Images {
    fill(split, indices, normalisation, |_| Placement::default())
}

/// The first training images, normalised: what batch norms are calibrated and children certified on.
/// The order of a split is random and its classes take turns, so they are a sample.
pub fn calibration_images(data: &TrainingData, count: usize) -> Images {
    let indices = data.train.indices();
    data.images(&data.train, &indices[..count.min(indices.len())])
}

/// Where an image is cut from its padded form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Placement {
    /// Rows by which the crop starts below the image's top.
    pub(crate) down: isize,
    /// Columns by which it starts right of the image's left side.
    pub(crate) right: isize,
    /// Whether it is mirrored, left to right.
    pub(crate) mirror: bool,
    /// Row and column of the centre of the cutout, and its side.
    pub(crate) cutout: Option<(usize, usize, usize)>,
}

impl Placement {
    /// Draws one for an image of this height and width.
    fn draw(augment: Augment, (height, width): (usize, usize), rng: &mut Rng) -> Self {
        let pad = augment.pad_crop;
        // 0 to 2 pad, both included.
        let mut offset = || rng.below(2 * pad + 1) as isize - pad as isize;
        let (down, right) = (offset(), offset());
        let mirror = augment.mirror == Mirror::Random && rng.next_u32() & 1 == 1;
        let side = augment.cutout;
        let cutout = (side > 0).then(|| (rng.below(height), rng.below(width), side));
        Placement { down, right, mirror, cutout }
    }
}

/// What a channel's values are multiplied by, and what is taken from them then.
fn scale(normalisation: &Normalisation, channel: usize) -> (f32, f32) {
    let (mean, deviation) = (normalisation.mean[channel], normalisation.deviation[channel]);
    (1.0 / (255.0 * deviation), mean / deviation)
}

fn fill(
    split: &Split,
    places: &[usize],
    normalisation: &Normalisation,
    placement: impl Fn(usize) -> Placement + Sync,
) -> Images {
    let (channels, height, width) = split.source().size();
    let size = channels * height * width;
    // Padding is the mean, which is 0 once normalised.
    let mut values = vec![0.0f32; places.len() * size];
    values.par_chunks_mut(size).zip(places).enumerate().for_each(|(place, (values, &index))| {
        let image = split.image(index);
        let Placement { down, right, mirror, cutout } = placement(place);
        // Columns of the crop that lie within the image.
        let within = usize::try_from(-right).unwrap_or(0).min(width)
            ..width.saturating_sub(usize::try_from(right).unwrap_or(0));
        for channel in 0..channels {
            let (scale, shift) = scale(normalisation, channel);
            for row in 0..height {
                let Some(from_row) = row.checked_add_signed(down).filter(|row| *row < height)
                else {
                    continue;
                };
                let from = &image[(channel * height + from_row) * width..][..width];
                let to = &mut values[(channel * height + row) * width..][..width];
                for column in within.clone() {
                    let pixel = from[column.wrapping_add_signed(right)];
                    let column = if mirror { width - 1 - column } else { column };
                    to[column] = f32::from(pixel) * scale - shift;
                }
            }
            if let Some((row, column, side)) = cutout {
                let span = |centre: usize, end: usize| {
                    (centre + side / 2 + 1).saturating_sub(side)..(centre + side / 2 + 1).min(end)
                };
                for row in span(row, height) {
                    let row = &mut values[(channel * height + row) * width..][..width];
                    row[span(column, width)].fill(0.0);
                }
            }
        }
    });
    Images::from_shape_vec((places.len(), channels, height, width), values)
        .expect("as many values as the shape has places")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use eas_ir::Shape;

    use super::*;
    use crate::data::Labelled;

    fn one_image(height: usize, width: usize) -> Split {
        let pixels: Vec<u8> = (0..height * width).map(|place| place as u8 + 1).collect();
        let shape = Shape::Image { channels: 1, height, width };
        Split::all(Labelled::new(shape, vec!["only".to_owned()], pixels, vec![0]).unwrap())
    }

    #[test]
    fn every_offset_of_pad_and_crop_occurs_equally_often_and_the_last_one_too() {
        for pad in [0usize, 1, 4] {
            let augment = Augment { pad_crop: pad, mirror: Mirror::Random, ..Augment::NONE };
            let rng = Rng::new(11);
            let kinds = (2 * pad + 1) * (2 * pad + 1) * 2;
            let draws = 200 * kinds;
            let mut counts: BTreeMap<Placement, usize> = BTreeMap::new();
            for index in 0..draws as u64 {
                *counts
                    .entry(Placement::draw(augment, (9, 9), &mut rng.split_index(index)))
                    .or_default() += 1;
            }
            assert_eq!(counts.len(), kinds, "pad {pad}: {counts:?}");
            // Six deviations of a binomial count with mean 200 are 85.
            let even = counts.values().all(|count| (115..285).contains(count));
            assert!(even, "pad {pad}: {counts:?}");
            let last = pad as isize;
            for mirror in [false, true] {
                for offset in [last, -last] {
                    let (down, right, cutout) = (offset, offset, None);
                    assert!(counts.contains_key(&Placement { down, right, mirror, cutout }));
                }
            }
        }
    }

    #[test]
    fn a_crop_is_the_window_of_the_padded_image_and_its_border_is_the_mean() {
        let (height, width) = (4, 6);
        let split = one_image(height, width);
        let normalisation = Normalisation { mean: vec![0.25], deviation: vec![0.5] };
        for (down, right) in (-5..=5).flat_map(|down| (-7..=7).map(move |right| (down, right))) {
            for mirror in [false, true] {
                let place = Placement { down, right, mirror, cutout: None };
                let images = fill(&split, &[0], &normalisation, |_| place);
                for (row, column) in (0..height).flat_map(|r| (0..width).map(move |c| (r, c))) {
                    let seen = if mirror { width - 1 - column } else { column };
                    let (y, x) = (row as isize + down, seen as isize + right);
                    let inside =
                        (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
                    let expected = if inside {
                        let pixel = (y * width as isize + x + 1) as f32;
                        (pixel / 255.0 - 0.25) / 0.5
                    } else {
                        0.0
                    };
                    let gap = (images[[0, 0, row, column]] - expected).abs();
                    assert!(
                        gap < 1e-6,
                        "down {down}, right {right}, mirror {mirror}, ({row}, {column}): off by {gap}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_cutout_is_a_square_around_its_centre_cut_off_at_the_border() {
        let (height, width) = (5, 7);
        let split = one_image(height, width);
        let normalisation = Normalisation { mean: vec![0.0], deviation: vec![1.0] };
        for side in 1..=7 {
            for centre in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
                let cutout = Some((centre.0, centre.1, side));
                let place = Placement { cutout, ..Placement::default() };
                let images = fill(&split, &[0], &normalisation, |_| place);
                for (place, value) in images.indexed_iter() {
                    // An even side reaches one pixel further down and to the right.
                    let near = |at: usize, centre: usize| {
                        let gap = 2 * (at as isize - centre as isize) - 1 + (side % 2) as isize;
                        gap.unsigned_abs() < side
                    };
                    let cut = near(place.2, centre.0) && near(place.3, centre.1);
                    assert_eq!(*value == 0.0, cut, "side {side}, centre {centre:?}, {place:?}");
                }
            }
        }
    }

    #[test]
    fn an_alternating_mirror_shows_each_image_both_ways_in_two_epochs() {
        let shape = Shape::Image { channels: 1, height: 1, width: 2 };
        let count = 400;
        let pixels = (0..count).flat_map(|_| [0, 255]).collect();
        let source = Labelled::new(shape, vec!["only".to_owned()], pixels, vec![0; count]).unwrap();
        let data = TrainingData {
            train: Split::all(source.clone()),
            validation: Split::all(source).first(0),
            classes: vec!["only".to_owned()],
            normalisation: Normalisation { mean: vec![0.0], deviation: vec![1.0] },
            augment: Augment { mirror: Mirror::Alternating, ..Augment::NONE },
        };
        let mirrored = |epoch| {
            let batches = Batches::of_epoch(&data, 64, &Rng::new(3), epoch);
            let order = batches.order.clone();
            let images = batches.map(|drawn| drawn.batch()).flat_map(|batch| {
                let first = batch.images.outer_iter().map(|image| image[[0, 0, 0]] > 0.5);
                first.collect::<Vec<_>>()
            });
            order.into_iter().zip(images).collect::<BTreeMap<usize, bool>>()
        };
        let (first, second) = (mirrored(0), mirrored(1));
        // Six deviations of a binomial count with mean 200 are 60.
        let half = first.values().filter(|mirrored| **mirrored).count();
        assert!((140..260).contains(&half), "{half}");
        for (image, mirrored) in &first {
            assert_ne!(mirrored, &second[image], "image {image}");
        }
        assert_eq!(first, mirrored(2));
    }

    #[test]
    fn a_batch_size_that_leaves_one_image_leaves_two() {
        let shape = Shape::Image { channels: 1, height: 1, width: 1 };
        for (images, size, kept, full) in [
            (9usize, 4usize, vec![4, 3, 2], vec![4, 4]),
            (8, 4, vec![4, 4], vec![4, 4]),
            (11, 4, vec![4, 4, 3], vec![4, 4]),
            (5, 4, vec![3, 2], vec![4]),
            (1, 4, vec![1], vec![]),
            (3, 2, vec![2, 1], vec![2]),
            (2, 1, vec![1, 1], vec![1, 1]),
            (3, 64, vec![3], vec![]),
        ] {
            let (pixels, labels) = (vec![7; images], vec![0; images]);
            let source = Labelled::new(shape, vec!["only".to_owned()], pixels, labels).unwrap();
            let data = TrainingData {
                train: Split::all(source.clone()),
                validation: Split::all(source).first(0),
                classes: vec!["only".to_owned()],
                normalisation: Normalisation { mean: vec![0.0], deviation: vec![1.0] },
                augment: Augment::NONE,
            };
            let sizes = |batches: Batches<'_>| {
                let promised = batches.len();
                let sizes: Vec<usize> = batches.map(|batch| batch.labels.len()).collect();
                assert_eq!(sizes.len(), promised, "{images} images by {size}");
                sizes
            };
            let rng = Rng::new(0);
            assert_eq!(sizes(Batches::new(&data, size, &rng)), kept, "{images} images by {size}");
            let whole = Batches::new(&data, size, &rng).without_partial();
            assert_eq!(sizes(whole), full, "{images} images by {size}");
        }
    }
}
