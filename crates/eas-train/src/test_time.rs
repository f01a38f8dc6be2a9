//! Test-time augmentation: what a network says of an image and of its mirror image, together.

use eas_ir::{Images, Mode, Model};
use ndarray::{Axis, Slice};

use crate::data::{Split, TrainingData};
use crate::engine::Engine;
use crate::parameters::FlatParameters;
use crate::train::Accuracy;

/// Images that are normalised at once.
const CHUNK: usize = 256;

/// As [`crate::accuracy`], by the mean of the logits of each image and its mirror image, left to right.
/// That is another measure than a network's accuracy, at twice the work: whoever tells it says so.
///
/// # Errors
/// Images that don't fit the model, or an engine's failure.
pub fn mirrored_accuracy(
    engine: &dyn Engine,
    model: &Model,
    data: &TrainingData,
    split: &Split,
    done: &mut dyn FnMut(usize),
) -> anyhow::Result<Accuracy> {
    let parameters = FlatParameters::new(model, None)?;
    let mut program = engine.compile(model.network())?;
    let mut accuracy = Accuracy { correct: 0, images: split.len() };
    for part in split.indices().chunks(CHUNK) {
        let images: Images = data.images(split, part);
        let mirrored =
            images.slice_axis(Axis(3), Slice::new(0, None, -1)).as_standard_layout().to_owned();
        // The sum has the same largest entry as the mean.
        let sum = program.logits(&parameters, &images, Mode::Evaluation)?
            + program.logits(&parameters, &mirrored, Mode::Evaluation)?;
        for (row, index) in sum.rows().into_iter().zip(part) {
            let first_largest =
                row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (class, logit)| {
                    if *logit > best.1 { (class, *logit) } else { best }
                });
            accuracy.correct += usize::from(first_largest.0 == split.label(*index));
        }
        done(part.len());
    }
    Ok(accuracy)
}
