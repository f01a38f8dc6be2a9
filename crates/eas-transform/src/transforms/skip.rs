//! A skip connection that starts with nothing: y = x + W z, where z is what an earlier layer of the
//! same resolution gave, and W a 1x1 convolution of zeros.
//!
//! W has a gradient at once, that of y times z; what comes before z gets one from it as soon as W has
//! moved. A layer, its label and its ReLU stay as they are, as the addition stands behind them, so it
//! can still be deepened; layers joined by the addition are widened together from then on.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use eas_ir::{
    Built, Label, Network, NodeId, Op, ParamId, Plugin, Rng, Role, Shape, Shapes, parse_options,
    resolved_options,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options::Bounded;
use crate::patch::{Derive, GradientMap, Patch};
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Adds what a labelled layer gave, through a 1x1 convolution of zeros, to what a later one gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Skip {
    /// How many labelled layers back a skip may begin.
    #[serde(deserialize_with = "reach")]
    pub reach: usize,
}

fn reach<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Bounded::<1, 64>::deserialize(deserializer).map(|layers| layers.0)
}

impl Default for Skip {
    fn default() -> Self {
        Skip { reach: 3 }
    }
}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "skip",
        "a skip connection that starts with nothing",
        "reach = 3  # how many layers back a skip may begin\n",
        |options| {
            let skip = parse_options::<Skip>(options)?;
            Ok(Built { options: resolved_options(&skip)?, implementation: Box::new(skip) })
        },
    ))
}

/// What a labelled layer or block gives.
struct Layer<'a> {
    label: &'a Label,
    /// Its last node, skips left out.
    last: NodeId,
    /// The same with the skips that end there.
    output: NodeId,
    /// Where those begin.
    sources: Vec<NodeId>,
}

/// Every labelled layer that gives an image, in topological order of their last nodes.
fn layers<'a>(network: &'a Network, shapes: &Shapes) -> Vec<Layer<'a>> {
    let mut last: BTreeMap<&Label, (usize, NodeId)> = BTreeMap::new();
    for (place, node) in network.nodes().iter().enumerate() {
        if let Some(label) = &node.label {
            last.insert(label, (place, node.id));
        }
    }
    let mut ordered: Vec<_> = last.into_iter().map(|(label, place)| (place, label)).collect();
    ordered.sort();
    ordered
        .into_iter()
        .filter(|((_, last), _)| matches!(shapes[*last], Shape::Image { .. }))
        .map(|((_, last), label)| with_skips(network, label, last))
        .collect()
}

fn with_skips<'a>(network: &'a Network, label: &'a Label, last: NodeId) -> Layer<'a> {
    let mut layer = Layer { label, last, output: last, sources: Vec::new() };
    while let Some((add, source)) = skip_onto(network, layer.output) {
        layer.output = add;
        layer.sources.push(source);
    }
    layer
}

/// The addition of a skip onto a node, and where the skip begins.
fn skip_onto(network: &Network, output: NodeId) -> Option<(NodeId, NodeId)> {
    network.nodes().iter().find_map(|node| {
        let &[onto, branch] = node.inputs.as_slice() else { return None };
        let branch = network.node(branch)?;
        // Its kernel may have grown since.
        let is_branch = matches!(branch.op, Op::Conv { stride: 1, .. });
        let bare = node.label.is_none() && branch.label.is_none();
        (node.op == Op::Add && onto == output && is_branch && bare)
            .then(|| (node.id, branch.inputs[0]))
    })
}

/// Pairs of layers that a skip may join: the later one, the earlier one, and how many layers lie
/// between where they begin, from 1.
fn pairs<'a>(
    network: &Network,
    shapes: &Shapes,
    layers: &'a [Layer<'a>],
) -> Vec<(&'a Layer<'a>, &'a Layer<'a>, usize)> {
    let pixels = |layer: &Layer<'_>| shapes[layer.output].with_channels(1);
    // A concatenation's channels grow with the layers of its block, which an addition could not follow.
    let closed = |layer: &Layer<'_>| {
        network.node(layer.last).is_none_or(|node| matches!(node.op, Op::Concat))
    };
    let place_of = |id: NodeId| network.nodes().iter().position(|node| node.id == id);
    let mut pairs = Vec::new();
    for (place, later) in layers.iter().enumerate() {
        for (back, earlier) in layers[..place].iter().rev().enumerate() {
            let joined = later.sources.contains(&earlier.output);
            let ordered = place_of(earlier.output) < place_of(later.output);
            if ordered && pixels(later) == pixels(earlier) && !joined && !closed(later) {
                pairs.push((later, earlier, back + 1));
            }
        }
    }
    pairs
}

impl Transform for Skip {
    fn decision(&self, space: &dyn SearchSpace) -> Decision {
        let limits = space.limits();
        Decision::OnePick { levels: vec![limits.blocks, limits.layers, self.reach] }
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let Ok(shapes) = network.verify() else { return Vec::new() };
        let layers = layers(network, &shapes);
        let edit = |(later, earlier, back): (&Layer<'_>, &Layer<'_>, usize)| {
            let mut path = space.limits().path(later.label)?;
            path.push(back - 1);
            let target = Target::Option(earlier.last.number() as usize);
            (back <= self.reach).then_some(Candidate { site: later.last, target, path })
        };
        pairs(network, &shapes, &layers).into_iter().filter_map(edit).collect()
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        _: &mut Rng,
    ) -> anyhow::Result<Patch> {
        let Target::Option(from) = target else {
            bail!(
                "expected the node where it begins, as in `skip {site} option 3` for one from n3"
            );
        };
        let shapes = network.verify()?;
        let layers = layers(network, &shapes);
        let found = pairs(network, &shapes, &layers).into_iter().find(|(later, earlier, _)| {
            later.last == site && earlier.last.number() as usize == from
        });
        let (later, earlier, _) = found.with_context(|| {
            format!(
                "no skip from n{from} to {site}: expected the last nodes of two labelled layers of one \
                 resolution, the later no concatenation, without a skip between them"
            )
        })?;
        let (channels, seen) = (shapes[later.output].channels(), shapes[earlier.output].channels());
        let mut child = network.clone();
        let gone = || format!("{} left the network", later.output);
        // The addition first, so that all readers of the layer move to it.
        let add = child.insert_after(later.output, Op::Add, None).with_context(gone)?;
        let branch = child
            .insert_behind(later.output, Op::conv(channels, 1), &[earlier.output], None)
            .with_context(gone)?;
        child.node_mut(add).with_context(gone)?.inputs = vec![later.output, branch];
        let zeros = Derive::Fill { shape: vec![channels, seen, 1, 1], value: 0.0 };
        let weights = [(ParamId::new(branch, Role::Weight), zeros)].into();
        Ok(Patch { network: child, weights, gradient: GradientMap::Exact, calibrate: Vec::new() })
    }
}
