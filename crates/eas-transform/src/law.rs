//! The law that every transform keeps, as a function that anyone's tests can call: on random networks
//! with random weights and batch-norm statistics, every edit that is offered, and chains of ten,
//! leave the function as it was.
//!
//! ```
//! use eas_transform::{ConvNet, Transforms, Widen, law};
//!
//! let transforms = Transforms::new([("widen".to_owned(), Box::new(Widen::default()) as _)]);
//! let report = law::check_preserves(&transforms, &ConvNet::small(), 0..3).unwrap();
//! assert!(report.edits > 0 && report.worst < 1e-5);
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use eas_ir::{
    Forward, Gradients, Images, Mode, Model, Network, ParamId, Reference, Rng, Role, Shape, Tensor,
    Weights, tensor,
};

use crate::apply::{Noise, apply, carry_momentum};
use crate::certificate::{Certificate, Verdict, compare};
use crate::edit::{Candidate, Edit};
use crate::patch::{GradientMap, Patch};
use crate::registry::Transforms;
use crate::space::{Problem, SearchSpace};

/// Edits of a chain.
pub const CHAIN: usize = 10;

/// The largest difference between a child's gradient and its parent's, carried, that counts as none:
/// relative to the largest entry of all gradients.
pub const GRADIENT_TOLERANCE: f64 = 1e-4;

/// Images of a probe.
const PROBE: usize = 8;

/// What the law found where it held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Networks tried.
    pub networks: usize,
    /// Edits made, in chains and alone.
    pub edits: usize,
    /// Networks whose logits hardly varied, so that nothing could be told.
    pub not_testable: usize,
    /// The largest gap, in deviations of the logits; or the largest difference of a gradient.
    pub worst: f64,
}

/// Where the law broke: enough to see it again.
#[derive(Debug)]
pub struct Broken {
    /// The seed of the network.
    pub seed: u64,
    /// The edits made, the last of which broke the law.
    pub edits: Vec<Edit>,
    /// What happened.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let edits: Vec<String> = self.edits.iter().map(Edit::to_string).collect();
        write!(out, "seed {}, after [{}]: {}", self.seed, edits.join(", "), self.why)
    }
}

impl std::error::Error for Broken {}

/// Checks that edits keep the function, over miniature networks of a space, one for each seed.
///
/// # Errors
/// The first edit that doesn't keep it, that can't be made though it was offered, or whose result is
/// no model.
pub fn check_preserves(
    transforms: &Transforms,
    space: &dyn SearchSpace,
    seeds: Range<u64>,
) -> Result<Report, Broken> {
    check_preserves_by(&Reference, transforms, space, seeds)
}

/// As [`check_preserves`], of the function as an engine computes it.
///
/// # Errors
/// As [`check_preserves`].
pub fn check_preserves_by(
    forward: &dyn Forward,
    transforms: &Transforms,
    space: &dyn SearchSpace,
    seeds: Range<u64>,
) -> Result<Report, Broken> {
    let mut report = Report::default();
    for seed in seeds {
        let rng = Rng::new(seed);
        let start = || -> anyhow::Result<_> {
            let space = space.miniature(&mut rng.split("space"))?;
            let network = space.start(&problem())?;
            Ok((space, random_model(network, &rng)?))
        };
        let (space, model) = start().map_err(|error| Broken {
            seed,
            edits: Vec::new(),
            why: format!("no network to start from: {error:#}"),
        })?;
        check_model_by(forward, transforms, space.as_ref(), &model, seed, &mut report)?;
    }
    Ok(report)
}

/// Checks that edits keep the function of one model: every edit alone, then a chain of ten.
///
/// # Errors
/// As [`check_preserves`].
pub fn check_model(
    transforms: &Transforms,
    space: &dyn SearchSpace,
    model: &Model,
    seed: u64,
    report: &mut Report,
) -> Result<(), Broken> {
    check_model_by(&Reference, transforms, space, model, seed, report)
}

