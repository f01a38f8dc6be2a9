//! Plain networks whose blocks widen by a constant number of filters: the additive pyramid of Han et
//! al. 2017 (section 3.1), without its residual connections, which `branch` can add.

use std::num::NonZeroU16;

use anyhow::Context;
use eas_transform::inventory;
use eas_transform::ir::{
    Built, Label, Network, NodeId, Op, Plugin, Rng, parse_options, resolved_options,
};
use eas_transform::{Limits, Problem, SearchSpace, SpacePlugin, Token, tokens, vocabulary};
use serde::{Deserialize, Serialize};

/// Blocks of the start network, with pooling between them.
const BLOCKS: usize = 3;
/// Widths of the space: the start network has the first of them, widening takes the next.
const WIDTHS: usize = 16;
const KERNELS: [usize; 2] = [1, 3];

/// The options, as written. Their types say what is in range, so that serde refuses the rest and
/// points at it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    base: NonZeroU16,
    growth: NonZeroU16,
    limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        let sixteen = const { NonZeroU16::new(16).unwrap() };
        Options { base: sixteen, growth: sixteen, limits: Limits::default() }
    }
}

/// The space: where a search starts, and how far it may go.
#[derive(Clone, Debug)]
pub struct Pyramid {
    /// `base`, `base + growth`, `base + 2 growth`, …
    widths: Vec<usize>,
    limits: Limits,
}

// The name is that of the table in a spec, `[space.pyramid]`.
inventory::submit! {
    SpacePlugin(Plugin::new(
        "pyramid",
        "plain CNNs whose blocks widen by a constant number of filters",
        r#"base = 16  # filters of the first block
growth = 16  # filters that each block has more than the one before
limits = { depth = 32, parameters = "30M", macs = "1.5G", memory = "10GiB", blocks = 5, layers = 10 }  # what no network exceeds; blocks and layers of a block: those that edits may be picked from
"#,
        |options| {
            let options = parse_options::<Options>(options)?;
            let resolved = resolved_options(&options)?;
            Ok(Built { options: resolved, implementation: Box::new(Pyramid::from(options)) })
        },
    ))
}

impl From<Options> for Pyramid {
    fn from(Options { base, growth, limits }: Options) -> Self {
        let width = |rung| usize::from(base.get()) + rung * usize::from(growth.get());
        Pyramid { widths: (0..WIDTHS).map(width).collect(), limits }
    }
}

impl Default for Pyramid {
    fn default() -> Self {
        Pyramid::from(Options::default())
    }
}

impl SearchSpace for Pyramid {
    fn start(&self, problem: &Problem) -> anyhow::Result<Network> {
        let mut network = Network::new();
        let mut last = network.push(Op::Input { shape: problem.input }, &[], None);
        for (block, width) in self.widths[..BLOCKS].iter().enumerate() {
            if block > 0 {
                last = network.push(Op::MaxPool { size: 2, stride: 2, padding: 0 }, &[last], None);
            }
            // The nodes of a layer share a label: transforms and policies find layers by it.
            let label = Some(Label::new("conv", block as u32, 0));
            for op in [Op::conv(*width, 3), Op::batch_norm(), Op::Relu] {
                last = network.push(op, &[last], label.clone());
            }
        }
        last = network.push(Op::GlobalPool, &[last], None);
        let label = Some(Label::new("classifier", BLOCKS as u32, 0));
        network.push(Op::Linear { units: problem.classes, bias: true }, &[last], label);
        network.verify().with_context(|| format!("no pyramid for images of {}", problem.input))?;
        Ok(network)
    }

    fn widths(&self, network: &Network, site: NodeId) -> &[usize] {
        match network.node(site).map(|node| node.op) {
            Some(Op::Conv { .. }) => &self.widths,
            // The classifier keeps its width: its units are the classes.
            _ => &[],
        }
    }

    fn kernels(&self) -> &[usize] {
        &KERNELS
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn vocabulary(&self) -> Vec<String> {
        vocabulary(&self.widths, &[], &KERNELS)
    }

    fn tokens(&self, network: &Network) -> Vec<Token> {
        tokens(network, &self.vocabulary())
    }

    /// The space again with few filters, for the law, which evaluates thousands of its networks.
    fn miniature(&self, rng: &mut Rng) -> anyhow::Result<Box<dyn SearchSpace>> {
        let (base, growth) = (2 + rng.below(3), 1 + rng.below(3));
        let widths = (0..).map(|rung| base + rung * growth).take_while(|width| *width <= 12);
        Ok(Box::new(Pyramid { widths: widths.collect(), limits: self.limits.clone() }))
    }
}
