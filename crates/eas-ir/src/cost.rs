//! What a network costs: parameters, multiply-accumulates, memory to train it.

use crate::network::{Network, Node};
use crate::op::Op;
use crate::shape::Shape;
use crate::verify::Shapes;

/// The cost of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cost {
    /// Trainable parameters: weights, biases, batch norm's gamma and beta.
    pub parameters: u64,
    /// Multiply-accumulates of the convolutions and linear layers for one image, forward.
    pub macs: u64,
    /// Bytes to train at the batch size asked for: weights, gradients and momentum, and each node's
    /// value and gradient, in f32. An estimate from above for engines that reuse buffers.
    pub memory: u64,
}

/// Saturates instead of overflowing.
impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), |total, cost| Cost {
            parameters: total.parameters.saturating_add(cost.parameters),
            macs: total.macs.saturating_add(cost.macs),
            memory: total.memory.saturating_add(cost.memory),
        })
    }
}

/// The cost of a verified network when trained with batches of `batch` images. Saturates instead of
/// overflowing.
pub fn cost(network: &Network, shapes: &Shapes, batch: usize) -> Cost {
    network.nodes().iter().map(|node| node_cost(node, shapes, batch)).sum()
}

/// What one node of a verified network adds to its [`cost`].
pub fn node_cost(node: &Node, shapes: &Shapes, batch: usize) -> Cost {
    let inputs: Vec<Shape> = node.inputs.iter().map(|input| shapes[*input]).collect();
    let output = shapes[node.id];
    let values = (output.elements() as u64).saturating_mul(2 * 4).saturating_mul(batch as u64);
    let mut total = Cost { parameters: 0, macs: macs(node, &inputs, output), memory: values };
    for (role, dimensions) in node.op.parameters(&inputs) {
        let count = product(&dimensions);
        let copies = if role.trainable() { 3 } else { 1 };
        total.memory = total.memory.saturating_add(count.saturating_mul(4 * copies));
        if role.trainable() {
            total.parameters = total.parameters.saturating_add(count);
        }
    }
    total
}

fn product(dimensions: &[usize]) -> u64 {
    dimensions.iter().fold(1, |product: u64, side| product.saturating_mul(*side as u64))
}

fn macs(node: &Node, inputs: &[Shape], output: Shape) -> u64 {
    match node.op {
        Op::Conv { kernel, groups, .. } => {
            product(&[output.elements(), inputs[0].channels() / groups, kernel, kernel])
        }
        Op::Linear { units, .. } => product(&[units, inputs[0].channels()]),
        Op::Input { .. }
        | Op::BatchNorm { .. }
        | Op::Relu
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalPool
        | Op::Flatten
        | Op::Dropout { .. }
        | Op::Add
        | Op::Concat => 0,
    }
}
