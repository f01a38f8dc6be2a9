//! A deeper dense block (Cai et al. 2018, DenseNet space): replicate and remap.
//!
//! A copy of a layer is put behind it. The copy
//! sees the layer's own output too, through weights of zero, and gives a random choice (with
//! replacement) of the layer's channels. Seen from behind, the layer's output has been widened: all
//! that read it gather and rescale.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use eas_ir::{
    Built, Network, NodeId, Op, ParamId, Plugin, Rng, Role, parse_options, resolved_options,
};
use serde::{Deserialize, Serialize};

use super::dense::{DenseLayer, dense_layer, dense_layers};
use super::label_behind;
use crate::channels::{Gained, rewire};
use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options;
use crate::patch::{Derive, GradientMap, Patch};
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Inserts a remapped copy of a dense layer behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replicate {
    /// Deviation of the noise on the copied kernel, as a ratio of the source weights' deviation.
    #[serde(deserialize_with = "options::noise")]
    pub noise: f64,
}

impl Default for Replicate {
    fn default() -> Self {
        Replicate { noise: 1e-2 }
    }
}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "replicate",
        "a new dense layer, a remapped copy of the one before it",
        "noise = 1e-2  # deviation of the noise on the copy, relative to the source weights'\n",
        |options| {
            let replicate = parse_options::<Replicate>(options)?;
            Ok(Built { options: resolved_options(&replicate)?, implementation: Box::new(replicate) })
        },
    ))
}

impl Transform for Replicate {
    fn decision(&self, space: &dyn SearchSpace) -> Decision {
        Decision::OnePick { levels: vec![space.limits().blocks, space.limits().layers] }
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let edit = |layer: DenseLayer| {
            let path = space.limits().path(&layer.label)?;
            Some(Candidate { site: layer.growth, target: Target::None, path })
        };
        dense_layers(network).into_iter().filter_map(edit).collect()
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        rng: &mut Rng,
    ) -> anyhow::Result<Patch> {
        ensure!(target == Target::None, "expected `replicate {site}`, without a width or kernel");
        let layer = dense_layer(network, site)?;
        let shapes = network.verify()?;
        let seen = shapes[layer.body[0].inputs[0]].channels();
        let growth = shapes[site].channels();
        let remap: Vec<usize> = (0..growth).map(|_| rng.below(growth)).collect();

        let mut child = network.clone();
        let (copies, concat) = insert_copy(&mut child, &layer)?;
        let index = (0..seen + growth).chain(remap.iter().map(|channel| seen + channel)).collect();
        let gained = Gained::Replicas { noise: 0.0 };
        let mut patch = rewire(network, child, &BTreeMap::from([(concat, index)]), gained)?;
        let reader = network.consumers(layer.concat).into_iter().find(|id| {
            network.node(*id).is_some_and(|node| matches!(node.op, Op::BatchNorm { .. }))
        });
        let noise = self.noise;
        let copy = Copy { layer: &layer, copies: &copies, reader, seen, remap: &remap, noise };
        copy.derive_weights(&mut patch.weights);
        // Original and copy have kernels of their own, but only one gradient to share between them.
        patch.gradient = GradientMap::Approximate;
        Ok(patch)
    }
}

/// Puts a copy of the layer's nodes behind its concatenation; returns the copy of each and the new
/// concatenation.
fn insert_copy(
    child: &mut Network,
    layer: &DenseLayer,
) -> anyhow::Result<(BTreeMap<NodeId, NodeId>, NodeId)> {
    let label = label_behind(child, &layer.label)?;
    let gone = || format!("{} left the network", layer.concat);
    // The new concatenation first, so that all readers of the old one move to it.
    let concat =
        child.insert_after(layer.concat, Op::Concat, Some(label.clone())).with_context(gone)?;
    let mut copies = BTreeMap::new();
    let (mut place, mut input) = (layer.concat, layer.concat);
    for node in &layer.body {
        let copy = child
            .insert_behind(place, node.op, &[input], Some(label.clone()))
            .with_context(gone)?;
        copies.insert(node.id, copy);
        (place, input) = (copy, copy);
    }
    let joined = child.node_mut(concat).with_context(gone)?;
    joined.inputs = vec![layer.concat, input];
    Ok((copies, concat))
}

