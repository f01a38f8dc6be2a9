//! Which images are trained on and which are held out.

use std::collections::{BTreeMap, HashSet};

use anyhow::{bail, ensure};
use eas_ir::{Images, Normalisation, Rng, Shape};

use rayon::prelude::*;

use super::batches::normalise;
use super::groups;
use super::{Augment, DataOptions, Description, Labelled};

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

    /// The images that this is a part of.
    pub fn source(&self) -> &Labelled {
        &self.source
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

    /// The first images of the split; of one that [`split`] made, classes take turns.
    #[must_use]
    pub fn first(&self, count: usize) -> Split {
        let indices = self.indices[..count.min(self.len())].to_vec();
        Split { source: self.source.clone(), indices }
    }

    /// The shape of an image.
    pub fn shape(&self) -> Shape {
        self.source.shape()
    }

    fn feed(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.len() as u64).to_le_bytes());
        for &index in &self.indices {
            // The place is part of it, since it keys the image's augmentation.
            hasher.update(&(index as u64).to_le_bytes());
            hasher.update(&(self.label(index) as u64).to_le_bytes());
            hasher.update(self.image(index));
        }
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
    /// whose result is measured elsewhere. None are left to validate on, so that no accuracy on
    /// images that were trained on can pass for another. The normalisation stays, since inherited
    /// weights know it.
    #[must_use]
    pub fn with_validation_in_training(&self) -> Self {
        let mut data = self.clone();
        data.train.indices.append(&mut data.validation.indices);
        data
    }

    /// A digest (BLAKE3, in hexadecimal) of all that a training on this data depends on: the images
    /// and labels of both parts in their order, normalisation and augmentation. It is taken from the
    /// images themselves, so a file that was replaced is another data set.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"eas training data 1\n");
        let (channels, height, width) = self.train.source.size();
        let Augment { pad_crop, mirror, cutout, mixup } = self.augment;
        let numbers = [channels, height, width, self.classes.len(), pad_crop, mirror as usize];
        for number in numbers {
            hasher.update(&(number as u64).to_le_bytes());
        }
        // Fed only where it is on: what isn't done to images is no part of the digest.
        if cutout > 0 {
            hasher.update(b"cutout").update(&(cutout as u64).to_le_bytes());
        }
        if mixup > 0.0 {
            hasher.update(b"mixup").update(&mixup.to_le_bytes());
        }
        for value in self.normalisation.mean.iter().chain(&self.normalisation.deviation) {
            hasher.update(&value.to_le_bytes());
        }
        self.train.feed(&mut hasher);
        self.validation.feed(&mut hasher);
        hasher.finalize().to_hex().to_string()
    }
}

/// Splits a data set: validation first, then training, each with every class in proportion (to
/// within one image), drawn from `rng`. The validation images don't depend on how many are trained
/// on. Normalisation comes from the training images alone.
///
/// Groups stay whole, so that validation images may be more or fewer than asked for: as near to each
/// class's share as groups in random order come.
///
/// # Errors
/// As [`DataOptions::check`], and where a class has a share of the validation images of which no group
/// comes near.
pub fn split(source: Labelled, options: DataOptions, rng: &Rng) -> anyhow::Result<TrainingData> {
    let (shape, classes, images) = (source.shape(), source.classes().to_vec(), source.len());
    options.check(&Description { shape, classes: classes.clone(), images, test_images: 0 })?;
    if let Some(groups) = source.groups() {
        let (validation, train) = take_groups(&source, groups, options, rng)?;
        return parts(source, validation, train, options);
    }
    let mut places: Vec<Vec<usize>> = vec![Vec::new(); classes.len()];
    for index in 0..images {
        places[source.label(index)].push(index);
    }
    for (class, places) in places.iter_mut().enumerate() {
        rng.split("split").split_index(class as u64).shuffle(places);
    }
    let validation = take_stratified(&mut places, options.validation);
    let train = options.train.unwrap_or(images - options.validation);
    let train = take_stratified(&mut places, train);
    parts(source, validation, train, options)
}

fn parts(
    source: Labelled,
    validation: Vec<usize>,
    train: Vec<usize>,
    options: DataOptions,
) -> anyhow::Result<TrainingData> {
    ensure!(!train.is_empty(), "expected images to train on, found one group of them all");
    let classes = source.classes().to_vec();
    let validation = Split { source: source.clone(), indices: validation };
    let train = Split { source, indices: train };
    let normalisation = normalisation_of(&train);
    Ok(TrainingData { train, validation, classes, normalisation, augment: options.augment })
}

