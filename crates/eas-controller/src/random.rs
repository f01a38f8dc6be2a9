//! Random search: the baseline that every controller has to beat.

use eas_ir::{Built, Plugin, Rng, parse_options, resolved_options};
use eas_transform::Decision;
use serde::{Deserialize, Serialize};

use crate::controller::{Controller, Proposal};
use crate::registry::ControllerPlugin;
use crate::scope::{Scope, every_site, pick_one, take_all};
use crate::trial::Trial;

/// Takes each site with a fixed probability, and picks uniformly at each level of a path. It learns
/// nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Random {
    /// Probability of taking a site.
    #[serde(deserialize_with = "probability")]
    pub probability: f64,
}

impl Default for Random {
    fn default() -> Self {
        Random { probability: 0.5 }
    }
}

fn probability<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        let found = serde::de::Unexpected::Float(value);
        Err(serde::de::Error::invalid_value(found, &"a probability from 0 to 1"))
    }
}

inventory::submit! {
    ControllerPlugin(Plugin::new(
        "random",
        "random edits: the baseline",
        "probability = 0.5  # of taking a site, for transforms that decide about each\n",
        |options| {
            let random = parse_options::<Random>(options)?;
            Ok(Built { options: resolved_options(&random)?, implementation: Box::new(random) })
        },
    ))
}

impl Controller for Random {
    fn propose(
        &mut self,
        scope: &Scope<'_>,
        count: usize,
        rng: &Rng,
    ) -> anyhow::Result<Vec<Proposal>> {
        (0..count).map(|index| self.episode(scope, &mut rng.split_index(index as u64))).collect()
    }

    fn observe(&mut self, _: &Scope<'_>, _: &[Trial]) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Random {
    /// One random episode.
    pub(crate) fn episode(&self, scope: &Scope<'_>, rng: &mut Rng) -> anyhow::Result<Proposal> {
        let mut network = scope.parent.clone();
        let mut steps = Vec::new();
        for action in scope.actions {
            let transform = &action.transform;
            let decision = scope.transforms.get(transform)?.decision(scope.space);
            for _ in 0..action.count {
                steps.push(match &decision {
                    Decision::EachSite => every_site(scope, &mut network, transform, &mut |_| {
                        rng.unit() < self.probability
                    })?,
                    Decision::OnePick { .. } => {
                        pick_one(scope, &mut network, transform, &mut |_, choices| {
                            choices[rng.below(choices.len())]
                        })?
                    }
                    Decision::Always => take_all(scope, &mut network, transform)?,
                });
            }
        }
        Ok(Proposal { steps })
    }
}
