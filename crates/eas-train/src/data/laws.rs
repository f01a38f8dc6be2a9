//! What holds of data sets, splits and epochs whatever the data.

use std::collections::BTreeSet;
use std::path::Path;

use eas_ir::{Normalisation, Rng, Shape};

use super::*;

/// The registered data set of this name with these options.
pub(super) fn build(name: &str, options: &str) -> anyhow::Result<Box<dyn DataSource>> {
    let options = toml::de::DeTable::parse(options)?;
    let (span, table) = (options.span(), options.into_inner());
    let value = toml::Spanned::new(span, toml::de::DeValue::Table(table));
    Ok(data_sets()?.get(name)?.build(value)?.implementation)
}

fn synthetic(options: &str) -> (Labelled, DataOptions) {
    let source = build("synthetic", options).unwrap();
    (source.train(Path::new("")).unwrap(), source.options())
}

/// Images of one value each, of these numbers of each class, in random order.
fn unbalanced(counts: &[usize], rng: &mut Rng) -> Labelled {
    let mut labels: Vec<u8> = counts
        .iter()
        .enumerate()
        .flat_map(|(class, count)| std::iter::repeat_n(class as u8, *count))
        .collect();
    rng.shuffle(&mut labels);
    let pixels = (0..labels.len()).map(|_| rng.below(256) as u8).collect();
    let classes = (0..counts.len()).map(|class| class.to_string()).collect();
    let shape = Shape::Image { channels: 1, height: 1, width: 1 };
    Labelled::new(shape, classes, pixels, labels).unwrap()
}

fn counts_of(split: &Split) -> Vec<usize> {
    let mut counts = vec![0; split.source().classes().len()];
    split.indices().iter().for_each(|index| counts[split.label(*index)] += 1);
    counts
}

#[test]
fn splits_are_disjoint_stratified_and_of_the_sizes_asked_for() {
    let mut rng = Rng::new(5);
    for case in 0..300 {
        let classes = 1 + rng.below(12);
        let counts: Vec<usize> = (0..classes).map(|_| rng.below(60)).collect();
        let all: usize = counts.iter().sum();
        if all < 2 {
            continue;
        }
        let validation = rng.below(all);
        let left = all - validation;
        let train = (rng.below(2) == 0).then(|| 1 + rng.below(left));
        let options = DataOptions { validation, train, augment: Augment::NONE };
        let data = split(unbalanced(&counts, &mut rng), options, &Rng::new(case)).unwrap();
        let why = format!("case {case}: {counts:?}, {options:?}");
        assert_eq!(data.validation.len(), validation, "{why}");
        assert_eq!(data.train.len(), train.unwrap_or(left), "{why}");
        let places: BTreeSet<usize> =
            data.validation.indices().iter().chain(data.train.indices()).copied().collect();
        assert_eq!(places.len(), data.validation.len() + data.train.len(), "{why}");
        let held_out = counts_of(&data.validation);
        for (class, count) in counts.iter().enumerate() {
            let quota = (validation * count) as f64 / all as f64;
            assert!((held_out[class] as f64 - quota).abs() < 1.0, "{why}: {held_out:?}");
            let quota = data.train.len() as f64 * (count - held_out[class]) as f64 / left as f64;
            let trained = counts_of(&data.train)[class];
            assert!((trained as f64 - quota).abs() < 1.0, "{why}: class {class}: {trained}");
        }
    }
}

#[test]
fn a_split_is_a_function_of_the_seed_and_validation_does_not_depend_on_train() {
    let (images, options) = synthetic("images = 300\nvalidation = 60");
    let of = |seed, train| {
        split(images.clone(), DataOptions { train, ..options }, &Rng::new(seed)).unwrap()
    };
    assert_eq!(of(1, None), of(1, None));
    assert_eq!(of(1, None).digest(), of(1, None).digest());
    assert_ne!(of(1, None).validation, of(2, None).validation);
    assert_eq!(of(1, None).validation, of(1, Some(40)).validation);
    // Not in the order of the files.
    assert!(!of(1, None).train.indices().is_sorted());
    // Classes take turns, so that the first images are a sample.
    assert_eq!(counts_of(&of(1, None).train.first(20)), [5; 4]);
}

