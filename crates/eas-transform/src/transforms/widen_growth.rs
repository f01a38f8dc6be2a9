//! A wider layer of a dense block (Cai et al. 2018, DenseNet space): its growth rate and its
//! bottleneck together, and whatever else was inserted between them, through every later concatenation, bottleneck, transition and the
//! classifier.

use std::collections::BTreeMap;

use anyhow::bail;
use eas_ir::{Built, Network, NodeId, Plugin, Rng, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::dense::{dense_layer, dense_layers};
use crate::channels::{Gained, replicate, rewire};
use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options;
use crate::patch::Patch;
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Widens a dense layer to the next growth rate of its list, and its other convolutions in proportion.
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

impl Transform for WidenGrowth {
    fn decision(&self, _: &dyn SearchSpace) -> Decision {
        Decision::EachSite
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let layers = dense_layers(network).into_iter().enumerate();
        let next = layers.filter_map(|(index, layer)| {
            let widths = space.widths(network, layer.growth);
            let width = *widths.iter().find(|width| **width > layer.growth_rate())?;
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
        let layer = dense_layer(network, site)?;
        let growth = layer.growth_rate();
        let mut maps = BTreeMap::from([(site, replicate(growth, width, rng)?)]);
        for inner in layer.convolutions.iter().filter(|inner| inner.id != site) {
            let proportional = inner.filters * width / growth;
            if proportional > inner.filters {
                maps.insert(inner.id, replicate(inner.filters, proportional, rng)?);
            }
        }
        rewire(network, network.clone(), &maps, Gained::Replicas { noise: self.noise })
    }
}
