//! A name for what a network computes, whatever its nodes are called.
//!
//! Nodes are numbered by a depth-first walk from the output along the inputs in their order, and
//! the operations are hashed in that numbering, with the numbers of their inputs. Two networks share
//! the numbered list exactly when they are isomorphic with inputs kept in order, so the fingerprint
//! is sound; that `add` is commutative is ignored, which can only miss a duplicate. Labels and ids
//! don't count.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::network::{Network, Node, NodeId, ParseIdError};

/// Raised whenever the way of hashing changes, so that old fingerprints never match new ones.
const VERSION: u32 = 1;

/// A hash of an architecture, independent of ids and labels. Text: `1-` and 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{VERSION}-")?;
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parse = || {
            let digits = text.strip_prefix(&format!("{VERSION}-"))?;
            (digits.len() == 32 && digits.bytes().all(|b| b"0123456789abcdef".contains(&b)))
                .then_some(())?;
            let mut bytes = [0; 16];
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
            }
            Some(Fingerprint(bytes))
        };
        parse().ok_or_else(|| ParseIdError {
            expected: "a fingerprint: `1-` and 32 hexadecimal digits",
            found: text.chars().take(40).collect(),
        })
    }
}

impl Network {
    /// The fingerprint of this architecture, which is of use for a verified network only: nodes that
    /// the output doesn't depend on are left out.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&VERSION.to_le_bytes());
        for (text, inputs) in canonical(self) {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            hasher.update(&(inputs.len() as u64).to_le_bytes());
            for input in inputs {
                hasher.update(&(input as u64).to_le_bytes());
            }
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Fingerprint(bytes)
    }

    /// Whether two networks are the same but for ids and labels: the exact check behind an equal
    /// fingerprint.
    pub fn is_isomorphic(&self, other: &Network) -> bool {
        canonical(self) == canonical(other)
    }
}

/// The nodes in canonical order: each operation's text and its inputs' canonical numbers.
fn canonical(network: &Network) -> Vec<(String, Vec<usize>)> {
    let by_id: BTreeMap<NodeId, &Node> = network.nodes().iter().map(|n| (n.id, n)).collect();
    // No number while a node's inputs are still being numbered.
    let mut numbers: BTreeMap<NodeId, Option<usize>> = BTreeMap::new();
    let mut list = Vec::new();
    // Depth-first without recursion: nodes on the way, each with the count of its inputs followed.
    let mut stack: Vec<(&Node, usize)> = Vec::new();
    let mut next = network.output().map(|node| node.id);
    loop {
        if let Some(&node) =
            next.filter(|id| !numbers.contains_key(id)).and_then(|id| by_id.get(&id))
        {
            numbers.insert(node.id, None);
            stack.push((node, 0));
        }
        let Some((node, followed)) = stack.last_mut() else { return list };
        next = node.inputs.get(*followed).copied();
        *followed += 1;
        if next.is_none() {
            let number = |id: &NodeId| numbers.get(id).copied().flatten().unwrap_or(usize::MAX);
            let inputs = node.inputs.iter().map(number).collect();
            numbers.insert(node.id, Some(list.len()));
            list.push((format!("{:?}", node.op), inputs));
            stack.pop();
        }
    }
}