#[test]
fn groups_stay_on_one_side_and_come_as_near_to_the_shares_as_they_can() {
    let mut rng = Rng::new(6);
    for case in 0..200 {
        // Some 4 images are of a group, and at least 6 the share of a class.
        let counts: Vec<usize> = (0..1 + rng.below(5)).map(|_| 20 + rng.below(40)).collect();
        let all: usize = counts.iter().sum();
        let groups: Vec<u32> = (0..all).map(|_| rng.below(1 + all / 4) as u32).collect();
        let source = unbalanced(&counts, &mut rng).with_groups(groups.clone()).unwrap();
        let options = DataOptions { validation: all / 3, train: None, augment: Augment::NONE };
        let data = split(source, options, &Rng::new(case)).unwrap();
        let of =
            |split: &Split| split.indices().iter().map(|i| groups[*i]).collect::<BTreeSet<_>>();
        let why = format!("case {case}: {counts:?}");
        assert!(of(&data.validation).is_disjoint(&of(&data.train)), "{why}");
        assert_eq!(data.train.len() + data.validation.len(), all, "{why}");
        let held_out = counts_of(&data.validation);
        assert!(held_out.iter().all(|count| *count > 0), "{why}: {held_out:?}");
        // No group that is left would have come nearer, to within the rounding of each share.
        let off = |held_out: &[usize]| -> f64 {
            let quota = |count: usize| (options.validation * count) as f64 / all as f64;
            let of = held_out.iter().zip(&counts);
            of.map(|(held_out, count)| (*held_out as f64 - quota(*count)).abs()).sum()
        };
        for group in of(&data.train) {
            let mut with = held_out.clone();
            let members = data.train.indices().iter().filter(|place| groups[**place] == group);
            members.for_each(|place| with[data.train.label(*place)] += 1);
            let nearer = off(&held_out) - off(&with);
            assert!(nearer < 2.0 * counts.len() as f64, "{why}: group {group}: {nearer}");
        }
    }
}

#[test]
fn groups_that_are_all_larger_than_the_share_are_refused_by_the_name_of_the_option() {
    let groups = (0..20).map(|place| place % 2).collect();
    let source = unbalanced(&[10, 10], &mut Rng::new(7)).with_groups(groups).unwrap();
    let of = |validation| {
        let options = DataOptions { validation, train: None, augment: Augment::NONE };
        split(source.clone(), options, &Rng::new(1))
    };
    assert_eq!(
        of(4).unwrap_err().to_string(),
        "validation = 4: expected a whole group of class `0` near its share of 2 images, found none; \
         ask for more images, or for smaller groups"
    );
    assert_eq!(of(0).unwrap().train.len(), 20);
}

#[test]
fn images_that_stand_in_two_splits_are_found() {
    let (images, _) = synthetic("images = 60");
    let (shape, classes) = (images.shape(), images.classes().to_vec());
    // The images 3 and 50 are in both, and 3 twice in the second.
    let pixels = |places: &[usize]| places.iter().flat_map(|i| images.image(*i).to_vec()).collect();
    let of = |places: &[usize]| {
        Split::all(
            Labelled::new(shape, classes.clone(), pixels(places), vec![0; places.len()]).unwrap(),
        )
    };
    let (first, second) = (of(&[1, 2, 3, 50]), of(&[3, 10, 50, 3, 11]));
    assert_eq!(shared_images(&first, &second), [0, 2, 3]);
    assert_eq!(shared_images(&first, &of(&[20, 21])), [] as [usize; 0]);
}

#[test]
fn a_digest_notices_whatever_training_depends_on() {
    let (images, options) = synthetic("images = 60\nvalidation = 20");
    let data = split(images, options, &Rng::new(1)).unwrap();
    let (other_noise, _) = synthetic("images = 60\nvalidation = 20\nnoise = 0.31");
    let mut changed = vec![
        split(other_noise, options, &Rng::new(1)).unwrap(),
        split(data.train.source().clone(), options, &Rng::new(2)).unwrap(),
        data.with_validation_in_training(),
        TrainingData {
            augment: Augment { mirror: Mirror::Random, ..data.augment },
            ..data.clone()
        },
        TrainingData {
            augment: Augment { mirror: Mirror::Alternating, ..data.augment },
            ..data.clone()
        },
        TrainingData { augment: Augment { cutout: 3, ..data.augment }, ..data.clone() },
        TrainingData { augment: Augment { mixup: 0.3, ..data.augment }, ..data.clone() },
        TrainingData { train: data.train.first(39), ..data.clone() },
        TrainingData { validation: data.validation.first(19), ..data.clone() },
    ];
    let mut shifted = data.clone();
    shifted.normalisation.mean[0] += 1e-6;
    changed.push(shifted);
    let digests: BTreeSet<String> =
        changed.iter().chain([&data]).map(TrainingData::digest).collect();
    assert_eq!(digests.len(), changed.len() + 1, "{digests:?}");
}

#[test]
fn joined_data_train_on_both_parts_and_leave_none_to_validate_on() {
    let (images, options) = synthetic("images = 60\nvalidation = 20");
    let data = split(images, options, &Rng::new(1)).unwrap();
    let joined = data.with_validation_in_training();
    let places: BTreeSet<usize> = joined.train.indices().iter().copied().collect();
    assert_eq!((joined.train.len(), places.len(), joined.validation.len()), (60, 60, 0));
    assert_eq!(joined.normalisation, data.normalisation);
}

