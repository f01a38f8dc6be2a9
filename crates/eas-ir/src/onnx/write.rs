//! A model as an ONNX file: opset 17, one input `images` with a free batch dimension, one output
//! `logits`. A node keeps its id as its name and its label as its doc string, an initializer the name of
//! its parameter, so that a file can be read back as the model that it was written from.

use anyhow::{Context, ensure};
use prost::Message;
use prost::bytes::Bytes;

use super::messages::{
    Attribute, Dimension, Entry, FLOAT, Graph, KIND_FLOAT, KIND_INT, KIND_INTS, Model as File,
    Node as FileNode, OperatorSet, Tensor as FileTensor, TensorShape, TensorType, Type, ValueInfo,
};
use super::{CLASSES, FINGERPRINT, FIT, IMAGES, INPUT, LOGITS, NORMALISATION, PRODUCER, VERSION};
use crate::fold::fold_batch_norms;
use crate::model::Model;
use crate::network::{Node, NodeId};
use crate::op::Op;
use crate::saved::{Fit, Normalisation, SavedModel};
use crate::shape::Shape;
use crate::weights::{ParamId, Role};

/// The version of ONNX's operators: what current and older runtimes read.
const OPSET: i64 = 17;
/// The version of ONNX's file format that goes with it.
const IR_VERSION: i64 = 8;

/// How a model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Fold batch norms into the convolutions and linear layers before them: quicker to run, no longer
    /// to be trained on.
    pub fold_batch_norms: bool,
    /// Let the graph normalise: `images` are then pixels as they are, 0 to 255. Otherwise they are
    /// expected normalised, and the file's metadata say how.
    pub fold_normalisation: bool,
}

/// The bytes of an ONNX file of this model.
///
/// # Errors
/// A normalisation to fold where the model has none; batch norms whose folding overflows; a file above
/// the 2 GiB of a protocol buffer.
pub fn write(saved: &SavedModel, options: &OnnxOptions) -> anyhow::Result<Vec<u8>> {
    let SavedModel { model, metadata } = saved;
    let fingerprint = model.network().fingerprint().to_string();
    let folded;
    let model = if options.fold_batch_norms {
        folded = fold_batch_norms(model).context("batch norms can't be folded")?;
        &folded
    } else {
        model
    };
    let normalisation = if options.fold_normalisation {
        let known = metadata.normalisation.as_ref();
        Some(known.context("the model doesn't say how images are normalised")?)
    } else {
        None
    };
    let mut writer = Writer { model, normalised: normalisation.is_some(), graph: Graph::default() };
    writer.graph.name = "network".to_owned();
    writer.write_ends();
    if let Some(normalisation) = normalisation {
        writer.write_normalisation(normalisation);
    }
    for node in model.network().nodes() {
        writer.write_node(node);
    }
    let mut entries = vec![
        entry(VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        entry(FINGERPRINT, fingerprint),
        entry(INPUT, input_words(metadata.normalisation.as_ref(), options).to_owned()),
    ];
    if !metadata.classes.is_empty() {
        entries.push(entry(CLASSES, serde_json::to_string(&metadata.classes)?));
    }
    if let Some(normalisation) = &metadata.normalisation {
        entries.push(entry(NORMALISATION, serde_json::to_string(normalisation)?));
    }
    if metadata.fit != Fit::default() {
        entries.push(entry(FIT, serde_json::to_string(&metadata.fit)?));
    }
    let file = File {
        ir_version: IR_VERSION,
        producer_name: PRODUCER.to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(writer.graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: entries,
    };
    let length = file.encoded_len();
    ensure!(length <= i32::MAX as usize, "an ONNX file holds at most 2 GiB, found {length} bytes");
    Ok(file.encode_to_vec())
}

/// The bytes of a file with one tensor, as ONNX's model zoo keeps a batch of images and its logits beside
/// a model: `test_data_set_0/input_0.pb` and `output_0.pb`.
pub fn write_tensor(sides: &[usize], values: &[f32]) -> Vec<u8> {
    tensor("", sides, values).encode_to_vec()
}

/// What is to be given as `images`.
fn input_words(normalisation: Option<&Normalisation>, options: &OnnxOptions) -> &'static str {
    match (options.fold_normalisation, normalisation) {
        (true, _) => "pixels, 0 to 255",
        (false, Some(_)) => "(pixels / 255 - mean) / deviation",
        (false, None) => "normalised",
    }
}

struct Writer<'a> {
    model: &'a Model,
    /// Whether the graph begins with the normalisation.
    normalised: bool,
    graph: Graph,
}

