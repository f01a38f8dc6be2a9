//! Labels for a network that comes without: the one place where blocks are told from the graph, so that
//! edits find their sites and a picture its blocks.
//!
//! A layer of a dense block is a chain of convolutions whose result is joined behind its own input; a
//! residual block a chain that is added to its input, or to a projection of it; any other convolution or
//! linear layer stands with the batch norm, ReLU and dropout behind it. A block ends at a pool, where a
//! stage of residual blocks changes its shape, and where the kind of layer changes. Dense blocks are
//! numbered first, as a policy can pick from the first few blocks alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::network::{Label, Network, Node, NodeId};
use crate::op::Op;
use crate::verify::Shapes;

/// Nodes that get one label.
struct Layer {
    kind: &'static str,
    nodes: Vec<NodeId>,
    /// Whether it begins a block.
    begins: bool,
}

/// A network that is being labelled.
struct Labelling<'a> {
    nodes: &'a [Node],
    places: BTreeMap<NodeId, usize>,
    consumers: BTreeMap<NodeId, Vec<NodeId>>,
    shapes: &'a Shapes,
    taken: BTreeSet<NodeId>,
    layers: Vec<Layer>,
}

/// Labels the layers of a network, which has these shapes and no labels. Additions are turned so that
/// the branch comes before the shortcut, as edits expect.
pub(super) fn label(network: &mut Network, shapes: &Shapes) {
    let copy = network.clone();
    let mut labelling = Labelling {
        nodes: copy.nodes(),
        places: copy.nodes().iter().enumerate().map(|(place, node)| (node.id, place)).collect(),
        consumers: copy.consumer_map(),
        shapes,
        taken: BTreeSet::new(),
        layers: Vec::new(),
    };
    labelling.find_dense();
    let turned = labelling.find_residual();
    labelling.find_plain();
    for (id, label) in labelling.labels() {
        if let Some(node) = network.node_mut(id) {
            node.label = Some(label);
        }
    }
    for id in turned {
        if let Some(node) = network.node_mut(id) {
            node.inputs.reverse();
        }
    }
}

/// What may stand in a layer around its convolutions.
fn accompanies(op: &Op) -> bool {
    match op {
        Op::BatchNorm { .. } | Op::Relu | Op::Dropout { .. } => true,
        Op::Input { .. }
        | Op::Conv { .. }
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalPool
        | Op::Flatten
        | Op::Linear { .. }
        | Op::Add
        | Op::Concat => false,
    }
}

fn is_conv(op: &Op) -> bool {
    matches!(op, Op::Conv { .. })
}

fn is_pool(op: &Op) -> bool {
    matches!(op, Op::MaxPool { .. } | Op::AveragePool { .. })
}

