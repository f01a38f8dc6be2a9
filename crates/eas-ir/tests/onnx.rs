//! ONNX, there and back: what is written is read as the model that it was, and folding keeps the function.

use eas_ir::onnx::{OnnxOptions, from_bytes, write};
use eas_ir::{
    Forward, Metadata, Mode, Model, Normalisation, Op, Reference, Rng, SavedModel, fold_batch_norms,
};

use crate::networks::{random_images, random_model, random_network};
use crate::round_trips::{bits, random_metadata};

const UNFOLDED: OnnxOptions = OnnxOptions { fold_batch_norms: false, fold_normalisation: false };

fn random_saved(seed: u64) -> SavedModel {
    let rng = &mut Rng::new(seed);
    let network = random_network(rng);
    let model = random_model(network, rng);
    let metadata = Metadata { probe: None, ..random_metadata(&model, rng) };
    SavedModel { model, metadata }
}

/// The largest difference of the logits, in their deviations.
fn gap(one: &Model, other: &Model, rng: &mut Rng) -> f64 {
    let images = random_images(one, 6, rng);
    let logits = |model| Reference.logits(model, &images, Mode::Evaluation).unwrap();
    let (one, other) = (logits(one), logits(other));
    let largest = (&one - &other).mapv(f64::abs).fold(0.0f64, |a, b| a.max(*b));
    largest / one.std(0.0)
}

#[test]
fn an_unfolded_file_is_read_back_bit_for_bit() {
    for seed in 0..300 {
        let saved = random_saved(seed);
        let file = write(&saved, &UNFOLDED).unwrap();
        let read = from_bytes(&file).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(read, saved, "seed {seed}");
        assert_eq!(bits(&read), bits(&saved), "seed {seed}");
        assert_eq!(write(&read, &UNFOLDED).unwrap(), file, "seed {seed}");
    }
}

#[test]
fn a_normalisation_in_the_graph_is_read_back_bit_for_bit() {
    let options = OnnxOptions { fold_normalisation: true, ..UNFOLDED };
    for seed in 0..100 {
        let mut saved = random_saved(seed);
        let rng = &mut Rng::new(seed).split("normalisation");
        let channels = saved.model.input_shape().channels();
        let mut numbers = |least: f64| (0..channels).map(|_| (least + rng.unit()) as f32).collect();
        let normalisation = Normalisation { mean: numbers(0.0), deviation: numbers(0.01) };
        saved.metadata.normalisation = Some(normalisation);
        let read = from_bytes(&write(&saved, &options).unwrap()).unwrap();
        assert_eq!(read, saved, "seed {seed}");
        saved.metadata.normalisation = None;
        let error = write(&saved, &options).unwrap_err().to_string();
        assert_eq!(error, "the model doesn't say how images are normalised");
    }
}

#[test]
fn folded_batch_norms_keep_the_function() {
    let (mut folded, mut left) = (0, 0);
    let norms = |model: &Model| {
        let is_norm = |op: &Op| matches!(op, Op::BatchNorm { .. });
        model.network().nodes().iter().filter(|node| is_norm(&node.op)).count()
    };
    for seed in 0..100 {
        let saved = random_saved(seed);
        let model = fold_batch_norms(&saved.model).unwrap();
        let gap_of_fold = gap(&saved.model, &model, &mut Rng::new(seed));
        assert!(gap_of_fold < 1e-5, "seed {seed}: {gap_of_fold}");
        folded += norms(&saved.model) - norms(&model);
        left += norms(&model);
        let options = OnnxOptions { fold_batch_norms: true, ..UNFOLDED };
        let read = from_bytes(&write(&saved, &options).unwrap()).unwrap();
        assert_eq!(read.model, model, "seed {seed}");
    }
    assert!(folded > 50 && left > 10, "{folded} batch norms were folded, {left} were not");
}