impl Writer<'_> {
    /// What the value of a node is called.
    fn value(&self, id: NodeId) -> String {
        let network = self.model.network();
        if network.output().is_some_and(|output| output.id == id) {
            LOGITS.to_owned()
        } else if network.input().is_some_and(|input| input.id == id) {
            if self.normalised { format!("{IMAGES}.normalised") } else { IMAGES.to_owned() }
        } else {
            id.to_string()
        }
    }

    /// The graph's input and output.
    fn write_ends(&mut self) {
        let sides = match self.model.input_shape() {
            Shape::Image { channels, height, width } => vec![channels, height, width],
            Shape::Flat { features } => vec![features],
        };
        self.graph.input.push(value_info(IMAGES, &sides));
        self.graph.output.push(value_info(LOGITS, &[self.model.classes()]));
    }

    fn write_normalisation(&mut self, Normalisation { mean, deviation }: &Normalisation) {
        let sides = match self.model.input_shape() {
            Shape::Image { channels, .. } => vec![1, channels, 1, 1],
            Shape::Flat { features } => vec![1, features],
        };
        let steps = [
            ("Div", "scale", vec![], vec![255.0]),
            ("Sub", "mean", sides.clone(), mean.clone()),
            ("Div", "deviation", sides, deviation.clone()),
        ];
        let last = steps.len() - 1;
        let mut value = IMAGES.to_owned();
        for (place, (op, name, sides, values)) in steps.into_iter().enumerate() {
            let constant = format!("{IMAGES}.{name}");
            let output = match place == last {
                true => format!("{IMAGES}.normalised"),
                false => format!("{IMAGES}.by_{name}"),
            };
            self.graph.initializer.push(tensor(&constant, &sides, &values));
            self.graph.node.push(FileNode {
                op_type: op.to_owned(),
                name: output.clone(),
                input: vec![value, constant],
                output: vec![output.clone()],
                ..FileNode::default()
            });
            value = output;
        }
    }

    /// The names of a node's inputs and of those of its parameters that it has, which become
    /// initializers.
    fn inputs(&mut self, node: &Node, roles: &[Role]) -> Vec<String> {
        let mut inputs: Vec<String> = node.inputs.iter().map(|input| self.value(*input)).collect();
        for role in roles {
            let id = ParamId::new(node.id, *role);
            if let Some(values) = self.model.values(id) {
                let name = id.to_string();
                let sides = self.model.weights()[&id].shape();
                self.graph.initializer.push(tensor(&name, sides, values));
                inputs.push(name);
            }
        }
        inputs
    }

    fn write_node(&mut self, node: &Node) {
        let norm = [Role::Gamma, Role::Beta, Role::Mean, Role::Variance];
        let layer = [Role::Weight, Role::Bias];
        let (op_type, roles, attributes): (_, &[Role], _) = match node.op {
            Op::Input { .. } => return,
            Op::Conv { kernel, stride, padding, groups, .. } => {
                let mut attributes = window(kernel, stride, padding).to_vec();
                attributes.push(int("group", groups));
                ("Conv", &layer, attributes)
            }
            Op::BatchNorm { epsilon } => {
                ("BatchNormalization", &norm, vec![float("epsilon", epsilon)])
            }
            Op::Relu => ("Relu", &[], vec![]),
            Op::MaxPool { size, stride, padding } => {
                ("MaxPool", &[], window(size, stride, padding).to_vec())
            }
            Op::AveragePool { size, stride } => {
                ("AveragePool", &[], window(size, stride, 0).to_vec())
            }
            Op::GlobalPool => return self.write_global_pool(node),
            Op::Flatten => ("Flatten", &[], vec![int("axis", 1)]),
            Op::Linear { .. } => ("Gemm", &layer, vec![int("transB", 1)]),
            Op::Dropout { rate } => return self.write_dropout(node, rate),
            Op::Add if node.inputs.len() == 2 => ("Add", &[], vec![]),
            Op::Add => ("Sum", &[], vec![]),
            Op::Concat => ("Concat", &[], vec![int("axis", 1)]),
        };
        let input = self.inputs(node, roles);
        self.push(node, op_type, input, attributes);
    }

    /// ONNX keeps height and width of 1, so the mean has to be flattened.
    fn write_global_pool(&mut self, node: &Node) {
        let input = self.inputs(node, &[]);
        let output = self.value(node.id);
        self.push(node, "GlobalAveragePool", input, vec![]);
        let pooled = format!("{}.pooled", node.id);
        if let Some(pool) = self.graph.node.last_mut() {
            pool.output = vec![pooled.clone()];
        }
        self.graph.node.push(FileNode {
            op_type: "Flatten".to_owned(),
            name: format!("{}.flat", node.id),
            input: vec![pooled],
            output: vec![output],
            attribute: vec![int("axis", 1)],
            ..FileNode::default()
        });
    }

    fn write_dropout(&mut self, node: &Node, rate: f32) {
        let name = format!("{}.rate", node.id);
        self.graph.initializer.push(tensor(&name, &[], &[rate]));
        let mut input = self.inputs(node, &[]);
        input.push(name);
        self.push(node, "Dropout", input, vec![]);
    }

    fn push(&mut self, node: &Node, op: &str, input: Vec<String>, attribute: Vec<Attribute>) {
        self.graph.node.push(FileNode {
            op_type: op.to_owned(),
            name: node.id.to_string(),
            doc_string: node.label.as_ref().map(ToString::to_string).unwrap_or_default(),
            input,
            output: vec![self.value(node.id)],
            attribute,
            domain: String::new(),
        });
    }
}

