//! `eas test`: a model on a data set's test images.

use std::path::Path;

use eas_ir::{Normalisation, SavedModel};
use eas_train::{Split, TrainingData, accuracy, normalisation_of};
use serde::Serialize;

use super::given::{self, Given};
use super::{bad_input, data_of};
use crate::args;
use crate::engine::ENGINE;
use crate::exit;
use crate::print::{self, percent};

#[derive(Serialize)]
struct Tested {
    correct: usize,
    images: usize,
    accuracy: f64,
}

pub(super) fn run(args: &args::Test) -> anyhow::Result<u8> {
    let Given { name, saved: SavedModel { model, metadata }, .. } = given::model(&args.model)?;
    let source = data_of(&args.data, &args.set)?;
    let directory = Path::new("");
    let known = source.implementation.describe(directory).map_err(bad_input)?;
    let (shape, classes) = (known.shape, known.classes);
    if model.input_shape() != shape || model.classes() != classes.len() {
        return Err(bad_input(format!(
            "{name}: the model takes {} and tells {} classes apart; data set `{}` has {shape} and {}",
            model.input_shape(),
            model.classes(),
            source.name,
            classes.len()
        )));
    }
    if !metadata.classes.is_empty() && metadata.classes != classes {
        print::note("note: the model's class names differ from the data set's");
    }
    let test = Split::all(source.implementation.test(directory).map_err(bad_input)?);
    let normalisation: Normalisation = metadata.normalisation.ok_or_else(|| {
        bad_input(format!(
            "{name}: the model doesn't say how images are normalised; those of the test images would be {:?}",
            normalisation_of(&test)
        ))
    })?;
    let options = source.implementation.options();
    let (train, validation) = (test.first(0), test.first(0));
    let data = TrainingData { train, validation, classes, normalisation, augment: options.augment };
    let bar = print::Bar::new(test.len() as u64);
    bar.message("images");
    let found = accuracy(&ENGINE, &model, &data, &test, &mut |images| bar.advance(images as u64));
    bar.finish();
    let found = found?;
    if args.json {
        print::json(&Tested {
            correct: found.correct,
            images: found.images,
            accuracy: found.share(),
        });
    } else {
        print::result(&format!(
            "Test accuracy {}: {} of {} images",
            percent(found.share()),
            found.correct,
            found.images
        ));
    }
    Ok(exit::SUCCESS)
}
