//! Net2DeeperNet (Chen et al. 2016, section 2.3; Cai et al. 2018, section 3.3): a new layer that
//! starts as the identity.
//!
//! A layer `[identity, batch norm, ReLU]` keeps the function only where its input is non-negative
//! already, because ReLU is idempotent: right behind a ReLU (and its dropout). The inserted batch
//! norm undoes its own epsilon exactly in evaluation mode; its statistics are calibrated on data
//! once the chain of edits is done.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use eas_ir::{
    Built, Label, Network, NodeId, Op, ParamId, Plugin, Rng, Role, Shape, parse_options,
    resolved_options,
};
use serde::{Deserialize, Serialize};

use super::{identity_batch_norm, label_behind, with_kernels};
use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options;
use crate::patch::{Derive, GradientMap, Patch};
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Inserts an identity layer behind a labelled layer, in that layer's style: with a bias, batch norm
/// or dropout where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deepen {
    /// Kernel sizes of inserted convolutions, odd; those that the space has too.
    #[serde(deserialize_with = "options::kernels")]
    pub kernels: Vec<usize>,
    /// Deviation of the noise on the identity, as a ratio of the deviation of the weights of the
    /// layer before it.
    #[serde(deserialize_with = "options::noise")]
    pub noise: f64,
}

impl Default for Deepen {
    fn default() -> Self {
        Deepen { kernels: vec![1, 3, 5], noise: 1e-3 }
    }
}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "deepen",
        "a new layer that starts as the identity (Net2DeeperNet)",
        "kernels = [1, 3, 5]  # kernel sizes of inserted convolutions\n\
         noise = 1e-3  # deviation of the noise on the identity, relative to the weights before it\n",
        |options| {
            let deepen = parse_options::<Deepen>(options)?;
            Ok(Built { options: resolved_options(&deepen)?, implementation: Box::new(deepen) })
        },
    ))
}

/// A labelled layer that ends in a ReLU: where an identity may follow.
struct Site<'a> {
    label: &'a Label,
    /// The convolution or linear layer.
    layer: NodeId,
    bias: bool,
    batch_norm: Option<f32>,
    /// The last node: the ReLU, or the dropout behind it.
    last: NodeId,
    dropout: Option<f32>,
}

/// Every site, in the order of the labels.
fn sites(network: &Network) -> Vec<Site<'_>> {
    let mut groups: BTreeMap<&Label, Vec<&eas_ir::Node>> = BTreeMap::new();
    for node in network.nodes() {
        if let Some(label) = &node.label {
            groups.entry(label).or_default().push(node);
        }
    }
    groups.into_iter().filter_map(|(label, nodes)| site(label, &nodes)).collect()
}

/// Reads `conv|linear, [batch norm], relu, [dropout]` along a chain of nodes of one label.
fn site<'a>(label: &'a Label, nodes: &[&eas_ir::Node]) -> Option<Site<'a>> {
    let chained = nodes.windows(2).all(|pair| pair[1].inputs == [pair[0].id]);
    let (layer, mut rest) = nodes.split_first()?;
    let (Op::Conv { bias, .. } | Op::Linear { bias, .. }) = layer.op else { return None };
    if !chained {
        return None;
    }
    let mut batch_norm = None;
    if let Some((node, behind)) = rest.split_first()
        && let Op::BatchNorm { epsilon } = node.op
    {
        batch_norm = Some(epsilon);
        rest = behind;
    }
    let (relu, behind) = rest.split_first()?;
    if relu.op != Op::Relu {
        return None;
    }
    let (last, dropout) = match behind {
        [] => (relu.id, None),
        [node] => match node.op {
            Op::Dropout { rate } => (node.id, Some(rate)),
            _ => return None,
        },
        _ => return None,
    };
    Some(Site { label, layer: layer.id, bias, batch_norm, last, dropout })
}

