//! The residual space: ResNets for small images (He et al. 2016, section 4.2).
//!
//! A stem, then stages of residual blocks, each stage but the first at half the resolution of the one
//! before, then global pooling and the classifier. Inside a stage the shortcut is the identity, so all
//! its blocks have one width; where width or resolution changes it is a 1x1 convolution (option B of
//! the paper). Labels say what is what: `stem` the first convolution, `residual` a block, numbered by
//! stage from 1 and by its place in the stage.

use anyhow::Context;
use eas_ir::{
    Built, Bytes, Count, Label, Network, NodeId, Op, Plugin, Rng, Value, parse_options,
    resolved_options,
};
use serde::{Deserialize, Serialize};

use super::convnet::widths;
use super::tokens;
use crate::options::{self, Bounded, Kernels, LARGEST, Widths};
use crate::registry::SpacePlugin;
use crate::space::{Limits, Problem, SearchSpace, Token};

/// Output channels of a bottleneck block, in widths of its 3x3 convolution.
const EXPANSION: usize = 4;

/// The most blocks of a stage: 1,000 layers, the deepest that the paper trains, and then some.
const MOST_BLOCKS: usize = 256;

/// Stages of residual blocks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Residual {
    stages: Vec<Stage>,
    bottleneck: bool,
    pre_activation: bool,
    dropout: f64,
    filters: Vec<usize>,
    kernels: Vec<usize>,
    limits: Limits,
}

/// The blocks at one resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    #[serde(deserialize_with = "blocks")]
    blocks: usize,
    /// Filters of the blocks' 3x3 convolutions.
    #[serde(deserialize_with = "width")]
    width: usize,
}

fn blocks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Bounded::<1, MOST_BLOCKS>::deserialize(deserializer).map(|count| count.0)
}

fn width<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Bounded::<1, LARGEST>::deserialize(deserializer).map(|width| width.0)
}

/// At least one stage.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Vec<Stage>")]
struct Stages(Vec<Stage>);

impl TryFrom<Vec<Stage>> for Stages {
    type Error = String;

