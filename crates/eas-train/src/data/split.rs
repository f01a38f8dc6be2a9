//! Which images are trained on and which are held out.

use eas_ir::{Images, Normalisation, Rng, Shape};
use std::ops::Range;

use super::batches::normalise;
use super::{Augment, DataOptions, Labelled};

/// Some images of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    source: Labelled,
    /// Places in the source.
    indices: Vec<usize>,
}

impl Split {
    /// All images of a source.
    pub fn all(source: Labelled) -> Self {
        let indices = (0..source.len()).collect();
        Split { source, indices }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The images' places in their source.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// What the image at this place of the source shows.
    pub fn label(&self, index: usize) -> usize {
        self.source.label(index)
    }

    /// The image at this place of the source, `[channels, height, width]`.
    pub fn image(&self, index: usize) -> &[u8] {
        self.source.image(index)
    }

    /// The first images of the split.
    #[must_use]
    pub fn first(&self, count: usize) -> Split {
        let indices = self.indices[..count.min(self.len())].to_vec();
        Split { source: self.source.clone(), indices }
    }

    /// Both splits' images as one; they must have one source.
    #[must_use]
    pub fn joined(&self, other: &Split) -> Split {
        let indices = self.indices.iter().chain(&other.indices).copied().collect();
        Split { source: self.source.clone(), indices }
    }

    /// The shape of an image.
    pub fn shape(&self) -> Shape {
        self.source.shape()
    }
}

/// Everything that a network learns from.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingData {
    /// Images that gradients come from.
    pub train: Split,
    /// Images that networks are compared on.
    pub validation: Split,
    /// A name for each class.
    pub classes: Vec<String>,
    /// Mean and deviation of the training images.
    pub normalisation: Normalisation,
    /// What is done to training images.
    pub augment: Augment,
}

impl TrainingData {
    /// Images at these places of a split's source, normalised, `[batch, channels, height, width]`.
    pub fn images(&self, split: &Split, indices: &[usize]) -> Images {
        normalise(split, indices, &self.normalisation)
    }

    /// The same data with the validation images among the training images, for a final training
    /// whose result is measured elsewhere.
    #[must_use]
    pub fn with_validation_in_training(&self) -> Self {
        TrainingData { train: self.train.joined(&self.validation), ..self.clone() }
    }
}

/// Splits a data set: validation first, then training, each with as many images of every class (to
/// within one), drawn from `rng`. Normalisation comes from the training images alone.
///
/// # Errors
/// More images asked for than there are.
pub fn split(
    source: Labelled,
    classes: Vec<String>,
    options: DataOptions,
    rng: &Rng,
) -> anyhow::Result<TrainingData> {
    let all = source.len();
    anyhow::ensure!(
        options.validation < all,
        "validation = {}: expected fewer than the {all} images there are",
        options.validation
    );
    let left = all - options.validation;
    let train = options.train.unwrap_or(left);
    anyhow::ensure!(
        (1..=left).contains(&train),
        "train = {train}: expected between 1 and the {left} images that validation = {} leaves",
        options.validation
    );
    let order = stratified_order(&source, classes.len(), rng);
    let take = |range: Range<usize>| Split { source: source.clone(), indices: order[range].to_vec() };
    let validation = take(0..options.validation);
    let train = take(options.validation..options.validation + train);
    let normalisation = normalisation_of(&train);
    Ok(TrainingData { train, validation, classes, normalisation, augment: options.augment })
}

/// All places in an order of which every run has as many images of each class as the whole, to
/// within one: classes are shuffled apart, then dealt out by how much of each is done.
fn stratified_order(source: &Labelled, classes: usize, rng: &Rng) -> Vec<usize> {
    let mut by_class: Vec<Vec<usize>> = vec![Vec::new(); classes];
    for index in 0..source.len() {
        by_class[source.label(index)].push(index);
    }
    let mut dealt: Vec<(f64, usize, usize)> = Vec::with_capacity(source.len());
    for (class, places) in by_class.iter_mut().enumerate() {
        rng.split("split").split_index(class as u64).shuffle(places);
        let count = places.len() as f64;
        dealt.extend(
            places.iter().enumerate().map(|(rank, place)| ((rank as f64 + 0.5) / count, class, *place)),
        );
    }
    dealt.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    dealt.into_iter().map(|(_, _, place)| place).collect()
}

/// Mean and deviation of each channel over a split, of values from 0 to 1. A channel that never
/// varies has deviation 1.
pub fn normalisation_of(split: &Split) -> Normalisation {
    let Shape::Image { channels, height, width } = split.shape() else {
        unreachable!("a data set has images")
    };
    let area = height * width;
    let count = (split.len() * area).max(1) as f64;
    let (mut mean, mut deviation) = (Vec::new(), Vec::new());
    for channel in 0..channels {
        // Exact: sums of integers.
        let (mut sum, mut squares) = (0u64, 0u64);
        for &index in split.indices() {
            for &value in &split.image(index)[channel * area..][..area] {
                sum += u64::from(value);
                squares += u64::from(value) * u64::from(value);
            }
        }
        let average = sum as f64 / count;
        let variance = (squares as f64 / count - average * average).max(0.0);
        mean.push((average / 255.0) as f32);
        let spread = (variance.sqrt() / 255.0) as f32;
        deviation.push(if spread > 0.0 { spread } else { 1.0 });
    }
    Normalisation { mean, deviation }
}
