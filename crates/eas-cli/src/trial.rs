//! One trial, carried out: the child built from its parent, certified, calibrated, trained, kept.

use std::ops::ControlFlow;
use std::time::Instant;

use eas_controller::{Ending, TrialId};
use eas_ir::{Metadata, Mode, Model, Network, Probe, Rng, SavedModel, cost};
use eas_train::{
    Engine, EpochRecord, FlatParameters, Momentum, Oracle, Progress, Recipe, TrainingData,
    TrainingEnd, calibration_images, train,
};
use eas_transform::{Certificate, Step, Transforms, Verdict, calibrate, certify, drift, grow};
use ndarray::Array4;

use crate::runs::{Purpose, Run, TrialResult, record};

/// Images that children are certified on.
const PROBE: usize = 64;
/// Images that inserted batch norms are calibrated on.
pub(crate) const CALIBRATION: usize = 512;
/// Images kept in a model, with their logits.
const KEPT_PROBE: usize = 4;

/// What a trial begins with.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Fresh weights.
    Fresh(Network),
    /// A trained parent, and edits.
    Grown { parent: TrialId, steps: Vec<Step> },
}

/// A trial to carry out.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) trial: TrialId,
    pub(crate) purpose: Purpose,
    pub(crate) origin: Origin,
    /// Trained one after another.
    pub(crate) recipes: Vec<Recipe>,
    /// Whether the validation images are trained on too.
    pub(crate) with_validation: bool,
    pub(crate) seed: u64,
}

impl Job {
    /// Epochs of all recipes.
    pub(crate) fn epochs(&self) -> usize {
        self.recipes.iter().map(|recipe| recipe.epochs).sum()
    }
}

/// What trials share.
#[derive(Clone, Copy)]
pub(crate) struct Workshop<'a> {
    pub(crate) run: &'a Run,
    pub(crate) data: &'a TrainingData,
    pub(crate) transforms: &'a Transforms,
    /// Whether later trials carry the momentum on.
    pub(crate) keep_momentum: bool,
}

/// A child ready to be trained.
struct Grown {
    model: Model,
    momentum: Option<eas_ir::Weights>,
    certificate: Option<Certificate>,
    drift: Option<f64>,
}

/// Told of each step: the share of the trial that is done. Breaks to stop.
pub(crate) type OnStep<'a> = dyn FnMut(f64) -> ControlFlow<()> + 'a;

