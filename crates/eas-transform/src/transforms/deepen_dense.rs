//! A deeper layer of a dense block, by a true identity.
//!
//! An identity can't be put *between* the layers of a dense block, since what comes behind reads all
//! that came before; it can be put at the end of a layer's own chain. Where that ends in a ReLU, an
//! identity convolution, batch norm and ReLU keep what it gives, as in plain networks. Where it ends
//! in a convolution, as with pre-activation, its values have either sign, and a ReLU would lose the
//! negative ones; but x = ReLU(x) − ReLU(−x), so the convolution gives each channel with both signs,
//! and the new one, behind batch norm and ReLU, takes the difference.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use eas_ir::{
    Built, Network, Node, NodeId, Op, ParamId, Plugin, Rng, Role, parse_options, resolved_options,
};
use serde::{Deserialize, Serialize};

use super::dense::{DenseLayer, dense_layer, dense_layers};
use super::{identity_batch_norm, with_kernels};
use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options;
use crate::patch::{Derive, GradientMap, Patch};
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Inserts an identity convolution at the end of a dense layer, in that layer's style.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepenDense {
    /// Kernel sizes of inserted convolutions, odd; those that the space has too.
    #[serde(deserialize_with = "options::kernels")]
    pub kernels: Vec<usize>,
    /// Deviation of the noise on the identity, as a ratio of the deviation of the weights of the
    /// convolution before it.
    #[serde(deserialize_with = "options::noise")]
    pub noise: f64,
}

impl Default for DeepenDense {
    fn default() -> Self {
        DeepenDense { kernels: vec![1, 3], noise: 1e-3 }
    }
}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "deepen_dense",
        "one more convolution in a dense layer, which starts as the identity",
        "kernels = [1, 3]  # kernel sizes of inserted convolutions\n\
         noise = 1e-3  # deviation of the noise on the identity, relative to the weights before it\n",
        |options| {
            let deepen = parse_options::<DeepenDense>(options)?;
            Ok(Built { options: resolved_options(&deepen)?, implementation: Box::new(deepen) })
        },
    ))
}

impl Transform for DeepenDense {
    fn decision(&self, space: &dyn SearchSpace) -> Decision {
        let limits = space.limits();
        Decision::OnePick { levels: vec![limits.blocks, limits.layers, self.kernels.len()] }
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for layer in dense_layers(network).iter().filter(|layer| Tail::of(layer).is_some()) {
            if let Some(path) = space.limits().path(&layer.label) {
                candidates.extend(with_kernels(layer.growth, &path, &self.kernels, space));
            }
        }
        candidates
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        _: &mut Rng,
    ) -> anyhow::Result<Patch> {
        let Target::Kernel(kernel) = target else {
            bail!("expected a kernel, as in `deepen_dense {site} with kernel 3`");
        };
        ensure!(kernel % 2 == 1, "expected an odd kernel, found {kernel}");
        let layer = dense_layer(network, site)?;
        let tail = Tail::of(&layer).with_context(|| {
            format!("{site}: expected a layer that ends in a convolution or a ReLU")
        })?;
        tail.insert_identity(network, &layer, kernel, self.noise)
    }
}

/// What stands in a dense layer from its last convolution on.
struct Tail {
    bias: bool,
    /// The epsilon of the batch norms of the layer's style, if it has any.
    epsilon: Option<f32>,
    /// Whether the layer ends in a ReLU.
    rectified: bool,
    dropout: Option<f32>,
}

impl Tail {
    /// Reads `conv, [dropout]` or `conv, [batch norm], relu, [dropout]`.
    fn of(layer: &DenseLayer) -> Option<Tail> {
        let start = layer.body.iter().position(|node| node.id == layer.growth)?;
        let epsilon = layer.body.iter().find_map(|node| match node.op {
            Op::BatchNorm { epsilon } => Some(epsilon),
            _ => None,
        });
        let (convolution, mut rest) = layer.body[start..].split_first()?;
        let Op::Conv { bias, .. } = convolution.op else { return None };
        let mut dropout = None;
        if let Some((Node { op: Op::Dropout { rate }, .. }, before)) = rest.split_last() {
            (dropout, rest) = (Some(*rate), before);
        }
        let rectified = match rest {
            [] => false,
            [Node { op: Op::Relu, .. }]
            | [Node { op: Op::BatchNorm { .. }, .. }, Node { op: Op::Relu, .. }] => true,
            _ => return None,
        };
        Some(Tail { bias, epsilon, rectified, dropout })
    }

    fn insert_identity(
        &self,
        network: &Network,
        layer: &DenseLayer,
        kernel: usize,
        noise: f64,
    ) -> anyhow::Result<Patch> {
        let (site, growth) = (layer.growth, layer.growth_rate());
        let padding = kernel / 2;
        let op =
            Op::Conv { filters: growth, kernel, stride: 1, padding, groups: 1, bias: self.bias };
        let activation =
            self.epsilon.map(|epsilon| Op::BatchNorm { epsilon }).into_iter().chain([Op::Relu]);
        let mut new: Vec<Op> = activation.collect();
        new.insert(if self.rectified { 0 } else { new.len() }, op);
        new.extend(self.dropout.map(|rate| Op::Dropout { rate }));
        let mut child = network.clone();
        let mut last = layer.body[layer.body.len() - 1].id;
        let (mut convolution, mut batch_norm) = (site, None);
        for op in new {
            let added = child.insert_after(last, op, Some(layer.label.clone()));
            last = added.with_context(|| format!("{last} left the network"))?;
            match op {
                Op::Conv { .. } => convolution = last,
                Op::BatchNorm { epsilon } => batch_norm = Some((last, epsilon)),
                _ => {}
            }
        }

        let mut weights = BTreeMap::new();
        let identity = Derive::Identity { shape: vec![growth, growth, kernel, kernel] };
        let channels = if self.rectified { growth } else { 2 * growth };
        let difference = if self.rectified {
            identity
        } else {
            let wide = child.node_mut(site).context("the last convolution left the network")?;
            if let Op::Conv { filters, .. } = &mut wide.op {
                *filters = channels;
            }
            let both: Vec<usize> = (0..growth).chain(0..growth).collect();
            let signs = [vec![1.0; growth], vec![-1.0; growth]].concat();
            for role in [Role::Weight, Role::Bias].into_iter().take(1 + usize::from(self.bias)) {
                let id = ParamId::new(site, role);
                weights.insert(id, Derive::Old(id).gather(0, both.clone(), signs.clone()));
            }
            let negative = identity.clone().gather(0, (0..growth).collect(), vec![-1.0; growth]);
            Derive::Concat { axis: 1, parts: vec![identity, negative] }
        };
        let source = ParamId::new(site, Role::Weight);
        weights
            .insert(ParamId::new(convolution, Role::Weight), difference.noisy(noise, source, None));
        if self.bias {
            let zero = Derive::Fill { shape: vec![growth], value: 0.0 };
            weights.insert(ParamId::new(convolution, Role::Bias), zero);
        }
        if let Some((id, epsilon)) = batch_norm {
            weights.extend(identity_batch_norm(id, epsilon, channels));
        }
        let calibrate = batch_norm.map(|(id, _)| id).into_iter().collect();
        Ok(Patch { network: child, weights, gradient: GradientMap::Approximate, calibrate })
    }
}
