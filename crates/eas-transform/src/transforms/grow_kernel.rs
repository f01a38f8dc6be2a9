//! Larger kernels: a convolution's kernel gets a border of zeros, and its image as much padding.
//!
//! The old taps stay at the centre, so each output pixel is the sum that it was. This holds whatever
//! the stride, padding and groups. Each new tap has a gradient at once.

use anyhow::{Context, bail, ensure};
use eas_ir::{
    Built, Network, NodeId, Op, ParamId, Plugin, Rng, Role, Shape, parse_options, resolved_options,
};
use serde::{Deserialize, Serialize};

use crate::decision::Decision;
use crate::edit::{Candidate, Target};
use crate::options::LARGEST;
use crate::patch::{Derive, GradientMap, Patch};
use crate::registry::TransformPlugin;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// Grows a convolution's kernel to the next odd size of the space's list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrowKernel {}

inventory::submit! {
    TransformPlugin(Plugin::new(
        "grow_kernel",
        "a larger kernel of a convolution, zero where it is new",
        "",
        |options| {
            let grow = parse_options::<GrowKernel>(options)?;
            Ok(Built { options: resolved_options(&grow)?, implementation: Box::new(grow) })
        },
    ))
}

impl Transform for GrowKernel {
    /// A convolution has one next kernel, so there is nothing to choose but yes or no, as for a width;
    /// the policy knows the present one where the space's tokens say it.
    fn decision(&self, _: &dyn SearchSpace) -> Decision {
        Decision::EachSite
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let convolutions = network.nodes().iter().filter_map(|node| match node.op {
            Op::Conv { kernel, .. } => Some((node.id, kernel)),
            _ => None,
        });
        let next = |(index, (site, present)): (usize, (NodeId, usize))| {
            let larger =
                |kernel: &&usize| **kernel > present && (**kernel - present).is_multiple_of(2);
            let kernel = space.kernels().iter().find(larger)?;
            Some(Candidate { site, target: Target::Kernel(*kernel), path: vec![index] })
        };
        convolutions.enumerate().filter_map(next).collect()
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        _: &mut Rng,
    ) -> anyhow::Result<Patch> {
        let Target::Kernel(to) = target else {
            bail!("expected a kernel, such as `grow_kernel {site} with kernel 5`");
        };
        let shapes = network.verify()?;
        let mut child = network.clone();
        let node = child.node_mut(site).with_context(|| format!("{site} is no node"))?;
        let input = node.inputs.first().map(|input| shapes[*input]);
        let (
            Op::Conv { filters, kernel, padding, groups, .. },
            Some(Shape::Image { channels, .. }),
        ) = (&mut node.op, input)
        else {
            bail!("{site} is no convolution");
        };
        let from = *kernel;
        ensure!(
            to > from && (to - from).is_multiple_of(2),
            "expected a kernel above the present {from} by an even number, found {to}"
        );
        ensure!(to <= LARGEST, "expected a kernel of at most {LARGEST}, found {to}");
        let border = (to - from) / 2;
        (*kernel, *padding) = (to, *padding + border);
        let mut shape = vec![*filters, channels / *groups, from, from];
        let weight = ParamId::new(site, Role::Weight);
        let mut grown = Derive::Old(weight);
        for axis in [2, 3] {
            shape[axis] = border;
            let zeros = Derive::Fill { shape: shape.clone(), value: 0.0 };
            grown = Derive::Concat { axis, parts: vec![zeros.clone(), grown, zeros] };
            shape[axis] = to;
        }
        let weights = [(weight, grown)].into();
        Ok(Patch { network: child, weights, gradient: GradientMap::Exact, calibrate: Vec::new() })
    }
}
