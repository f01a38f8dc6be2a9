//! The layers of dense blocks (Huang et al. 2017), read from their labels: a layer of kind `dense` is a
//! chain of convolutions with batch norms and ReLUs around them, and the concatenation of its input
//! with what the chain makes of it.

use anyhow::Context;
use eas_ir::{Label, Network, Node, NodeId, Op};

/// One layer of a dense block.
#[derive(Clone, Debug)]
pub(crate) struct DenseLayer {
    pub(crate) label: Label,
    /// Everything between the layer's input and its concatenation, in order.
    pub(crate) body: Vec<Node>,
    /// The body's convolutions, in order: at least one, the bottleneck first where there is one.
    pub(crate) convolutions: Vec<Convolution>,
    /// The last convolution; its filters are the growth rate.
    pub(crate) growth: NodeId,
    /// Joins the block's channels so far with the new ones, which come last.
    pub(crate) concat: NodeId,
}

impl DenseLayer {
    /// Channels that the layer adds.
    pub(crate) fn growth_rate(&self) -> usize {
        self.convolutions[self.convolutions.len() - 1].filters
    }
}

/// A convolution of a dense layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    pub(crate) id: NodeId,
    pub(crate) filters: usize,
    pub(crate) kernel: usize,
}

/// The layer of a dense block whose last convolution is `site`.
///
/// # Errors
/// There is none.
pub(crate) fn dense_layer(network: &Network, site: NodeId) -> anyhow::Result<DenseLayer> {
    let layers = dense_layers(network);
    let known: Vec<String> = layers.iter().map(|layer| layer.growth.to_string()).collect();
    layers.into_iter().find(|layer| layer.growth == site).with_context(|| {
        format!(
            "{site} is not the last convolution of a dense layer (those are: {})",
            known.join(", ")
        )
    })
}

/// Every dense layer, in topological order. Layers with grouped convolutions, which can't be widened or
/// copied channel by channel, are left out.
pub(crate) fn dense_layers(network: &Network) -> Vec<DenseLayer> {
    let mut layers = Vec::new();
    let consumers = network.consumer_map();
    for node in network.nodes() {
        let Some(label) = node.label.as_ref().filter(|label| label.kind == "dense") else {
            continue;
        };
        if node.op != Op::Concat {
            continue;
        }
        let same = |other: &&Node| other.label.as_ref() == Some(label) && other.id != node.id;
        let body: Vec<Node> = network.nodes().iter().filter(same).cloned().collect();
        let chained = body.windows(2).all(|pair| {
            pair[1].inputs == [pair[0].id] && consumers.get(&pair[0].id).map_or(0, Vec::len) == 1
        });
        let joins_last = node.inputs.len() == 2
            && body.last().is_some_and(|last| node.inputs[1] == last.id)
            && body[0].inputs == [node.inputs[0]];
        if let (true, true, Some(convolutions)) = (chained, joins_last, convolutions(&body))
            && let Some(last) = convolutions.last()
        {
            let (label, growth) = (label.clone(), last.id);
            layers.push(DenseLayer { label, body, growth, convolutions, concat: node.id });
        }
    }
    layers
}

/// The convolutions of a body, or nothing where its nodes aren't those of a dense layer.
fn convolutions(body: &[Node]) -> Option<Vec<Convolution>> {
    let mut convolutions = Vec::new();
    for node in body {
        match node.op {
            Op::Conv { filters, kernel, groups: 1, .. } => {
                convolutions.push(Convolution { id: node.id, filters, kernel });
            }
            Op::BatchNorm { .. } | Op::Relu | Op::Dropout { .. } => {}
            Op::Conv { .. }
            | Op::Input { .. }
            | Op::MaxPool { .. }
            | Op::AveragePool { .. }
            | Op::GlobalPool
            | Op::Flatten
            | Op::Linear { .. }
            | Op::Add
            | Op::Concat => return None,
        }
    }
    Some(convolutions)
}

/// A share of some channels, rounded down; at least one.
pub(crate) fn portion(channels: f64, ratio: f64) -> usize {
    // A product just below an integer is that integer: 0.57 of 100 channels are 57.
    ((channels * ratio + 1e-9).floor() as usize).max(1)
}
