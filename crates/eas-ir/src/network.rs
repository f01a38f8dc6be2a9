//! The architecture: a directed acyclic graph of operations with stable ids.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::op::Op;

/// Names a node for the life of a network and of all its descendants; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// The id with this number.
    pub const fn new(number: u32) -> Self {
        NodeId(number)
    }

    /// The id's number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "n{}", self.0)
    }
}

/// A text that is no node id, parameter id or label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found `{found}`")]
pub struct ParseIdError {
    pub(crate) expected: &'static str,
    pub(crate) found: String,
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.strip_prefix('n').and_then(number).map(NodeId).ok_or_else(|| ParseIdError {
            expected: "a node id such as `n3`",
            found: text.chars().take(40).collect(),
        })
    }
}

/// A number as ids are written: digits alone and no leading zeros, so that no id has two texts.
fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    digits.parse().ok().filter(|_| plain && !leading_zero)
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a node stands in the eyes of a person and of a policy: the kind of its block, the block's
/// number, and the layer's number within it. Edits inherit it; the fingerprint ignores it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// What the block is, such as `conv`, `dense` or `residual`: 1 to 32 lowercase letters and
    /// underscores.
    pub kind: String,
    /// The block's number, from 0.
    pub block: u32,
    /// The layer's number within its block, from 0.
    pub layer: u32,
}

impl Label {
    /// A label of this kind, block and layer.
    pub fn new(kind: &str, block: u32, layer: u32) -> Self {
        Label { kind: kind.to_owned(), block, layer }
    }

    /// Whether the kind is spelt so that the label's text can be read back.
    pub(crate) fn is_legible(&self) -> bool {
        let spelt = self.kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        spelt && (1..=32).contains(&self.kind.len())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}.{}", self.kind, self.block, self.layer)
    }
}

impl FromStr for Label {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parse = || {
            let kind_length = text.find(|c: char| c.is_ascii_digit())?;
            let (kind, numbers) = text.split_at(kind_length);
            let (block, layer) = numbers.split_once('.')?;
            Some(Label::new(kind, number(block)?, number(layer)?))
        };
        parse().filter(Label::is_legible).ok_or_else(|| ParseIdError {
            expected: "a label such as `conv1.0` (kind, block, layer)",
            found: text.chars().take(40).collect(),
        })
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One operation of a network and where its inputs come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The node's name for ever.
    pub id: NodeId,
    /// What it computes.
    pub op: Op,
    /// The nodes it reads, in order.
    pub inputs: Vec<NodeId>,
    /// Its place in the drawing, if it has one.
    pub label: Option<Label>,
}

/// A network's architecture, without weights: nodes in topological order, the last of which gives
/// the logits. [`Network::verify`] says whether it is a network at all.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Network {
    /// The number of the next node: above every id that this network or an ancestor ever used.
    next: u32,
    nodes: Vec<Node>,
}

impl Network {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A network of these nodes, in the order given; `next` is raised above every id among them.
    pub(crate) fn from_nodes(next: u32, nodes: Vec<Node>) -> Self {
        let above = nodes.iter().map(|node| node.id.0.saturating_add(1)).max().unwrap_or(0);
        Network { next: next.max(above), nodes }
    }

    /// The number that the next new node will have.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// All nodes, in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this id.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The nodes that read this one, in topological order; a node that reads it twice comes once.
    pub fn consumers(&self, id: NodeId) -> Vec<NodeId> {
        self.nodes.iter().filter(|node| node.inputs.contains(&id)).map(|node| node.id).collect()
    }

    /// The nodes that read each node: [`Network::consumers`] of all at once.
    pub fn consumer_map(&self) -> BTreeMap<NodeId, Vec<NodeId>> {
        let mut map: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for node in &self.nodes {
            for input in &node.inputs {
                let users = map.entry(*input).or_default();
                if users.last() != Some(&node.id) {
                    users.push(node.id);
                }
            }
        }
        map
    }

    /// The input node, in a verified network.
    pub fn input(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| matches!(node.op, Op::Input { .. }))
    }

    /// The node that gives the logits: the last one.
    pub fn output(&self) -> Option<&Node> {
        self.nodes.last()
    }

    /// Convolutions and linear layers, the classifier among them.
    pub fn depth(&self) -> usize {
        let counts = |node: &&Node| matches!(node.op, Op::Conv { .. } | Op::Linear { .. });
        self.nodes.iter().filter(counts).count()
    }

    /// Appends a node that reads `inputs` and returns its id.
    pub fn push(&mut self, op: Op, inputs: &[NodeId], label: Option<Label>) -> NodeId {
        let id = self.fresh();
        self.nodes.push(Node { id, op, inputs: inputs.to_vec(), label });
        id
    }

    /// Puts a new node right after `site`: it reads `site`, and all that read `site` read it
    /// instead. Returns its id, or nothing where `site` isn't a node of this network.
    pub fn insert_after(&mut self, site: NodeId, op: Op, label: Option<Label>) -> Option<NodeId> {
        let index = self.nodes.iter().position(|node| node.id == site)?;
        let id = self.fresh();
        for input in self.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
            if *input == site {
                *input = id;
            }
        }
        self.nodes.insert(index + 1, Node { id, op, inputs: vec![site], label });
        Some(id)
    }

    /// Puts a new node that reads `inputs` right behind `place` in the order; nothing reads it yet.
    /// Returns its id, or nothing where `place` isn't a node of this network.
    pub fn insert_behind(
        &mut self,
        place: NodeId,
        op: Op,
        inputs: &[NodeId],
        label: Option<Label>,
    ) -> Option<NodeId> {
        let index = self.nodes.iter().position(|node| node.id == place)?;
        let id = self.fresh();
        self.nodes.insert(index + 1, Node { id, op, inputs: inputs.to_vec(), label });
        Some(id)
    }

    /// The node of this id, to change its operation, inputs or label; its id must stay.
    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    /// Every label, to renumber them.
    pub fn labels_mut(&mut self) -> impl Iterator<Item = &mut Label> {
        self.nodes.iter_mut().filter_map(|node| node.label.as_mut())
    }

    fn fresh(&mut self) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        id
    }
}
