//! Wider transitions of a DenseNet (Cai et al. 2018, DenseNet space): once its layers have grown, the
//! first convolution and the transitions are brought back into proportion with them.

use std::collections::BTreeMap;

use anyhow::bail;
use eas_ir::{Built, Network, Node, NodeId, Op, Plugin, Rng, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::dense::{dense_layers, portion};
use crate::channels::{Gained, channel_groups, replicate, rewire};
use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options::{self, LARGEST};
use crate::patch::Patch;
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Widens the first convolution to the mean growth rate times `first_ratio`, and each transition to the
/// channels that enter it times `compression`, where that is more than they have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WidenTransition {
    /// Channels of the first convolution, in growth rates.
    #[serde(deserialize_with = "options::first_ratio")]
    pub first_ratio: f64,
    /// Channels behind a transition, as a share of those before it.
    #[serde(deserialize_with = "options::compression")]
    pub compression: f64,
    /// Deviation of the noise on replicas, as a ratio of the source weights' deviation.
    #[serde(deserialize_with = "options::noise")]
    pub noise: f64,
}

impl Default for WidenTransition {
    fn default() -> Self {
        WidenTransition { first_ratio: 2.0, compression: 0.5, noise: 1e-2 }
    }
}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "widen_transition",
        "the first convolution and the transitions of a DenseNet in proportion to its layers",
        "first_ratio = 2.0  # channels of the first convolution, in mean growth rates\n\
         compression = 0.5  # channels behind a transition, as a share of those before it\n\
         noise = 1e-2  # deviation of the noise on replicas, relative to the source weights'\n",
        |options| {
            let widen = parse_options::<WidenTransition>(options)?;
            Ok(Built { options: resolved_options(&widen)?, implementation: Box::new(widen) })
        },
    ))
}

/// The first convolution or a transition's.
struct Site<'a> {
    node: &'a Node,
    is_first: bool,
    filters: usize,
}

/// Every site, in topological order: the first convolution of kind `stem`, and those of kind `transition`.
fn sites(network: &Network) -> impl Iterator<Item = Site<'_>> {
    let mut is_before = true;
    network.nodes().iter().filter_map(move |node| {
        let Op::Conv { filters, groups: 1, .. } = node.op else { return None };
        let kind = node.label.as_ref()?.kind.as_str();
        let is_first = kind == "stem" && std::mem::take(&mut is_before);
        (is_first || kind == "transition").then_some(Site { node, is_first, filters })
    })
}

impl Transform for WidenTransition {
    fn decision(&self, _: &dyn SearchSpace) -> Decision {
        Decision::Always
    }

    fn edits(&self, network: &Network, _: &dyn SearchSpace) -> Vec<Candidate> {
        let Ok(shapes) = network.verify() else { return Vec::new() };
        let layers = dense_layers(network);
        if layers.is_empty() {
            return Vec::new();
        }
        let growth: usize = layers.iter().map(|layer| layer.growth_rate()).sum();
        let mean = growth as f64 / layers.len() as f64;
        // Channels that an addition ties to others' can't be widened alone.
        let groups = channel_groups(network, &shapes);
        let is_alone = |site: NodeId| groups.iter().any(|group| group.producers == [site]);
        let wider = |(index, site): (usize, Site<'_>)| {
            let width = if site.is_first {
                portion(mean, self.first_ratio)
            } else {
                portion(shapes[site.node.inputs[0]].channels() as f64, self.compression)
            };
            let target = Target::Width(width);
            (width > site.filters && width <= LARGEST && is_alone(site.node.id))
                .then_some(Candidate { site: site.node.id, target, path: vec![index] })
        };
        sites(network).enumerate().filter_map(wider).collect()
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        rng: &mut Rng,
    ) -> anyhow::Result<Patch> {
        let Target::Width(width) = target else {
            bail!("expected a width, such as `widen_transition {site} to 64`");
        };
        let all: Vec<Site<'_>> = sites(network).collect();
        let known = || all.iter().map(|site| site.node.id.to_string()).collect::<Vec<_>>();
        let Some(found) = all.iter().find(|known| known.node.id == site) else {
            bail!(
                "{site} is no first convolution or transition (those are: {})",
                known().join(", ")
            );
        };
        let maps = BTreeMap::from([(site, replicate(found.filters, width, rng)?)]);
        rewire(network, network.clone(), &maps, Gained::Replicas { noise: self.noise })
    }
}
