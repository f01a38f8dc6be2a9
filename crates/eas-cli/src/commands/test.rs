//! `eas test`: a model on a data set's test images.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use eas_controller::TrialId;
use eas_ir::{Normalisation, SavedModel};
use eas_train::{
    Labelled, Split, TrainingData, accuracy, mirrored_accuracy, normalisation_of, shared_images,
};
use ndarray::{Array4, Axis};
use serde::Serialize;

use super::given::{self, Given};
use super::{bad_input, data_of};
use crate::args::{self, TestTimeAugmentation};
use crate::devices::device;
use crate::exit;
use crate::print::{self, percent};
use crate::runs::{Event, Run};

#[derive(Serialize)]
struct Tested {
    correct: usize,
    images: usize,
    accuracy: f64,
    /// What each image was classified together with; nothing for itself alone.
    test_time_augmentation: Option<TestTimeAugmentation>,
}

pub(super) fn run(args: &args::Test) -> anyhow::Result<u8> {
    let Given { name, saved: SavedModel { model, metadata }, from } = given::model(&args.model)?;
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
    let engine = device(&args.device)?.engine()?;
    let augmentation = args.test_time_augmentation;
    record(&args.model.path, from.map(|(_, result)| result.trial), augmentation)?;
    let test = Split::all(source.implementation.test(directory).map_err(bad_input)?);
    let (kept, trained) = match &metadata.probe {
        Some(probe) => (probe.images.len_of(Axis(0)), trained_among(&test, &probe.images)?),
        None => (0, 0),
    };
    if trained > 0 {
        print::note(&format!(
            "warning: {trained} of the {kept} training images that the model keeps are test images here: it \
             was trained on another split of these data, or images stand in both of its parts"
        ));
    }
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
    let mut done = |images| bar.advance(images as u64);
    let found = match args.test_time_augmentation {
        None => accuracy(engine.as_ref(), &model, &data, &test, &mut done),
        Some(TestTimeAugmentation::Mirror) => {
            mirrored_accuracy(engine.as_ref(), &model, &data, &test, &mut done)
        }
    };
    bar.finish();
    let found = found?;
    if args.json {
        print::json(&Tested {
            correct: found.correct,
            images: found.images,
            accuracy: found.share(),
            test_time_augmentation: args.test_time_augmentation,
        });
    } else {
        let how = match args.test_time_augmentation {
            None => "",
            Some(TestTimeAugmentation::Mirror) => {
                ", by the mean of the logits of each and its mirror image"
            }
        };
        print::result(&format!(
            "Test accuracy {}: {} of {} images{how}",
            percent(found.share()),
            found.correct,
            found.images
        ));
    }
    Ok(exit::SUCCESS)
}

/// How many of these images, `[count, channels, height, width]`, stand among test images.
fn trained_among(test: &Split, images: &Array4<u8>) -> anyhow::Result<usize> {
    let labels = vec![0; images.len_of(Axis(0))];
    let pixels = images.iter().copied().collect();
    let images = Labelled::new(test.shape(), test.source().classes().to_vec(), pixels, labels)?;
    Ok(shared_images(test, &Split::all(images)).len())
}

/// Where a model is one of a run, records there that the test images are opened for it.
fn record(
    model: &Path,
    trial: Option<TrialId>,
    test_time_augmentation: Option<TestTimeAugmentation>,
) -> anyhow::Result<()> {
    let Ok(whole) = model.canonicalize() else { return Ok(()) };
    let Some(root) = whole.ancestors().find(|folder| Run::is_run(folder)) else { return Ok(()) };
    let run = Run::open(root).map_err(bad_input)?;
    if run.holder().is_some() {
        return Err(bad_input(format!(
            "{}: it is being searched, and its test images stay closed until that is done",
            root.display()
        )));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let folder = || whole.strip_prefix(root).unwrap_or(&whole).display().to_string();
    let model = trial.map_or_else(folder, |trial| format!("trial {trial}"));
    let at = since.map_or(0, |since| since.as_secs());
    let event = Event::Tested { at, model, test_time_augmentation };
    let recorded = run.lock().and_then(|_lock| run.add_event(&event));
    if let Err(error) = recorded {
        print::note(&format!("note: the run doesn't record this test: {error:#}"));
    }
    Ok(())
}
