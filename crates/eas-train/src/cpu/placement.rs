//! Which values are written straight into the buffer of a concatenation that reads them.

use std::collections::{BTreeMap, BTreeSet};

use eas_ir::{Network, Node, NodeId, Op};

/// Where values stand that share a buffer: the concatenation whose buffer it is, and their first
/// channel in it.
#[derive(Debug, Default)]
pub(super) struct Placement {
    places: BTreeMap<NodeId, (NodeId, usize)>,
    /// The concatenation that a value was placed for.
    joined: BTreeMap<NodeId, NodeId>,
}

impl Placement {
    /// The concatenation whose buffer holds this node's value, and its first channel there.
    pub(super) fn of(&self, node: NodeId) -> Option<(NodeId, usize)> {
        self.places.get(&node).copied()
    }

    /// Whether a concatenation finds this input in place.
    pub(super) fn joins(&self, input: NodeId, concat: NodeId) -> bool {
        self.joined.get(&input) == Some(&concat)
    }
}

/// Places what can be placed. No step reads and writes one buffer: where a placement would make it
/// so, the value stays in a buffer of its own.
pub(super) fn place(network: &Network) -> Placement {
    let mut banned = BTreeSet::new();
    loop {
        let placement = attempt(network, &banned);
        let conflicts = conflicts(network, &placement);
        if conflicts.is_empty() {
            return placement;
        }
        banned.extend(conflicts);
    }
}

fn attempt(network: &Network, banned: &BTreeSet<NodeId>) -> Placement {
    let mut placement = Placement::default();
    let channels = channels(network);
    // Later concatenations first, so that a dense block has the buffer of its last one.
    for node in network.nodes().iter().rev().filter(|node| node.op == Op::Concat) {
        let (root, mut offset) = *placement.places.entry(node.id).or_insert((node.id, 0));
        for id in &node.inputs {
            let input = network.node(*id).expect("a verified network has its nodes' inputs");
            if is_stored(&input.op) && !banned.contains(id) && !placement.places.contains_key(id) {
                placement.places.insert(*id, (root, offset));
                placement.joined.insert(*id, node.id);
            }
            offset += channels[id];
        }
    }
    placement
}

/// Channels of the nodes; a flattened image isn't stored as one, so its features don't matter.
fn channels(network: &Network) -> BTreeMap<NodeId, usize> {
    let shapes = network.verify().expect("a plan is made of verified networks");
    network.nodes().iter().map(|node| (node.id, shapes[node.id].channels())).collect()
}

/// Values that must not be placed: those whose producer reads what stands in the same buffer.
fn conflicts(network: &Network, placement: &Placement) -> BTreeSet<NodeId> {
    let root = |id: NodeId| placement.of(id).map(|(root, _)| root);
    let mut found = BTreeSet::new();
    for node in network.nodes() {
        let Some(own) = root(node.id) else { continue };
        for input in &node.inputs {
            let read = behind(network, *input);
            if root(read) != Some(own) {
                continue;
            }
            if node.op != Op::Concat {
                found.insert(node.id);
            } else if !placement.joins(*input, node.id) {
                // What is copied within a buffer gets one of its own.
                found.insert(read);
            }
        }
        // An input that comes twice is in place once only.
        let mut seen = BTreeSet::new();
        let twice = node.inputs.iter().filter(|input| !seen.insert(**input));
        found.extend(twice.filter(|input| placement.joins(**input, node.id)));
    }
    found
}

/// The node whose stored value is read through norms, ReLUs and what leaves a value as it is.
fn behind(network: &Network, id: NodeId) -> NodeId {
    let mut node: &Node = network.node(id).expect("a verified network has its nodes' inputs");
    while !is_stored(&node.op) {
        let Some(before) = node.inputs.first().and_then(|id| network.node(*id)) else { break };
        node = before;
    }
    node.id
}

/// Whether the node's value is written to memory that a plan may choose.
pub(super) fn is_stored(op: &Op) -> bool {
    match op {
        Op::Conv { .. }
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalPool
        | Op::Linear { .. }
        | Op::Add
        | Op::Concat => true,
        // The input is copied as it comes; a single pixel is flat already; dropout may be off.
        Op::Input { .. } | Op::BatchNorm { .. } | Op::Relu | Op::Flatten | Op::Dropout { .. } => {
            false
        }
    }
}