fn check_model_by(
    forward: &dyn Forward,
    transforms: &Transforms,
    space: &dyn SearchSpace,
    model: &Model,
    seed: u64,
    report: &mut Report,
) -> Result<(), Broken> {
    let rng = Rng::new(seed);
    let probe = random_images(model.input_shape(), PROBE, &rng);
    let broken = |edits: &[Edit], error: anyhow::Error| Broken {
        seed,
        edits: edits.to_vec(),
        why: format!("{error:#}"),
    };
    report.networks += 1;
    let logits = |model: &Model| forward.logits(model, &probe, Mode::Evaluation);
    let offered = |model: &Model| offered(transforms, space, model.network());
    let before = logits(model).map_err(|error| broken(&[], error))?;
    for edit in offered(model).map_err(|error| broken(&[], error))? {
        let check = || -> anyhow::Result<_> {
            let child = make(transforms, model, &edit, &rng.split("alone"))?;
            compare(&before, &logits(&child)?)
        };
        let edits = [edit.clone()];
        let certificate = check().map_err(|error| broken(&edits, error))?;
        judge(certificate, report).map_err(|error| broken(&edits, error))?;
    }
    let mut chain = Vec::new();
    let (mut child, mut before) = (model.clone(), before);
    for place in 0..CHAIN {
        let choices = offered(&child).map_err(|error| broken(&chain, error))?;
        let stream = rng.split("chain").split_index(place as u64);
        if choices.is_empty() {
            break;
        }
        chain.push(choices[stream.clone().below(choices.len())].clone());
        let check = || -> anyhow::Result<_> {
            let next = make(transforms, &child, &chain[place], &stream.split("edit"))?;
            let after = logits(&next)?;
            Ok((next, compare(&before, &after)?, after))
        };
        let (next, certificate, after) = check().map_err(|error| broken(&chain, error))?;
        judge(certificate, report).map_err(|error| broken(&chain, error))?;
        (child, before) = (next, after);
    }
    Ok(())
}

/// Checks that an edit's momentum map is right where it says it is exact: in training mode, the
/// child's gradient is the parent's, carried. Returns the worst difference, of the exact edits and of
/// the approximate ones.
///
/// # Errors
/// An edit that says "exact" and isn't.
pub fn check_momentum(
    transforms: &Transforms,
    space: &dyn SearchSpace,
    model: &Model,
    seed: u64,
) -> Result<(f64, f64), Broken> {
    let rng = Rng::new(seed);
    let images = random_images(model.input_shape(), 2 * PROBE, &rng.split("momentum"));
    let mut stream = rng.split("labels");
    let labels: Vec<usize> = (0..2 * PROBE).map(|_| stream.below(model.classes())).collect();
    let mut worst = (0.0f64, 0.0f64);
    let broken = |edits: &[Edit], why: String| Broken { seed, edits: edits.to_vec(), why };
    let before = Reference
        .gradients(model, &images, &labels)
        .map_err(|error| broken(&[], format!("{error:#}")))?;
    let edits = offered(transforms, space, model.network())
        .map_err(|error| broken(&[], format!("{error:#}")))?;
    for edit in edits {
        let compare = || -> anyhow::Result<(GradientMap, f64)> {
            let mut choices = rng.split("choices");
            let patch = transforms.patch(model.network(), &edit, &mut choices)?;
            let child = apply(model, &patch, Noise::Off)?;
            let after = Reference.gradients(&child, &images, &labels)?;
            Ok((patch.gradient, gradient_gap(model, &patch, &before, &after)?))
        };
        let edits = [edit.clone()];
        let (map, gap) = compare().map_err(|error| broken(&edits, format!("{error:#}")))?;
        match map {
            GradientMap::Exact if gap > GRADIENT_TOLERANCE => {
                let why = format!("the momentum map is declared exact, but is off by {gap:.1e}");
                return Err(broken(&edits, why));
            }
            GradientMap::Exact => worst.0 = worst.0.max(gap),
            GradientMap::Approximate => worst.1 = worst.1.max(gap),
        }
    }
    Ok(worst)
}

