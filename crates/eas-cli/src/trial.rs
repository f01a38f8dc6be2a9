//! One trial, carried out in this process: the child built from its parent, certified, calibrated,
//! trained, kept, published. What was interrupted goes on from its newest checkpoint.

use std::fs::File;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Context;
use eas_controller::Ending;
use eas_ir::{Metadata, Mode, Model, Network, Probe, Rng, SavedModel, Weights};
use eas_train::{
    Device, Engine, EpochRecord, FlatParameters, Momentum, Position, Start, TrainingData,
    TrainingEnd, calibration_images, train_from,
};
use eas_transform::{Certificate, Transforms, Verdict, calibrate, certify, drift, grow};
use ndarray::Array4;

use crate::engine::ENGINE;
use crate::failpoint::failpoint;
use crate::runs::{
    Attempt, Checkpoint, Heartbeat, Origin, Progress, Run, TrialRecord, TrialResult,
};
use crate::stop;

/// Images that children are certified on.
const PROBE: usize = 64;
/// Images that inserted batch norms are calibrated on.
const CALIBRATION: usize = 512;
/// Images kept in a model, with their logits.
const KEPT_PROBE: usize = 4;
/// Between two heartbeats.
const BEAT: Duration = Duration::from_millis(250);

/// What trials of a run share.
pub(crate) struct Workshop<'a> {
    pub(crate) run: &'a Run,
    pub(crate) data: &'a TrainingData,
    /// The start network, where it came with weights.
    pub(crate) start: Option<&'a Model>,
    pub(crate) transforms: &'a Transforms,
    /// What trains them, and its engine.
    pub(crate) device: Device,
    pub(crate) engine: &'a dyn Engine,
    /// Between two checkpoints.
    pub(crate) checkpoint: Duration,
}

/// What failed on a GPU, in words.
#[derive(Debug)]
pub(crate) struct GpuFailed(String);

impl std::fmt::Display for GpuFailed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for GpuFailed {}

/// One trial under way.
struct Work<'a> {
    record: &'a TrialRecord,
    attempt: &'a Attempt,
    rng: Rng,
    started: Instant,
    beat: Heartbeat,
    beaten: Instant,
    kept: Instant,
    /// Held from the moment on that it brings objects until its result names them.
    publishing: Option<File>,
}

/// What the training begins with, or goes on from.
type Ready = Checkpoint;

