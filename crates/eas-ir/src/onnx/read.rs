//! An ONNX file as a model: plain, residual and dense image networks as PyTorch exports them.
//!
//! The file is read as hostile: its parts are counted before they are decoded, sides are held against the
//! bytes that are there, and data in other files are read from the model's folder alone. What has no exact
//! form in the IR is refused, all of it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use prost::bytes::Bytes;

use super::affine::Affine;
use super::given::{Given, compare};
use super::import::Import;
use super::messages::{
    Dimension, FLOAT, Graph, Model as File, Node as FileNode, ValueInfo, decode,
};
use super::tensors::External;
use super::{CLASSES, FIT, NORMALISATION, PRODUCER, labels, quoted};
use crate::forward::Forward;
use crate::model::Model;
use crate::network::{Network, Node, NodeId};
use crate::saved::{Fit, LoadError, Metadata, Normalisation, SavedModel, read_bounded};
use crate::shape::Shape;
use crate::verify::MAX_ELEMENTS;
use crate::weights::{ParamId, Weights};

/// The longest file, that of a protocol buffer.
const LONGEST: u64 = 2 << 30;
/// The most nodes: exporters write several for an operation.
const MOST_NODES: usize = 100_000;
/// Versions of the operators whose meaning is known here.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=28;
/// How many unsupported parts a message names.
const SHOWN: usize = 50;

/// Why bytes aren't a model in ONNX that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// Not ONNX, or damaged.
    #[error("not an ONNX file: {0}")]
    Damaged(String),
    /// Parts that have no exact form in the IR; never empty.
    #[error("{}", list(.0))]
    Unsupported(Vec<Unsupported>),
    /// What was read breaks a rule of networks or models.
    #[error("{0}")]
    Rules(String),
}

/// A part of a file that can't be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// What it is, with its name in the file.
    pub part: String,
    /// Why it can't be read, and what was expected.
    pub why: String,
}

impl Unsupported {
    pub(super) fn node(node: &FileNode, why: String) -> Self {
        let named = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
        let name = quoted(named.map_or("", String::as_str));
        let op_type = quoted(&node.op_type);
        Unsupported { part: format!("node {name} ({})", op_type.trim_matches('`')), why }
    }

    pub(super) fn value(kind: &str, name: &str, why: String) -> Self {
        Unsupported { part: format!("{kind} {}", quoted(name)), why }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.part, self.why)
    }
}

fn list(parts: &[Unsupported]) -> String {
    let mut text = match parts.len() {
        1 => "a part can't be read:".to_owned(),
        count => format!("{count} parts can't be read:"),
    };
    for part in parts.iter().take(SHOWN) {
        text += &format!("\n  {part}");
    }
    match parts.len().saturating_sub(SHOWN) {
        0 => text,
        more => text + &format!("\n  and {more} more"),
    }
}

/// Reads an ONNX file, and what it keeps in other files of its folder.
///
/// # Errors
/// A file that can't be read, is damaged, or holds what has no exact form in the IR.
pub fn read(path: &Path) -> Result<SavedModel, LoadError> {
    import_file(path).map(|(saved, _)| saved)
}

/// Reads an ONNX file, and compares the model with the outputs that lie beside it in the form of ONNX's
/// model zoo: `test_data_set_0/input_0.pb` and `output_0.pb`, and so on.
///
/// # Errors
/// As [`read`]; also logits that differ from those given by more than 1e-4 of their deviation.
pub fn read_compared(path: &Path, forward: &dyn Forward) -> Result<(SavedModel, Given), LoadError> {
    let (saved, affine) = import_file(path)?;
    let given = compare(path, &saved.model, affine.as_ref(), forward)
        .map_err(|(path, why)| LoadError::Onnx { path, error: OnnxError::Rules(why) })?;
    Ok((saved, given))
}

fn import_file(path: &Path) -> Result<(SavedModel, Option<Affine>), LoadError> {
    let bytes = read_bounded(path, LONGEST)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let external = External::of(folder.unwrap_or(Path::new(".")));
    import(bytes.into(), external).map_err(|error| LoadError::Onnx { path: path.to_owned(), error })
}

/// Reads the bytes of an ONNX file that keeps nothing in other files.
///
/// # Errors
/// As [`read`].
pub fn from_bytes(bytes: &[u8]) -> Result<SavedModel, OnnxError> {
    import(Bytes::copy_from_slice(bytes), External::default()).map(|(saved, _)| saved)
}