fn entry(key: &str, value: String) -> Entry {
    Entry { key: key.to_owned(), value }
}

fn value_info(name: &str, sides: &[usize]) -> ValueInfo {
    let batch = Dimension { dim_param: Some("batch".to_owned()), dim_value: None };
    let side = |side: &usize| Dimension { dim_value: Some(*side as i64), dim_param: None };
    let shape = TensorShape { dim: [batch].into_iter().chain(sides.iter().map(side)).collect() };
    let tensor_type = Some(TensorType { elem_type: FLOAT, shape: Some(shape) });
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type }) }
}

fn tensor(name: &str, sides: &[usize], values: &[f32]) -> FileTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    FileTensor {
        name: name.to_owned(),
        dims: sides.iter().map(|side| *side as i64).collect(),
        data_type: FLOAT,
        raw_data: Bytes::from(bytes),
        ..FileTensor::default()
    }
}

/// The attributes of whatever slides a square window over an image.
fn window(size: usize, stride: usize, padding: usize) -> [Attribute; 3] {
    [ints("kernel_shape", &[size; 2]), ints("strides", &[stride; 2]), ints("pads", &[padding; 4])]
}

fn int(name: &str, value: usize) -> Attribute {
    let (name, i) = (name.to_owned(), Some(value as i64));
    Attribute { name, i, kind: KIND_INT, ..Attribute::default() }
}

fn ints(name: &str, values: &[usize]) -> Attribute {
    let (name, ints) = (name.to_owned(), values.iter().map(|value| *value as i64).collect());
    Attribute { name, ints, kind: KIND_INTS, ..Attribute::default() }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: name.to_owned(), f: Some(value), kind: KIND_FLOAT, ..Attribute::default() }
}