impl Workshop<'_> {
    /// Carries out a trial and publishes its result; nothing where it was asked to stop.
    ///
    /// # Errors
    /// What isn't the trial's fault: files that can't be read or written, or are damaged.
    pub(crate) fn carry_out(
        &self,
        record: &TrialRecord,
        attempt: &Attempt,
    ) -> anyhow::Result<Option<TrialResult>> {
        let now = Instant::now();
        let mut work = Work {
            record,
            attempt,
            rng: Rng::new(record.seed),
            started: now,
            beat: Heartbeat::default(),
            beaten: now,
            kept: now,
            publishing: None,
        };
        attempt.beat(&work.beat)?;
        let (parent, network) = self.parent(record)?;
        let attempts = self.run.attempts(record.trial);
        let ready = match Attempt::newest_checkpoint(&attempts, &network) {
            Some(checkpoint) => Ok(checkpoint),
            None => self.build(&work, parent.as_ref(), &network)?,
        };
        failpoint("trial.built");
        let result = match ready {
            Err(result) => result,
            Ok(ready) => match self.train(&mut work, ready)? {
                Some(result) => result,
                None => return Ok(None),
            },
        };
        let gpu = match self.device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(gpu),
        };
        self.run.publish(&TrialResult { gpu, ..result }).map(Some)
    }

    /// The model that is grown or gone on from, where there is one, and the network to be trained.
    fn parent(&self, record: &TrialRecord) -> anyhow::Result<(Option<Model>, Network)> {
        if let Some(before) = record.continues() {
            let model = self.run.model(before.model)?.model;
            let network = model.network().clone();
            return Ok((Some(model), network));
        }
        match &record.origin {
            Origin::Fresh { network } => {
                Ok((None, Network::from_toml(network).context("trial.json: not a network")?))
            }
            given @ Origin::Given { .. } => {
                let start = self.start.filter(|start| Origin::given(start) == *given);
                let start = start.context(
                    "the start network or its weights aren't those that the search began with: they \
                     have changed since",
                )?;
                Ok((Some(start.clone()), start.network().clone()))
            }
            Origin::Grown { model, steps, .. } => {
                let parent = self.run.model(*model)?.model;
                let child = eas_transform::grow_network(parent.network(), steps, self.transforms)?;
                Ok((Some(parent), child))
            }
        }
    }

    /// The model to train: fresh, or grown from the parent, certified and calibrated. Where an edit is
    /// at fault, the trial's result.
    fn build(
        &self,
        work: &Work<'_>,
        parent: Option<&Model>,
        network: &Network,
    ) -> anyhow::Result<Result<Ready, TrialResult>> {
        if let (Some(model), Some(before)) = (parent, work.record.continues()) {
            let TrialResult { certificate, drift, .. } = self.run.result(before.trial)?;
            let momentum = self.run.momentum(before.momentum)?;
            let mut ready = ready(model.clone(), Some(momentum), certificate.zip(drift));
            ready.progress.position.epoch = work.record.begin();
            return Ok(Ok(ready));
        }
        let (parent, momentum, steps) = match (parent, &work.record.origin) {
            (Some(parent), Origin::Grown { momentum, steps, .. }) => (parent, momentum, steps),
            (Some(start), Origin::Given { .. }) => return Ok(Ok(ready(start.clone(), None, None))),
            _ => {
                let model = Model::initialise(network.clone(), &work.rng)?;
                return Ok(Ok(ready(model, None, None)));
            }
        };
        let momentum = momentum.map(|digest| self.run.momentum(digest)).transpose()?;
        if steps.iter().all(Vec::is_empty) {
            return Ok(Ok(ready(parent.clone(), momentum, None)));
        }
        let grown = self.grow(work, parent, momentum.as_ref());
        Ok(match grown {
            Err(error) => Err(work.ended(self.failed(error)?)),
            Ok((_, _, certificate, drift)) if certificate.verdict == Verdict::Broken => {
                let why = self.culprit(work, parent, certificate);
                let (certificate, drift) = (Some(certificate), Some(drift));
                Err(TrialResult { certificate, drift, ..work.ended(Ending::Refused { why }) })
            }
            Ok((model, momentum, certificate, drift)) => {
                Ok(ready(model, momentum, Some((certificate, drift))))
            }
        })
    }

    fn grow(
        &self,
        work: &Work<'_>,
        parent: &Model,
        momentum: Option<&Weights>,
    ) -> anyhow::Result<(Model, Option<Weights>, Certificate, f64)> {
        let Origin::Grown { steps, .. } = &work.record.origin else {
            unreachable!("only a parent's child is grown")
        };
        let stream = work.rng.split("grow");
        let exact = grow(parent, None, steps, self.transforms, &stream, false)?;
        let images = calibration_images(self.data, CALIBRATION);
        let exact_model = calibrate(exact.model, &exact.calibrate, &images, self.engine)?.model;
        let probe = calibration_images(self.data, PROBE);
        let certificate = certify(parent, &exact_model, &probe, self.engine)?;
        let grown = grow(parent, momentum, steps, self.transforms, &stream, true)?;
        let model = calibrate(grown.model, &grown.calibrate, &images, self.engine)?.model;
        let drift = drift(parent, &model, &probe, self.engine)?;
        Ok((model, grown.momentum, certificate, drift))
    }

    /// The first edit of a chain that changes the function, in words.
    fn culprit(&self, work: &Work<'_>, parent: &Model, whole: Certificate) -> String {
        let find = || -> anyhow::Result<Option<String>> {
            let Origin::Grown { steps, .. } = &work.record.origin else { return Ok(None) };
            let probe = calibration_images(self.data, PROBE);
            let edits: Vec<_> = steps.iter().flatten().cloned().collect();
            for count in 1..=edits.len() {
                let chain = [edits[..count].to_vec()];
                let stream = work.rng.split("grow");
                let child = grow(parent, None, &chain, self.transforms, &stream, false)?;
                let certificate = certify(parent, &child.model, &probe, self.engine)?;
                if certificate.verdict == Verdict::Broken {
                    return Ok(Some(format!("`{}`: {certificate}", edits[count - 1])));
                }
            }
            Ok(None)
        };
        match find() {
            Ok(Some(culprit)) => culprit,
            _ => format!("the chain of edits as a whole: {whole}"),
        }
    }

    /// How a trial ends whose network can't be made or trained. Its files were read by now, so that is the
    /// network's fault.
    ///
    /// # Errors
    /// [`GpuFailed`] on a GPU: it may have been short of memory for other trials' sake.
    fn failed(&self, error: anyhow::Error) -> anyhow::Result<Ending> {
        match self.device {
            Device::Cpu => Ok(Ending::Failed { why: format!("{error:#}") }),
            Device::Cuda(_) => Err(GpuFailed(format!("{}: {error:#}", self.device)).into()),
        }
    }

    /// Trains by one recipe after another.
    fn train(&self, work: &mut Work<'_>, ready: Ready) -> anyhow::Result<Option<TrialResult>> {
        let record = work.record;
        let joined;
        let data = if record.with_validation {
            joined = self.data.with_validation_in_training();
            &joined
        } else {
            self.data
        };
        let Checkpoint { mut model, mut momentum, progress } = ready;
        let worked = progress.seconds;
        let ended = |work: &Work<'_>, ending| TrialResult {
            certificate: progress.certificate,
            drift: progress.drift,
            ..record.ended(ending, work.attempt.number, work.seconds(worked))
        };
        let mut position = progress.position;
        let mut number = progress.number;
        let mut accuracy = None;
        for (index, recipe) in record.recipes.iter().enumerate().skip(progress.recipe) {
            let is_fresh = position == Position::default();
            if is_fresh && index > 0 && recipe.momentum == Momentum::Reset {
                momentum.clear();
            }
            let before: usize = record.recipes[..index].iter().map(|recipe| recipe.epochs).sum();
            let until = record.part.as_ref().map_or(recipe.epochs, |part| part.epochs.end);
            let rng = work.rng.split("train").split_index(index as u64);
            let network = model.network().clone();
            let mut failed: anyhow::Result<()> = Ok(());
            let mut on_progress = |told: eas_train::Progress<'_>| -> anyhow::Result<bool> {
                match told {
                    eas_train::Progress::Step { position, steps, parameters, .. } => {
                        failpoint("trial.step");
                        let part = position.step as f64 / steps.max(1) as f64;
                        work.beat((before + position.epoch - record.begin()) as f64 + part)?;
                        let stops = stop::interrupted();
                        let due = stops || work.kept.elapsed() >= self.checkpoint;
                        // What has left the finite numbers is about to be noticed as diverged.
                        if due && parameters.is_finite() {
                            number += 1;
                            let checkpoint = Checkpoint {
                                model: parameters.to_model(&network)?,
                                momentum: parameters.to_momentum(),
                                progress: Progress {
                                    recipe: index,
                                    position,
                                    seconds: work.seconds(worked),
                                    number,
                                    ..progress.clone()
                                },
                            };
                            work.attempt.keep(&checkpoint)?;
                            work.kept = Instant::now();
                        }
                        Ok(stops)
                    }
                    eas_train::Progress::Epoch(epoch) => {
                        let epoch = EpochRecord { epoch: before + epoch.epoch, ..epoch.clone() };
                        work.attempt.epoch(&epoch)?;
                        Ok(false)
                    }
                }
            };
            let training = train_from(
                self.engine,
                Start { model: &model, momentum: Some(&momentum), position },
                data,
                recipe,
                until,
                &|epoch| epoch + 1 == until,
                &rng,
                &mut |told| match on_progress(told) {
                    Ok(false) => ControlFlow::Continue(()),
                    Ok(true) => ControlFlow::Break(()),
                    Err(error) => {
                        failed = Err(error);
                        ControlFlow::Break(())
                    }
                },
            );
            failed?;
            let training = match training {
                Ok(training) => training,
                Err(error) => return Ok(Some(ended(work, self.failed(error)?))),
            };
            match training.end {
                TrainingEnd::Finished => {}
                TrainingEnd::Diverged { epoch } => {
                    return Ok(Some(ended(work, Ending::Diverged { epoch: before + epoch })));
                }
                TrainingEnd::Interrupted => return Ok(None),
            }
            accuracy = training.epochs.last().and_then(|epoch| epoch.validation_accuracy);
            (model, momentum) = (training.model, training.momentum);
            position = Position::default();
        }
        failpoint("trial.trained");
        work.publishing = Some(self.run.publishing()?);
        let model = Some(self.run.keep_model(work.attempt, &saved(model, self.data)?)?);
        let momentum = match record.keep_momentum {
            true => Some(self.run.keep_momentum(work.attempt, &momentum)?),
            false => None,
        };
        Ok(Some(TrialResult { model, momentum, ..ended(work, record.trained(accuracy)) }))
    }
}

