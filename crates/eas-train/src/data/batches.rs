//! Batches of an epoch: every training image once, in random order, augmented and normalised.

use std::sync::Arc;

use eas_ir::{Images, Normalisation, Rng};
use rayon::prelude::*;

use super::mixup::{mix, mixed, share};
use super::placement::{Placement, Scale, place, scale};
use super::{Labelled, Mirror, Split, TrainingData};
use crate::engine::{Batch, Mixed, check_labels, shown};

/// The batches of one epoch.
///
/// Every training image comes exactly once. Where they don't divide evenly, the last batch is kept
/// and is smaller; were it to hold a single image, whose batch statistics say nothing, it gets one of
/// the batch before it. [`Batches::without_partial`] leaves it out instead.
#[derive(Debug)]
pub struct Batches<'a> {
    data: &'a TrainingData,
    scales: Arc<[Scale]>,
    order: Vec<usize>,
    size: usize,
    next: usize,
    streams: Streams,
}

/// What the augmentation of images is drawn from.
#[derive(Clone, Debug)]
struct Streams {
    augment: Rng,
    /// Which images an alternating mirror begins with.
    mirror: Rng,
    /// Epochs that there have been.
    epoch: usize,
}

impl<'a> Batches<'a> {
    /// The batches of `size` images, at least 1, of the epoch whose stream is `rng`. The order is a
    /// function of that stream, each image's augmentation one of the stream and the image's place in
    /// its source, whatever batch it is in and on however many threads; with which one it is mixed
    /// depends on the batch. An alternating mirror starts anew; see [`Batches::of_epoch`].
    pub fn new(data: &'a TrainingData, size: usize, rng: &Rng) -> Self {
        let mut order = data.train.indices().to_vec();
        rng.split("order").shuffle(&mut order);
        let streams =
            Streams { augment: rng.split("augment"), mirror: rng.split("mirror"), epoch: 0 };
        let (channels, _, _) = data.train.source().size();
        let scales = (0..channels).map(|channel| scale(&data.normalisation, channel)).collect();
        Batches { data, scales, order, size: size.max(1), next: 0, streams }
    }

    /// The batches of an epoch of a training whose stream is `rng`.
    pub fn of_epoch(data: &'a TrainingData, size: usize, rng: &Rng, epoch: usize) -> Self {
        let stream = rng.split("epoch").split_index(epoch as u64);
        let batches = Batches::new(data, size, &stream);
        let streams = Streams { mirror: rng.split("mirror"), epoch, ..batches.streams };
        Batches { streams, ..batches }
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
        let labels: Vec<usize> = places.iter().map(|index| train.label(*index)).collect();
        let stream = self.streams.augment.split("mixup");
        let own = |place: usize| share(augment.mixup, &mut stream.split_index(place as u64));
        let mixed = match augment.mixup > 0.0 {
            true => mixed(&labels, |image| own(places[image])),
            false => Vec::new(),
        };
        let (scales, streams) = (self.scales.clone(), self.streams.clone());
        Some(Drawn { data: self.data, scales, places, labels, mixed, streams })
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
    scales: Arc<[Scale]>,
    /// Places in the source, `[batch]`.
    places: Vec<usize>,
    /// A class each, `[batch]`.
    labels: Vec<usize>,
    /// What is mixed into each, `[batch]`; empty where images are as they are.
    mixed: Vec<Mixed>,
    streams: Streams,
}

impl Drawn<'_> {
    /// Number of images.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// The images that places are among.
    pub(crate) fn source(&self) -> &Labelled {
        self.data.train.source()
    }

    /// The bytes of an image, as its source has them.
    pub(crate) fn bytes(&self, image: usize) -> &[u8] {
        self.source().image(self.places[image])
    }

    /// An image's place in the source.
    #[cfg(feature = "cuda")]
    pub(crate) fn index(&self, image: usize) -> usize {
        self.places[image]
    }

    /// How an image is cut. It is drawn anew by each call, so that threads which make images share that out too.
    pub(crate) fn placement(&self, image: usize) -> Placement {
        let (augment, index) = (self.data.augment, self.places[image] as u64);
        let (_, height, width) = self.source().size();
        let Streams { augment: stream, mirror, epoch } = &self.streams;
        let mut placement = Placement::draw(augment, (height, width), &mut stream.part(index));
        if augment.mirror == Mirror::Alternating {
            let begins = mirror.part(index).next_u32() & 1 == 1;
            placement.mirror = begins ^ (epoch % 2 == 1);
        }
        placement
    }

    /// The share that an image keeps where another is mixed in.
    #[cfg(feature = "cuda")]
    pub(crate) fn own(&self, image: usize) -> Option<f32> {
        self.mixed.get(image).map(|mixed| mixed.own as f32)
    }