#[test]
fn the_normalised_training_part_has_mean_0_and_deviation_1() {
    let sizes = "images = 200\nchannels = 3\nheight = 7\nwidth = 5\nvalidation = 50";
    let (images, options) = synthetic(sizes);
    let data = split(images, options, &Rng::new(3)).unwrap();
    let images = data.images(&data.train, data.train.indices());
    assert_eq!(images.dim(), (150, 3, 7, 5));
    for (channel, values) in images.axis_iter(ndarray::Axis(1)).enumerate() {
        let values = values.mapv(f64::from);
        let (mean, deviation) = (values.mean().unwrap(), values.std(0.0));
        assert!(
            mean.abs() < 1e-5 && (deviation - 1.0).abs() < 1e-5,
            "{channel}: {mean}, {deviation}"
        );
    }
}

#[test]
fn normalisation_comes_from_the_training_part_alone() {
    // Whatever is not trained on is white, yet the training part is as if it weren't there.
    let (images, options) = synthetic("images = 80\nvalidation = 30\ntrain = 40");
    let before = split(images.clone(), options, &Rng::new(4)).unwrap();
    let trained: BTreeSet<usize> = before.train.indices().iter().copied().collect();
    let pixels = (0..images.len()).flat_map(|index| match trained.contains(&index) {
        true => images.image(index).to_vec(),
        false => vec![255; images.image(index).len()],
    });
    let labels = (0..images.len()).map(|index| images.label(index) as u8).collect();
    let classes = images.classes().to_vec();
    let white = Labelled::new(images.shape(), classes, pixels.collect(), labels).unwrap();
    let after = split(white, options, &Rng::new(4)).unwrap();
    assert_eq!(before.normalisation, after.normalisation);
    assert_ne!(normalisation_of(&before.validation), normalisation_of(&after.validation));
}

#[test]
fn a_channel_that_never_varies_has_deviation_1() {
    let shape = Shape::Image { channels: 2, height: 1, width: 1 };
    let pixels = vec![7, 0, 7, 255];
    let images = Labelled::new(shape, vec!["only".to_owned()], pixels, vec![0, 0]).unwrap();
    let found = normalisation_of(&Split::all(images));
    assert_eq!(found, Normalisation { mean: vec![7.0 / 255.0, 0.5], deviation: vec![1.0, 0.5] });
}

/// Images that can be told apart by their first pixel.
fn numbered(count: usize, augment: Augment) -> TrainingData {
    let shape = Shape::Image { channels: 1, height: 6, width: 5 };
    let pixels = (0..count).flat_map(|index| vec![index as u8; 30]).collect();
    let labels = (0..count).map(|index| (index % 3) as u8).collect();
    let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
    let source = Labelled::new(shape, classes, pixels, labels).unwrap();
    split(source, DataOptions { validation: 40, train: None, augment }, &Rng::new(9)).unwrap()
}

#[test]
fn every_training_image_comes_once_an_epoch_with_its_label_and_no_other_comes() {
    let mut data = numbered(241, Augment::NONE);
    data.normalisation = Normalisation { mean: vec![0.0], deviation: vec![1.0 / 255.0] };
    let epoch = |number: u64| {
        let mut order = Vec::new();
        for drawn in Batches::new(&data, 20, &Rng::new(1).split_index(number)) {
            let batch = drawn.batch();
            for (image, label) in batch.images.outer_iter().zip(&batch.labels) {
                let index = image[[0, 0, 0]].round() as usize;
                assert_eq!(data.train.label(index), *label, "image {index}");
                order.push(index);
            }
        }
        order
    };
    let sorted = |mut order: Vec<usize>| {
        order.sort_unstable();
        order
    };
    let (first, second) = (epoch(0), epoch(1));
    assert_ne!(first, second);
    assert_eq!(first, epoch(0));
    let expected = sorted(data.train.indices().to_vec());
    assert_eq!(expected.len(), 201);
    assert_eq!(sorted(first), expected);
    assert_eq!(sorted(second), expected);
}

#[test]
fn an_images_augmentation_does_not_depend_on_its_batch_or_on_threads() {
    let alone = Augment { pad_crop: 2, mirror: Mirror::Random, cutout: 3, mixup: 0.0 };
    let (alone, data) = (numbered(200, alone), numbered(200, Augment { mixup: 0.4, ..alone }));
    let rng = Rng::new(2);
    let of = |data, size| -> Vec<u32> {
        let batches = Batches::new(data, size, &rng);
        let bits = |batch: crate::Batch| batch.images.mapv(f32::to_bits).into_iter();
        batches.map(|drawn| drawn.batch()).flat_map(bits).collect()
    };
    assert_eq!(of(&alone, 16), of(&alone, 7), "other batches");
    let epoch = |size| of(&data, size);
    let expected = epoch(16);
    assert_ne!(expected, of(&alone, 16), "mixed");
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found: Vec<u32> = pool.install(|| epoch(16));
        assert_eq!(expected, found, "{threads} threads");
    }
    let other = Batches::new(&data, 16, &rng.split_index(1)).next().unwrap().batch();
    let same = Batches::new(&data, 16, &rng).next().unwrap().batch();
    assert_ne!(other, same, "another epoch");
}

