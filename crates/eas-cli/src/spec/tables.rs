//! The tables of a spec that belong to no plugin.

use eas_controller::{Action, Halving, Repeat};
use eas_ir::Bytes;
use eas_train::Recipe;
use serde::{Deserialize, Serialize};

use crate::devices::Devices;
use crate::plan::{Promotion, Retries, Workers};

/// What version of the spec's shape this reads.
pub(crate) const SCHEMA: u32 = 1;

/// Keys at the top of a spec.
pub(crate) const TOP: [&str; 13] = [
    "schema",
    "name",
    "seed",
    "data",
    "space",
    "transform",
    "controller",
    "start",
    "child",
    "stage",
    "final",
    "run",
    "store",
];

/// A stage, as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StageTable {
    #[serde(default = "three")]
    pub(crate) batches: usize,
    #[serde(default = "ten")]
    pub(crate) networks: usize,
    #[serde(default)]
    pub(crate) lag: usize,
    #[serde(default = "paper_actions")]
    pub(crate) actions: Vec<Action>,
    #[serde(default)]
    pub(crate) parent: ParentKey,
    #[serde(default)]
    pub(crate) halving: Halving,
    #[serde(default)]
    pub(crate) repeat: Repeat,
    #[serde(default)]
    pub(crate) promote: Promotion,
}

/// Whose children a stage makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ParentKey {
    /// The start network's.
    Start,
    /// Those of the best network so far.
    #[default]
    Best,
    /// The same, chosen anew before every batch.
    Frontier,
}

/// The keys of `[start]` that are no recipe's.
pub(crate) const START: [&str; 2] = ["rounds", "gain"];

/// The names of the keys of [`FinalTable`].
pub(crate) const FINAL: [&str; 6] =
    ["networks", "weights", "data", "compare", "equal_compute", "ranked"];

/// The keys of `[final]` that are no recipe's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FinalTable {
    pub(crate) networks: usize,
    pub(crate) weights: WeightsKey,
    pub(crate) data: DataKey,
    pub(crate) compare: bool,
    pub(crate) equal_compute: bool,
    pub(crate) ranked: usize,
}

impl Default for FinalTable {
    fn default() -> Self {
        FinalTable {
            networks: 1,
            weights: WeightsKey::Inherited,
            data: DataKey::Train,
            compare: true,
            equal_compute: false,
            ranked: 0,
        }
    }
}

/// What the final training begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WeightsKey {
    /// What the search has learnt.
    Inherited,
    /// Fresh weights.
    Scratch,
}

/// What the final training learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DataKey {
    /// The training images.
    #[serde(rename = "train")]
    Train,
    /// The validation images too.
    #[serde(rename = "train+validation")]
    TrainAndValidation,
}

/// `[run]`: how the work is done. Results don't depend on it, save for what time and memory forbid, and
/// for the rounding of devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RunTable {
    pub(crate) workers: Workers,
    pub(crate) devices: Devices,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Duration>,
    pub(crate) silence: Duration,
    pub(crate) checkpoint: Duration,
    pub(crate) retries: Retries,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Bytes>,
}

impl Default for RunTable {
    fn default() -> Self {
        RunTable {
            workers: Workers::Auto,
            devices: Devices::Auto,
            deadline: None,
            timeout: None,
            silence: Duration(std::time::Duration::from_secs(600)),
            checkpoint: Duration(std::time::Duration::from_secs(60)),
            retries: Retries::default(),
            memory: None,
        }
    }
}

/// `[store]`: what is kept of models and momentum. Results don't depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreTable {
    pub(crate) keep_best: usize,
    pub(crate) size: Bytes,
}

impl Default for StoreTable {
    fn default() -> Self {
        StoreTable { keep_best: 5, size: Bytes(20 << 30) }
    }
}

/// A time as people write it: `90s`, `30m`, `12h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Duration(pub(crate) std::time::Duration);

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Duration).map_err(|error| {
            let expected = "expected a time such as \"90s\", \"30m\" or \"12h\"";
            serde::de::Error::custom(format!("{expected}, found \"{text}\" ({error})"))
        })
    }
}

impl Serialize for Duration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

fn three() -> usize {
    3
}

fn ten() -> usize {
    10
}

fn paper_actions() -> Vec<Action> {
    ["widen", "deepen"]
        .into_iter()
        .zip([4, 5])
        .map(|(transform, count)| Action { transform: transform.to_owned(), count })
        .collect()
}

/// How the start network is trained unless the spec says otherwise.
pub(crate) fn default_start() -> Recipe {
    Recipe { learning_rate: 0.1, ..Recipe::paper_child() }
}
