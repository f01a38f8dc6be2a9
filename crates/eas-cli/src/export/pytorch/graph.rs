//! A network as PyTorch code sees it: layers, each a module with a name, and the lines of `forward`
//! that call them.

use std::collections::{BTreeMap, BTreeSet};

use eas_ir::{Label, Network, Node, NodeId, Op};

/// Operations behind one another that make one module.
#[derive(Clone, Debug)]
pub(super) struct Layer<'a> {
    /// Its attribute, unique.
    pub(super) name: String,
    /// The label of its first operation.
    pub(super) label: Option<&'a Label>,
    /// At least one.
    pub(super) nodes: Vec<&'a Node>,
}

/// A line of `forward`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// The line, with `{}` where it calls a layer.
    pub(super) text: String,
    /// Places in the layers, one for each `{}`.
    pub(super) layers: Vec<usize>,
}

/// A network taken apart.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    /// Those with modules, in topological order.
    pub(super) layers: Vec<Layer<'a>>,
    pub(super) lines: Vec<Line>,
}

/// Variables of `forward`; the first that is free is taken.
const VARIABLES: [&str; 3] = ["x", "y", "z"];

/// What a value is made by.
enum Made<'a> {
    /// A layer's operations, all but the last of which nothing else reads.
    Layer(Vec<&'a Node>),
    /// An operation without a module, or a join.
    Operation(&'a Node),
}

impl<'a> Made<'a> {
    fn first(&self) -> &'a Node {
        match self {
            Made::Layer(nodes) => nodes[0],
            Made::Operation(node) => node,
        }
    }

    fn value(&self) -> NodeId {
        match self {
            Made::Layer(nodes) => nodes[nodes.len() - 1].id,
            Made::Operation(node) => node.id,
        }
    }
}

fn is_join(op: &Op) -> bool {
    matches!(op, Op::Add | Op::Concat)
}

/// Whether an operation changes what a layer is, so that it isn't part of one on the way from the images
/// to the logits.
fn stands_alone(op: &Op) -> bool {
    match op {
        Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalPool
        | Op::Flatten
        | Op::Add
        | Op::Concat
        | Op::Input { .. } => true,
        Op::Conv { .. }
        | Op::BatchNorm { .. }
        | Op::Relu
        | Op::Linear { .. }
        | Op::Dropout { .. } => false,
    }
}

fn has_weights(op: &Op) -> bool {
    matches!(op, Op::Conv { .. } | Op::Linear { .. } | Op::BatchNorm { .. })
}

fn multiplies(op: &Op) -> bool {
    matches!(op, Op::Conv { .. } | Op::Linear { .. })
}

impl<'a> Graph<'a> {
    /// Of a verified network.
    pub(super) fn of(network: &'a Network) -> Self {
        let readers = network.consumer_map();
        let mut made = Vec::new();
        for chain in chains(network, &readers) {
            let last = chain[chain.len() - 1].id;
            let only_reader = match readers.get(&last).map(Vec::as_slice) {
                Some([reader]) => network.node(*reader),
                _ => None,
            };
            // A branch of a join is one layer.
            let is_branch = only_reader.is_some_and(|reader| is_join(&reader.op));
            cut(chain, is_branch, &mut made);
        }
        // Chains are found by their first operations; a value has to be there before it is read.
        let place: BTreeMap<NodeId, usize> =
            network.nodes().iter().enumerate().map(|(place, node)| (node.id, place)).collect();
        made.sort_by_key(|made| place[&made.value()]);
        let layers = named(&made, network);
        Writer { layers, made, readers: &readers, network }.write()
    }
}

/// The network as chains of operations, each of which alone reads the one before it.
fn chains<'a>(network: &'a Network, readers: &BTreeMap<NodeId, Vec<NodeId>>) -> Vec<Vec<&'a Node>> {
    let mut chains: Vec<Vec<&Node>> = Vec::new();
    let mut end_of: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in network.nodes() {
        let before = node.inputs.first().filter(|input| readers[*input].len() == 1);
        let chain = before.and_then(|input| end_of.remove(input)).filter(|_| !is_join(&node.op));
        let chain = chain.unwrap_or_else(|| {
            chains.push(Vec::new());
            chains.len() - 1
        });
        chains[chain].push(node);
        end_of.insert(node.id, chain);
    }
    chains
}