/// The largest difference between a child's gradient and its parent's, carried by the patch, over the
/// entries that the parent had; relative to the largest entry of all gradients.
fn gradient_gap(
    parent: &Model,
    patch: &Patch,
    before: &Weights,
    after: &Weights,
) -> anyhow::Result<f64> {
    let carried = carry_momentum(before, parent, patch)?;
    // Ones are carried to something positive exactly where an entry comes from an old one.
    let ones: Weights =
        before.iter().map(|(id, values)| (*id, Tensor::from_elem(values.raw_dim(), 1.0))).collect();
    let inherited = carry_momentum(&ones, parent, patch)?;
    let mut largest = 0.0f64;
    let mut size = 0.0f64;
    for (id, carried) in &carried {
        let after = after.get(id).with_context(|| format!("no gradient of {id}"))?;
        for ((carried, after), inherited) in carried.iter().zip(after).zip(&inherited[id]) {
            size = size.max(f64::from(carried.abs()));
            if *inherited != 0.0 {
                largest = largest.max(f64::from((carried - after).abs()));
            }
        }
    }
    Ok(largest / size.max(f64::MIN_POSITIVE))
}

fn judge(certificate: Certificate, report: &mut Report) -> anyhow::Result<()> {
    report.edits += 1;
    match certificate.verdict {
        Verdict::Preserved => report.worst = report.worst.max(certificate.gap),
        Verdict::NotTestable => report.not_testable += 1,
        Verdict::Broken => anyhow::bail!("{certificate}"),
    }
    Ok(())
}

/// Everything that the transforms offer on a network, in order. What an edit's own patch refuses
/// counts as offered here, so that an offer that can't be made is found.
fn offered(
    transforms: &Transforms,
    space: &dyn SearchSpace,
    network: &Network,
) -> anyhow::Result<Vec<Edit>> {
    let mut offered = Vec::new();
    for name in transforms.names() {
        let transform = transforms.get(name)?;
        let mut paths = BTreeSet::new();
        for Candidate { site, target, path } in transform.edits(network, space) {
            let patch = transform.patch(network, site, target, &mut Rng::new(0));
            let edit = Edit { transform: name.to_owned(), site, target };
            let patch = patch.with_context(|| format!("{edit} is offered, but can't be made"))?;
            // A policy that comes to the end of a path could not choose between two edits there.
            ensure!(paths.insert(path.clone()), "{edit}: path {path:?} leads to another edit, too");
            // Depth and size bounds are the space's to keep; broken rules are the transform's fault.
            patch.network.verify().with_context(|| format!("{edit} makes no network"))?;
            if space.admits(&patch.network, 1).is_ok() {
                offered.push(edit);
            }
        }
    }
    Ok(offered)
}

fn make(transforms: &Transforms, model: &Model, edit: &Edit, rng: &Rng) -> anyhow::Result<Model> {
    let patch = transforms.patch(model.network(), edit, &mut rng.split("choices"))?;
    apply(model, &patch, Noise::Off)
}

/// The problem that miniature spaces are for: 8×8 images of three colours, four classes.
pub fn problem() -> Problem {
    let input = Shape::Image { channels: 3, height: 8, width: 8 };
    Problem { input, classes: 4, directory: PathBuf::new() }
}

/// A model of a network with random weights and random batch-norm parameters and statistics, as a
/// trained one has: nothing is 0 or 1 by accident.
///
/// # Errors
/// A network that doesn't verify.
pub fn random_model(network: Network, rng: &Rng) -> anyhow::Result<Model> {
    let (network, weights) = Model::initialise(network, rng)?.into_parts();
    let randomise = |(id, values): (ParamId, Tensor)| {
        let mut rng = rng.split("statistics").split(&id.to_string());
        let shape = values.shape().to_vec();
        let mut draw = |draw: &mut dyn FnMut(&mut Rng) -> f64| {
            tensor(&shape, (0..values.len()).map(|_| draw(&mut rng) as f32).collect())
        };
        let random = match id.role {
            Role::Weight => values.clone(),
            Role::Gamma => draw(&mut |rng| 0.5 + rng.unit()),
            Role::Variance => draw(&mut |rng| 0.3 + 1.5 * rng.unit()),
            Role::Bias | Role::Beta | Role::Mean => draw(&mut |rng| 0.4 * rng.normal()),
        };
        (id, random)
    };
    Ok(Model::new(network, weights.into_iter().map(randomise).collect())?)
}

/// Images of normal noise.
pub fn random_images(shape: Shape, count: usize, rng: &Rng) -> Images {
    let mut rng = rng.split("images");
    let (height, width) = match shape {
        Shape::Image { height, width, .. } => (height, width),
        Shape::Flat { .. } => (1, 1),
    };
    Images::from_shape_simple_fn((count, shape.channels(), height, width), || rng.normal() as f32)
}