impl Workshop<'_> {
    /// Carries out a trial and publishes its result; nothing where it was asked to stop.
    pub(crate) fn carry_out(
        &self,
        job: &Job,
        on_step: &mut OnStep<'_>,
    ) -> anyhow::Result<Option<TrialResult>> {
        let started = Instant::now();
        let (parent, steps, base) = match &job.origin {
            Origin::Fresh(network) => (None, &[][..], network.clone()),
            Origin::Grown { parent, steps } => {
                let saved = self.run.load_model(*parent)?;
                (Some(*parent), steps.as_slice(), saved.model.network().clone())
            }
        };
        let network = eas_transform::grow_network(&base, steps, self.transforms)?;
        let fingerprint = network.fingerprint();
        let epochs = job.epochs();
        let record = record(job.trial, job.purpose, parent, steps, fingerprint, job.seed, epochs);
        self.run.begin(&record)?;
        let shapes = network.verify()?;
        let batch = job.recipes.first().map_or(1, |recipe| recipe.batch);
        let cost = cost(&network, &shapes, batch);
        let mut result = TrialResult {
            format: record.format,
            trial: record.trial,
            purpose: record.purpose,
            parent,
            steps: record.steps,
            fingerprint: record.fingerprint,
            same_as: None,
            ending: Ending::Failed { why: "not carried out".to_owned() },
            epochs,
            parameters: cost.parameters,
            macs: cost.macs,
            depth: network.depth(),
            certificate: None,
            drift: None,
            seconds: 0.0,
        };
        let rng = Rng::new(job.seed);
        match self.build(job, &rng) {
            Ok(grown) => {
                result.certificate = grown.certificate;
                result.drift = grown.drift;
                let refused = grown.certificate.filter(|known| known.verdict == Verdict::Broken);
                if let Some(certificate) = refused {
                    result.ending = Ending::Refused { why: self.culprit(job, &rng, certificate) };
                } else {
                    match self.train(job, grown, &rng, on_step)? {
                        Some(ending) => result.ending = ending,
                        None => return Ok(None),
                    }
                }
            }
            Err(error) => result.ending = Ending::Failed { why: format!("{error:#}") },
        }
        result.seconds = started.elapsed().as_secs_f64();
        self.run.publish(&result)?;
        Ok(Some(result))
    }

    /// The model to train: fresh, or grown from the parent, certified and calibrated.
    fn build(&self, job: &Job, rng: &Rng) -> anyhow::Result<Grown> {
        let (parent, steps) = match &job.origin {
            Origin::Fresh(network) => {
                let model = Model::initialise(network.clone(), rng)?;
                return Ok(Grown { model, momentum: None, certificate: None, drift: None });
            }
            Origin::Grown { parent, steps } => (*parent, steps),
        };
        let carries = job.recipes.first().is_some_and(|r| r.momentum == Momentum::Carry);
        let momentum = if carries { self.run.load_momentum(parent)? } else { None };
        let parent = self.run.load_model(parent)?.model;
        if steps.iter().all(Vec::is_empty) {
            return Ok(Grown { model: parent, momentum, certificate: None, drift: None });
        }
        let stream = rng.split("grow");
        let exact = grow(&parent, None, steps, self.transforms, &stream, false)?;
        let images = calibration_images(self.data, CALIBRATION);
        let exact_model = calibrate(exact.model, &exact.calibrate, &images, &Oracle)?.model;
        let probe = calibration_images(self.data, PROBE);
        let certificate = certify(&parent, &exact_model, &probe, &Oracle)?;
        let grown = grow(&parent, momentum.as_ref(), steps, self.transforms, &stream, true)?;
        let model = calibrate(grown.model, &grown.calibrate, &images, &Oracle)?.model;
        let drift = drift(&parent, &model, &probe, &Oracle)?;
        let momentum = grown.momentum;
        Ok(Grown { model, momentum, certificate: Some(certificate), drift: Some(drift) })
    }

    /// The first edit of a chain that changes the function, in words.
    fn culprit(&self, job: &Job, rng: &Rng, whole: Certificate) -> String {
        let find = || -> anyhow::Result<Option<String>> {
            let Origin::Grown { parent, steps } = &job.origin else { return Ok(None) };
            let parent = self.run.load_model(*parent)?.model;
            let probe = calibration_images(self.data, PROBE);
            let edits: Vec<_> = steps.iter().flatten().cloned().collect();
            for count in 1..=edits.len() {
                let chain = [edits[..count].to_vec()];
                let child =
                    grow(&parent, None, &chain, self.transforms, &rng.split("grow"), false)?;
                let certificate = certify(&parent, &child.model, &probe, &Oracle)?;
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

    fn train(
        &self,
        job: &Job,
        grown: Grown,
        rng: &Rng,
        on_step: &mut OnStep<'_>,
    ) -> anyhow::Result<Option<Ending>> {
        let joined;
        let data = if job.with_validation {
            joined = self.data.with_validation_in_training();
            &joined
        } else {
            self.data
        };
        let (mut model, mut momentum) = (grown.model, grown.momentum);
        let all = job.epochs() as f64;
        let mut before = 0;
        let mut accuracy = None;
        for (number, recipe) in job.recipes.iter().enumerate() {
            if number > 0 && recipe.momentum == Momentum::Reset {
                momentum = None;
            }
            let last = recipe.epochs - 1;
            let mut kept: anyhow::Result<()> = Ok(());
            let training = train(
                &Oracle,
                &model,
                momentum.as_ref(),
                data,
                recipe,
                0..recipe.epochs,
                &|epoch| epoch == last,
                &rng.split("train").split_index(number as u64),
                &mut |progress| match progress {
                    Progress::Step { epoch, done, steps } => {
                        let part = done as f64 / steps.max(1) as f64;
                        on_step((before as f64 + epoch as f64 + part) / all)
                    }
                    Progress::Epoch(epoch) => {
                        let epoch = EpochRecord { epoch: before + epoch.epoch, ..epoch.clone() };
                        kept = self.run.epoch(job.trial, &epoch);
                        if kept.is_err() {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    }
                },
            )?;
            kept?;
            match training.end {
                TrainingEnd::Finished => {}
                TrainingEnd::Diverged { epoch } => {
                    return Ok(Some(Ending::Diverged { epoch: before + epoch }));
                }
                TrainingEnd::Interrupted => return Ok(None),
            }
            before += recipe.epochs;
            model = training.model;
            momentum = Some(training.momentum);
            accuracy = training.epochs.last().and_then(|epoch| epoch.validation_accuracy);
        }
        self.run.keep_model(job.trial, &saved(model, self.data)?)?;
        if let (true, Some(momentum)) = (self.keep_momentum, momentum) {
            self.run.keep_momentum(job.trial, &momentum)?;
        }
        Ok(Some(Ending::Trained { accuracy }))
    }
}

/// A model with all that it needs to be used on this data.
pub(crate) fn saved(model: Model, data: &TrainingData) -> anyhow::Result<SavedModel> {
    let split = data.train.first(KEPT_PROBE);
    let (count, channels, height, width) = data.images(&split, split.indices()).dim();
    let pixels = split.indices().iter().flat_map(|index| split.image(*index).to_vec()).collect();
    let raw = Array4::from_shape_vec((count, channels, height, width), pixels)?;
    let images = data.images(&split, split.indices());
    let parameters = FlatParameters::new(&model, None)?;
    let logits = Oracle.compile(model.network())?.logits(&parameters, &images, Mode::Evaluation)?;
    let metadata = Metadata {
        classes: data.classes.clone(),
        normalisation: Some(data.normalisation.clone()),
        probe: Some(Probe { images: raw, logits }),
    };
    Ok(SavedModel { model, metadata })
}