#[test]
fn calibration_images_are_training_images_as_they_are() {
    let data =
        numbered(200, Augment { pad_crop: 2, mirror: Mirror::Random, cutout: 3, mixup: 0.4 });
    let images = calibration_images(&data, 9);
    assert_eq!(images.dim(), (9, 1, 6, 5));
    assert_eq!(images, data.images(&data.train, &data.train.indices()[..9]));
    assert_eq!(calibration_images(&data, 1000).dim().0, data.train.len());
}

#[test]
fn what_does_not_fit_the_data_is_refused_before_they_are_read() {
    let refusal = |options: &str| {
        let source = build("fashion_mnist_subset", options).unwrap();
        source.options().check(&source.describe(Path::new("")).unwrap()).unwrap_err().to_string()
    };
    assert_eq!(
        refusal("validation = 8000"),
        "validation = 8000: expected fewer than the 8000 images there are"
    );
    assert_eq!(
        refusal("validation = 1000\ntrain = 7001"),
        "train = 7001: expected 1 to the 7000 images that validation = 1000 leaves"
    );
    assert!(refusal("train = 0").starts_with("train = 0: expected 1 to"));
    assert_eq!(
        refusal("augment = { pad_crop = 28 }"),
        "augment.pad_crop = 28: expected less than 28, the shorter side of the images"
    );
    for wrong in ["-0.1", "100.5", "nan", "inf"] {
        let told = refusal(&format!("augment = {{ mixup = {wrong} }}"));
        assert!(told.ends_with(": expected a number from 0 to 100"), "{told}");
    }
}

#[test]
fn what_a_data_set_says_of_itself_is_what_is_read_and_two_parts_differ() {
    for name in ["fashion_mnist_subset", "synthetic"] {
        let source = build(name, "").unwrap();
        let (says, train) = (source.describe(Path::new("")), source.train(Path::new("")));
        let (says, train) = (says.unwrap(), train.unwrap());
        let test = source.test(Path::new("")).unwrap();
        assert_eq!((says.shape, says.images), (train.shape(), train.len()), "{name}");
        assert_eq!(
            (says.classes, says.test_images),
            (train.classes().to_vec(), test.len()),
            "{name}"
        );
        assert_eq!((test.shape(), test.classes()), (train.shape(), train.classes()), "{name}");
        assert_ne!(train.image(0), test.image(0), "{name}");
        assert_eq!(source.train(Path::new("")).unwrap(), train, "{name}");
    }
}

#[test]
fn the_options_that_each_data_set_documents_are_its_defaults() {
    for plugin in data_sets().unwrap().iter() {
        let table = |text: &str| {
            let options = toml::de::DeTable::parse(text).unwrap();
            let (span, table) = (options.span(), options.into_inner());
            let value = toml::Spanned::new(span, toml::de::DeValue::Table(table));
            plugin.build(value).unwrap_or_else(|error| panic!("{}: {error}", plugin.name)).options
        };
        // A data set in files has one key without a default: where they are.
        let in_files = plugin.options.starts_with("path =");
        let least = if in_files { "path = \"data\"" } else { "" };
        assert_eq!(table(plugin.options), table(least), "{}", plugin.name);
        // Keys that are off are written as comments, and are keys nonetheless.
        let all = plugin.options.replace("\n# train =", "\ntrain =");
        assert!(table(&all).contains_key("train"), "{}", plugin.name);
        // What was resolved is read again to the same.
        let resolved = table(&all);
        assert_eq!(table(&resolved.to_string()), resolved, "{}", plugin.name);
        for line in plugin.options.lines() {
            assert!(line.contains("  # "), "{}: {line}: expected a meaning", plugin.name);
        }
    }
}

#[test]
fn misspelt_options_are_refused_by_name() {
    for (name, options, expected) in [
        ("synthetic", "validaton = 3", "unknown field `validaton`"),
        ("fashion_mnist_subset", "augment = { crop = 3 }", "unknown field `crop`"),
        ("fashion_mnist_subset", "validation = -1", "invalid value: integer `-1`"),
        ("cifar10", "validation = 3", "missing field `path`"),
        ("synthetic", "classes = 40", "classes: expected 2 to 32, found 40"),
    ] {
        let error = build(name, options).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {options}: {error}");
    }
}
