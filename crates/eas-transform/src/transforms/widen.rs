//! Net2WiderNet (Chen et al. 2016, section 2.2; Cai et al. 2018, section 3.2): more filters or units,
//! the new ones replicas of old ones, with all that read them rescaled; or fresh ones that what reads
//! them multiplies by 0 at first.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use eas_ir::{Built, Network, NodeId, Plugin, Rng, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use crate::channels::{ChannelGroup, Gained, channel_groups, replicate, rewire};
use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options;
use crate::patch::Patch;
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Widens a layer to the next width of its list. Layers tied by additions are one site, named by the
/// first of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Widen {
    /// What the new filters are.
    pub filters: NewFilters,
    /// Deviation of the noise on replicas, as a ratio of the source weights' deviation.
    #[serde(deserialize_with = "options::noise")]
    pub noise: f64,
}

/// What the filters are that a layer gains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewFilters {
    /// Replicas of old ones, as in the paper.
    Replicas,
    /// Initialised as in a new network; what reads them starts at 0.
    Fresh,
}

impl Default for Widen {
    fn default() -> Self {
        Widen { filters: NewFilters::Replicas, noise: 1e-2 }
    }
}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "widen",
        "more filters or units, replicas of old ones (Net2WiderNet)",
        r#"filters = "replicas"  # of old ones (Net2WiderNet); or "fresh": initialised anew, what reads them starts at 0
noise = 1e-2  # deviation of the noise on replicas, relative to the source weights'
"#,
        |options| {
            let widen = parse_options::<Widen>(options)?;
            Ok(Built { options: resolved_options(&widen)?, implementation: Box::new(widen) })
        },
    ))
}

impl Transform for Widen {
    fn decision(&self, _: &dyn SearchSpace) -> Decision {
        Decision::EachSite
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let Ok(shapes) = network.verify() else { return Vec::new() };
        let groups = channel_groups(network, &shapes);
        let next = |(index, group): (usize, ChannelGroup)| {
            let site = group.producers[0];
            let widths = space.widths(network, site);
            let width = *widths.iter().find(|width| **width > group.width)?;
            Some(Candidate { site, target: Target::Width(width), path: vec![index] })
        };
        groups.into_iter().enumerate().filter_map(next).collect()
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        rng: &mut Rng,
    ) -> anyhow::Result<Patch> {
        let Target::Width(width) = target else {
            bail!("expected a width, such as `widen {site} to 64`");
        };
        let shapes = network.verify()?;
        let groups = channel_groups(network, &shapes);
        let tied = |group: &&ChannelGroup| group.producers.contains(&site);
        let group = groups.iter().find(tied).with_context(|| {
            let sites: Vec<String> = groups.iter().map(|g| g.producers[0].to_string()).collect();
            format!("{site} is no layer that can be widened (those are: {})", sites.join(", "))
        })?;
        let index = replicate(group.width, width, rng)?;
        let maps: BTreeMap<_, _> = group.producers.iter().map(|id| (*id, index.clone())).collect();
        let gained = match self.filters {
            NewFilters::Replicas => Gained::Replicas { noise: self.noise },
            NewFilters::Fresh => Gained::Fresh { seed: rng.next_u64() },
        };
        rewire(network, network.clone(), &maps, gained)
    }
}
