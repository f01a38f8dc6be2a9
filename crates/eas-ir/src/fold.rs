//! Batch norms folded into the layers before them, for use without further training.

use std::collections::BTreeMap;

use ndarray::Axis;

use crate::model::{Model, ModelError};
use crate::network::{Network, Node, NodeId};
use crate::op::Op;
use crate::weights::{ParamId, Role, Tensor};

/// The same function in evaluation mode, with every batch norm that alone reads a convolution or linear
/// layer folded into it: `γ / √(variance + ε)` into the kernel, what is left into a bias. Other batch norms,
/// such as those before a convolution, stay.
///
/// # Errors
/// Weights that are no longer finite when they are scaled.
pub fn fold_batch_norms(model: &Model) -> Result<Model, ModelError> {
    let (network, mut weights) = model.clone().into_parts();
    let consumers = network.consumer_map();
    let mut nodes = network.nodes().to_vec();
    // Each folded batch norm, and the layer that now stands for it.
    let mut folded: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    for node in network.nodes() {
        let Op::BatchNorm { epsilon } = node.op else { continue };
        let layer = node.inputs[0];
        let Some(place) = nodes.iter().position(|other| other.id == layer) else { continue };
        let (Op::Conv { bias, .. } | Op::Linear { bias, .. }) = &mut nodes[place].op else {
            continue;
        };
        if consumers.get(&layer).map(Vec::as_slice) != Some(&[node.id]) {
            continue;
        }
        *bias = true;
        let mut take = |role| {
            weights.remove(&ParamId::new(node.id, role)).expect("a model has all its parameters")
        };
        let [gamma, beta, mean, variance] =
            [Role::Gamma, Role::Beta, Role::Mean, Role::Variance].map(&mut take);
        let scale: Vec<f64> = gamma
            .iter()
            .zip(&variance)
            .map(|(gamma, variance)| {
                f64::from(*gamma) / (f64::from(*variance) + f64::from(epsilon)).sqrt()
            })
            .collect();
        let id = ParamId::new(layer, Role::Weight);
        let mut weight = weights.remove(&id).expect("a layer has a weight");
        for (mut filter, scale) in weight.axis_iter_mut(Axis(0)).zip(&scale) {
            filter.mapv_inplace(|value| (f64::from(value) * scale) as f32);
        }
        weights.insert(id, weight);
        let id = ParamId::new(layer, Role::Bias);
        let before = weights.remove(&id).unwrap_or_else(|| Tensor::zeros(mean.raw_dim()));
        let mut bias = before.clone();
        for (channel, value) in bias.iter_mut().enumerate() {
            let centred = f64::from(before[channel]) - f64::from(mean[channel]);
            *value = (centred * scale[channel] + f64::from(beta[channel])) as f32;
        }
        weights.insert(id, bias);
        folded.insert(node.id, layer);
    }
    nodes.retain(|node| !folded.contains_key(&node.id));
    for input in nodes.iter_mut().flat_map(|node: &mut Node| &mut node.inputs) {
        *input = folded.get(input).copied().unwrap_or(*input);
    }
    let network = Network::from_nodes(network.next(), nodes);
    Model::new(network, weights)
}
