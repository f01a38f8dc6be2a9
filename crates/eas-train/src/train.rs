//! The training loop.

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use eas_ir::{Images, Mode, Model, Rng, Weights};
use ndarray::{Array2, Axis, Slice};
use serde::{Deserialize, Serialize};

use crate::data::{Batches, Split, TrainingData};
use crate::engine::{Engine, TrainingStep};
use crate::parameters::FlatParameters;
use crate::recipe::Recipe;

/// One epoch, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// Its number, from 0.
    pub epoch: usize,
    /// Mean loss over its training images, as they came.
    pub training_loss: f64,
    /// Share of its training images classified right, as they came.
    pub training_accuracy: f64,
    /// Share of the validation images classified right behind it, where it was measured and there
    /// are any.
    pub validation_accuracy: Option<f64>,
    /// Learning rate of its first step.
    pub learning_rate: f64,
    /// Seconds it took.
    pub seconds: f64,
}

/// How far a training has come: with the parameters and momentum of that moment, all that is needed
/// to go on as if it had never stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: usize,
    /// Steps of it that are done.
    pub step: usize,
    /// Sum of the loss over the images of these steps.
    pub loss: f64,
    /// How many of them were classified right.
    pub correct: usize,
    /// How many they are.
    pub images: usize,
    /// Seconds that these steps took.
    pub seconds: f64,
}

/// What a training begins with.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its momentum; zero where there is none.
    pub momentum: Option<&'a Weights>,
    /// Where in the recipe it stands.
    pub position: Position,
}

