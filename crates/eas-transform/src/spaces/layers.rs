//! The layer list of a plain network, as written in a spec: `["conv 16", "pool", "linear 256"]`.

use std::fmt;
use std::str::FromStr;

use eas_ir::{Label, Network, NodeId, Op, Shape};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One entry of the list. Text: `conv FILTERS [KERNEL]`, `pool [SIZE [STRIDE]]` (largest value),
/// `average_pool [SIZE [STRIDE]]`, `global_pool`, `flatten`, `linear UNITS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Conv { filters: usize, kernel: usize },
    Pool { size: usize, stride: usize },
    AveragePool { size: usize, stride: usize },
    GlobalPool,
    Flatten,
    Linear { units: usize },
}

const NAMES: [&str; 6] = ["conv", "pool", "average_pool", "global_pool", "flatten", "linear"];

impl FromStr for Layer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (name, rest) = words.split_first().ok_or("expected a layer, found nothing")?;
        let mut numbers = Vec::new();
        for word in rest {
            let number = word.parse().ok().filter(|number| (1..=1 << 16).contains(number));
            numbers.push(number.ok_or_else(|| {
                format!("`{text}`: expected a number between 1 and 65536, found `{word}`")
            })?);
        }
        let layer = match (*name, numbers.as_slice()) {
            ("conv", [filters]) => Layer::Conv { filters: *filters, kernel: 3 },
            ("conv", [filters, kernel]) if kernel % 2 == 1 => {
                Layer::Conv { filters: *filters, kernel: *kernel }
            }
            ("conv", [_, kernel]) => {
                return Err(format!("`{text}`: expected an odd kernel size, found {kernel}"));
            }
            ("pool", []) => Layer::Pool { size: 2, stride: 2 },
            ("pool", [size]) => Layer::Pool { size: *size, stride: *size },
            ("pool", [size, stride]) => Layer::Pool { size: *size, stride: *stride },
            ("average_pool", []) => Layer::AveragePool { size: 2, stride: 2 },
            ("average_pool", [size]) => Layer::AveragePool { size: *size, stride: *size },
            ("average_pool", [size, stride]) => Layer::AveragePool { size: *size, stride: *stride },
            ("global_pool", []) => Layer::GlobalPool,
            ("flatten", []) => Layer::Flatten,
            ("linear", [units]) => Layer::Linear { units: *units },
            (known, _) if NAMES.contains(&known) => {
                return Err(format!(
                    "`{text}`: expected `conv FILTERS [KERNEL]`, `pool [SIZE [STRIDE]]`, \
                     `average_pool [SIZE [STRIDE]]`, `global_pool`, `flatten` or `linear UNITS`"
                ));
            }
            (unknown, _) => {
                let hint = match eas_ir::nearest(unknown, NAMES) {
                    Some(near) => format!("; did you mean `{near}`?"),
                    None => format!(" (there are: {})", NAMES.join(", ")),
                };
                return Err(format!("no layer named `{unknown}`{hint}"));
            }
        };
        Ok(layer)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Layer::Conv { filters, kernel: 3 } => write!(out, "conv {filters}"),
            Layer::Conv { filters, kernel } => write!(out, "conv {filters} {kernel}"),
            Layer::Pool { size: 2, stride: 2 } => write!(out, "pool"),
            Layer::Pool { size, stride } => write!(out, "pool {size} {stride}"),
            Layer::AveragePool { size: 2, stride: 2 } => write!(out, "average_pool"),
            Layer::AveragePool { size, stride } => write!(out, "average_pool {size} {stride}"),
            Layer::GlobalPool => write!(out, "global_pool"),
            Layer::Flatten => write!(out, "flatten"),
            Layer::Linear { units } => write!(out, "linear {units}"),
        }
    }
}

impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What stands around each convolution and hidden linear layer of a plain network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayerStyle {
    /// A batch norm behind it, and no bias.
    pub(crate) batch_norm: bool,
    /// Dropout behind each convolution but the first; 0 for none.
    pub(crate) dropout_conv: f32,
    /// Dropout behind each hidden linear layer; 0 for none.
    pub(crate) dropout_linear: f32,
}

/// The plain network of a layer list: every convolution and hidden linear layer with batch norm and
/// ReLU, blocks separated by pooling, the linear layers in a block of their own, and a classifier
/// with bias at the end (method: Cai et al. 2018, table 1).
pub(crate) fn plain_network(
    layers: &[Layer],
    style: LayerStyle,
    input: Shape,
    classes: usize,
) -> Network {
    let mut network = Network::new();
    let mut last = network.push(Op::Input { shape: input }, &[], None);
    let (mut block, mut layer) = (0, 0);
    let mut flat = matches!(input, Shape::Flat { .. });
    let mut first = true;
    let flatten = |network: &mut Network, last: &mut NodeId, op: Op| {
        *last = network.push(op, &[*last], None);
    };
    for entry in layers {
        match *entry {
            Layer::Conv { filters, kernel } => {
                let mut op = Op::conv(filters, kernel);
                if let Op::Conv { bias, .. } = &mut op {
                    *bias = !style.batch_norm;
                }
                let rate = if first { 0.0 } else { style.dropout_conv };
                let label = Label::new("conv", block, layer);
                last = push_layer(&mut network, last, op, style.batch_norm, rate, label);
                first = false;
                layer += 1;
            }
            Layer::Linear { units } => {
                if !flat {
                    flatten(&mut network, &mut last, Op::Flatten);
                    flat = true;
                    (block, layer) = (block + u32::from(layer > 0), 0);
                }
                let op = Op::Linear { units, bias: !style.batch_norm };
                let label = Label::new("linear", block, layer);
                let rate = style.dropout_linear;
                last = push_layer(&mut network, last, op, style.batch_norm, rate, label);
                layer += 1;
            }
            Layer::Pool { size, stride } => {
                last = network.push(Op::MaxPool { size, stride, padding: 0 }, &[last], None);
                (block, layer) = (block + 1, 0);
            }
            Layer::AveragePool { size, stride } => {
                last = network.push(Op::AveragePool { size, stride }, &[last], None);
                (block, layer) = (block + 1, 0);
            }
            Layer::GlobalPool | Layer::Flatten => {
                let pooled = *entry == Layer::GlobalPool;
                let op = if pooled { Op::GlobalPool } else { Op::Flatten };
                flatten(&mut network, &mut last, op);
                flat = true;
                (block, layer) = (block + u32::from(layer > 0), 0);
            }
        }
    }
    if !flat {
        flatten(&mut network, &mut last, Op::Flatten);
        (block, layer) = (block + u32::from(layer > 0), 0);
    }
    let label = Label::new("classifier", block + u32::from(layer > 0), 0);
    network.push(Op::Linear { units: classes, bias: true }, &[last], Some(label));
    network
}

fn push_layer(
    network: &mut Network,
    input: NodeId,
    op: Op,
    batch_norm: bool,
    dropout: f32,
    label: Label,
) -> NodeId {
    let mut last = network.push(op, &[input], Some(label.clone()));
    if batch_norm {
        last = network.push(Op::batch_norm(), &[last], Some(label.clone()));
    }
    last = network.push(Op::Relu, &[last], Some(label.clone()));
    if dropout > 0.0 {
        last = network.push(Op::Dropout { rate: dropout }, &[last], Some(label));
    }
    last
}