/// Cuts a chain into layers, by labels, or where there are none before each convolution and linear layer.
fn cut<'a>(chain: Vec<&'a Node>, is_branch: bool, made: &mut Vec<Made<'a>>) {
    let mut layer: Vec<&Node> = Vec::new();
    let mut flush = |layer: &mut Vec<&'a Node>| {
        let nodes = std::mem::take(layer);
        if nodes.iter().any(|node| has_weights(&node.op)) {
            made.push(Made::Layer(nodes));
        } else {
            made.extend(nodes.into_iter().map(Made::Operation));
        }
    };
    for node in chain {
        let joins = is_join(&node.op) || matches!(node.op, Op::Input { .. });
        // An activation of a join belongs to it and not to the layer behind it.
        let begins = layer.is_empty() && matches!(node.op, Op::Relu | Op::Dropout { .. });
        if joins || ((begins || stands_alone(&node.op)) && !is_branch) {
            flush(&mut layer);
            layer.push(node);
            flush(&mut layer);
            continue;
        }
        let another = layer.last().is_some_and(|last| match (&last.label, &node.label) {
            (None, None) => multiplies(&node.op) && layer.iter().any(|node| multiplies(&node.op)),
            (before, own) => before != own,
        });
        if another && !is_branch {
            flush(&mut layer);
        }
        layer.push(node);
    }
    flush(&mut layer);
}

/// Names for the layers: of labels, or of what they are.
fn named<'a>(made: &[Made<'a>], network: &Network) -> Vec<Layer<'a>> {
    let mut taken = BTreeSet::new();
    let mut layers = Vec::new();
    let output = network.output().map(|node| node.id);
    for made in made {
        let Made::Layer(nodes) = made else { continue };
        let label = nodes[0].label.as_ref();
        let base = match label {
            Some(label) if label.kind.starts_with('_') => {
                format!("layer{}_{}", label.block, label.layer)
            }
            Some(label) if label.kind == "classifier" => "classifier".to_owned(),
            Some(label) => format!("{}{}_{}", label.kind, label.block, label.layer),
            None if made_by(nodes, output) => "classifier".to_owned(),
            None => match nodes.iter().find(|node| multiplies(&node.op)) {
                Some(node) => node.op.name().to_owned(),
                None => "norm".to_owned(),
            },
        };
        let base = match (label, nodes.iter().any(|node| multiplies(&node.op))) {
            (Some(_), false) => format!("{base}_norm"),
            // The branch that brings a block's input to the shape of its output.
            (Some(label), true) if label.kind == "residual" && taken.contains(&base) => {
                format!("{base}_shortcut")
            }
            _ => base,
        };
        let mut name = base.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        layers.push(Layer { name, label, nodes: nodes.clone() });
    }
    layers
}

fn made_by(nodes: &[&Node], output: Option<NodeId>) -> bool {
    nodes.last().map(|node| node.id) == output
}

struct Writer<'a, 'r> {
    layers: Vec<Layer<'a>>,
    made: Vec<Made<'a>>,
    readers: &'r BTreeMap<NodeId, Vec<NodeId>>,
    network: &'a Network,
}

