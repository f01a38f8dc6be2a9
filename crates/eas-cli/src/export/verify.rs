//! Whether what was written does what the stored network does: it is read again and run, and its logits
//! are compared.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use eas_ir::onnx;
use eas_ir::{Forward, Images, Mode, Rng, SavedModel, Shape, deviation_of_logits};
use eas_train::Split;
use eas_transform::{TOLERANCE, law};
use ndarray::{Array2, Array4, Axis};

use super::{CODE, Form, ONNX, normalised};
use crate::commands::bad_input;
use crate::engine::ENGINE;
use crate::onnx_runtime;

/// Images of noise that a model is run on that keeps none.
const NOISE_IMAGES: usize = 32;
/// Exit code of the script where there is no PyTorch.
const NO_TORCH: i32 = 77;
/// Runs `model.py` of the folder it is started in on images from its input. The arguments are the shape and
/// the type of a number.
const RUN_CODE: &str = include_str!("run_code.py");

/// What is written has to do the same as this.
#[derive(Debug)]
pub(crate) struct Yardstick {
    /// The shape of an image.
    input: Shape,
    /// As pixels, where the model says how they are normalised.
    pixels: Option<Array4<u8>>,
    /// As the network reads them.
    images: Images,
    /// The stored network's, `[images, classes]`.
    logits: Array2<f64>,
    /// What the images are.
    pub(crate) words: String,
}

/// How what was written is run.
#[derive(Clone, Debug)]
pub(crate) struct Checks {
    /// The Python that was asked for.
    pub(crate) python: Option<PathBuf>,
    /// Whether an ONNX file takes pixels, rather than images that are normalised.
    pub(crate) folded_normalisation: bool,
}

/// What was written does something else.
#[derive(Debug)]
pub(crate) struct Disagreement(String);

impl fmt::Display for Disagreement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Disagreement {}

impl Yardstick {
    /// The model's own images, and some validation images.
    ///
    /// # Errors
    /// A model that doesn't give the logits that it keeps of its own images, which is bad input; an engine's
    /// failure.
    pub(crate) fn of(saved: &SavedModel, validation: Option<&Split>) -> anyhow::Result<Self> {
        let SavedModel { model, metadata } = saved;
        let shape = model.input_shape();
        let Some(normalisation) = &metadata.normalisation else {
            let images = law::random_images(shape, NOISE_IMAGES, &Rng::new(1));
            let logits = ENGINE.logits(model, &images, Mode::Evaluation)?;
            let words = format!("{NOISE_IMAGES} images of noise");
            return Ok(Yardstick { input: shape, pixels: None, images, logits, words });
        };
        let mut words = Vec::new();
        let mut parts = Vec::new();
        if let Some(probe) = &metadata.probe {
            words.push(format!("the {} images that the model keeps", probe.images.dim().0));
            parts.push(probe.images.clone());
        }
        if let Some(split) = validation.filter(|split| !split.is_empty()) {
            words.push(format!("{} validation images", split.len()));
            let images = split.indices().iter().flat_map(|index| split.image(*index).to_vec());
            let (channels, height, width) = sides(split.shape());
            let dimensions = (split.len(), channels, height, width);
            parts.push(Array4::from_shape_vec(dimensions, images.collect())?);
        }
        if parts.is_empty() {
            words.push(format!("{NOISE_IMAGES} images of noise"));
            let (channels, height, width) = sides(shape);
            let mut rng = Rng::new(1).split("noise");
            let dimensions = (NOISE_IMAGES, channels, height, width);
            parts.push(Array4::from_shape_simple_fn(dimensions, || rng.next_u32() as u8));
        }
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let pixels = ndarray::concatenate(Axis(0), &views)?;
        let images = normalised(&pixels, normalisation)?;
        let logits = ENGINE.logits(model, &images, Mode::Evaluation)?;
        if let Some(probe) = &metadata.probe {
            let found = logits.slice_axis(Axis(0), (..probe.images.dim().0).into());
            let kept = probe.logits.mapv(f64::from);
            compare(&kept, &found.to_owned()).map_err(|error| {
                bad_input(format!(
                    "the model isn't what it says of itself: on the images that it keeps, {error}; \
                     --no-verify exports it as it is"
                ))
            })?;
        }
        let words = words.join(" and ");
        Ok(Yardstick { input: shape, pixels: Some(pixels), images, logits, words })
    }

    /// How many images there are.
    pub(crate) fn images(&self) -> usize {
        self.images.dim().0
    }

    /// Runs what was written and compares: the largest difference of a logit, in deviations of the
    /// logits; nothing, with a reason, where it can't be run here.
    ///
    /// # Errors
    /// [`Disagreement`], or what can't be read or run though it should.
    pub(crate) fn check(
        &self,
        folder: &Path,
        form: Form,
        checks: &Checks,
    ) -> anyhow::Result<Result<f64, String>> {
        let found = match form {
            Form::Safetensors => {
                let model = SavedModel::load(folder)?.model;
                ENGINE.logits(&model, &self.images, Mode::Evaluation)?
            }
            Form::Onnx => self.run_onnx(&folder.join(ONNX), checks)?,
            Form::Pytorch => match self.run_code(folder, checks.python.as_deref())? {
                Ok(logits) => logits,
                Err(why) => return Ok(Err(why)),
            },
        };
        let gap = compare(&self.logits, &found).with_context(|| form.name().to_owned())?;
        Ok(Ok(gap))
    }

