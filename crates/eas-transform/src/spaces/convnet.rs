//! The plain CNN space (Cai et al. 2018, section 4.1).

use anyhow::Context;
use eas_ir::{
    Built, Bytes, Count, Network, NodeId, Op, Plugin, Rng, Value, parse_options, resolved_options,
};
use serde::{Deserialize, Serialize};

use super::layers::{Layer, LayerStyle, plain_network};
use super::tokens;
use crate::options::{self, Kernels, Widths};
use crate::registry::SpacePlugin;
use crate::space::{Limits, Problem, SearchSpace, Token};

/// Plain networks: convolutions and pooling, then linear layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConvNet {
    start: Vec<Layer>,
    filters: Vec<usize>,
    units: Vec<usize>,
    kernels: Vec<usize>,
    batch_norm: bool,
    dropout: Dropout,
    limits: Limits,
}

/// Dropout rates; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Dropout {
    /// Behind each convolution but the first.
    #[serde(deserialize_with = "options::rate")]
    conv: f64,
    /// Behind each hidden linear layer.
    #[serde(deserialize_with = "options::rate")]
    linear: f64,
}

impl Default for Dropout {
    fn default() -> Self {
        Dropout { conv: 0.0, linear: 0.0 }
    }
}

/// The space as written: a preset, and what differs from it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConvNetSpec {
    preset: Preset,
    start: Option<Vec<Layer>>,
    filters: Option<Widths>,
    units: Option<Widths>,
    kernels: Option<Kernels>,
    batch_norm: Option<bool>,
    dropout: Option<Dropout>,
    limits: Option<Limits>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// The paper's stage runs: 16 to 512 filters, 64 to 1024 units.
    #[default]
    Paper,
    /// The released configuration: 4 to 40 filters, 8 to 80 units.
    Small,
}

inventory::submit! {
    SpacePlugin(Plugin::new(
        "convnet",
        "plain CNNs: convolutions and pooling, then linear layers",
        r#"preset = "paper"  # or "small": where the keys below start from
start = ["conv 16", "pool", "conv 32", "pool", "conv 64", "pool", "conv 128", "global_pool", "linear 256"]  # the first network; a classifier is added
filters = [16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512]  # what a convolution may be widened to
units = [64, 128, 256, 384, 512, 640, 768, 896, 1024]  # what a linear layer may be widened to
kernels = [1, 3, 5]  # kernel sizes a convolution may have
batch_norm = true  # behind every convolution and hidden linear layer
dropout = { conv = 0.0, linear = 0.0 }  # rates behind them; the first convolution has none
limits = { depth = 32, parameters = "30M", macs = "1.5G", memory = "10GiB", blocks = 5, layers = 10 }  # what no network exceeds; blocks and layers of a block: those that edits may be picked from
"#,
        |options: Value<'_>| {
            let space = ConvNet::from(parse_options::<ConvNetSpec>(options)?);
            Ok(Built { options: resolved_options(&space)?, implementation: Box::new(space) })
        },
    ))
}

impl From<ConvNetSpec> for ConvNet {
    fn from(spec: ConvNetSpec) -> Self {
        let preset = match spec.preset {
            Preset::Paper => ConvNet::paper(),
            Preset::Small => ConvNet::small(),
        };
        ConvNet {
            start: spec.start.unwrap_or(preset.start),
            filters: spec.filters.map_or(preset.filters, |list| list.0),
            units: spec.units.map_or(preset.units, |list| list.0),
            kernels: spec.kernels.map_or(preset.kernels, |list| list.0),
            batch_norm: spec.batch_norm.unwrap_or(preset.batch_norm),
            dropout: spec.dropout.unwrap_or(preset.dropout),
            limits: spec.limits.unwrap_or(preset.limits),
        }
    }
}

