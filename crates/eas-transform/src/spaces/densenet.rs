//! The DenseNet and DenseNet-BC spaces (Huang et al. 2017; searched by Cai et al. 2018, section 4.2).
//!
//! Every layer of a dense block reads the block's input and the outputs of all layers before it, joined
//! along the channels. Labels say what is what: `stem` the first convolution, `dense` a layer of a
//! block, `transition` what joins two blocks, `classifier` the rest. Dense blocks are numbered from 0 and all
//! else behind them, since a policy tells layers apart by block and layer alone.

use anyhow::Context;
use eas_ir::{
    Built, Bytes, Count, Label, Network, NodeId, Op, Plugin, Rng, Value, parse_options,
    resolved_options,
};
use serde::{Deserialize, Serialize};

use crate::options::{self, Bounded, Kernels, Widths};
use crate::registry::SpacePlugin;
use crate::space::{Limits, Problem, SearchSpace, Token};
use crate::transforms::{DenseLayer, dense_layers, portion};

/// Dense blocks with transitions between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DenseNet {
    depth: usize,
    growth: usize,
    blocks: usize,
    bottleneck: usize,
    compression: f64,
    first_ratio: f64,
    pre_activation: bool,
    dropout: f64,
    growths: Vec<usize>,
    kernels: Vec<usize>,
    limits: Limits,
}