impl Work<'_> {
    /// Seconds of work, with those of earlier attempts.
    fn seconds(&self, before: f64) -> f64 {
        before + self.started.elapsed().as_secs_f64()
    }

    /// The result, where no earlier attempt has a part in it.
    fn ended(&self, ending: Ending) -> TrialResult {
        self.record.ended(ending, self.attempt.number, self.seconds(0.0))
    }

    /// Shows that the trial gets on.
    fn beat(&mut self, epochs: f64) -> anyhow::Result<()> {
        if self.beaten.elapsed() >= BEAT {
            self.beaten = Instant::now();
            self.beat.beat += 1;
            self.beat.share = epochs / self.record.epochs().max(1) as f64;
            self.attempt.beat(&self.beat)?;
        }
        Ok(())
    }
}

/// The beginning of a training.
fn ready(model: Model, momentum: Option<Weights>, checked: Option<(Certificate, f64)>) -> Ready {
    let (certificate, drift) = checked.unzip();
    let progress = Progress {
        recipe: 0,
        position: Position::default(),
        certificate,
        drift,
        seconds: 0.0,
        number: 0,
    };
    Checkpoint { model, momentum: momentum.unwrap_or_default(), progress }
}

/// A model with all that it needs to be used on this data. Whatever trained it, its logits are those of
/// the processor, which others are held against.
pub(crate) fn saved(model: Model, data: &TrainingData) -> anyhow::Result<SavedModel> {
    let split = data.train.first(KEPT_PROBE);
    let (count, channels, height, width) = data.images(&split, split.indices()).dim();
    let pixels = split.indices().iter().flat_map(|index| split.image(*index).to_vec()).collect();
    let raw = Array4::from_shape_vec((count, channels, height, width), pixels)?;
    let images = data.images(&split, split.indices());
    let parameters = FlatParameters::new(&model, None)?;
    let logits = ENGINE.compile(model.network())?.logits(&parameters, &images, Mode::Evaluation)?;
    let metadata = Metadata {
        classes: data.classes.clone(),
        normalisation: Some(data.normalisation.clone()),
        fit: data.train.source().fit(),
        probe: Some(Probe { images: raw, logits }),
    };
    Ok(SavedModel { model, metadata })
}
