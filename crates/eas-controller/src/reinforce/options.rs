//! The options of `[controller.reinforce]`.

use serde::{Deserialize, Deserializer, Serialize, de};

use super::reward::BaselineKind;

/// The options of [`Reinforce`](super::Reinforce); the defaults are the paper's where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReinforceOptions {
    /// Step size of Adam.
    #[serde(deserialize_with = "positive")]
    pub learning_rate: f64,
    /// Weight of the entropy, which keeps decisions from becoming certain.
    #[serde(deserialize_with = "not_negative")]
    pub entropy: f64,
    /// What is subtracted from a reward.
    pub baseline: BaselineKind,
    /// What the moving average keeps of itself at each batch; with the released baseline, what it
    /// takes from the batch.
    #[serde(deserialize_with = "share")]
    pub baseline_decay: f64,
    /// Where accuracy is cut before it becomes a reward, which has no bound at 1; 1 for the released
    /// code's reward, of 1.6e16 at accuracy 1.
    #[serde(deserialize_with = "clip")]
    pub accuracy_clip: f64,
    /// Whether the probability of a pick is that among legal choices. Without, an illegal draw is
    /// drawn again, but learned from as if all choices had been there: an ablation.
    pub mask: bool,
    /// Size of the vectors that stand for tokens and choices.
    #[serde(deserialize_with = "size")]
    pub embedding: usize,
    /// Units of the encoder in each direction; the decoder has twice as many.
    #[serde(deserialize_with = "size")]
    pub units: usize,
}

impl Default for ReinforceOptions {
    fn default() -> Self {
        ReinforceOptions {
            learning_rate: 2e-3,
            entropy: 1e-5,
            baseline: BaselineKind::Ema,
            baseline_decay: 0.95,
            accuracy_clip: 0.999,
            mask: true,
            embedding: 16,
            units: 50,
        }
    }
}

/// What `eas init` writes.
pub(super) const TEXT: &str = "\
learning_rate = 2e-3  # step size of Adam
entropy = 1e-5  # weight of the entropy: keeps decisions from becoming certain
baseline = \"ema\"  # subtracted from rewards: average of earlier batches; \"released\": as the released code; \"none\"
baseline_decay = 0.95  # what the average keeps of itself at each batch
accuracy_clip = 0.999  # accuracy is cut here: the reward, tan(accuracy * pi/2), has no bound; 1: as the released code
mask = true  # the probability of a pick is that among legal choices; false: among all, an ablation
embedding = 16  # size of the vectors that stand for tokens and choices
units = 50  # units of the encoder in each direction; the decoder has twice as many
";

fn checked<'de, D: Deserializer<'de>>(
    deserializer: D,
    admits: fn(f64) -> bool,
    expected: &'static str,
) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    let found = de::Unexpected::Float(value);
    if admits(value) { Ok(value) } else { Err(de::Error::invalid_value(found, &expected)) }
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked(deserializer, |v| v > 0.0 && v.is_finite(), "a number above 0")
}

fn not_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked(deserializer, |v| v >= 0.0 && v.is_finite(), "a number of at least 0")
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked(deserializer, |v| (0.0..1.0).contains(&v), "a number from 0 to below 1")
}

fn clip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked(deserializer, |v| v > 0.0 && v <= 1.0, "a number above 0, up to 1")
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let value = usize::deserialize(deserializer)?;
    let found = de::Unexpected::Unsigned(value as u64);
    let admitted = (1..=1024).contains(&value);
    if admitted {
        Ok(value)
    } else {
        Err(de::Error::invalid_value(found, &"a size from 1 to 1024"))
    }
}