    fn try_from(stages: Vec<Stage>) -> Result<Self, String> {
        match stages.len() {
            1..=16 => Ok(Stages(stages)),
            count => Err(format!("expected 1 to 16 stages, found {count}")),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Dropout(#[serde(deserialize_with = "options::rate")] f64);

/// The space as written: a preset, and what differs from it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ResidualSpec {
    preset: Preset,
    stages: Option<Stages>,
    bottleneck: Option<bool>,
    pre_activation: Option<bool>,
    dropout: Option<Dropout>,
    filters: Option<Widths>,
    kernels: Option<Kernels>,
    limits: Option<Limits>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Preset {
    /// ResNet-20.
    #[default]
    #[serde(rename = "resnet20")]
    ResNet20,
    /// One block a stage, half as wide: what a CPU trains in minutes.
    #[serde(rename = "small")]
    Small,
}

inventory::submit! {
    SpacePlugin(Plugin::new(
        "residual",
        "ResNets: stages of residual blocks, widths tied per stage",
        r#"preset = "resnet20"  # or "small": where the keys below start from
stages = [{ blocks = 3, width = 16 }, { blocks = 3, width = 32 }, { blocks = 3, width = 64 }]  # each but the first at half the resolution of the one before
bottleneck = false  # blocks of 1x1, 3x3 and 1x1 convolutions to 4 widths, or else of two 3x3
pre_activation = false  # batch norm and ReLU before each convolution, or else behind it
dropout = 0.0  # rate between the convolutions of a block
filters = [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]  # what a stage or the inside of a block may be widened to
kernels = [1, 3, 5]  # kernel sizes a convolution may have
limits = { depth = 64, parameters = "30M", macs = "1.5G", memory = "10GiB", blocks = 5, layers = 10 }  # what no network exceeds; blocks (stages, the stem being 0) and layers (blocks of a stage): those that edits may be picked from
"#,
        |options: Value<'_>| {
            let space = Residual::from(parse_options::<ResidualSpec>(options)?);
            Ok(Built { options: resolved_options(&space)?, implementation: Box::new(space) })
        },
    ))
}

impl From<ResidualSpec> for Residual {
    fn from(spec: ResidualSpec) -> Self {
        let preset = match spec.preset {
            Preset::ResNet20 => Residual::resnet20(),
            Preset::Small => Residual::small(),
        };
        Residual {
            stages: spec.stages.map_or(preset.stages, |list| list.0),
            bottleneck: spec.bottleneck.unwrap_or(preset.bottleneck),
            pre_activation: spec.pre_activation.unwrap_or(preset.pre_activation),
            dropout: spec.dropout.map_or(preset.dropout, |rate| rate.0),
            filters: spec.filters.map_or(preset.filters, |list| list.0),
            kernels: spec.kernels.map_or(preset.kernels, |list| list.0),
            limits: spec.limits.unwrap_or(preset.limits),
        }
    }
}

impl Residual {
    /// From ResNet-20 (He et al. 2016, section 4.2), with projections where shapes change.
    pub fn resnet20() -> Self {
        Residual {
            stages: stages(3, [16, 32, 64]),
            bottleneck: false,
            pre_activation: false,
            dropout: 0.0,
            filters: vec![8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256],
            kernels: vec![1, 3, 5],
            limits: Limits { depth: 64, ..Limits::default() },
        }
    }

    /// From one block a stage, half as wide as ResNet-20.
    pub fn small() -> Self {
        Residual {
            stages: stages(1, [8, 16, 32]),
            limits: Limits {
                depth: 32,
                parameters: Count(1_000_000),
                macs: Count(100_000_000),
                ..Limits::default()
            },
            ..Residual::resnet20()
        }
    }

    /// The branch and the shortcut of a block, added; returns its last node.
    fn push_block(
        &self,
        network: &mut Network,
        input: NodeId,
        shape: BlockShape,
        label: &Label,
    ) -> NodeId {
        let BlockShape { width, stride, projection } = shape;
        let push = |network: &mut Network, op: Op, inputs: &[NodeId]| {
            network.push(op, inputs, Some(label.clone()))
        };
        let activate = |network: &mut Network, last: NodeId| {
            let last = push(network, Op::batch_norm(), &[last]);
            push(network, Op::Relu, &[last])
        };
        let convolutions = if self.bottleneck {
            vec![conv(width, 1, 1), conv(width, 3, stride), conv(EXPANSION * width, 1, 1)]
        } else {
            vec![conv(width, 3, stride), conv(width, 3, 1)]
        };
        let outer = self.outer(width);
        let (mut last, mut shortcut) = (input, input);
        for (place, op) in convolutions.into_iter().enumerate() {
            if self.pre_activation {
                last = activate(network, last);
                if place == 0 && projection {
                    shortcut = push(network, conv(outer, 1, stride), &[last]);
                }
            } else if place > 0 {
                last = push(network, Op::Relu, &[last]);
            }
            if place > 0 && self.dropout > 0.0 {
                last = push(network, Op::Dropout { rate: self.dropout as f32 }, &[last]);
            }
            last = push(network, op, &[last]);
            if !self.pre_activation {
                last = push(network, Op::batch_norm(), &[last]);
            }
        }
        if projection && !self.pre_activation {
            shortcut = push(network, conv(outer, 1, stride), &[input]);
            shortcut = push(network, Op::batch_norm(), &[shortcut]);
        }
        last = push(network, Op::Add, &[last, shortcut]);
        if self.pre_activation { last } else { push(network, Op::Relu, &[last]) }
    }

    /// Channels of a stage whose blocks have this width.
    fn outer(&self, width: usize) -> usize {
        if self.bottleneck { EXPANSION * width } else { width }
    }
}

/// What differs between the blocks of a space.
#[derive(Clone, Copy)]
struct BlockShape {
    width: usize,
    stride: usize,
    projection: bool,
}

fn conv(filters: usize, kernel: usize, stride: usize) -> Op {
    Op::Conv { filters, kernel, stride, padding: kernel / 2, groups: 1, bias: false }
}

fn stages(blocks: usize, widths: [usize; 3]) -> Vec<Stage> {
    widths.map(|width| Stage { blocks, width }).to_vec()
}

impl SearchSpace for Residual {
    fn start(&self, problem: &Problem) -> anyhow::Result<Network> {
        let mut network = Network::new();
        let input = network.push(Op::Input { shape: problem.input }, &[], None);
        let stem = Some(Label::new("stem", 0, 0));
        let mut channels = self.stages[0].width;
        let mut last = network.push(conv(channels, 3, 1), &[input], stem.clone());
        if !self.pre_activation {
            last = network.push(Op::batch_norm(), &[last], stem.clone());
            last = network.push(Op::Relu, &[last], stem);
        }
        for (number, stage) in (1..).zip(&self.stages) {
            for block in 0..stage.blocks {
                let stride = if number > 1 && block == 0 { 2 } else { 1 };
                let outer = self.outer(stage.width);
                let projection = stride > 1 || outer != channels;
                let shape = BlockShape { width: stage.width, stride, projection };
                let label = Label::new("residual", number, block as u32);
                last = self.push_block(&mut network, last, shape, &label);
                channels = outer;
            }
        }
        if self.pre_activation {
            last = network.push(Op::batch_norm(), &[last], None);
            last = network.push(Op::Relu, &[last], None);
        }
        last = network.push(Op::GlobalPool, &[last], None);
        let label = Label::new("classifier", self.stages.len() as u32 + 1, 0);
        network.push(Op::Linear { units: problem.classes, bias: true }, &[last], Some(label));
        network
            .verify()
            .with_context(|| format!("stages is no network for images of {}", problem.input))?;
        Ok(network)
    }

    fn widths(&self, network: &Network, site: NodeId) -> &[usize] {
        widths(network, site, &self.filters, &[])
    }

    fn kernels(&self) -> &[usize] {
        &self.kernels
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn vocabulary(&self) -> Vec<String> {
        tokens::vocabulary(&self.filters, &[], &self.kernels)
    }

    fn tokens(&self, network: &Network) -> Vec<Token> {
        tokens::tokens(network, &self.vocabulary())
    }

    fn miniature(&self, rng: &mut Rng) -> anyhow::Result<Box<dyn SearchSpace>> {
        let filters = vec![2, 3, 4, 6, 8, 10, 12];
        // Stages of one width have no projection unless the resolution changes: both are drawn.
        let mut stage = |_| Stage { blocks: 1 + rng.below(2), width: filters[rng.below(3)] };
        let stages: Vec<Stage> = (0..2).map(&mut stage).collect();
        let limits = Limits { memory: Bytes(1 << 30), ..self.limits.clone() };
        let miniature = Residual {
            stages,
            bottleneck: rng.below(3) == 0,
            pre_activation: rng.below(2) == 0,
            filters,
            limits,
            ..self.clone()
        };
        Ok(Box::new(miniature))
    }
}
