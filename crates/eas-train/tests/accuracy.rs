//! Counting what a model classifies right.

use eas_ir::{Forward, Images, Mode, Model, Network, Normalisation, Op, Rng, Shape};
use eas_train::{
    Accuracy, Augment, Labelled, Oracle, Split, TrainingData, accuracy, mirrored_accuracy,
};

use crate::random;

#[test]
fn every_image_counts_once_whatever_the_size_of_the_split() {
    let mut rng = Rng::new(3);
    let network = random::learner(0.5);
    let model: Model = random::model(network, &mut rng);
    let (most, area) = (1030, 12 * 12);
    let pixels: Vec<u8> = (0..most * area).map(|_| rng.below(256) as u8).collect();
    let normalisation = Normalisation { mean: vec![0.5], deviation: vec![0.25] };
    let normalised = pixels.iter().map(|pixel| (f32::from(*pixel) / 255.0 - 0.5) / 0.25).collect();
    let images = Images::from_shape_vec((most, 1, 12, 12), normalised).unwrap();
    let logits = Oracle.logits(&model, &images, Mode::Evaluation).unwrap();
    // Every third image gets a wrong label.
    let labels: Vec<u8> = logits
        .rows()
        .into_iter()
        .enumerate()
        .map(|(index, row)| {
            let best = (0..4).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            if index % 3 == 2 { (best as u8 + 1) % 4 } else { best as u8 }
        })
        .collect();
    let classes = vec!["a".to_owned(), "b".to_owned(), "c".to_owned(), "d".to_owned()];
    let shape = Shape::Image { channels: 1, height: 12, width: 12 };
    let all = Split::all(Labelled::new(shape, classes.clone(), pixels, labels).unwrap());
    let data = TrainingData {
        train: all.first(0),
        validation: all.first(0),
        classes,
        normalisation,
        augment: Augment::default(),
    };
    for images in [0, 1, 2, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025] {
        let found = accuracy(&Oracle, &model, &data, &all.first(images), &mut |_| ()).unwrap();
        let correct = images - images / 3;
        assert_eq!(found, Accuracy { correct, images });
    }
    assert_eq!(Accuracy { correct: 0, images: 0 }.share(), 0.0);
    assert_eq!(Accuracy { correct: 3, images: 4 }.share(), 0.75);
}

#[test]
fn with_its_mirror_image_an_image_counts_by_the_mean_of_both_logits() {
    let mut rng = Rng::new(4);
    // Each pixel counts, so that mirror images are told apart.
    let mut network = Network::new();
    let shape = Shape::Image { channels: 1, height: 12, width: 12 };
    let mut last = network.push(Op::Input { shape }, &[], None);
    for op in [Op::Flatten, Op::Linear { units: 4, bias: true }] {
        last = network.push(op, &[last], None);
    }
    let model: Model = random::model(network, &mut rng);
    let (count, area) = (600, 12 * 12);
    let pixels: Vec<u8> = (0..count * area).map(|_| rng.below(256) as u8).collect();
    // Rows from right to left.
    let mirrored: Vec<u8> = pixels.chunks(12).flat_map(|row| row.iter().rev().copied()).collect();
    let logits = |pixels: &[u8]| {
        let normalised = pixels.iter().map(|pixel| f32::from(*pixel) / 255.0 - 0.5).collect();
        let images = Images::from_shape_vec((count, 1, 12, 12), normalised).unwrap();
        Oracle.logits(&model, &images, Mode::Evaluation).unwrap()
    };
    let mean = (logits(&pixels) + logits(&mirrored)) / 2.0;
    let best = |row: ndarray::ArrayView1<'_, f64>| {
        (0..4).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u8
    };
    let labels: Vec<u8> = mean.rows().into_iter().map(best).collect();
    let classes: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    for pixels in [pixels, mirrored] {
        let all =
            Split::all(Labelled::new(shape, classes.clone(), pixels, labels.clone()).unwrap());
        let data = TrainingData {
            train: all.first(0),
            validation: all.first(0),
            classes: classes.clone(),
            normalisation: Normalisation { mean: vec![0.5], deviation: vec![1.0] },
            augment: Augment::default(),
        };
        let found = mirrored_accuracy(&Oracle, &model, &data, &all, &mut |_| ()).unwrap();
        assert_eq!(found, Accuracy { correct: count, images: count });
        let alone = accuracy(&Oracle, &model, &data, &all, &mut |_| ()).unwrap();
        assert!(alone.correct < count, "the mirror images changed nothing");
    }
}