    /// The logits of the graph in an ONNX file, as it is read, with the normalisation that it has or tells of;
    /// the same as those of a library that isn't ours, where there is one.
    fn run_onnx(&self, path: &Path, checks: &Checks) -> anyhow::Result<Array2<f64>> {
        self.run_elsewhere(path, checks)?;
        let SavedModel { model, metadata } = onnx::read(path)?;
        match (&self.pixels, &metadata.normalisation) {
            (Some(pixels), Some(normalisation)) => {
                ENGINE.logits(&model, &normalised(pixels, normalisation)?, Mode::Evaluation)
            }
            _ => ENGINE.logits(&model, &self.images, Mode::Evaluation),
        }
    }

    /// Has another library read and run an ONNX file, where there is one.
    fn run_elsewhere(&self, path: &Path, checks: &Checks) -> anyhow::Result<()> {
        let file = std::fs::read(path)?;
        let found = match &self.pixels {
            Some(pixels) if checks.folded_normalisation => {
                onnx_runtime::logits(&file, &pixels.mapv(f32::from))?
            }
            _ => onnx_runtime::logits(&file, &self.images)?,
        };
        if let Some(found) = found {
            compare(&self.logits, &found.mapv(f64::from)).context("another ONNX runtime")?;
        }
        Ok(())
    }

    /// The logits that `model.py` gives, or why it can't be run here.
    fn run_code(
        &self,
        folder: &Path,
        python: Option<&Path>,
    ) -> anyhow::Result<Result<Array2<f64>, String>> {
        let named = python.map(Path::to_owned);
        let named = named.or_else(|| std::env::var_os("EAS_PYTHON").map(PathBuf::from));
        let program = named.clone().unwrap_or_else(|| PathBuf::from("python3"));
        let shown = program.display();
        let (count, channels, height, width) = self.images.dim();
        let shape = match self.input {
            Shape::Image { .. } => vec![count, channels, height, width],
            Shape::Flat { features } => vec![count, features],
        };
        let (kind, input): (&str, Vec<u8>) = match &self.pixels {
            Some(pixels) => ("pixels", pixels.iter().copied().collect()),
            None => ("floats", self.images.iter().flat_map(|value| value.to_le_bytes()).collect()),
        };
        let mut command = Command::new(&program);
        command.args(["-B", "-c", RUN_CODE, kind]).args(shape.iter().map(usize::to_string));
        // Without the variable, Python finds modules of the folder that it is started in.
        command.env_remove("PYTHONSAFEPATH").current_dir(folder).stdin(Stdio::piped());
        let started = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) if named.is_some() => {
                return Err(bad_input(format!("{shown}: expected a Python with PyTorch: {error}")));
            }
            Err(_) => return Ok(Err(format!("no {shown}; --python names one"))),
        };
        let mut stdin = child.stdin.take().context("the input is a pipe")?;
        // A thread of its own, so that a script that writes before it has read all can't block both. One
        // that ends early says so by its exit code.
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().with_context(|| format!("can't run {shown}"))?;
        writer.join().map_err(|_| anyhow::anyhow!("the input of {shown} can't be written"))?;
        let told = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(NO_TORCH) && named.is_none() {
            return Ok(Err(format!("{shown} has no PyTorch; --python names one that has")));
        }
        ensure!(output.status.success(), "{shown} can't run {CODE}: {}", last_lines(&told));
        let numbers: Vec<f64> = output
            .stdout
            .chunks_exact(4)
            .map(|word| f64::from(f32::from_le_bytes([word[0], word[1], word[2], word[3]])))
            .collect();
        let found = numbers.len();
        let logits = Array2::from_shape_vec(self.logits.dim(), numbers);
        let (rows, columns) = self.logits.dim();
        Ok(Ok(logits.with_context(|| {
            format!("{CODE}: expected {rows} x {columns} logits, found {found} numbers")
        })?))
    }
}

fn sides(shape: Shape) -> (usize, usize, usize) {
    match shape {
        Shape::Image { channels, height, width } => (channels, height, width),
        Shape::Flat { features } => (features, 1, 1),
    }
}

/// The end of what a program told.
fn last_lines(told: &str) -> String {
    let lines: Vec<&str> = told.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}

/// The largest difference of a logit, in deviations of the expected logits.
///
/// # Errors
/// A difference above [`TOLERANCE`], or another class predicted where the logits of both don't tie within
/// it.
pub(super) fn compare(expected: &Array2<f64>, found: &Array2<f64>) -> anyhow::Result<f64> {
    let shapes = (expected.dim(), found.dim());
    ensure!(shapes.0 == shapes.1, "expected logits of shape {:?}, found {:?}", shapes.0, shapes.1);
    let scale = deviation_of_logits(expected);
    let mut gap = 0.0f64;
    for (image, (expected, found)) in expected.rows().into_iter().zip(found.rows()).enumerate() {
        for (class, (expected, found)) in expected.iter().zip(found).enumerate() {
            let difference = (expected - found).abs() / scale;
            // NaN fails too.
            if difference.is_nan() || difference > TOLERANCE {
                return Err(Disagreement(format!(
                    "image {image}, class {class}: expected logit {expected:.6}, found {found:.6}: \
                     {difference:.1e} deviations apart, and at most {TOLERANCE:.0e} are allowed"
                ))
                .into());
            }
            gap = gap.max(difference);
        }
        let (first, second) = (largest(expected), largest(found));
        if (expected[first] - expected[second]) / scale > TOLERANCE {
            return Err(Disagreement(format!(
                "image {image}: expected class {first}, found {second}, and their logits don't tie"
            ))
            .into());
        }
    }
    Ok(gap)
}

/// The first place of the largest value.
fn largest(values: ndarray::ArrayView1<'_, f64>) -> usize {
    values
        .iter()
        .enumerate()
        .fold(
            (0, f64::NEG_INFINITY),
            |best, (place, value)| {
                if *value > best.1 { (place, *value) } else { best }
            },
        )
        .0
}