/// The model, and what the front of the graph makes of the images.
fn import(bytes: Bytes, external: External) -> Result<(SavedModel, Option<Affine>), OnnxError> {
    let file = decode(bytes).map_err(OnnxError::Damaged)?;
    let graph = file.graph.as_ref();
    let graph = graph.ok_or_else(|| OnnxError::Damaged("it has no graph".to_owned()))?;
    let ends = Ends::of(&file, graph).map_err(OnnxError::Unsupported)?;
    let Ends { images, shape, batch, output } = ends;
    let is_own = file.producer_name == PRODUCER;
    let mut import = Import::new(graph, is_own, external, images, shape, batch);
    let logits = import.run(output);
    let affine = import.affine.take();
    let mut problems = std::mem::take(&mut import.problems);
    let normalisation = match &affine {
        Some(affine) if logits.is_some() => affine.normalisation(shape.channels()),
        _ => Ok(None),
    };
    let normalisation = normalisation.unwrap_or_else(|why| {
        problems.push(Unsupported::value("input", images, why));
        None
    });
    let Some(logits) = logits.filter(|_| problems.is_empty()) else {
        return Err(OnnxError::Unsupported(problems));
    };
    let sources = is_own.then_some(&import.sources);
    let (network, weights) = finish(import.network, import.weights, logits, sources);
    let model = model(network, weights, !is_own).map_err(OnnxError::Rules)?;
    let metadata = metadata(&file, normalisation).map_err(OnnxError::Rules)?;
    metadata.check(&model).map_err(OnnxError::Rules)?;
    Ok((SavedModel { model, metadata }, affine))
}

/// Where a graph begins and ends.
struct Ends<'a> {
    images: &'a str,
    shape: Shape,
    /// A fixed batch.
    batch: Option<i64>,
    output: &'a str,
}

impl<'a> Ends<'a> {
    fn of(file: &'a File, graph: &'a Graph) -> Result<Self, Vec<Unsupported>> {
        let mut problems = Vec::new();
        let mut wrong = |kind: &str, name: &str, why: String| {
            problems.push(Unsupported::value(kind, name, why));
        };
        let standard =
            file.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
        let opset = standard.map_or(0, |set| set.version);
        if !OPSETS.contains(&opset) {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            let why = format!("expected version {first} to {last}, found {opset}");
            wrong("operators", "ai.onnx", why);
        }
        if graph.node.len() > MOST_NODES {
            let why = format!("expected at most {MOST_NODES} nodes, found {}", graph.node.len());
            wrong("graph", &graph.name, why);
        }
        let mut initializers: BTreeSet<&str> = BTreeSet::new();
        for tensor in &graph.initializer {
            if !initializers.insert(&tensor.name) {
                wrong("initializer", &tensor.name, "this name is given twice".to_owned());
            }
        }
        let inputs: Vec<&ValueInfo> = graph
            .input
            .iter()
            .filter(|input| !initializers.contains(input.name.as_str()))
            .collect();
        let mut found = None;
        match inputs.as_slice() {
            &[input] => match image_shape(input) {
                Ok((shape, batch)) => found = Some((input.name.as_str(), shape, batch)),
                Err(why) => wrong("input", &input.name, why),
            },
            several => {
                let why = format!("expected one input, the images; found {}", named(several));
                wrong("graph", &graph.name, why);
            }
        }
        let outputs: Vec<&ValueInfo> = graph.output.iter().collect();
        let output = match outputs.as_slice() {
            &[only] => only.name.as_str(),
            several => {
                let why = format!("expected one output, the logits; found {}", named(several));
                wrong("graph", &graph.name, why);
                ""
            }
        };
        match found.filter(|_| problems.is_empty()) {
            Some((images, shape, batch)) => Ok(Ends { images, shape, batch, output }),
            None => Err(problems),
        }
    }
}

/// How many values there are, and the names of the first.
fn named(values: &[&ValueInfo]) -> String {
    let names: Vec<String> = values.iter().take(8).map(|value| quoted(&value.name)).collect();
    format!("{} {}", values.len(), names.join(", "))
}

