//! A new residual block that starts as the identity (He et al. 2016): its branch ends in zeros.
//!
//! The zeros are those of the branch's last layer: gamma and beta of a last batch norm (Goyal et al.
//! 2017, section 5.1), or the kernel of a last convolution where batch norms come first. The layers
//! before it start at random, so that the zeros have a gradient at once, while all before them gets one
//! as soon as those have moved. A branch of zeros throughout would have none for ever. The branch gives
//! exactly 0 in training mode too, so nothing of the old network notices it at first; a block that ends
//! in a ReLU stands where a ReLU was the last, as max(0, x + 0) = x needs an x that isn't negative.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use eas_ir::{
    Built, Label, Network, Node, NodeId, Op, ParamId, Plugin, Rng, Role, parameter_list,
    parse_options, resolved_options,
};
use serde::{Deserialize, Serialize};

use super::label_behind;
use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::patch::{Derive, GradientMap, Patch};
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Inserts a block behind a residual block, with its layers, widths and kernels, but an identity
/// shortcut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddBlock {}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "add_block",
        "a new residual block that starts as the identity",
        "",
        |options| {
            let add_block = parse_options::<AddBlock>(options)?;
            Ok(Built { options: resolved_options(&add_block)?, implementation: Box::new(add_block) })
        },
    ))
}

/// One residual block: the nodes of one label of kind `residual`.
struct Block<'a> {
    label: &'a Label,
    /// The branch, in order: a chain from the block's input to the addition.
    branch: Vec<&'a Node>,
    add: NodeId,
    /// Whether a ReLU follows the addition.
    activated: bool,
    /// The block's last node.
    last: NodeId,
}

/// Every residual block, in topological order; of one label, the first.
fn blocks(network: &Network) -> Vec<Block<'_>> {
    let mut known = BTreeSet::new();
    let all = network.nodes().iter().filter_map(|node| block(network, node));
    all.filter(|block| known.insert(block.label)).collect()
}

/// The block that an addition ends.
fn block<'a>(network: &'a Network, add: &'a Node) -> Option<Block<'a>> {
    let label = add.label.as_ref().filter(|label| label.kind == "residual")?;
    let &[end, shortcut] = add.inputs.as_slice() else { return None };
    if add.op != Op::Add {
        return None;
    }
    let own = |id: NodeId| network.node(id).filter(|node| node.label.as_ref() == Some(label));
    let mut branch = Vec::new();
    let mut next = end;
    while let Some(node) = own(next) {
        let &[input] = node.inputs.as_slice() else { return None };
        if !may_be_copied(&node.op) {
            return None;
        }
        branch.push(node);
        next = input;
    }
    branch.reverse();
    let identity = shortcut == next;
    let last_layer = branch.iter().rfind(|node| has_weights(&node.op))?;
    let ends_in_layer = last_layer.id == end;
    if !ends_in_layer || !(identity || own(shortcut).is_some()) {
        return None;
    }
    let relu = network
        .nodes()
        .iter()
        .find(|node| node.op == Op::Relu && node.inputs == [add.id] && own(node.id).is_some());
    let last = relu.map_or(add.id, |relu| relu.id);
    Some(Block { label, branch, add: add.id, activated: relu.is_some(), last })
}

/// Whether a block with this operation in its branch can stand behind itself: it keeps the resolution at
/// stride 1.
fn may_be_copied(op: &Op) -> bool {
    match *op {
        Op::Conv { kernel, padding, groups, .. } => {
            kernel % 2 == 1 && padding == kernel / 2 && groups == 1
        }
        Op::BatchNorm { .. } | Op::Relu | Op::Dropout { .. } => true,
        Op::Input { .. }
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalPool
        | Op::Flatten
        | Op::Linear { .. }
        | Op::Add
        | Op::Concat => false,
    }
}

fn has_weights(op: &Op) -> bool {
    matches!(op, Op::Conv { .. } | Op::BatchNorm { .. })
}

impl Transform for AddBlock {
    fn decision(&self, space: &dyn SearchSpace) -> Decision {
        Decision::OnePick { levels: vec![space.limits().blocks, space.limits().layers] }
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let edit = |block: Block<'_>| {
            let path = space.limits().path(block.label)?;
            Some(Candidate { site: block.add, target: Target::None, path })
        };
        blocks(network).into_iter().filter_map(edit).collect()
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        rng: &mut Rng,
    ) -> anyhow::Result<Patch> {
        ensure!(target == Target::None, "expected `add_block {site}`, without a width or kernel");
        let all = blocks(network);
        let block = all.iter().find(|block| block.add == site).with_context(|| {
            let known: Vec<String> = all.iter().map(|block| block.add.to_string()).collect();
            format!("{site} is no addition of a residual block (those are: {})", known.join(", "))
        })?;
        let mut child = network.clone();
        let branch = insert_block(&mut child, block)?;
        let shapes = child.verify()?;
        let zeroed = branch.last().copied();
        let parameters = parameter_list(&child, &shapes).into_iter();
        let weights: BTreeMap<ParamId, Derive> = parameters
            .filter(|(parameter, _)| branch.contains(&parameter.node))
            .map(|(parameter, shape)| {
                let start = start(parameter.role, shape, zeroed == Some(parameter.node), rng);
                (parameter, start)
            })
            .collect();
        let is_norm = |id: &NodeId| {
            child.node(*id).is_some_and(|node| matches!(node.op, Op::BatchNorm { .. }))
        };
        let calibrate = branch.into_iter().filter(is_norm).collect();
        Ok(Patch { network: child, weights, gradient: GradientMap::Exact, calibrate })
    }
}

/// Puts a block's copy behind it; returns the nodes of the copy's branch, in order.
fn insert_block(child: &mut Network, block: &Block<'_>) -> anyhow::Result<Vec<NodeId>> {
    let label = label_behind(child, block.label)?;
    let gone = || format!("{} left the network", block.last);
    // The addition first, so that all readers of the old block move to it.
    let add = child.insert_after(block.last, Op::Add, Some(label.clone())).with_context(gone)?;
    if block.activated {
        child.insert_after(add, Op::Relu, Some(label.clone())).with_context(gone)?;
    }
    let mut branch = Vec::new();
    let mut last = block.last;
    for node in &block.branch {
        let mut op = node.op;
        if let Op::Conv { stride, .. } = &mut op {
            *stride = 1;
        }
        last = child.insert_behind(last, op, &[last], Some(label.clone())).with_context(gone)?;
        branch.push(last);
    }
    let joined = child.node_mut(add).with_context(gone)?;
    joined.inputs = vec![last, block.last];
    Ok(branch)
}

/// What a parameter of the branch starts as: convolutions as in any new network (He et al. 2015), batch
/// norms as they are, and the last layer as zeros.
fn start(role: Role, shape: Vec<usize>, zeroed: bool, rng: &mut Rng) -> Derive {
    let value = match role {
        Role::Weight if !zeroed => {
            let fan_in: usize = shape[1..].iter().product();
            let deviation = (2.0 / fan_in as f64).sqrt();
            return Derive::Normal { shape, deviation, seed: rng.next_u64() };
        }
        Role::Gamma if !zeroed => 1.0,
        Role::Variance => 1.0,
        Role::Weight | Role::Gamma | Role::Bias | Role::Beta | Role::Mean => 0.0,
    };
    Derive::Fill { shape, value }
}