    /// As [`Batch::shown`].
    pub(crate) fn shown(&self, image: usize) -> (usize, usize, f64) {
        shown(&self.labels, &self.mixed, image)
    }

    /// As [`Batch::check`].
    pub(crate) fn check(&self, classes: usize) -> anyhow::Result<()> {
        check_labels(&self.labels, &self.mixed, self.count(), classes)
    }

    /// What normalises each channel's bytes.
    pub(crate) fn scales(&self) -> &[Scale] {
        &self.scales
    }

    /// Mixes images, which follow one another in `values`, one into another where the batch says so.
    pub(crate) fn mix(&self, values: &mut [f32]) {
        mix(&self.mixed, values);
    }

    /// The batch: images augmented, normalised and mixed.
    pub fn batch(&self) -> Batch {
        let size = self.source().size();
        let mut values = images(self.count(), size, |image, to| {
            let placement = self.placement(image);
            place(self.bytes(image), (size.1, size.2), placement, &self.scales, to);
        });
        let in_order = values.as_slice_mut().expect("images stand in order");
        self.mix(in_order);
        Batch { images: values, labels: self.labels.clone(), mixed: self.mixed.clone() }
    }
}

/// Images at these places of a split's source, normalised but not augmented, `[batch, channels,
/// height, width]`.
///
/// # Panics
/// Where the normalisation is for fewer channels than the images have.
pub fn normalise(split: &Split, indices: &[usize], normalisation: &Normalisation) -> Images {
    let size = split.source().size();
    let scales: Vec<Scale> = (0..size.0).map(|channel| scale(normalisation, channel)).collect();
    images(indices.len(), size, |image, to| {
        let (from, whole) = (split.image(indices[image]), Placement::default());
        place(from, (size.1, size.2), whole, &scales, to);
    })
}

/// Images `[image][channel][row][column]`, each written by a call.
fn images(
    count: usize,
    (channels, height, width): (usize, usize, usize),
    write: impl Fn(usize, &mut [f32]) + Sync,
) -> Images {
    let size = channels * height * width;
    let mut values = vec![0.0f32; count * size];
    let to = values.par_chunks_mut(size).enumerate();
    to.for_each(|(image, to)| write(image, to));
    Images::from_shape_vec((count, channels, height, width), values)
        .expect("as many values as the shape has places")
}

/// The first training images, normalised: what batch norms are calibrated and children certified on.
/// The order of a split is random and its classes take turns, so they are a sample.
pub fn calibration_images(data: &TrainingData, count: usize) -> Images {
    let indices = data.train.indices();
    data.images(&data.train, &indices[..count.min(indices.len())])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use eas_ir::Shape;

    use super::*;
    use crate::data::Augment;

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
    fn an_image_is_mixed_with_the_next_as_it_was() {
        for (channels, count) in [(1, 1), (3, 1), (1, 2), (3, 5), (4, 7)] {
            let mut rng = Rng::new(count as u64);
            // Values of an image that are more than a thread mixes at once, and don't divide evenly.
            let (height, width) = (9, 61);
            let shape = Shape::Image { channels, height, width };
            let pixels =
                (0..count * channels * height * width).map(|_| rng.next_u32() as u8).collect();
            let source =
                Labelled::new(shape, vec!["only".to_owned()], pixels, vec![0; count]).unwrap();
            let (mean, deviation) = (vec![0.3; channels], vec![0.2; channels]);
            let data = TrainingData {
                train: Split::all(source.clone()),
                validation: Split::all(source).first(0),
                classes: vec!["only".to_owned()],
                normalisation: Normalisation { mean, deviation },
                augment: Augment { pad_crop: 2, mirror: Mirror::Random, cutout: 3, mixup: 0.4 },
            };
            let drawn = Batches::new(&data, count, &rng).next().unwrap();
            let apart = Drawn { mixed: Vec::new(), ..drawn.clone() }.batch().images;
            let mixed = drawn.batch().images;
            for image in 0..count {
                let (next, own) = ((image + 1) % count, drawn.mixed[image].own as f32);
                for channel in 0..channels {
                    for (row, column) in
                        (0..height).flat_map(|row| (0..width).map(move |x| (row, x)))
                    {
                        let of = |image| apart[[image, channel, row, column]];
                        let expected = (own * of(image) + (1.0 - own) * of(next)).to_bits();
                        let found = mixed[[image, channel, row, column]].to_bits();
                        let place = (channels, count, image, channel, row, column);
                        assert_eq!(found, expected, "{place:?}");
                    }
                }
            }
        }
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
