//! `eas predict`: what a model makes of pictures.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use eas_ir::{Metadata, Mode, Model, Shape};
use eas_train::{Engine, FlatParameters, Program, image_bytes, image_of, images_in, read_image};
use ndarray::{Array4, ArrayView1};
use rayon::prelude::*;
use serde::Serialize;

use super::bad_input;
use super::given::{self, Given};
use crate::args;
use crate::engine::ENGINE;
use crate::exit;
use crate::export::normalised;
use crate::print::{self, Bar, legible, percent};

/// Numbers of all pictures that are held at once: 64 MiB as the network reads them.
const NUMBERS: usize = 1 << 24;
/// Pictures that are read at once.
const MOST_AT_ONCE: usize = 256;

/// What was found in one picture.
#[derive(Serialize)]
struct Predicted {
    image: String,
    /// The likeliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    classes: Vec<Likely>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Likely {
    class: String,
    /// Its place among the logits.
    index: usize,
    probability: f64,
}

pub(super) fn run(args: &args::Predict) -> anyhow::Result<u8> {
    let Given { name, saved, .. } = given::model(&args.model)?;
    let (model, metadata) = (saved.model, saved.metadata);
    let shape = model.input_shape();
    ensure!(
        matches!(shape, Shape::Image { channels: 1 | 3, .. }),
        bad_input(format!("{name}: the model takes {shape}, and pictures have 1 or 3 channels"))
    );
    if metadata.normalisation.is_none() {
        return Err(bad_input(format!(
            "{name}: the model doesn't say how images are normalised, so it can't be shown any"
        )));
    }
    let mut images = Vec::new();
    let mut unread = Vec::new();
    for path in &args.images {
        match listed(path) {
            Ok(found) => images.extend(found),
            Err(error) => unread.push((path.clone(), error)),
        }
    }
    let bar = Bar::new(images.len() as u64);
    bar.message("pictures");
    let mut shown = Shown { bar, rows: Vec::new(), json: args.json, failed: 0 };
    unread.iter().for_each(|(path, error)| shown.failed(path, error));
    let mut classifier = Classifier::new(&model, &metadata, usize::from(args.top))?;
    let at_once = (NUMBERS / shape.elements()).clamp(1, MOST_AT_ONCE);
    for paths in images.chunks(at_once) {
        let pictures: Vec<anyhow::Result<Vec<u8>>> =
            paths.par_iter().map(|path| image_of(&bytes_of(path)?, shape, metadata.fit)).collect();
        classifier.classify(paths, pictures, &mut shown)?;
        shown.bar.advance(paths.len() as u64);
    }
    shown.end();
    Ok(if shown.failed > 0 { exit::BAD_INPUT } else { exit::SUCCESS })
}

/// Whether a path stands for standard input.
fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The pictures that a path stands for.
fn listed(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if is_stdin(path) || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let images = images_in(path)?;
    ensure!(!images.is_empty(), "expected PNG, JPEG or WebP images in it, found none");
    Ok(images)
}

fn bytes_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    if is_stdin(path) { read_image(std::io::stdin().lock()) } else { image_bytes(path) }
}

/// A model made ready to tell what pictures show.
struct Classifier<'a> {
    metadata: &'a Metadata,
    shape: (usize, usize, usize),
    parameters: FlatParameters,
    program: Box<dyn Program>,
    top: usize,
}

impl<'a> Classifier<'a> {
    fn new(model: &Model, metadata: &'a Metadata, top: usize) -> anyhow::Result<Self> {
        let shape = match model.input_shape() {
            Shape::Image { channels, height, width } => (channels, height, width),
            Shape::Flat { features } => (features, 1, 1),
        };
        let parameters = FlatParameters::new(model, None)?;
        let program = ENGINE.compile(model.network())?;
        Ok(Classifier { metadata, shape, parameters, program, top })
    }

    /// Classifies what could be read, and tells of all in order.
    fn classify(
        &mut self,
        paths: &[PathBuf],
        pictures: Vec<anyhow::Result<Vec<u8>>>,
        shown: &mut Shown,
    ) -> anyhow::Result<()> {
        let (channels, height, width) = self.shape;
        let pixels: Vec<u8> = pictures.iter().flatten().flatten().copied().collect();
        let count = pixels.len() / (channels * height * width);
        let raw = Array4::from_shape_vec((count, channels, height, width), pixels)?;
        let normalisation = self.metadata.normalisation.as_ref().context("checked before")?;
        let images = normalised(&raw, normalisation)?;
        let logits = match count {
            0 => None,
            _ => Some(self.program.logits(&self.parameters, &images, Mode::Evaluation)?),
        };
        let mut rows = logits.iter().flat_map(|logits| logits.rows());
        for (path, picture) in paths.iter().zip(pictures) {
            match picture {
                Err(error) => shown.failed(path, &error),
                Ok(_) => {
                    let row = rows.next().context("a row of logits for each picture")?;
                    shown.predicted(path, self.likeliest(row));
                }
            }
        }
        Ok(())
    }

    /// The likeliest classes, by softmax.
    fn likeliest(&self, logits: ArrayView1<'_, f32>) -> Vec<Likely> {
        let largest = logits.fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
        let powers: Vec<f64> =
            logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        let mut order: Vec<usize> = (0..powers.len()).collect();
        order.sort_by(|a, b| powers[*b].total_cmp(&powers[*a]).then(a.cmp(b)));
        let likely = |index: usize| Likely {
            class: self.metadata.classes.get(index).cloned().unwrap_or_else(|| index.to_string()),
            index,
            probability: powers[index] / sum,
        };
        order.into_iter().take(self.top).map(likely).collect()
    }
}

/// What is told, in the order of the pictures.
struct Shown {
    bar: Bar,
    /// Of the table, which is written at the end; JSON is written at once.
    rows: Vec<Vec<String>>,
    json: bool,
    failed: usize,
}

impl Shown {
    fn predicted(&mut self, path: &Path, classes: Vec<Likely>) {
        let image = path.display().to_string();
        if self.json {
            print::json_line(&Predicted { image, classes, error: None });
            return;
        }
        let [name, rest @ ..] = classes.as_slice() else { return };
        let words = |likely: &Likely| format!("{} {}", likely.class, percent(likely.probability));
        let others: Vec<String> = rest.iter().map(words).collect();
        let row = [image, name.class.clone(), percent(name.probability), others.join(", ")];
        self.rows.push(row.map(|text| legible(&text)).to_vec());
    }

    fn failed(&mut self, path: &Path, error: &anyhow::Error) {
        self.failed += 1;
        let image = path.display().to_string();
        // Reading a file says which file it was.
        let error = format!("{error:#}");
        let error = error.strip_prefix(&format!("{image}: ")).unwrap_or(&error).to_owned();
        self.bar.line(&format!("error: {}: {}", legible(&image), legible(&error)));
        if self.json {
            print::json_line(&Predicted { image, classes: Vec::new(), error: Some(error) });
        }
    }

    fn end(&mut self) {
        self.bar.finish();
        if !self.rows.is_empty() {
            let header = ["picture", "class", "probability", "next"].map(str::to_owned).to_vec();
            self.rows.insert(0, header);
            print::result(&print::table(&self.rows));
        }
    }
}