/// What a caller is told while a network trains.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A step is done; with lookahead, so many steps.
    Step {
        /// The epoch, from 0.
        epoch: usize,
        /// Steps of it that are done.
        done: usize,
        /// Steps it has.
        steps: usize,
        /// Where the training stands.
        position: Position,
        /// Parameters and momentum there.
        parameters: &'a FlatParameters,
    },
    /// An epoch is done.
    Epoch(&'a EpochRecord),
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingEnd {
    /// All epochs are done.
    Finished,
    /// The loss or a parameter left the finite numbers.
    Diverged {
        /// In this epoch, from 0.
        epoch: usize,
    },
    /// The caller asked for it; epochs that were done count.
    Interrupted,
}

/// A training's result.
#[derive(Clone, Debug)]
pub struct Training {
    /// The model behind the last epoch that was done; the one that was given where none was.
    pub model: Model,
    /// Its momentum, of every trainable parameter.
    pub momentum: Weights,
    /// Every epoch that was done.
    pub epochs: Vec<EpochRecord>,
    /// How it ended.
    pub end: TrainingEnd,
}

/// Trains a model for some epochs of a recipe. The order of the images, their augmentation and
/// dropout are functions of `rng`, the epoch and the step alone, so that going on from the model and
/// momentum of a training that was stopped gives what never stopping gives, on a GPU but for rounding. `measure` says after
/// which epochs the validation images are classified, if there are any.
///
/// # Errors
/// Data that don't fit the model, or an engine's failure. Divergence is an end, not an error.
#[expect(clippy::too_many_arguments, reason = "each is one thing that training depends on")]
pub fn train(
    engine: &dyn Engine,
    model: &Model,
    momentum: Option<&Weights>,
    data: &TrainingData,
    recipe: &Recipe,
    epochs: Range<usize>,
    measure: &dyn Fn(usize) -> bool,
    rng: &Rng,
    on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> anyhow::Result<Training> {
    let position = Position { epoch: epochs.start, ..Position::default() };
    let start = Start { model, momentum, position };
    train_from(engine, start, data, recipe, epochs.end, measure, rng, on_progress)
}

/// As [`train`], from any position of a recipe up to the epoch `until`, which is left out. What comes
/// out is what a training that never stopped gives, on a processor bit for bit; only the epochs before the position
/// are not among its records.
///
/// # Errors
/// As [`train`].
#[expect(clippy::too_many_arguments, reason = "each is one thing that training depends on")]
pub fn train_from(
    engine: &dyn Engine,
    start: Start<'_>,
    data: &TrainingData,
    recipe: &Recipe,
    until: usize,
    measure: &dyn Fn(usize) -> bool,
    rng: &Rng,
    on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> anyhow::Result<Training> {
    let Start { model, momentum, position } = start;
    let mut program = engine.compile(model.network())?;
    let mut parameters = FlatParameters::new(model, momentum)?;
    let mut safe = parameters.clone();
    let mut records = Vec::new();
    let mut end = TrainingEnd::Finished;
    let mut pace = FIRST_STEPS;
    'training: for epoch in position.epoch..until {
        let begun = if epoch == position.epoch { position } else { Position::default() };
        let started = Instant::now();
        let mut to_come = steps_of_epoch(data, recipe, rng, epoch, begun.step);
        let steps = begun.step + to_come.len();
        let Position { mut loss, mut correct, mut images, .. } = begun;
        let mut anchor = Anchor::new(recipe, &parameters);
        let mut done = begun.step;
        while done < steps {
            let together = pace.min(program.stride()).min(anchor.due_after(done, steps));
            let window = Instant::now();
            let mut counts = Vec::with_capacity(together);
            let mut next = to_come.by_ref().take(together).inspect(|step: &TrainingStep<'_>| {
                counts.push(step.drawn.count());
            });
            let reports = program.steps(&mut parameters, &mut next)?;
            for (report, count) in reports.iter().zip(&counts) {
                loss += report.loss * *count as f64;
                (correct, images) = (correct + report.correct, images + count);
            }
            if reports.iter().any(|report| !report.is_finite()) {
                end = TrainingEnd::Diverged { epoch };
                break 'training;
            }
            done += reports.len();
            // So that a caller is told, and can stop the training, about once a second.
            let step = window.elapsed().as_secs_f64() / together as f64;
            pace = (WINDOW / step.max(1e-9)).clamp(1.0, 1e6) as usize;
            let seconds = begun.seconds + started.elapsed().as_secs_f64();
            if !anchor.holds(&mut parameters, done, steps) {
                continue;
            }
            let position = Position { epoch, step: done, loss, correct, images, seconds };
            let parameters = &parameters;
            let progress = Progress::Step { epoch, done, steps, position, parameters };
            if on_progress(progress).is_break() {
                end = TrainingEnd::Interrupted;
                break 'training;
            }
        }
        if !parameters.is_finite() {
            end = TrainingEnd::Diverged { epoch };
            break;
        }
        safe.clone_from(&parameters);
        let measured = measure(epoch) && !data.validation.is_empty();
        let validation_accuracy = measured
            .then(|| {
                classify(data, &data.validation, &mut |_| (), &mut |images| {
                    program.logits(&parameters, images, Mode::Evaluation)
                })
            })
            .transpose()?
            .map(|accuracy| accuracy.share());
        let record = EpochRecord {
            epoch,
            training_loss: loss / images.max(1) as f64,
            training_accuracy: correct as f64 / images.max(1) as f64,
            validation_accuracy,
            learning_rate: recipe.rate(epoch, 0, steps),
            seconds: begun.seconds + started.elapsed().as_secs_f64(),
        };
        let flow = on_progress(Progress::Epoch(&record));
        records.push(record);
        if flow.is_break() {
            end = TrainingEnd::Interrupted;
            break;
        }
    }
    let model = safe.to_model(model.network())?;
    Ok(Training { model, momentum: safe.to_momentum(), epochs: records, end })
}

/// The steps of an epoch of a training whose stream is `rng`, behind the first `begun`.
pub fn steps_of_epoch<'a>(
    data: &'a TrainingData,
    recipe: &'a Recipe,
    rng: &Rng,
    epoch: usize,
    begun: usize,
) -> impl ExactSizeIterator<Item = TrainingStep<'a>> + 'a {
    let stream = rng.split("epoch").split_index(epoch as u64).split("step");
    let batches = Batches::of_epoch(data, recipe.batch, rng, epoch);
    let steps = batches.len();
    batches.after(begun).enumerate().map(move |(behind, drawn)| {
        let step = begun + behind;
        TrainingStep {
            drawn,
            update: recipe.update(recipe.rate(epoch, step, steps)),
            label_smoothing: recipe.label_smoothing,
            precision: recipe.precision,
            dropout: stream.split_index(step as u64),
        }
    })
}