impl Transform for Deepen {
    fn decision(&self, space: &dyn SearchSpace) -> Decision {
        let limits = space.limits();
        Decision::OnePick { levels: vec![limits.blocks, limits.layers, self.kernels.len()] }
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let Ok(shapes) = network.verify() else { return Vec::new() };
        let mut candidates = Vec::new();
        for site in sites(network) {
            let Some(path) = space.limits().path(site.label) else { continue };
            match shapes[site.last] {
                // A linear layer has no kernel: its one option is the first.
                Shape::Flat { .. } => candidates.push(Candidate {
                    site: site.layer,
                    target: Target::None,
                    path: [path.as_slice(), &[0]].concat(),
                }),
                Shape::Image { .. } => {
                    candidates.extend(with_kernels(site.layer, &path, &self.kernels, space));
                }
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
        let shapes = network.verify()?;
        let all = sites(network);
        let found = all.iter().find(|known| known.layer == site || known.last == site);
        let found = found.with_context(|| {
            let known: Vec<String> = all.iter().map(|site| site.layer.to_string()).collect();
            format!(
                "{site} is no labelled layer that ends in a ReLU (those are: {})",
                known.join(", ")
            )
        })?;
        let (channels, bias) = (shapes[found.last].channels(), found.bias);
        let op = match (shapes[found.last], target) {
            (Shape::Flat { .. }, Target::None) => Op::Linear { units: channels, bias },
            (Shape::Image { .. }, Target::Kernel(kernel)) => {
                ensure!(kernel % 2 == 1, "expected an odd kernel, found {kernel}");
                let padding = kernel / 2;
                Op::Conv { filters: channels, kernel, stride: 1, padding, groups: 1, bias }
            }
            (Shape::Flat { .. }, _) => {
                bail!("{site} is a linear layer: expected `deepen {site}` without a kernel")
            }
            (Shape::Image { .. }, _) => {
                bail!(
                    "{site} is a convolution: expected a kernel, as in `deepen {site} with kernel 3`"
                )
            }
        };
        insert_identity(network, found, op, self.noise)
    }
}

fn insert_identity(
    network: &Network,
    site: &Site<'_>,
    op: Op,
    noise: f64,
) -> anyhow::Result<Patch> {
    let mut child = network.clone();
    let label = label_behind(&mut child, site.label)?;
    let mut last = site.last;
    let mut insert = |op: Op| {
        last =
            child.insert_after(last, op, Some(label.clone())).expect("the site is in the network");
        last
    };
    let layer = insert(op);
    let batch_norm = site.batch_norm.map(|epsilon| (insert(Op::BatchNorm { epsilon }), epsilon));
    insert(Op::Relu);
    if let Some(rate) = site.dropout {
        insert(Op::Dropout { rate });
    }

    let mut weights = BTreeMap::new();
    let (channels, shape) = match op {
        Op::Conv { filters, kernel, .. } => (filters, vec![filters, filters, kernel, kernel]),
        Op::Linear { units, .. } => (units, vec![units, units]),
        _ => unreachable!("an identity is a convolution or a linear layer"),
    };
    let source = ParamId::new(site.layer, Role::Weight);
    let identity = Derive::Identity { shape }.noisy(noise, source, None);
    weights.insert(ParamId::new(layer, Role::Weight), identity);
    if site.bias {
        let zero = Derive::Fill { shape: vec![channels], value: 0.0 };
        weights.insert(ParamId::new(layer, Role::Bias), zero);
    }
    if let Some((id, epsilon)) = batch_norm {
        weights.extend(identity_batch_norm(id, epsilon, channels));
    }
    // In training mode a batch norm normalises by each batch, so gradients below it differ a little.
    let gradient = if batch_norm.is_some() { GradientMap::Approximate } else { GradientMap::Exact };
    let calibrate = batch_norm.map(|(id, _)| id).into_iter().collect();
    Ok(Patch { network: child, weights, gradient, calibrate })
}
