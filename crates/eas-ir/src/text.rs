//! A network as text: `Display` for people and golden files, TOML for `network.toml`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::network::{Label, Network, Node, NodeId};
use crate::op::{BATCH_NORM_EPSILON, Op};
use crate::saved::MetadataText;
use crate::verify::Violations;

/// The version of the file format; readers refuse a newer one.
pub(crate) const FORMAT: u32 = 1;

/// Why a text isn't a network.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetworkError {
    /// Not TOML, or not the TOML of a network: the message points at the place.
    #[error("{}", .0.to_string().trim_end())]
    Syntax(#[from] toml::de::Error),
    /// Written by a newer version.
    #[error("expected format {FORMAT} or older, found {0}: a newer version of EAS wrote this file")]
    Format(u32),
    /// TOML, but no network.
    #[error("not a network: {0}")]
    Rules(#[from] Violations),
}

/// The one key that every version of the format has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(rename = "format")]
    _format: u32,
    #[serde(default)]
    next: u32,
    #[serde(default)]
    metadata: MetadataText,
    #[serde(default)]
    node: Vec<NodeText>,
}

/// A node as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeText {
    id: NodeId,
    op: Op,
    #[serde(default)]
    inputs: Vec<NodeId>,
    label: Option<Label>,
}

impl From<NodeText> for Node {
    fn from(text: NodeText) -> Self {
        Node { id: text.id, op: text.op, inputs: text.inputs, label: text.label }
    }
}

impl Network {
    /// The network as TOML: a `[[node]]` table each, in topological order.
    pub fn to_toml(&self) -> String {
        format!("format = {FORMAT}\nnext = {}\n{}", self.next(), self.nodes_to_toml())
    }

    /// The `[[node]]` tables alone, for files that hold more than a network.
    pub(crate) fn nodes_to_toml(&self) -> String {
        let mut text = String::new();
        for node in self.nodes() {
            text += &format!("\n[[node]]\nid = \"{}\"\nop = {}\n", node.id, inline(&node.op));
            if !node.inputs.is_empty() {
                text += &format!("inputs = {}\n", inline(&node.inputs));
            }
            if let Some(label) = &node.label {
                text += &format!("label = \"{label}\"\n");
            }
        }
        text
    }

    /// Reads what [`Network::to_toml`] writes, or a model's `network.toml`, and checks it.
    ///
    /// # Errors
    /// Text that is no TOML, no network, or breaks the rules of [`Network::verify`].
    pub fn from_toml(text: &str) -> Result<Self, NetworkError> {
        read(text).map(|(network, _)| network)
    }
}

/// The verified network and the metadata of a `network.toml`.
pub(crate) fn read(text: &str) -> Result<(Network, MetadataText), NetworkError> {
    // The version comes first: a newer file may have keys that this version doesn't know.
    let Version { format } = toml::from_str(text)?;
    if format > FORMAT {
        return Err(NetworkError::Format(format));
    }
    let file: FileText = toml::from_str(text)?;
    let network = Network::from_nodes(file.next, file.node.into_iter().map(Node::from).collect());
    network.verify()?;
    Ok((network, file.metadata))
}

/// A value on one line.
fn inline(value: &impl Serialize) -> String {
    let mut text = String::new();
    value
        .serialize(toml::ser::ValueSerializer::new(&mut text))
        .expect("operations and ids have a TOML form");
    text
}

/// One line a node: `n3  conv1.0  conv 16 3x3 (n2) → 16x32x32`, shapes where the network verifies.
impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self.verify().ok();
        let label = |node: &Node| node.label.as_ref().map(Label::to_string).unwrap_or_default();
        let ids = self.nodes().iter().map(|n| n.id.to_string().len()).max().unwrap_or(0);
        let labels = self.nodes().iter().map(|n| label(n).len()).max().unwrap_or(0);
        for node in self.nodes() {
            write!(out, "{:ids$}  {:labels$}  {}", node.id.to_string(), label(node), node.op)?;
            if !node.inputs.is_empty() {
                let inputs: Vec<String> = node.inputs.iter().map(NodeId::to_string).collect();
                write!(out, " ({})", inputs.join(", "))?;
            }
            match shapes.as_ref().and_then(|shapes| shapes.get(node.id)) {
                Some(shape) => writeln!(out, " → {shape}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }
}

/// The operation with its parameters, those with their usual values left out.
impl fmt::Display for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())?;
        match *self {
            Op::Input { shape } => write!(out, " {shape}"),
            Op::Conv { filters, kernel, stride, padding, groups, bias } => {
                write!(out, " {filters} {kernel}x{kernel}")?;
                if stride != 1 {
                    write!(out, " stride {stride}")?;
                }
                if padding != kernel / 2 {
                    write!(out, " padding {padding}")?;
                }
                if groups != 1 {
                    write!(out, " groups {groups}")?;
                }
                if bias { write!(out, " bias") } else { Ok(()) }
            }
            Op::MaxPool { size, stride, padding } => {
                write!(out, " {size}x{size} stride {stride}")?;
                if padding != 0 { write!(out, " padding {padding}") } else { Ok(()) }
            }
            Op::AveragePool { size, stride } => write!(out, " {size}x{size} stride {stride}"),
            Op::Linear { units, bias } => {
                write!(out, " {units}")?;
                if bias { write!(out, " bias") } else { Ok(()) }
            }
            Op::Dropout { rate } => write!(out, " {rate}"),
            Op::BatchNorm { epsilon } if epsilon != BATCH_NORM_EPSILON => {
                write!(out, " epsilon {epsilon}")
            }
            Op::BatchNorm { .. }
            | Op::Relu
            | Op::GlobalPool
            | Op::Flatten
            | Op::Add
            | Op::Concat => Ok(()),
        }
    }
}