impl<'a> Labelling<'a> {
    fn node(&self, id: NodeId) -> &'a Node {
        &self.nodes[self.places[&id]]
    }

    /// The only node that reads this one, if there is one.
    fn reader(&self, id: NodeId) -> Option<&'a Node> {
        match self.consumers.get(&id).map(Vec::as_slice) {
            Some(&[only]) => Some(self.node(only)),
            _ => None,
        }
    }

    fn take(&mut self, kind: &'static str, nodes: Vec<NodeId>, begins: bool) {
        self.taken.extend(&nodes);
        self.layers.push(Layer { kind, nodes, begins });
    }

    /// From a node back along those with one input, to the first that has none or several.
    fn path(&self, from: NodeId) -> Vec<NodeId> {
        let mut path = vec![from];
        let mut at = self.node(from);
        while let &[input] = at.inputs.as_slice() {
            path.push(input);
            at = self.node(input);
        }
        path
    }

    fn find_dense(&mut self) {
        let mut before = None;
        for node in self.nodes {
            let (Op::Concat, &[input, end]) = (node.op, node.inputs.as_slice()) else { continue };
            let mut body = self.path(end);
            let length = body.iter().position(|id| *id == input).unwrap_or(0);
            body.truncate(length);
            let in_layer = |id: &NodeId| {
                let op = &self.node(*id).op;
                (is_conv(op) || accompanies(op)) && self.reader(*id).is_some()
            };
            let has_conv = body.iter().any(|id| is_conv(&self.node(*id).op));
            if has_conv && body.iter().all(in_layer) {
                body.push(node.id);
                self.take("dense", body, before != Some(input));
                before = Some(node.id);
            }
        }
    }

    /// Residual blocks; returns the additions whose inputs come the other way round.
    fn find_residual(&mut self) -> Vec<NodeId> {
        let mut turned = Vec::new();
        let mut before = None;
        for node in self.nodes {
            let (Op::Add, &[first, second]) = (node.op, node.inputs.as_slice()) else { continue };
            let (one, other) = (self.path(first), self.path(second));
            let known: BTreeSet<&NodeId> = other.iter().collect();
            let Some(length) = one.iter().position(|id| known.contains(id)) else { continue };
            let source = one[length];
            let branch = &one[..length];
            let shortcut: Vec<NodeId> =
                other.iter().copied().take_while(|id| *id != source).collect();
            let convs =
                |branch: &[NodeId]| branch.iter().filter(|id| is_conv(&self.node(**id).op)).count();
            let free = |id: &NodeId| {
                let node = self.node(*id);
                let in_block = is_conv(&node.op) || accompanies(&node.op) || is_pool(&node.op);
                in_block && !self.taken.contains(id) && self.reader(*id).is_some()
            };
            let nodes = || branch.iter().chain(&shortcut);
            if convs(branch).max(convs(&shortcut)) == 0 || !nodes().all(free) {
                continue;
            }
            if convs(&shortcut) > convs(branch) {
                turned.push(node.id);
            }
            let mut block: Vec<NodeId> = nodes().copied().collect();
            block.push(node.id);
            let relu = self.reader(node.id).filter(|reader| reader.op == Op::Relu);
            match relu {
                Some(relu) => block.push(relu.id),
                None => block.extend(self.activation_before(source, &block)),
            }
            let shape = self.shapes[node.id];
            self.take("residual", block, before != Some(shape));
            before = Some(shape);
        }
        turned
    }

    /// The ReLU at which branch and shortcut of a block begin, and its batch norm, where activations come
    /// before convolutions.
    fn activation_before(&self, source: NodeId, block: &[NodeId]) -> Vec<NodeId> {
        let relu = self.node(source);
        let own = |id: NodeId| {
            let readers = self.consumers.get(&id).map(Vec::as_slice).unwrap_or_default();
            !self.taken.contains(&id) && readers.iter().all(|reader| block.contains(reader))
        };
        if relu.op != Op::Relu || !own(source) {
            return Vec::new();
        }
        let norm = self.node(relu.inputs[0]);
        let has_norm = matches!(norm.op, Op::BatchNorm { .. })
            && self.reader(norm.id).is_some()
            && !self.taken.contains(&norm.id);
        if has_norm { vec![norm.id, source] } else { vec![source] }
    }

    /// Convolutions and linear layers that stand in no block of another kind.
    fn find_plain(&mut self) {
        let first = |kind: &str| {
            let of_kind = self.layers.iter().filter(|layer| layer.kind == kind);
            of_kind.flat_map(|layer| &layer.nodes).map(|id| self.places[id]).min()
        };
        let (dense, residual) = (first("dense"), first("residual"));
        let first_block = dense.into_iter().chain(residual).min();
        let in_blocks = self.taken.clone();
        let mut pooled = false;
        for (place, node) in self.nodes.iter().enumerate() {
            let ends_block = is_pool(&node.op) || matches!(node.op, Op::GlobalPool | Op::Flatten);
            pooled |= ends_block || in_blocks.contains(&node.id);
            let stride = match node.op {
                Op::Conv { stride, .. } => stride,
                Op::Linear { .. } => 1,
                _ => continue,
            };
            if in_blocks.contains(&node.id) {
                continue;
            }
            let kind = match node.op {
                Op::Linear { .. } if place + 1 == self.nodes.len() => "classifier",
                Op::Linear { .. } => "linear",
                _ if first_block.is_some_and(|first| place < first) => "stem",
                _ if dense.is_some() => "transition",
                _ => "conv",
            };
            let nodes = self.layer(node, kind == "transition");
            self.take(kind, nodes, pooled || stride > 1);
            pooled = false;
        }
    }

    /// A layer with what stands behind it; a transition also with what activates its input, and its pool.
    fn layer(&self, node: &'a Node, is_transition: bool) -> Vec<NodeId> {
        let mut layer = vec![node.id];
        let mut last = node;
        while let Some(next) = self.reader(last.id).filter(|next| {
            accompanies(&next.op) && !self.taken.contains(&next.id) && self.follows(last, next)
        }) {
            layer.push(next.id);
            last = next;
        }
        if !is_transition {
            return layer;
        }
        layer.extend(self.reader(last.id).filter(|next| is_pool(&next.op)).map(|pool| pool.id));
        let mut front = self.node(node.inputs[0]);
        while accompanies(&front.op)
            && self.reader(front.id).is_some()
            && !self.taken.contains(&front.id)
        {
            layer.push(front.id);
            front = self.node(front.inputs[0]);
        }
        layer
    }

    /// Whether an operation comes after another in a layer's order: batch norm, ReLU, dropout.
    fn follows(&self, last: &Node, next: &Node) -> bool {
        let rank = |op: &Op| match op {
            Op::BatchNorm { .. } => 1,
            Op::Relu => 2,
            Op::Dropout { .. } => 3,
            _ => 0,
        };
        rank(&next.op) > rank(&last.op)
    }

    /// The label of every node in a layer.
    fn labels(mut self) -> Vec<(NodeId, Label)> {
        let place = |layer: &Layer| layer.nodes.iter().map(|id| self.places[id]).min();
        self.layers.sort_by_key(place);
        let mut blocks: Vec<Vec<Layer>> = Vec::new();
        for layer in self.layers {
            match blocks.last_mut() {
                Some(block) if block[0].kind == layer.kind && !layer.begins => block.push(layer),
                _ => blocks.push(vec![layer]),
            }
        }
        blocks.sort_by_key(|block| block[0].kind != "dense");
        let mut labels = Vec::new();
        for (number, block) in (0..).zip(blocks) {
            for (place, layer) in (0..).zip(block) {
                let label = Label::new(layer.kind, number, place);
                labels.extend(layer.nodes.into_iter().map(|id| (id, label.clone())));
            }
        }
        labels
    }
}