/// The shape of an image, and the batch where it is fixed.
fn image_shape(input: &ValueInfo) -> Result<(Shape, Option<i64>), String> {
    let kind = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let kind = kind.ok_or("expected a tensor")?;
    if kind.elem_type != FLOAT {
        return Err(format!("expected float32 (type 1), found type {}", kind.elem_type));
    }
    let sides = kind.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let expected = "expected [batch, channels, height, width], all but the batch fixed";
    let Some((batch, sides)) = sides.split_first() else {
        return Err(format!("{expected}; found no shape"));
    };
    let number = |side: &Dimension| {
        side.dim_value.and_then(|side| usize::try_from(side).ok()).filter(|side| *side > 0)
    };
    let sides: Option<Vec<usize>> = sides.iter().take(8).map(number).collect();
    let shape = match sides.as_deref() {
        Some(&[channels, height, width]) => Shape::Image { channels, height, width },
        Some(&[features]) => Shape::Flat { features },
        Some(_) => return Err(expected.to_owned()),
        None => {
            return Err(format!("{expected}: export it for one size of images"));
        }
    };
    if shape.elements() > MAX_ELEMENTS {
        return Err(format!("images of {shape} are larger than {MAX_ELEMENTS} numbers"));
    }
    Ok((shape, batch.dim_value.filter(|batch| *batch > 0)))
}

/// Leaves out what the logits don't depend on, and gives nodes of a file of EAS their ids and labels back.
fn finish(
    network: Network,
    weights: Weights,
    logits: NodeId,
    sources: Option<&BTreeMap<NodeId, &FileNode>>,
) -> (Network, Weights) {
    let mut kept = BTreeSet::from([logits]);
    for node in network.nodes().iter().rev() {
        if kept.contains(&node.id) {
            kept.extend(&node.inputs);
        }
    }
    let kept_nodes = network.nodes().iter().filter(|node| kept.contains(&node.id));
    let names = sources.and_then(|sources| ids(&network, sources)).unwrap_or_default();
    let id = |id: NodeId| names.get(&id).copied().unwrap_or(id);
    let nodes: Vec<Node> = kept_nodes
        .map(|node| Node {
            id: id(node.id),
            op: node.op,
            inputs: node.inputs.iter().map(|input| id(*input)).collect(),
            label: sources
                .and_then(|sources| sources.get(&node.id))
                .and_then(|source| source.doc_string.parse().ok()),
        })
        .collect();
    let weights = weights.into_iter().filter(|(parameter, _)| kept.contains(&parameter.node));
    let weights = weights
        .map(|(parameter, values)| (ParamId::new(id(parameter.node), parameter.role), values));
    let weights = weights.collect();
    let next = if names.is_empty() { network.next() } else { 0 };
    (Network::from_nodes(next, nodes), weights)
}

/// The ids that the nodes of a file name, where all do and none twice. The input has no node there: it
/// gets the number 0, which the others leave free.
fn ids(
    network: &Network,
    sources: &BTreeMap<NodeId, &FileNode>,
) -> Option<BTreeMap<NodeId, NodeId>> {
    let mut ids = BTreeMap::new();
    let mut used = BTreeSet::new();
    for node in network.nodes() {
        let id = match sources.get(&node.id) {
            Some(source) => source.name.parse().ok()?,
            None => NodeId::new(0),
        };
        if !used.insert(id) {
            return None;
        }
        ids.insert(node.id, id);
    }
    Some(ids)
}

fn model(mut network: Network, weights: Weights, unlabelled: bool) -> Result<Model, String> {
    let shapes = network.verify().map_err(|error| error.to_string())?;
    if unlabelled {
        labels::label(&mut network, &shapes);
    }
    Model::new(network, weights).map_err(|error| error.to_string())
}

fn metadata(file: &File, normalisation: Option<Normalisation>) -> Result<Metadata, String> {
    let entry = |key: &str| {
        let entry = file.metadata_props.iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.as_str())
    };
    let wrong = |key: &str, error: serde_json::Error| format!("metadata {key}: {error}");
    let classes = match entry(CLASSES) {
        Some(text) => serde_json::from_str(text).map_err(|error| wrong(CLASSES, error))?,
        None => Vec::new(),
    };
    let stated = match entry(NORMALISATION) {
        Some(text) => {
            Some(serde_json::from_str(text).map_err(|error| wrong(NORMALISATION, error))?)
        }
        None => None,
    };
    let fit = match entry(FIT) {
        Some(text) => serde_json::from_str(text).map_err(|error| wrong(FIT, error))?,
        None => Fit::default(),
    };
    Ok(Metadata { classes, normalisation: normalisation.or(stated), fit, probe: None })
}