impl ConvNet {
    /// The space of the paper's stage runs, and its start network (table 1).
    pub fn paper() -> Self {
        ConvNet {
            start: start([16, 32, 64, 128], 256),
            filters: vec![16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512],
            units: vec![64, 128, 256, 384, 512, 640, 768, 896, 1024],
            kernels: vec![1, 3, 5],
            batch_norm: true,
            dropout: Dropout::default(),
            limits: Limits::default(),
        }
    }

    /// The space of the released configuration, and its start network.
    pub fn small() -> Self {
        ConvNet {
            start: start([4, 4, 4, 4], 8),
            filters: (1..=10).map(|tenth| 4 * tenth).collect(),
            units: (1..=10).map(|tenth| 8 * tenth).collect(),
            limits: Limits {
                parameters: Count(1_000_000),
                macs: Count(100_000_000),
                ..Limits::default()
            },
            ..ConvNet::paper()
        }
    }
}

/// Four blocks of one convolution, halved by pooling, and one hidden linear layer.
fn start(filters: [usize; 4], units: usize) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (block, filters) in filters.into_iter().enumerate() {
        if block > 0 {
            layers.push(Layer::Pool { size: 2, stride: 2 });
        }
        layers.push(Layer::Conv { filters, kernel: 3 });
    }
    layers.extend([Layer::GlobalPool, Layer::Linear { units }]);
    layers
}

impl SearchSpace for ConvNet {
    fn start(&self, problem: &Problem) -> anyhow::Result<Network> {
        let style = LayerStyle {
            batch_norm: self.batch_norm,
            dropout_conv: self.dropout.conv as f32,
            dropout_linear: self.dropout.linear as f32,
        };
        let network = plain_network(&self.start, style, problem.input, problem.classes);
        let list: Vec<String> = self.start.iter().map(Layer::to_string).collect();
        network.verify().with_context(|| {
            format!("start = {list:?} is no network for images of {}", problem.input)
        })?;
        Ok(network)
    }

    fn widths(&self, network: &Network, site: NodeId) -> &[usize] {
        widths(network, site, &self.filters, &self.units)
    }

    fn kernels(&self) -> &[usize] {
        &self.kernels
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn vocabulary(&self) -> Vec<String> {
        tokens::vocabulary(&self.filters, &self.units, &self.kernels)
    }

    fn tokens(&self, network: &Network) -> Vec<Token> {
        tokens::tokens(network, &self.vocabulary())
    }

    fn miniature(&self, rng: &mut Rng) -> anyhow::Result<Box<dyn SearchSpace>> {
        let widths = vec![2, 3, 4, 6, 8, 10, 12];
        // Flattening more than one pixel is where widening can go wrong, so half the networks leave
        // out their last pooling and flatten what is left.
        let flat = rng.below(2) == 0;
        let last_pool = self.start.iter().rposition(|layer| matches!(layer, Layer::Pool { .. }));
        let mut start = Vec::new();
        for (place, layer) in self.start.iter().enumerate() {
            let width = widths[2 + rng.below(4)];
            start.push(match *layer {
                Layer::Conv { kernel, .. } => Layer::Conv { filters: width, kernel },
                Layer::Linear { .. } => Layer::Linear { units: width },
                Layer::GlobalPool if flat => Layer::Flatten,
                Layer::Pool { .. } if flat && Some(place) == last_pool => continue,
                same => same,
            });
        }
        let limits = Limits { depth: 16, memory: Bytes(1 << 30), ..self.limits.clone() };
        let miniature =
            ConvNet { start, filters: widths.clone(), units: widths, limits, ..self.clone() };
        Ok(Box::new(miniature))
    }
}

/// The list of widths that a layer's kind has.
pub(super) fn widths<'a>(
    network: &Network,
    site: NodeId,
    filters: &'a [usize],
    units: &'a [usize],
) -> &'a [usize] {
    match network.node(site).map(|node| node.op) {
        Some(Op::Conv { .. }) => filters,
        Some(Op::Linear { .. }) => units,
        _ => &[],
    }
}
