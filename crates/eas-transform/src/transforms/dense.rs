//! The layers of dense blocks (Huang et al. 2017), read from their labels: a layer of kind `dense`
//! is `batch norm, ReLU, [1×1 convolution, batch norm, ReLU,] convolution, concatenation`.

use eas_ir::{Label, Network, Node, NodeId, Op};

/// One layer of a dense block.
#[derive(Clone, Debug)]
pub(crate) struct DenseLayer {
    pub(crate) label: Label,
    /// Everything between the layer's input and its concatenation, in order.
    pub(crate) body: Vec<Node>,
    /// The convolution that comes before the last, where there is one.
    pub(crate) bottleneck: Option<NodeId>,
    /// The last convolution; its filters are the growth rate.
    pub(crate) growth: NodeId,
    /// Joins the block's channels so far with the new ones, which come last.
    pub(crate) concat: NodeId,
}

/// Every dense layer, in topological order.
pub(crate) fn dense_layers(network: &Network) -> Vec<DenseLayer> {
    let mut layers = Vec::new();
    for node in network.nodes() {
        let Some(label) = node.label.as_ref().filter(|label| label.kind == "dense") else {
            continue;
        };
        if node.op != Op::Concat {
            continue;
        }
        let same = |other: &&Node| other.label.as_ref() == Some(label) && other.id != node.id;
        let body: Vec<Node> = network.nodes().iter().filter(same).cloned().collect();
        let convolutions: Vec<NodeId> =
            body.iter().filter(|n| matches!(n.op, Op::Conv { .. })).map(|n| n.id).collect();
        let (bottleneck, growth) = match convolutions.as_slice() {
            [growth] => (None, *growth),
            [bottleneck, growth] => (Some(*bottleneck), *growth),
            _ => continue,
        };
        let chained = body.windows(2).all(|pair| pair[1].inputs == [pair[0].id]);
        let joins_last = node.inputs.len() == 2
            && body.last().is_some_and(|last| node.inputs[1] == last.id)
            && body[0].inputs == [node.inputs[0]];
        if chained && joins_last {
            let label = label.clone();
            layers.push(DenseLayer { label, body, bottleneck, growth, concat: node.id });
        }
    }
    layers
}
