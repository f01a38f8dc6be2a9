//! A model held against the outputs that came with it, as ONNX's model zoo keeps them: in
//! `test_data_set_0/input_0.pb` and `output_0.pb` beside the file, and so on for more batches.

use std::path::{Path, PathBuf};

use ndarray::{Array2, Array4};

use super::affine::Affine;
use super::messages::{Tensor as FileTensor, decode_tensor};
use super::tensors::{External, Numbers, few, numbers};
use crate::forward::{Forward, Images, Mode, deviation_of_logits};
use crate::model::Model;
use crate::saved::read_bounded;
use crate::weights::Tensor;

/// The longest file of a batch.
const LONGEST: u64 = 1 << 30;
/// The most batches that are looked at.
const MOST_BATCHES: usize = 16;
/// The largest difference of a logit that counts as none, in deviations of the logits given.
const TOLERANCE: f64 = 1e-4;

/// How a model compares with the outputs that came with it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Given {
    /// Images that outputs were given for.
    pub images: usize,
    /// The largest difference of a logit, in deviations of the logits given.
    pub gap: f64,
}

/// Compares a model with the outputs beside its file.
pub(super) fn compare(
    path: &Path,
    model: &Model,
    affine: Option<&Affine>,
    forward: &dyn Forward,
) -> Result<Given, (PathBuf, String)> {
    let mut given = Given::default();
    for batch in 0..MOST_BATCHES {
        let folder = path.with_file_name(format!("test_data_set_{batch}"));
        let (input, output) = (folder.join("input_0.pb"), folder.join("output_0.pb"));
        if !input.is_file() || !output.is_file() {
            break;
        }
        let wrong = |why: String| (folder.clone(), why);
        let images = read(&input).and_then(|images| normalised(&images, model, affine));
        let images = images.map_err(|why| (input.clone(), why))?;
        let expected = read(&output).and_then(logits).map_err(|why| (output.clone(), why))?;
        let found = forward
            .logits(model, &images, Mode::Evaluation)
            .map_err(|error| wrong(format!("{error:#}")))?;
        if found.dim() != expected.dim() {
            let (found, expected) = (found.shape(), expected.shape());
            return Err(wrong(format!("expected logits of sides {expected:?}, found {found:?}")));
        }
        if !expected.iter().chain(&found).all(|logit| logit.is_finite()) {
            return Err(wrong("expected finite logits".to_owned()));
        }
        let largest = (&found - &expected).mapv(f64::abs).fold(0.0f64, |a, b| a.max(*b));
        let gap = largest / deviation_of_logits(&expected);
        if gap > TOLERANCE {
            return Err(wrong(format!(
                "the model gives other logits than these: by {gap:.1e} deviations of them, expected at \
                 most {TOLERANCE:.0e}"
            )));
        }
        given = Given { images: given.images + found.nrows(), gap: given.gap.max(gap) };
    }
    Ok(given)
}

fn read(path: &Path) -> Result<Tensor, String> {
    let bytes = read_bounded(path, LONGEST).map_err(|error| error.to_string())?;
    let tensor: FileTensor = decode_tensor(bytes.into())?;
    match numbers(&tensor, &mut External::default())? {
        Numbers::Floats(values) => Ok(values),
        Numbers::Integers(..) => Err("expected numbers of type FLOAT (1)".to_owned()),
    }
}

/// Images as the network reads them, behind what the front of the graph makes of them.
fn normalised(images: &Tensor, model: &Model, affine: Option<&Affine>) -> Result<Images, String> {
    let sides = match *images.shape() {
        [batch, channels, height, width] => [batch, channels, height, width],
        [batch, features] => [batch, features, 1, 1],
        ref other => return Err(format!("expected images of 4 sides, found {}", few(other))),
    };
    let shape = model.input_shape();
    if sides[1] != shape.channels() || sides[2] * sides[3] != shape.area() {
        return Err(format!("expected images of {shape}, found sides {}", few(images.shape())));
    }
    let values = images.iter().copied().collect();
    let mut images = Array4::from_shape_vec(sides, values).map_err(|error| error.to_string())?;
    if let Some(affine) = affine {
        affine.apply(&mut images);
    }
    Ok(images)
}

fn logits(values: Tensor) -> Result<Array2<f64>, String> {
    let sides = few(values.shape());
    let two: Result<Array2<f32>, _> = values.into_owned().into_dimensionality();
    two.map(|logits| logits.mapv(f64::from))
        .map_err(|_| format!("expected logits of 2 sides, found {sides}"))
}
