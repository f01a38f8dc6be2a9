//! A wider layer of a dense block (Cai et al. 2018, DenseNet space): its growth rate and its
//! bottleneck together, through every later concatenation, bottleneck, transition and the
//! classifier.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use eas_ir::{Built, Network, NodeId, Op, Plugin, Rng, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::dense::dense_layers;
use crate::channels::{replicate, rewire};
use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options;
use crate::patch::Patch;
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Widens a dense layer to the next growth rate of its list, and its bottleneck in proportion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WidenGrowth {
    /// Deviation of the noise on replicas, as a ratio of the source weights' deviation.
    #[serde(deserialize_with = "options::noise")]
    pub noise: f64,
}

impl Default for WidenGrowth {
    fn default() -> Self {
        WidenGrowth { noise: 1e-2 }
    }
}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "widen_growth",
        "a larger growth rate of a dense layer, with its bottleneck",
        "noise = 1e-2  # deviation of the noise on replicas, relative to the source weights'\n",
        |options| {
            let widen_growth = parse_options::<WidenGrowth>(options)?;
            Ok(Built { options: resolved_options(&widen_growth)?, implementation: Box::new(widen_growth) })
        },
    ))
}

fn filters(network: &Network, id: NodeId) -> Option<usize> {
    match network.node(id)?.op {
        Op::Conv { filters, groups: 1, .. } => Some(filters),
        _ => None,
    }
}

impl Transform for WidenGrowth {
    fn decision(&self, _: &dyn SearchSpace) -> Decision {
        Decision::EachSite
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let layers = dense_layers(network).into_iter().enumerate();
        let next = layers.filter_map(|(index, layer)| {
            let growth = filters(network, layer.growth)?;
            let widths = space.widths(network, layer.growth);
            let width = *widths.iter().find(|width| **width > growth)?;
            let target = Target::Width(width);
            Some(Candidate { site: layer.growth, target, path: vec![index] })
        });
        next.collect()
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        rng: &mut Rng,
    ) -> anyhow::Result<Patch> {
        let Target::Width(width) = target else {
            bail!("expected a growth rate, such as `widen_growth {site} to 16`");
        };
        let layers = dense_layers(network);
        let layer = layers
            .iter()
            .find(|layer| layer.growth == site)
            .with_context(|| format!("{site} is not the last convolution of a dense layer"))?;
        let growth = filters(network, site).context("a grouped convolution can't be widened")?;
        let mut maps = BTreeMap::from([(site, replicate(growth, width, rng)?)]);
        if let Some(bottleneck) = layer.bottleneck {
            let old = filters(network, bottleneck).context("a grouped bottleneck")?;
            let new = old * width / growth;
            if new > old {
                maps.insert(bottleneck, replicate(old, new, rng)?);
            }
        }
        rewire(network, network.clone(), &maps, self.noise)
    }
}
