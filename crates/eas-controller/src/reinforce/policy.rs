//! The policy: what it proposes for a network, and how likely it was to propose what it did.

use std::collections::BTreeMap;

use anyhow::ensure;
use candle_core::{DType, Device, Tensor};
use eas_ir::{Network, NodeId, Rng};
use eas_transform::{Decision, Step, Token};

use super::actors::{Judged, PathActor, Pick, judge_sites, sample, site_logits};
use super::encoder::{Sizes, encode};
use super::parameters::Parameters;
use crate::scope::{Scope, every_site, pick_among, pick_one, take_all};

/// One step of an episode as it was decided: all that its probability depends on.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    transform: String,
    /// The network before the step.
    tokens: Vec<usize>,
    choices: Choices,
}

#[derive(Clone, Debug)]
enum Choices {
    /// The token of each site that was asked about, if it has one, and the answer.
    Sites(Vec<(Option<usize>, bool)>),
    /// A choice at each level, and the sizes of all levels.
    Path { picks: Vec<Pick>, levels: Vec<usize> },
}

impl Decided {
    /// Whether there was anything to decide.
    fn is_choice(&self) -> bool {
        match &self.choices {
            Choices::Sites(sites) => !sites.is_empty(),
            Choices::Path { picks, .. } => !picks.is_empty(),
        }
    }
}

/// An episode under way.
struct Episode {
    network: Network,
    rng: Rng,
    steps: Vec<Step>,
}

/// Draws `count` episodes. They advance together, so that their networks are encoded together.
pub(super) fn draw(
    parameters: &mut Parameters,
    sizes: Sizes,
    scope: &Scope<'_>,
    count: usize,
    rng: &Rng,
) -> anyhow::Result<Vec<Vec<Step>>> {
    let episode = |index| Episode {
        network: scope.parent.clone(),
        rng: rng.split_index(index as u64),
        steps: Vec::new(),
    };
    let mut episodes: Vec<Episode> = (0..count).map(episode).collect();
    for (transform, decision) in decisions(scope)? {
        draw_step(parameters, sizes, scope, transform, &decision, &mut episodes)?;
    }
    Ok(episodes.into_iter().map(|episode| episode.steps).collect())
}

/// The transform of each step of an episode, and how it is decided about.
fn decisions<'a>(scope: &Scope<'a>) -> anyhow::Result<Vec<(&'a str, Decision)>> {
    let mut steps = Vec::new();
    for action in scope.actions {
        let decision = scope.transforms.get(&action.transform)?.decision(scope.space);
        steps.extend((0..action.count).map(|_| (action.transform.as_str(), decision.clone())));
    }
    Ok(steps)
}

fn draw_step(
    parameters: &mut Parameters,
    sizes: Sizes,
    scope: &Scope<'_>,
    transform: &str,
    decision: &Decision,
    episodes: &mut [Episode],
) -> anyhow::Result<()> {
    if *decision == Decision::Always {
        for episode in episodes {
            episode.steps.push(take_all(scope, &mut episode.network, transform)?);
        }
        return Ok(());
    }
    let read: Vec<Vec<Token>> = episodes.iter().map(|e| scope.tokens(&e.network)).collect();
    let ids: Vec<Vec<usize>> = read.iter().map(|tokens| ids(tokens)).collect();
    let sequences: Vec<&[usize]> = ids.iter().map(Vec::as_slice).collect();
    let encoding = encode(parameters, sizes, scope.space.vocabulary().len(), &sequences)?;
    let step: Vec<Step> = match decision {
        Decision::EachSite => {
            let logits = site_logits(parameters, transform, &encoding)?;
            let logits: Vec<f64> = logits.flatten_all()?.to_vec1()?;
            let draw = |(index, episode): (usize, &mut Episode)| {
                let rng = &mut episode.rng;
                let standing = standing(&episode.network, &read[index]);
                every_site(scope, &mut episode.network, transform, &mut |edit| {
                    let token = standing.get(&edit.site).copied();
                    sample(&[0.0, logits[encoding.row(index, token)]], &[0, 1], rng) == 1
                })
            };
            episodes.iter_mut().enumerate().map(draw).collect::<anyhow::Result<_>>()?
        }
        Decision::OnePick { levels } => {
            let actor = PathActor::new(parameters, transform, sizes, levels)?;
            let draw = |(index, episode): (usize, &mut Episode)| {
                let mut state = encoding.last.rows(&[index])?;
                let (mut last, mut fault) = (0, Ok(()));
                let network = &mut episode.network;
                let rng = &mut episode.rng;
                let step = pick_one(scope, network, transform, &mut |level, legal| {
                    let drawn = check_level(transform, levels, level, legal)
                        .and_then(|()| Ok(actor.draw(level, last, legal, &mut state, rng)?));
                    let choice = drawn.unwrap_or_else(|error| {
                        fault = Err(error);
                        legal[0]
                    });
                    last = choice;
                    choice
                });
                fault.and(step)
            };
            episodes.iter_mut().enumerate().map(draw).collect::<anyhow::Result<_>>()?
        }
        Decision::Always => unreachable!("taken above"),
    };
    episodes.iter_mut().zip(step).for_each(|(episode, step)| episode.steps.push(step));
    Ok(())
}

fn ids(tokens: &[Token]) -> Vec<usize> {
    tokens.iter().map(|token| token.id).collect()
}