/// Whole groups in random order for validation, and of the others the images to train on, as without
/// groups.
fn take_groups(
    source: &Labelled,
    groups: &[u32],
    options: DataOptions,
    rng: &Rng,
) -> anyhow::Result<(Vec<usize>, Vec<usize>)> {
    let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    groups
        .iter()
        .enumerate()
        .for_each(|(place, group)| members.entry(*group).or_default().push(place));
    let mut members: Vec<Vec<usize>> = members.into_values().collect();
    rng.split("split").shuffle(&mut members);
    let shares = apportion(options.validation, &source.class_counts());
    let labels = |places: &Vec<usize>| places.iter().map(|place| source.label(*place)).collect();
    let is_held_out = groups::held_out(&members.iter().map(labels).collect::<Vec<_>>(), &shares);
    let mut held_out = vec![Vec::new(); shares.len()];
    let mut others = vec![Vec::new(); shares.len()];
    for (places, is_held_out) in members.iter().zip(is_held_out) {
        let side = if is_held_out { &mut held_out } else { &mut others };
        places.iter().for_each(|place| side[source.label(*place)].push(*place));
    }
    let lacks = (0..shares.len()).find(|class| shares[*class] > 0 && held_out[*class].is_empty());
    if let Some(class) = lacks {
        bail!(
            "validation = {}: expected a whole group of class `{}` near its share of {} images, found \
             none; ask for more images, or for smaller groups",
            options.validation,
            source.classes()[class],
            shares[class]
        );
    }
    let all = |lists: &[Vec<usize>]| lists.iter().map(Vec::len).sum::<usize>();
    let (validation, there) = (all(&held_out), all(&others));
    let train = options.train.unwrap_or(there).min(there);
    Ok((take_stratified(&mut held_out, validation), take_stratified(&mut others, train)))
}

/// Places of images of `others` that are in `split` too, pixel by pixel: what was trained on says
/// nothing about images that are the same.
pub fn shared_images(split: &Split, others: &Split) -> Vec<usize> {
    let digests = |split: &Split| -> Vec<blake3::Hash> {
        split.indices().par_iter().map(|index| blake3::hash(split.image(*index))).collect()
    };
    let known: HashSet<blake3::Hash> = digests(split).into_iter().collect();
    let found = others.indices().iter().zip(digests(others));
    found.filter(|(_, digest)| known.contains(digest)).map(|(index, _)| *index).collect()
}

/// Takes `count` places off the lists of the classes, of each class its share to within one; in the
/// result the classes take turns.
fn take_stratified(places: &mut [Vec<usize>], count: usize) -> Vec<usize> {
    let counts: Vec<usize> = places.iter().map(Vec::len).collect();
    let mut taken = Vec::with_capacity(count);
    for (class, share) in apportion(count, &counts).into_iter().enumerate() {
        let of_class = places[class].drain(..share);
        taken.extend(of_class.enumerate().map(|(rank, place)| {
            // The middles of `share` equal parts of the unit interval, in units of 1 / (2 share).
            ((2 * rank + 1) as f64 / (2 * share) as f64, class, place)
        }));
    }
    taken.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    taken.into_iter().map(|(_, _, place)| place).collect()
}

/// `count` divided in proportion to `counts` by largest remainders: each share is its quota rounded
/// up or down. `count` is at most the sum of `counts`, so no share exceeds its count.
fn apportion(count: usize, counts: &[usize]) -> Vec<usize> {
    let all = counts.iter().sum::<usize>().max(1) as u128;
    let quota = |of: usize| count as u128 * of as u128;
    let mut shares: Vec<usize> = counts.iter().map(|of| (quota(*of) / all) as usize).collect();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|class| (std::cmp::Reverse(quota(counts[*class]) % all), *class));
    let missing = count - shares.iter().sum::<usize>();
    for class in order.into_iter().take(missing) {
        shares[class] += 1;
    }
    shares
}

/// Mean and deviation of each channel over a split, of values from 0 to 1. A channel that never
/// varies has deviation 1.
pub fn normalisation_of(split: &Split) -> Normalisation {
    let (channels, height, width) = split.source.size();
    let area = height * width;
    let count = (split.len() * area).max(1) as f64;
    let (mut mean, mut deviation) = (Vec::new(), Vec::new());
    for channel in 0..channels {
        // Exact, whatever the order: sums of integers.
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
        // Less is the rounding of a channel that is the same everywhere.
        let varies = variance > 1e-9;
        deviation.push(if varies { (variance.sqrt() / 255.0) as f32 } else { 1.0 });
    }
    Normalisation { mean, deviation }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_quotas_rounded_up_or_down() {
        let mut rng = Rng::new(3);
        for case in 0..2000 {
            let counts: Vec<usize> = (0..1 + rng.below(12)).map(|_| rng.below(50)).collect();
            let all: usize = counts.iter().sum();
            let count = rng.below(all + 1);
            let shares = apportion(count, &counts);
            assert_eq!(shares.iter().sum::<usize>(), count, "case {case}: {counts:?}");
            for (share, of) in shares.iter().zip(&counts) {
                let quota = (count * of) as f64 / all.max(1) as f64;
                let near = (*share as f64 - quota).abs() < 1.0;
                assert!(near && share <= of, "case {case}: {share} of {of}, quota {quota}");
            }
        }
    }
}
