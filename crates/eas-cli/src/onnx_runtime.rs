//! An ONNX file run by a library that isn't ours, so that what is exported is held against another
//! reading of the format: where the feature `onnx-runtime` is on.

use ndarray::{Array2, Array4};

/// The logits, `[batch, classes]`, that a file gives for a batch `[batch, channels, height, width]`; for a
/// network of vectors, height and width are 1. Nothing where there is no runtime.
///
/// # Errors
/// A file that the runtime can't read or run.
#[cfg(feature = "onnx-runtime")]
pub(crate) fn logits(file: &[u8], images: &Array4<f32>) -> anyhow::Result<Option<Array2<f32>>> {
    use anyhow::{Context, ensure};
    use rten_tensor::NdTensor;
    use rten_tensor::prelude::*;

    let model = rten::Model::load(file.to_vec()).context("the ONNX runtime can't read the file")?;
    let (batch, channels, height, width) = images.dim();
    let values: Vec<f32> = images.iter().copied().collect();
    let found = match model.input_shape(0).map(|sides| sides.len()) {
        Some(2) => {
            let features = channels * height * width;
            model.run_one(NdTensor::from_data([batch, features], values).into(), None)
        }
        _ => {
            let sides = [batch, channels, height, width];
            model.run_one(NdTensor::from_data(sides, values).into(), None)
        }
    };
    let found = found.context("the ONNX runtime can't run the file")?;
    let found: NdTensor<f32, 2> = found.try_into().context("the ONNX runtime gives no matrix")?;
    let [rows, classes] = found.shape();
    ensure!(rows == batch, "expected logits of {batch} images, found {rows}");
    Ok(Some(Array2::from_shape_vec((rows, classes), found.to_vec())?))
}

/// There is no runtime.
#[cfg(not(feature = "onnx-runtime"))]
pub(crate) fn logits(_: &[u8], _: &Array4<f32>) -> anyhow::Result<Option<Array2<f32>>> {
    Ok(None)
}

#[cfg(all(test, feature = "onnx-runtime"))]
mod tests {
    use eas_ir::onnx::{OnnxOptions, write};
    use eas_ir::{Forward, Metadata, Mode, Reference, Rng, SavedModel};
    use eas_transform::{ConvNet, DenseNet, Residual, SearchSpace, law};

    use super::*;

    #[test]
    fn the_runtime_gives_the_reference_evaluators_logits() {
        let spaces: [&dyn SearchSpace; 3] =
            [&ConvNet::small(), &Residual::resnet20(), &DenseNet::small()];
        for (place, space) in spaces.into_iter().enumerate() {
            for seed in 0..20 {
                let rng = Rng::new(seed);
                let space = space.miniature(&mut rng.split("space")).unwrap();
                let network = space.start(&law::problem()).unwrap();
                let model = law::random_model(network, &rng).unwrap();
                let images = law::random_images(model.input_shape(), 4, &rng);
                let expected = Reference.logits(&model, &images, Mode::Evaluation).unwrap();
                let saved = SavedModel { model, metadata: Metadata::default() };
                for fold_batch_norms in [false, true] {
                    let options = OnnxOptions { fold_batch_norms, ..OnnxOptions::default() };
                    let found = logits(&write(&saved, &options).unwrap(), &images).unwrap();
                    let found = found.unwrap();
                    let gap = (&found.mapv(f64::from) - &expected).mapv(f64::abs);
                    let gap = gap.fold(0.0f64, |a, b| a.max(*b)) / expected.std(0.0);
                    assert!(gap < 1e-4, "space {place}, seed {seed}: {gap}");
                }
            }
        }
    }
}