/// The positions of the tokens that stand for sites: a site's own, or else that of its layer, the nodes of
/// one label.
fn standing(network: &Network, tokens: &[Token]) -> BTreeMap<NodeId, usize> {
    let mut own = BTreeMap::new();
    let mut of_layer = BTreeMap::new();
    let label = |site: NodeId| network.node(site)?.label.as_ref();
    for (position, token) in tokens.iter().enumerate() {
        let Some(site) = token.site else { continue };
        own.entry(site).or_insert(position);
        if let Some(label) = label(site) {
            of_layer.entry(label).or_insert(position);
        }
    }
    for node in network.nodes() {
        if let Some(position) = node.label.as_ref().and_then(|label| of_layer.get(label)) {
            own.entry(node.id).or_insert(*position);
        }
    }
    own
}

/// Whether choices lie in the tree that a transform declares.
fn check_level(
    transform: &str,
    levels: &[usize],
    level: usize,
    legal: &[usize],
) -> anyhow::Result<()> {
    let size = levels.get(level).copied().unwrap_or(0);
    let largest = legal.last().copied().unwrap_or(0);
    ensure!(
        largest < size,
        "transform `{transform}`: expected choices below {size} at level {level} of its paths, found \
         {largest}"
    );
    Ok(())
}

/// The decisions of an episode that made these steps, by making them again. Without `mask`, picks are
/// taken to be among all choices, legal or not.
///
/// # Errors
/// Steps that are none of the scope's episodes.
pub(super) fn recall(
    scope: &Scope<'_>,
    steps: &[Step],
    mask: bool,
) -> anyhow::Result<Vec<Decided>> {
    let decisions = decisions(scope)?;
    ensure!(
        steps.len() == decisions.len(),
        "expected {} steps of an episode, found {}",
        decisions.len(),
        steps.len()
    );
    let mut network = scope.parent.clone();
    let mut decided = Vec::new();
    for (step, (transform, decision)) in steps.iter().zip(decisions) {
        let read = scope.tokens(&network);
        let mut choices = None;
        let made = match decision {
            Decision::Always => take_all(scope, &mut network, transform)?,
            Decision::EachSite => {
                let mut sites = Vec::new();
                let standing = standing(&network, &read);
                let made = every_site(scope, &mut network, transform, &mut |edit| {
                    let take = step.contains(edit);
                    sites.push((standing.get(&edit.site).copied(), take));
                    take
                })?;
                choices = Some(Choices::Sites(sites));
                made
            }
            Decision::OnePick { levels } => {
                let mut picks = Vec::new();
                let legal = scope.edits(transform, &network)?;
                let taken = step.first().and_then(|edit| legal.iter().find(|(e, _)| e == edit));
                let path = taken.map_or(Vec::new(), |(_, path)| path.clone());
                let made = pick_among(scope, &mut network, legal, &mut |level, legal| {
                    let chosen = path.get(level).copied().unwrap_or(usize::MAX);
                    let all = || (0..levels.get(level).copied().unwrap_or(0)).collect();
                    let among = if mask { legal.to_vec() } else { all() };
                    picks.push(Pick { legal: among, chosen });
                    chosen
                })?;
                choices = Some(Choices::Path { picks, levels });
                made
            }
        };
        ensure!(made == *step, "expected {made:?} as a step of this episode, found {step:?}");
        if let Some(choices) = choices {
            decided.push(Decided { transform: transform.to_owned(), tokens: ids(&read), choices });
        }
    }
    decided.retain(Decided::is_choice);
    Ok(decided)
}

/// How likely the policy is to decide so. Scalars 0 where there was nothing to decide.
pub(super) fn judge(
    parameters: &mut Parameters,
    sizes: Sizes,
    vocabulary: usize,
    episode: &[Decided],
) -> anyhow::Result<Judged> {
    let zero = Tensor::zeros((), DType::F64, &Device::Cpu)?;
    let mut total = Judged { log_probability: zero.clone(), entropy: zero };
    if episode.is_empty() {
        return Ok(total);
    }
    let sequences: Vec<&[usize]> = episode.iter().map(|step| step.tokens.as_slice()).collect();
    let encoding = encode(parameters, sizes, vocabulary, &sequences)?;
    let mut of_transform: BTreeMap<&str, Vec<(usize, &Choices)>> = BTreeMap::new();
    for (place, step) in episode.iter().enumerate() {
        of_transform.entry(&step.transform).or_default().push((place, &step.choices));
    }
    for (transform, steps) in of_transform {
        let (mut sites, mut paths, mut sizes_of_levels) = (Vec::new(), Vec::new(), None);
        for (place, choices) in steps {
            match choices {
                Choices::Sites(asked) => sites.push((place, asked.as_slice())),
                Choices::Path { picks, levels } => {
                    sizes_of_levels = Some(levels);
                    paths.push((place, picks.as_slice()));
                }
            }
        }
        let judged = match sizes_of_levels {
            None => judge_sites(parameters, transform, &encoding, &sites)?,
            Some(levels) => {
                PathActor::new(parameters, transform, sizes, levels)?.judge(&encoding, &paths)?
            }
        };
        total.log_probability = (total.log_probability + judged.log_probability)?;
        total.entropy = (total.entropy + judged.entropy)?;
    }
    Ok(total)
}
