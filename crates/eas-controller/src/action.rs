//! What a stage does in an episode: `widen x4`, then `deepen x5`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Steps of one transform in an episode. Text: `widen x4`, or `widen` for one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Name of the transform.
    pub transform: String,
    /// Steps.
    pub count: usize,
}

/// A text that is no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a transform and how many steps of it, such as `widen x4`; found `{0}`")]
pub struct ParseActionError(String);

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} x{}", self.transform, self.count)
    }
}

impl FromStr for Action {
    type Err = ParseActionError;

    fn from_str(text: &str) -> Result<Self, ParseActionError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let count = |word: &str| {
            let count = word.strip_prefix('x')?.parse().ok()?;
            (1..=1000).contains(&count).then_some(count)
        };
        let parsed = match words.as_slice() {
            [transform] => Some((*transform, 1)),
            [transform, times] => count(times).map(|count| (*transform, count)),
            _ => None,
        };
        let (transform, count) =
            parsed.ok_or_else(|| ParseActionError(text.chars().take(80).collect()))?;
        Ok(Action { transform: transform.to_owned(), count })
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
