//! Actors: one for each transform, built from what it declares.
//!
//! A transform that decides about every site gets the paper's wider actor: one linear layer, shared by
//! all sites, from the hidden state of a site's token to the logit of taking it. One that picks a
//! single edit gets the deeper actor: an LSTM that starts from where the encoder ended, and chooses
//! factor by factor among what is legal, each choice being the next one's input (Cai et al. 2018,
//! sections 3.2 and 3.3). Log-probabilities come from logits, never from the logarithm of a
//! probability, so none is ever infinite; what is not legal has no part in them.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::log_softmax;
use eas_ir::Rng;

use super::encoder::{Encoding, Sizes};
use super::lstm::{Lstm, State};
use super::parameters::{Linear, Parameters, rows};

/// Added to the logits of choices that aren't legal: their probability is exactly 0, and 0 times the
/// logarithm of it is 0 and no NaN.
const FORBIDDEN: f64 = -1e9;

/// A choice among several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    /// What could be chosen, rising.
    pub(super) legal: Vec<usize>,
    /// What was.
    pub(super) chosen: usize,
}

/// How likely decisions were: scalars that gradients flow through.
pub(super) struct Judged {
    /// Sum of the log-probabilities of all decisions.
    pub(super) log_probability: Tensor,
    /// Sum of the entropies of the steps: a site's on average over the step's sites, a path's in all.
    pub(super) entropy: Tensor,
}

/// The logit of taking each site: of all tokens, and of the networks as wholes, for sites that no token
/// stands for. Rows as in [`Encoding::hidden`]: [rows, 1].
pub(super) fn site_logits(
    parameters: &mut Parameters,
    transform: &str,
    encoding: &Encoding,
) -> Result<Tensor> {
    let inputs = encoding.hidden.dim(1)?;
    parameters.linear(&format!("{transform}.take"), inputs, 1)?.forward(&encoding.hidden)
}

/// A step that decided about each site: its network in the encoding, and the decisions, each with the
/// token of the site.
pub(super) type SiteStep<'a> = (usize, &'a [(Option<usize>, bool)]);