/// The space as written: a preset, and what differs from it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DenseNetSpec {
    preset: Preset,
    depth: Option<Bounded<1, 1024>>,
    growth: Option<Bounded<1, 1024>>,
    blocks: Option<Bounded<1, 16>>,
    bottleneck: Option<Bounded<0, 64>>,
    compression: Option<Compression>,
    first_ratio: Option<FirstRatio>,
    pre_activation: Option<bool>,
    dropout: Option<Rate>,
    growths: Option<Widths>,
    kernels: Option<Kernels>,
    limits: Option<Limits>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Compression(#[serde(deserialize_with = "options::compression")] f64);

#[derive(Clone, Copy, Debug, Deserialize)]
struct FirstRatio(#[serde(deserialize_with = "options::first_ratio")] f64);

#[derive(Clone, Copy, Debug, Deserialize)]
struct Rate(#[serde(deserialize_with = "options::rate")] f64);

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Preset {
    /// The paper's: DenseNet-BC of 40 layers and growth rate 40, which may grow to 64.
    #[default]
    #[serde(rename = "paper")]
    Paper,
    /// The growth rates of the released configuration, 4 to 48, from a network that a CPU can train.
    #[serde(rename = "small")]
    Small,
    /// From DenseNet-BC of 40 layers and growth rate 12.
    #[serde(rename = "bc-40-12")]
    Bc40Growth12,
}

inventory::submit! {
    SpacePlugin(Plugin::new(
        "densenet",
        "DenseNet and DenseNet-BC: dense blocks with transitions between them",
        r#"preset = "paper"  # or "small", "bc-40-12": where the keys below start from
depth = 40  # convolutions and the classifier of the first network
growth = 40  # its growth rate: channels that a layer adds
blocks = 3  # dense blocks, each at half the resolution of the one before
bottleneck = 4  # a 1x1 convolution to so many growth rates comes before each 3x3; 0 for none
compression = 0.5  # channels behind a transition, as a share of those before it
first_ratio = 2.0  # channels of the first convolution, in growth rates
pre_activation = true  # batch norm and ReLU before each convolution, or else behind it
dropout = 0.0  # rate behind each convolution but the first
growths = [40, 44, 48, 52, 56, 60, 64]  # what a layer's growth rate may be widened to
kernels = [1, 3]  # kernel sizes of inserted convolutions
limits = { depth = 124, parameters = "30M", macs = "6G", memory = "20GiB", blocks = 3, layers = 20 }  # what no network exceeds; blocks and layers of a block: those that edits may be picked from
"#,
        |options: Value<'_>| {
            let space = DenseNet::from(parse_options::<DenseNetSpec>(options)?);
            Ok(Built { options: resolved_options(&space)?, implementation: Box::new(space) })
        },
    ))
}

impl From<DenseNetSpec> for DenseNet {
    fn from(spec: DenseNetSpec) -> Self {
        let preset = match spec.preset {
            Preset::Paper => DenseNet::paper(),
            Preset::Small => DenseNet::small(),
            Preset::Bc40Growth12 => DenseNet::bc_40_12(),
        };
        DenseNet {
            depth: spec.depth.map_or(preset.depth, |depth| depth.0),
            growth: spec.growth.map_or(preset.growth, |growth| growth.0),
            blocks: spec.blocks.map_or(preset.blocks, |blocks| blocks.0),
            bottleneck: spec.bottleneck.map_or(preset.bottleneck, |ratio| ratio.0),
            compression: spec.compression.map_or(preset.compression, |ratio| ratio.0),
            first_ratio: spec.first_ratio.map_or(preset.first_ratio, |ratio| ratio.0),
            pre_activation: spec.pre_activation.unwrap_or(preset.pre_activation),
            dropout: spec.dropout.map_or(preset.dropout, |rate| rate.0),
            growths: spec.growths.map_or(preset.growths, |list| list.0),
            kernels: spec.kernels.map_or(preset.kernels, |list| list.0),
            limits: spec.limits.unwrap_or(preset.limits),
        }
    }
}

impl DenseNet {
    /// The paper's space: from DenseNet-BC of 40 layers and growth rate 40, growth rates up to 64.
    pub fn paper() -> Self {
        DenseNet {
            depth: 40,
            growth: 40,
            blocks: 3,
            bottleneck: 4,
            compression: 0.5,
            first_ratio: 2.0,
            pre_activation: true,
            dropout: 0.0,
            growths: (40..=64).step_by(4).collect(),
            kernels: vec![1, 3],
            limits: Limits {
                depth: 124,
                macs: Count(6_000_000_000),
                memory: Bytes(20 << 30),
                blocks: 3,
                layers: 20,
                ..Limits::default()
            },
        }
    }

    /// The growth rates of the released configuration, from a network of 16 layers that a CPU can
    /// train.
    pub fn small() -> Self {
        let paper = DenseNet::paper();
        let limits = Limits {
            parameters: Count(1_000_000),
            macs: Count(100_000_000),
            ..paper.limits.clone()
        };
        DenseNet { depth: 16, growth: 4, growths: (4..=48).step_by(2).collect(), limits, ..paper }
    }

    /// The growth rates of the released configuration, from DenseNet-BC of 40 layers and growth rate
    /// 12.
    pub fn bc_40_12() -> Self {
        DenseNet { depth: 40, growth: 12, limits: DenseNet::paper().limits, ..DenseNet::small() }
    }

    /// Convolutions of a layer of a dense block, before any edit.
    fn convolutions(&self) -> usize {
        1 + usize::from(self.bottleneck > 0)
    }

    /// Layers of each block of the first network.
    fn layers(&self) -> anyhow::Result<usize> {
        // The first convolution, the transitions and the classifier are layers, too.
        let (around, each) = (self.blocks + 1, self.blocks * self.convolutions());
        let inside = self.depth.checked_sub(around).filter(|inside| inside % each == 0);
        inside.map(|inside| inside / each).filter(|layers| *layers > 0).with_context(|| {
            let below = self.depth.saturating_sub(around) / each;
            let near = [below.max(1), below.max(1) + 1].map(|layers| around + each * layers);
            format!(
                "depth = {}: expected {around} and a multiple of {each}, such as {} or {}",
                self.depth, near[0], near[1]
            )
        })
    }

    fn network(&self, problem: &Problem) -> anyhow::Result<Network> {
        let layers = self.layers()?;
        let mut builder = Builder { space: self, network: Network::new() };
        let input = builder.network.push(Op::Input { shape: problem.input }, &[], None);
        let blocks = self.blocks as u32;
        let stem = Label::new("stem", blocks, 0);
        let mut channels = portion(self.growth as f64, self.first_ratio);
        let conv = Op::conv(channels, 3);
        let mut last = if self.pre_activation {
            builder.push(conv, input, &stem)
        } else {
            let conv = builder.push(conv, input, &stem);
            builder.activate(conv, &stem)
        };
        for block in 0..blocks {
            for layer in 0..layers as u32 {
                let label = Label::new("dense", block, layer);
                let mut body = last;
                if self.bottleneck > 0 {
                    let bottleneck = Op::conv(self.bottleneck * self.growth, 1);
                    body = builder.convolution(bottleneck, body, &label);
                }
                body = builder.convolution(Op::conv(self.growth, 3), body, &label);
                last = builder.network.push(Op::Concat, &[last, body], Some(label));
                channels += self.growth;
            }
            if block + 1 < blocks {
                let label = Label::new("transition", blocks + 1 + block, 0);
                channels = portion(channels as f64, self.compression);
                last = builder.convolution(Op::conv(channels, 1), last, &label);
                last = builder.push(Op::AveragePool { size: 2, stride: 2 }, last, &label);
            }
        }
        let label = Label::new("classifier", 2 * blocks, 0);
        if self.pre_activation {
            last = builder.activate(last, &label);
        }
        last = builder.push(Op::GlobalPool, last, &label);
        builder.push(Op::Linear { units: problem.classes, bias: true }, last, &label);
        Ok(builder.network)
    }
}

/// A network being built in the space's style.
struct Builder<'a> {
    space: &'a DenseNet,
    network: Network,
}

impl Builder<'_> {
    fn push(&mut self, op: Op, input: NodeId, label: &Label) -> NodeId {
        self.network.push(op, &[input], Some(label.clone()))
    }

    fn activate(&mut self, input: NodeId, label: &Label) -> NodeId {
        let batch_norm = self.push(Op::batch_norm(), input, label);
        self.push(Op::Relu, batch_norm, label)
    }

    /// A convolution with its batch norm and ReLU on the space's side of it, and its dropout.
    fn convolution(&mut self, op: Op, input: NodeId, label: &Label) -> NodeId {
        let mut last = if self.space.pre_activation {
            let active = self.activate(input, label);
            self.push(op, active, label)
        } else {
            let conv = self.push(op, input, label);
            self.activate(conv, label)
        };
        if self.space.dropout > 0.0 {
            last = self.push(Op::Dropout { rate: self.space.dropout as f32 }, last, label);
        }
        last
    }
}