impl<'a> Writer<'a, '_> {
    /// The only node that reads a value, where one alone does.
    fn only_reader(&self, value: NodeId) -> Option<&'a Node> {
        match self.readers.get(&value).map(Vec::as_slice) {
            Some([reader]) => self.network.node(*reader),
            _ => None,
        }
    }

    /// Whether a value is written within the expression that reads it: a branch in its join, a join in
    /// the activation behind it.
    fn is_inline(&self, made: &Made<'_>) -> bool {
        let Some(reader) = self.only_reader(made.value()) else { return false };
        let reads = reader.inputs.iter().filter(|input| **input == made.value()).count();
        match made {
            Made::Layer(_) => is_join(&reader.op) && reads == 1,
            Made::Operation(node) => is_join(&node.op) && reader.op == Op::Relu,
        }
    }

    fn write(self) -> Graph<'a> {
        let place: BTreeMap<NodeId, usize> =
            self.made.iter().enumerate().map(|(place, made)| (made.value(), place)).collect();
        let layer_of: BTreeMap<NodeId, usize> = self
            .layers
            .iter()
            .enumerate()
            .map(|(place, layer)| (layer.nodes[layer.nodes.len() - 1].id, place))
            .collect();
        // The line that reads each value last.
        let mut last_read: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (line, made) in self.made.iter().enumerate() {
            let mut reads = Vec::new();
            self.reads(made, &place, &mut reads);
            if !self.is_inline(made) {
                reads.into_iter().for_each(|value| {
                    last_read.insert(value, line);
                });
            }
        }
        let mut variables = Variables::default();
        let mut lines = Vec::new();
        for (line, made) in self.made.iter().enumerate() {
            if self.is_inline(made) {
                continue;
            }
            if let Op::Input { .. } = made.first().op {
                variables.take(made.value());
                continue;
            }
            let mut layers = Vec::new();
            let text = self.expression(made, &place, &layer_of, &variables, &mut layers);
            variables.free(|value| last_read.get(value).is_none_or(|last| *last <= line));
            let variable = variables.take(made.value());
            lines.push(Line { text: format!("{variable} = {text}"), layers });
        }
        let output = self.network.output().map(|node| node.id);
        let output = output.map_or("x".to_owned(), |id| variables.of(id));
        lines.push(Line { text: format!("return {output}"), layers: Vec::new() });
        Graph { layers: self.layers, lines }
    }

    /// The values in variables that an expression reads.
    fn reads(&self, made: &Made<'_>, place: &BTreeMap<NodeId, usize>, found: &mut Vec<NodeId>) {
        for input in &made.first().inputs {
            let source = &self.made[place[input]];
            if self.is_inline(source) {
                self.reads(source, place, found);
            } else {
                found.push(*input);
            }
        }
    }

    fn expression(
        &self,
        made: &Made<'_>,
        place: &BTreeMap<NodeId, usize>,
        layer_of: &BTreeMap<NodeId, usize>,
        variables: &Variables,
        layers: &mut Vec<usize>,
    ) -> String {
        let mut operands = Vec::new();
        // The call comes before what it is called with, as it does in the text.
        if let Made::Layer(_) = made {
            layers.push(layer_of[&made.value()]);
        }
        for input in &made.first().inputs {
            let source = &self.made[place[input]];
            operands.push(match self.is_inline(source) {
                true => self.expression(source, place, layer_of, variables, layers),
                false => variables.of(*input),
            });
        }
        match made {
            Made::Layer(_) => format!("{{}}({})", operands.join(", ")),
            Made::Operation(node) => super::operation(&node.op, &operands),
        }
    }
}

/// Which variable holds which value.
#[derive(Default)]
struct Variables(Vec<Option<NodeId>>);

impl Variables {
    fn name(place: usize) -> String {
        VARIABLES.get(place).map_or_else(|| format!("value{place}"), |name| (*name).to_owned())
    }

    /// Puts a value into the first free variable.
    fn take(&mut self, value: NodeId) -> String {
        let place = self.0.iter().position(Option::is_none).unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[place] = Some(value);
        Self::name(place)
    }

    fn free(&mut self, is_dead: impl Fn(&NodeId) -> bool) {
        for slot in &mut self.0 {
            if slot.as_ref().is_some_and(&is_dead) {
                *slot = None;
            }
        }
    }

    /// The variable of a value that is still to be read.
    fn of(&self, value: NodeId) -> String {
        let place = self.0.iter().position(|held| *held == Some(value));
        Self::name(place.expect("a value is held until it was read last"))
    }
}
