//! Edits as values: what is written to a trial's record, replayed, and typed on a command line.

use std::fmt;
use std::str::FromStr;

use eas_ir::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a site becomes, absolutely, so that an edit means the same whatever came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The site says it all.
    None,
    /// Filters, units or growth rate after the edit: `to 64`.
    Width(usize),
    /// Side of the kernel of what is inserted or grown: `with kernel 3`.
    Kernel(usize),
    /// A choice that only the transform understands: `option 2`.
    Option(usize),
}

/// One change to one network. Text: `widen n3 to 64`, `deepen n5 with kernel 3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edit {
    /// Name of the transform.
    pub transform: String,
    /// The node it acts on.
    pub site: NodeId,
    /// What becomes of it.
    pub target: Target,
}

/// The edits chosen together on one network, in the order in which they are made.
pub type Step = Vec<Edit>;

/// A legal edit of one transform, and the decisions by which a policy comes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node it acts on.
    pub site: NodeId,
    /// What becomes of it.
    pub target: Target,
    /// Coordinates in the tree of decisions: `[site]` for transforms that decide about every site,
    /// for example `[block, layer, option]` for those that pick one.
    pub path: Vec<usize>,
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::None => Ok(()),
            Target::Width(width) => write!(out, " to {width}"),
            Target::Kernel(kernel) => write!(out, " with kernel {kernel}"),
            Target::Option(option) => write!(out, " option {option}"),
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}{}", self.transform, self.site, self.target)
    }
}

/// A text that is no edit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an edit such as `widen n3 to 64`, `deepen n5 with kernel 3` or `replicate n9`, found `{0}`"
)]
pub struct ParseEditError(String);

impl FromStr for Edit {
    type Err = ParseEditError;

    fn from_str(text: &str) -> Result<Self, ParseEditError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let parse = || {
            let (&transform, rest) = words.split_first()?;
            let (site, rest) = rest.split_first()?;
            let target = match rest {
                [] => Target::None,
                ["to", width] => Target::Width(width.parse().ok()?),
                ["with", "kernel", kernel] => Target::Kernel(kernel.parse().ok()?),
                ["option", option] => Target::Option(option.parse().ok()?),
                _ => return None,
            };
            Some(Edit { transform: transform.to_owned(), site: site.parse().ok()?, target })
        };
        parse().ok_or_else(|| ParseEditError(text.chars().take(80).collect()))
    }
}

impl Serialize for Edit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Edit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