/// Judges steps of one transform that decides about each site.
pub(super) fn judge_sites(
    parameters: &mut Parameters,
    transform: &str,
    encoding: &Encoding,
    steps: &[SiteStep<'_>],
) -> Result<Judged> {
    let (mut places, mut taken, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for (network, sites) in steps {
        for (token, take) in *sites {
            places.push(encoding.row(*network, *token));
            taken.push(usize::from(*take));
            shares.push(1.0 / sites.len() as f64);
        }
    }
    let take = rows(&site_logits(parameters, transform, encoding)?, places)?;
    // A Bernoulli variable is a softmax over two, of which one has the logit 0.
    let logits = Tensor::cat(&[&take.zeros_like()?, &take], 1)?;
    let (log_probabilities, entropies) = categorical(&logits, &taken)?;
    let shares = Tensor::new(shares, &Device::Cpu)?;
    Ok(Judged {
        log_probability: log_probabilities.sum_all()?,
        entropy: (entropies * shares)?.sum_all()?,
    })
}

/// The actor of a transform that picks one edit.
pub(super) struct PathActor {
    lstm: Lstm,
    /// From the decoder's state to the logits of each level.
    heads: Vec<Linear>,
    /// What is read at each level, by the choice before it; before the first there is but one:
    /// [choices, embedding].
    inputs: Vec<Tensor>,
}

impl PathActor {
    /// `levels` are the sizes of its softmaxes.
    pub(super) fn new(
        parameters: &mut Parameters,
        transform: &str,
        sizes: Sizes,
        levels: &[usize],
    ) -> Result<Self> {
        let units = 2 * sizes.units;
        let lstm = Lstm::new(parameters, &format!("{transform}.decoder"), sizes.embedding, units)?;
        let (mut heads, mut inputs) = (Vec::new(), Vec::new());
        let mut earlier = 1;
        for (level, choices) in levels.iter().enumerate() {
            let name = format!("{transform}.level{level}");
            let before = format!("{name}.input");
            inputs.push(parameters.embedding(&before, earlier, sizes.embedding)?);
            heads.push(parameters.linear(&name, units, *choices)?);
            earlier = *choices;
        }
        Ok(PathActor { lstm, heads, inputs })
    }

    /// Draws a choice at `level`, of which `state` becomes the decoder's; `last` is the choice before
    /// it, 0 at the first.
    pub(super) fn draw(
        &self,
        level: usize,
        last: usize,
        legal: &[usize],
        state: &mut State,
        rng: &mut Rng,
    ) -> Result<usize> {
        *state = self.lstm.step(&rows(&self.inputs[level], [last])?, state)?;
        let logits = self.heads[level].forward(&state.hidden)?.flatten_all()?.to_vec1()?;
        Ok(sample(&logits, legal, rng))
    }

    /// Judges steps: for each its network in the encoding, and its picks, at least one.
    pub(super) fn judge(&self, encoding: &Encoding, steps: &[(usize, &[Pick])]) -> Result<Judged> {
        let networks: Vec<usize> = steps.iter().map(|(network, _)| *network).collect();
        let mut paths: Vec<&[Pick]> = steps.iter().map(|(_, picks)| *picks).collect();
        let mut state = encoding.last.rows(&networks)?;
        let mut last = vec![0; paths.len()];
        let zero = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        let (mut log_probability, mut entropy) = (zero.clone(), zero);
        for (depth, (head, input)) in self.heads.iter().zip(&self.inputs).enumerate() {
            let on: Vec<usize> = (0..paths.len()).filter(|i| paths[*i].len() > depth).collect();
            if on.is_empty() {
                break;
            }
            if on.len() < paths.len() {
                state = state.rows(&on)?;
                last = on.iter().map(|i| last[*i]).collect();
                paths = on.iter().map(|i| paths[*i]).collect();
            }
            state = self.lstm.step(&rows(input, last)?, &state)?;
            let logits = head.forward(&state.hidden)?;
            let mask = forbid(&paths, depth, logits.dim(1)?)?;
            last = paths.iter().map(|path| path[depth].chosen).collect();
            let (log_probabilities, entropies) = categorical(&(logits + mask)?, &last)?;
            log_probability = (log_probability + log_probabilities.sum_all()?)?;
            entropy = (entropy + entropies.sum_all()?)?;
        }
        Ok(Judged { log_probability, entropy })
    }
}

/// 0 for what is legal at a level, [`FORBIDDEN`] for the rest: [paths, choices].
fn forbid(paths: &[&[Pick]], depth: usize, choices: usize) -> Result<Tensor> {
    let mut mask = vec![FORBIDDEN; paths.len() * choices];
    for (row, path) in paths.iter().enumerate() {
        path[depth].legal.iter().for_each(|choice| mask[row * choices + choice] = 0.0);
    }
    Tensor::from_vec(mask, (paths.len(), choices), &Device::Cpu)
}

/// The log-probability of what was chosen, and the entropy, of each row's softmax: [rows, choices] →
/// [rows] both.
fn categorical(logits: &Tensor, chosen: &[usize]) -> Result<(Tensor, Tensor)> {
    let logs = log_softmax(logits, 1)?;
    let places: Vec<u32> = chosen.iter().map(|choice| *choice as u32).collect();
    let places = Tensor::from_vec(places, (chosen.len(), 1), &Device::Cpu)?;
    let log_probabilities = logs.gather(&places, 1)?.squeeze(1)?;
    let entropies = (logs.exp()? * &logs)?.sum(1)?.neg()?;
    Ok((log_probabilities, entropies))
}

/// Draws a legal choice by the softmax of the legal choices' logits.
pub(super) fn sample(logits: &[f64], legal: &[usize], rng: &mut Rng) -> usize {
    let largest = legal.iter().map(|choice| logits[*choice]).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = legal.iter().map(|choice| (logits[*choice] - largest).exp()).collect();
    let mut left = rng.unit() * weights.iter().sum::<f64>();
    for (choice, weight) in legal.iter().zip(&weights) {
        if left < *weight {
            return *choice;
        }
        left -= weight;
    }
    // Rounding may leave a crumb behind the last.
    legal[legal.len() - 1]
}