/// A layer's copy, and how it differs from the original.
struct Copy<'a> {
    layer: &'a DenseLayer,
    /// The copy of each node of the layer's body.
    copies: &'a BTreeMap<NodeId, NodeId>,
    /// A batch norm that reads the layer's concatenation, where there is one.
    reader: Option<NodeId>,
    /// Channels that the original sees; the copy sees the original's output behind them.
    seen: usize,
    /// For each output channel of the copy, the original's.
    remap: &'a [usize],
    noise: f64,
}

impl Copy<'_> {
    /// Where the copy's weights come from: the original's, with zeros for the channels that the
    /// original did not see, and the last convolution's output channels remapped.
    fn derive_weights(&self, weights: &mut BTreeMap<ParamId, Derive>) {
        let growth = self.remap.len();
        let remapped = |of: Derive| of.gather(0, self.remap.to_vec(), vec![1.0; self.remap.len()]);
        // The body's nodes up to the first convolution see the original's output.
        let mut sees_more = true;
        // Its nodes from the last convolution on give the remapped channels.
        let mut is_remapped = false;
        for node in &self.layer.body {
            let old = |role| Derive::Old(ParamId::new(node.id, role));
            let mut derive = |role, derived| {
                weights.insert(ParamId::new(self.copies[&node.id], role), derived);
            };
            match node.op {
                Op::BatchNorm { .. } => {
                    for role in [Role::Gamma, Role::Beta, Role::Mean, Role::Variance] {
                        derive(
                            role,
                            match (sees_more, is_remapped) {
                                (true, _) => Derive::Concat {
                                    axis: 0,
                                    parts: vec![old(role), self.unseen(role)],
                                },
                                (false, true) => remapped(old(role)),
                                (false, false) => old(role),
                            },
                        );
                    }
                }
                Op::Conv { filters, kernel, bias, .. } => {
                    let mut weight = old(Role::Weight);
                    let mut only = None;
                    if sees_more {
                        let shape = vec![filters, growth, kernel, kernel];
                        let unseen = Derive::Fill { shape, value: 0.0 };
                        weight = Derive::Concat { axis: 1, parts: vec![weight, unseen] };
                        // Noise belongs on the replica, not on the zeros.
                        only = Some((1, (0..self.seen).collect()));
                        sees_more = false;
                    }
                    let mut offset = old(Role::Bias);
                    if node.id == self.layer.growth {
                        is_remapped = true;
                        let source = ParamId::new(node.id, Role::Weight);
                        weight = remapped(weight).noisy(self.noise, source, only);
                        offset = remapped(offset);
                    }
                    derive(Role::Weight, weight);
                    if bias {
                        derive(Role::Bias, offset);
                    }
                }
                Op::Input { .. }
                | Op::Relu
                | Op::MaxPool { .. }
                | Op::AveragePool { .. }
                | Op::GlobalPool
                | Op::Flatten
                | Op::Linear { .. }
                | Op::Dropout { .. }
                | Op::Add
                | Op::Concat => {}
            }
        }
    }

    /// A batch norm's parameter for the channels that the original did not see. Nothing depends on
    /// them yet, and yet they should be normalised by what they are: by the statistics of whoever
    /// normalises them already.
    fn unseen(&self, role: Role) -> Derive {
        let growth = self.remap.len();
        let value = match (role, self.reader) {
            (Role::Mean | Role::Variance, Some(reader)) => {
                let channels = (self.seen..self.seen + growth).collect();
                let known = Derive::Old(ParamId::new(reader, role));
                return known.gather(0, channels, vec![1.0; growth]);
            }
            (Role::Gamma | Role::Variance, _) => 1.0,
            (Role::Beta | Role::Mean | Role::Weight | Role::Bias, _) => 0.0,
        };
        Derive::Fill { shape: vec![growth], value }
    }
}
