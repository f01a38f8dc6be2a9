//! Saving never loses a model, and never deletes what isn't one.

use std::fs;
use std::path::Path;

use eas_ir::{Metadata, Network, Normalisation, Probe, Rng, SavedModel};
use ndarray::{Array2, Array4};

use crate::networks::{random_model, random_network};

fn model(seed: u64) -> SavedModel {
    let rng = &mut Rng::new(seed);
    let network = random_network(rng);
    SavedModel { model: random_model(network, rng), metadata: Metadata::default() }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_later_model_replaces_an_earlier_one_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("best");
    for seed in [1, 2, 3] {
        model(seed).save(&path).unwrap();
        assert_eq!(SavedModel::load(&path).unwrap(), model(seed));
        assert_eq!(names(folder.path()), ["best"]);
        assert_eq!(names(&path), ["network.toml", "weights.safetensors"]);
    }
}

#[test]
fn wherever_a_save_is_cut_off_a_whole_model_is_found_and_the_next_save_works() {
    // Each case leaves the folder as a save of model 2 over model 1 leaves it at that moment.
    type Case = (&'static str, fn(&Path), u64);
    let cases: [Case; 4] = [
        ("while writing", |folder| fs::create_dir(folder.join(".best.new")).unwrap(), 1),
        ("before the renames", |folder| model(2).save(&folder.join(".best.new")).unwrap(), 1),
        (
            "between the renames",
            |folder| {
                fs::rename(folder.join("best"), folder.join(".best.old")).unwrap();
                model(2).save(&folder.join(".best.new")).unwrap();
            },
            1,
        ),
        (
            "after the renames",
            |folder| {
                fs::rename(folder.join("best"), folder.join(".best.old")).unwrap();
                model(2).save(&folder.join("best.new")).unwrap();
                fs::rename(folder.join("best.new"), folder.join("best")).unwrap();
            },
            2,
        ),
    ];
    for (moment, cut_off, found) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("best");
        model(1).save(&path).unwrap();
        cut_off(folder.path());
        assert_eq!(SavedModel::load(&path).unwrap(), model(found), "{moment}");
        assert_eq!(&Network::load(&path).unwrap(), model(found).model.network(), "{moment}");
        model(3).save(&path).unwrap();
        assert_eq!(SavedModel::load(&path).unwrap(), model(3), "{moment}");
        assert_eq!(names(folder.path()), ["best"], "{moment}");
    }
}

#[test]
fn a_failed_save_keeps_the_earlier_model_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("best");
    model(1).save(&path).unwrap();
    // A file where the new folder would be written stops the save before any rename.
    fs::write(folder.path().join(".best.new"), "").unwrap();
    model(2).save(&path).unwrap_err();
    assert_eq!(SavedModel::load(&path).unwrap(), model(1));
}

#[test]
fn what_is_not_a_model_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &Path, expected: &str| {
        let error = model(1).save(path).unwrap_err().to_string();
        assert!(error.contains(expected), "{}: {error}", path.display());
    };
    let documents = folder.path().join("documents");
    model(1).save(&documents).unwrap();
    fs::write(documents.join("thesis.txt"), "years of work").unwrap();
    check(
        &documents,
        "expected the name of a new folder or of an earlier model, found a folder with `thesis.txt` in it",
    );
    assert_eq!(fs::read_to_string(documents.join("thesis.txt")).unwrap(), "years of work");
    let file = folder.path().join("file");
    fs::write(&file, "years of work").unwrap();
    check(&file, "found a file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "years of work");
    check(&folder.path().join(".."), "found no name");
    assert_eq!(names(folder.path()), ["documents", "file"]);
}

#[test]
fn metadata_that_could_not_be_read_back_is_not_written() {
    let saved = model(1);
    let classes = saved.model.classes();
    let channels = saved.model.input_shape().channels();
    let normal = |mean: f32, deviation: f32, channels: usize| Metadata {
        normalisation: Some(Normalisation {
            mean: vec![mean; channels],
            deviation: vec![deviation; channels],
        }),
        ..Metadata::default()
    };
    let probe = |count: usize, channels: usize, logit: f32| Metadata {
        probe: Some(Probe {
            images: Array4::zeros((count, channels, 1, 1)),
            logits: Array2::from_elem((count, classes), logit),
        }),
        ..Metadata::default()
    };
    let too_many = vec!["cat".to_owned(); classes + 1];
    let cases = [
        (Metadata { classes: too_many, ..Metadata::default() }, "metadata.classes: expected"),
        (normal(0.5, 0.5, channels + 1), "means and deviations, found"),
        (normal(f32::NAN, 0.5, channels), "finite means"),
        (normal(0.5, 0.0, channels), "positive deviations"),
        (normal(0.5, f32::INFINITY, channels), "positive deviations"),
        (probe(2, channels + 7, 0.0), "doesn't fit the network"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (metadata, expected) in cases {
        let saved = SavedModel { model: saved.model.clone(), metadata };
        let error = saved.save(&folder.path().join("model")).unwrap_err().to_string();
        assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
        assert!(names(folder.path()).is_empty(), "{expected}");
    }
}