impl SearchSpace for DenseNet {
    fn start(&self, problem: &Problem) -> anyhow::Result<Network> {
        let network = self.network(problem)?;
        network.verify().with_context(|| {
            format!(
                "depth = {}, growth = {}, blocks = {} make no network for images of {}",
                self.depth, self.growth, self.blocks, problem.input
            )
        })?;
        Ok(network)
    }

    fn widths(&self, network: &Network, site: NodeId) -> &[usize] {
        let is_growth = dense_layers(network).iter().any(|layer| layer.growth == site);
        if is_growth { &self.growths } else { &[] }
    }

    fn kernels(&self) -> &[usize] {
        &self.kernels
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    /// `g` and the growth rate for a layer of a block, `t` for the first convolution, a transition and
    /// the classifier (method: Cai et al. 2018); beyond those, `k` and the kernel size for each
    /// convolution that was inserted into a layer, and `g` for a growth rate in no list, `k` for a
    /// kernel in none.
    fn vocabulary(&self) -> Vec<String> {
        let growths = self.growths.iter().map(|growth| format!("g{growth}"));
        let kernels = self.kernels.iter().map(|kernel| format!("k{kernel}"));
        let rest = ["t", "g", "k"].map(str::to_owned);
        growths.chain(kernels).chain(rest).collect()
    }

    fn tokens(&self, network: &Network) -> Vec<Token> {
        let words = self.vocabulary();
        let find = |word: &str| words.iter().position(|known| known == word);
        let token = |exact: &str, site| {
            let id = find(exact).or_else(|| find(&exact[..1])).expect("every kind is a word");
            Token { id, site }
        };
        let layers = dense_layers(network);
        let mut tokens = Vec::new();
        for node in network.nodes() {
            let kind = node.label.as_ref().map(|label| label.kind.as_str());
            match (node.op, kind) {
                (Op::Concat, _) => {
                    let of_node = |layer: &&DenseLayer| layer.concat == node.id;
                    let Some(layer) = layers.iter().find(of_node) else { continue };
                    tokens.push(token(&format!("g{}", layer.growth_rate()), Some(layer.growth)));
                    for inserted in layer.convolutions.iter().skip(self.convolutions()) {
                        tokens.push(token(&format!("k{}", inserted.kernel), None));
                    }
                }
                (Op::Conv { .. }, Some("stem" | "transition")) => {
                    tokens.push(token("t", Some(node.id)));
                }
                (Op::Linear { .. }, _) => tokens.push(token("t", None)),
                _ => {}
            }
        }
        tokens
    }

    fn miniature(&self, rng: &mut Rng) -> anyhow::Result<Box<dyn SearchSpace>> {
        let growths = vec![2, 3, 4, 5, 6];
        let growth = growths[rng.below(3)];
        let (blocks, bottleneck) = (2, self.bottleneck.min(2));
        let first_ratio = self.first_ratio.min(3.0);
        let mut miniature =
            DenseNet { growth, blocks, bottleneck, first_ratio, growths, ..self.clone() };
        miniature.depth = blocks + 1 + blocks * miniature.convolutions() * (1 + rng.below(2));
        Ok(Box::new(miniature))
    }
}
