//! The paper's meta-controller (Cai et al. 2018, sections 3 and 4): an encoder reads a network's
//! tokens, one actor per transform decides, and REINFORCE raises the probability of what led to
//! better accuracy than usual.
//!
//! An episode starts from the scope's parent and has one reward at its end, which goes undiscounted to
//! all its decisions. What is learned is a function of the first `propose`'s randomness, which
//! initialises the policy, and of the batches observed: proposing and observing the same again from
//! the start gives the same numbers, whatever the number of threads.
//!
//! Where the released code errs in what it computes, that can be had by name: `baseline = "released"`
//! for its inverted decay, `accuracy_clip = 1` for its reward without bound. Where it computes NaN, for
//! the entropy of a network without a site to widen and for blocks without layers, there is nothing
//! to have: what is empty is masked and adds 0.

mod actors;
mod adam;
mod encoder;
mod loss;
mod lstm;
mod options;
mod parameters;
mod policy;
mod reward;

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use eas_ir::{Built, Plugin, Rng, parse_options, resolved_options};
use eas_transform::Step;

pub use options::ReinforceOptions;
pub use reward::BaselineKind;

use crate::controller::{Controller, Proposal};
use crate::registry::ControllerPlugin;
use crate::scope::Scope;
use crate::trial::Trial;
use adam::Adam;
use encoder::Sizes;
use loss::{Lesson, loss};
use parameters::Parameters;
use reward::{Baselines, reward};

/// Learns by REINFORCE which edits are worth making.
#[derive(Debug)]
pub struct Reinforce {
    options: ReinforceOptions,
    /// Nothing before the first `propose`.
    parameters: Option<Parameters>,
    adam: Adam,
    baselines: Baselines,
}

inventory::submit! {
    ControllerPlugin(Plugin::new(
        "reinforce",
        "learns by REINFORCE which edits pay (the paper's controller)",
        options::TEXT,
        |options| {
            let options = parse_options::<ReinforceOptions>(options)?;
            let resolved = resolved_options(&options)?;
            Ok(Built { options: resolved, implementation: Box::new(Reinforce::new(options)) })
        },
    ))
}

impl Controller for Reinforce {
    fn propose(
        &mut self,
        scope: &Scope<'_>,
        count: usize,
        rng: &Rng,
    ) -> anyhow::Result<Vec<Proposal>> {
        let sizes = self.sizes();
        let begin = || Parameters::new(rng.split("parameters"));
        let parameters = self.parameters.get_or_insert_with(begin);
        let episodes = policy::draw(parameters, sizes, scope, count, rng)?;
        Ok(episodes.into_iter().map(|steps| Proposal { steps }).collect())
    }

    fn observe(&mut self, scope: &Scope<'_>, batch: &[Trial]) -> anyhow::Result<()> {
        // A trial that was refused or failed says nothing of its network; divergence does. Of a network
        // that was trained again, the new result counts: a mean would teach the old ones' luck again.
        let trials: Vec<&Trial> = batch.iter().filter(|trial| trial.measured.is_some()).collect();
        let Some(first) = trials.first() else { return Ok(()) };
        let options = &self.options;
        let worth = |accuracy| reward(accuracy, options.accuracy_clip);
        let rewards: Vec<f64> =
            trials.iter().filter_map(|trial| trial.measured.map(worth)).collect();
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        let decay = options.baseline_decay;
        let baseline = self.baselines.next(options.baseline, decay, first.parent, mean);
        let mut lessons: Vec<Lesson> = Vec::new();
        for (trial, reward) in trials.iter().zip(rewards) {
            let decided = policy::recall(scope, &trial.steps, options.mask)
                .with_context(|| format!("can't learn from trial {}", trial.id))?;
            lessons.push((decided, reward - baseline));
        }
        self.learn(scope.space.vocabulary().len(), &lessons)
    }
}

impl Reinforce {
    /// A controller that has learned nothing yet.
    pub fn new(options: ReinforceOptions) -> Self {
        let (adam, baselines) = (Adam::default(), Baselines::default());
        Reinforce { options, parameters: None, adam, baselines }
    }

    fn sizes(&self) -> Sizes {
        Sizes { embedding: self.options.embedding, units: self.options.units }
    }

    /// One update of all parameters that had a part in a batch.
    fn learn(&mut self, vocabulary: usize, lessons: &[Lesson]) -> anyhow::Result<()> {
        let (sizes, entropy) = (self.sizes(), self.options.entropy);
        let parameters = self.parameters.as_mut().context(UNBORN)?;
        let (loss, gradient) = loss(parameters, sizes, vocabulary, lessons, entropy)?;
        ensure!(loss.is_finite(), "expected a finite loss of the policy, found {loss}");
        for (name, variable) in parameters.iter() {
            if let Some(slopes) = gradient.get(name) {
                self.adam.update(name, variable, slopes, self.options.learning_rate)?;
            }
        }
        Ok(())
    }

    /// The logarithm of the probability that an episode consists of these steps.
    ///
    /// # Errors
    /// Steps that are no episode of this scope, or a controller that never proposed.
    pub fn log_probability(&mut self, scope: &Scope<'_>, steps: &[Step]) -> anyhow::Result<f64> {
        let sizes = self.sizes();
        let decided = policy::recall(scope, steps, self.options.mask)?;
        let parameters = self.parameters.as_mut().context(UNBORN)?;
        let vocabulary = scope.space.vocabulary().len();
        let judged = policy::judge(parameters, sizes, vocabulary, &decided)?;
        Ok(judged.log_probability.to_scalar()?)
    }

    /// Every number it has learned, by name: parameters, their moments in Adam, and baselines.
    ///
    /// # Errors
    /// None on a CPU.
    pub fn state(&self) -> anyhow::Result<BTreeMap<String, Vec<f64>>> {
        let mut state = BTreeMap::new();
        for (name, variable) in self.parameters.iter().flat_map(Parameters::iter) {
            state.insert(name.to_owned(), variable.flatten_all()?.to_vec1()?);
        }
        for (name, moments) in &self.adam.0 {
            state.insert(format!("{name}, mean slope"), moments.mean.clone());
            state.insert(format!("{name}, mean square"), moments.square.clone());
            state.insert(format!("{name}, updates"), vec![f64::from(moments.updates)]);
        }
        for (parent, average) in &self.baselines.0 {
            state.insert(format!("baseline of {parent}"), vec![*average]);
        }
        Ok(state)
    }
}

const UNBORN: &str = "expected a proposal before anything else: it initialises the policy";
