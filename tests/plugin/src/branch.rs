//! A residual branch that starts at zero: behind a layer's ReLU, x becomes x + conv(x), with a
//! convolution whose kernel is 0.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use eas_transform::inventory;
use eas_transform::ir::{
    Built, Network, Node, NodeId, Op, ParamId, Plugin, Rng, Role, Shape, parse_options,
    resolved_options,
};
use eas_transform::{
    Candidate, Decision, Derive, GradientMap, Patch, SearchSpace, Target, Transform,
    TransformPlugin,
};
use serde::{Deserialize, Serialize};

/// Adds a branch of one convolution to a labelled layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Branch {
    /// Side of the branch's kernel, odd.
    kernel: usize,
}

impl Default for Branch {
    fn default() -> Self {
        Branch { kernel: 3 }
    }
}

// The name is that of the table in a spec, `[transform.branch]`.
inventory::submit! {
    TransformPlugin(Plugin::new(
        "branch",
        "a residual branch of one convolution that starts at zero",
        "kernel = 3  # side of the branch's kernel, odd\n",
        |options| {
            let branch = parse_options::<Branch>(options)?;
            if branch.kernel % 2 == 0 {
                let message = format!("kernel: expected an odd number, found {}", branch.kernel);
                return Err(serde::de::Error::custom(message));
            }
            Ok(Built { options: resolved_options(&branch)?, implementation: Box::new(branch) })
        },
    ))
}

/// Whether a branch may stand behind this node: the ReLU of a labelled layer, on images.
fn is_site(node: &Node, shape: Shape) -> bool {
    node.op == Op::Relu && node.label.is_some() && matches!(shape, Shape::Image { .. })
}

impl Transform for Branch {
    /// A policy picks one layer of one block. The sizes of its softmaxes come from the space's limits,
    /// so that they stay as the network grows.
    fn decision(&self, space: &dyn SearchSpace) -> Decision {
        let limits = space.limits();
        Decision::OnePick { levels: vec![limits.blocks, limits.layers] }
    }

    /// What exceeds the space's limits is left out by the caller; here, only what the levels of
    /// [`Branch::decision`] have no place for.
    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let Ok(shapes) = network.verify() else { return Vec::new() };
        let limits = space.limits();
        let sites = network.nodes().iter().filter(|node| is_site(node, shapes[node.id]));
        let candidate = |node: &Node| {
            let label = node.label.as_ref()?;
            let path = vec![label.block as usize, label.layer as usize];
            let target = Target::Kernel(self.kernel);
            let fits = path[0] < limits.blocks && path[1] < limits.layers;
            fits.then_some(Candidate { site: node.id, target, path })
        };
        sites.filter_map(candidate).collect()
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        _: &mut Rng,
    ) -> anyhow::Result<Patch> {
        let Target::Kernel(kernel) = target else {
            anyhow::bail!("expected a kernel, as in `branch {site} with kernel 3`");
        };
        ensure!(kernel % 2 == 1, "expected an odd kernel, found {kernel}");
        let shapes = network.verify()?;
        let node = network.node(site).with_context(|| format!("there is no node {site}"))?;
        ensure!(is_site(node, shapes[site]), "{site} is no ReLU of a labelled convolution");

        let channels = shapes[site].channels();
        let mut child = network.clone();
        // All that read the site read the sum instead, which reads the site and the branch. The new
        // nodes have no label: labels say where layers may be inserted, and this isn't such a place.
        let sum = child.insert_after(site, Op::Add, None).context("the site is a node")?;
        let branch = child
            .insert_behind(site, Op::conv(channels, kernel), &[site], None)
            .context("the site is a node")?;
        child.node_mut(sum).context("the sum is a node")?.inputs.push(branch);

        // x + 0 = x, in training mode too, and what reads x receives the same gradient as before. The
        // kernel itself receives one that isn't 0, so it learns.
        let shape = vec![channels, channels, kernel, kernel];
        let weight = ParamId::new(branch, Role::Weight);
        let weights = BTreeMap::from([(weight, Derive::Fill { shape, value: 0.0 })]);
        Ok(Patch { network: child, weights, gradient: GradientMap::Exact, calibrate: Vec::new() })
    }
}