/// Where the weights of a recipe with lookahead were last averaged.
struct Anchor<'a> {
    recipe: &'a Recipe,
    values: Vec<f32>,
}

impl<'a> Anchor<'a> {
    fn new(recipe: &'a Recipe, parameters: &FlatParameters) -> Self {
        let values = if recipe.lookahead > 0 { parameters.values.clone() } else { Vec::new() };
        Anchor { recipe, values }
    }

    /// How many steps there are until the next average, or the end of the epoch, from where so many are
    /// done.
    fn due_after(&self, done: usize, steps: usize) -> usize {
        let left = steps - done;
        match self.recipe.lookahead {
            0 => left,
            every => (every - done % every).min(left),
        }
    }

    /// Averages where that is due behind so many steps of an epoch, its last among them. Returns
    /// whether the parameters are all there is to know of the training: between two averages they are
    /// not.
    fn holds(&mut self, parameters: &mut FlatParameters, done: usize, steps: usize) -> bool {
        let every = self.recipe.lookahead;
        if every == 0 {
            return true;
        }
        let due = done.is_multiple_of(every) || done == steps;
        if due {
            for (value, anchor) in parameters.values.iter_mut().zip(&mut self.values) {
                *value = 0.5 * (*value + *anchor);
                *anchor = *value;
            }
        }
        due
    }
}

/// Images classified right, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accuracy {
    /// Classified right.
    pub correct: usize,
    /// All.
    pub images: usize,
}

impl Accuracy {
    /// The share that is right, 0 to 1; 0 of no images.
    pub fn share(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }
}

/// How many images of a split a model classifies right: every image, each once, without augmentation.
/// `done` is told how many images were classified since it was told last.
///
/// # Errors
/// Images that don't fit the model, or an engine's failure.
pub fn accuracy(
    engine: &dyn Engine,
    model: &Model,
    data: &TrainingData,
    split: &Split,
    done: &mut dyn FnMut(usize),
) -> anyhow::Result<Accuracy> {
    let parameters = FlatParameters::new(model, None)?;
    let mut program = engine.compile(model.network())?;
    classify(data, split, done, &mut |images| program.logits(&parameters, images, Mode::Evaluation))
}

/// As [`accuracy`], by the mean of the logits of each image and its mirror image, left to right. That is
/// another measure than a network's accuracy, at twice the work: whoever tells it says so.
///
/// # Errors
/// As [`accuracy`].
pub fn mirrored_accuracy(
    engine: &dyn Engine,
    model: &Model,
    data: &TrainingData,
    split: &Split,
    done: &mut dyn FnMut(usize),
) -> anyhow::Result<Accuracy> {
    let parameters = FlatParameters::new(model, None)?;
    let mut program = engine.compile(model.network())?;
    let mut logits = |images: &Images| program.logits(&parameters, images, Mode::Evaluation);
    classify(data, split, done, &mut |images| {
        let mirrored = images.slice_axis(Axis(3), Slice::new(0, None, -1));
        // The sum has the same largest entry as the mean.
        Ok(logits(images)? + logits(&mirrored.as_standard_layout().to_owned())?)
    })
}

/// Seconds of the steps that a program is given at once, where it takes several, about.
const WINDOW: f64 = 1.0;

/// Steps that it is given first, before it is known how long they take.
const FIRST_STEPS: usize = 8;

/// Images that are normalised at once.
const CHUNK: usize = 512;

fn classify(
    data: &TrainingData,
    split: &Split,
    done: &mut dyn FnMut(usize),
    logits: &mut dyn FnMut(&Images) -> anyhow::Result<Array2<f32>>,
) -> anyhow::Result<Accuracy> {
    let mut accuracy = Accuracy { correct: 0, images: split.len() };
    for part in split.indices().chunks(CHUNK) {
        let images: Images = data.images(split, part);
        for (row, index) in logits(&images)?.rows().into_iter().zip(part) {
            let best =
                row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (class, logit)| {
                    if *logit > best.1 { (class, *logit) } else { best }
                });
            accuracy.correct += usize::from(best.0 == split.label(*index));
        }
        done(part.len());
    }
    Ok(accuracy)
}
