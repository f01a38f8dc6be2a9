//! A graph's nodes, one after another, as operations of the IR: each exactly, or with the reason why not.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::affine::Affine;
use super::call::Call;
use super::messages::{Graph, Node as FileNode, Tensor as FileTensor};
use super::operators::{hint, reader};
use super::quoted;
use super::read::Unsupported;
use super::sizes::Sizes;
use super::tensors::{External, Numbers, few, numbers};
use crate::network::{Network, NodeId};
use crate::op::Op;
use crate::shape::Shape;
use crate::verify::{MAX_ELEMENTS, MAX_NODES};
use crate::weights::{ParamId, Role, Tensor, Weights, tensor};

/// What a name of the graph stands for.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Numbers that the file holds.
    Floats(Tensor),
    /// Integers, known but for the batch.
    Sizes(Sizes),
    /// The images, or what the nodes at the front make of them.
    Images(Rc<Affine>),
    /// What a node of the network gives.
    Node(Activation),
    /// What a node gives that isn't supported, and whatever depends on it.
    Unknown,
}

/// What a node of the network gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Activation {
    pub(super) node: NodeId,
    /// Whether a vector of the network still has a height and width of 1 in the graph.
    pub(super) pooled: bool,
}

impl Activation {
    pub(super) fn of(node: NodeId) -> Self {
        Activation { node, pooled: false }
    }
}

/// A graph that is being read.
pub(super) struct Import<'a> {
    graph: &'a Graph,
    /// Whether EAS wrote it, so that every node is read as it is.
    pub(super) is_own: bool,
    external: External,
    /// The batch of the images, where the graph has a fixed one.
    pub(super) batch: Option<i64>,
    initializers: BTreeMap<&'a str, &'a FileTensor>,
    /// What any node of the graph gives.
    given: BTreeSet<&'a str>,
    values: BTreeMap<&'a str, Value>,
    /// How often each name is read.
    pub(super) readers: BTreeMap<&'a str, usize>,
    pub(super) network: Network,
    pub(super) shapes: BTreeMap<NodeId, Shape>,
    pub(super) weights: Weights,
    /// The node of the file that each node of the network comes from.
    pub(super) sources: BTreeMap<NodeId, &'a FileNode>,
    /// Concatenations of two, by what they join.
    pub(super) concats: BTreeMap<(NodeId, NodeId), NodeId>,
    transposed: BTreeMap<&'a str, Tensor>,
    /// Numbers that the file's constants hold, and those of matrices that were turned.
    held: usize,
    turned: usize,
    /// Operations on the images before the network.
    pub(super) fronts: usize,
    /// What the network reads of the images.
    pub(super) affine: Option<Affine>,
    pub(super) problems: Vec<Unsupported>,
}

impl<'a> Import<'a> {
    /// A graph whose input, `images`, has this shape.
    pub(super) fn new(
        graph: &'a Graph,
        is_own: bool,
        external: External,
        images: &'a str,
        shape: Shape,
        batch: Option<i64>,
    ) -> Self {
        let mut network = Network::new();
        let input = network.push(Op::Input { shape }, &[], None);
        let initializers = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        Import {
            graph,
            is_own,
            external,
            batch,
            initializers,
            given: graph.node.iter().flat_map(|n| &n.output).map(String::as_str).collect(),
            values: BTreeMap::from([(images, Value::Images(Rc::new(Affine::identity())))]),
            readers: BTreeMap::new(),
            network,
            shapes: BTreeMap::from([(input, shape)]),
            weights: Weights::new(),
            sources: BTreeMap::new(),
            concats: BTreeMap::new(),
            transposed: BTreeMap::new(),
            held: 0,
            turned: 0,
            fronts: 0,
            affine: None,
            problems: Vec::new(),
        }
    }

    /// Reads every node that the output depends on; returns the node of the network that gives the
    /// output, where there are no problems with it.
    pub(super) fn run(&mut self, output: &'a str) -> Option<NodeId> {
        let needed = self.needed(output);
        for node in self.graph.node.iter().filter(|node| is_needed(node, &needed)) {
            let call = Call { node };
            let value = self.read(call).unwrap_or_else(|why| {
                self.problems.push(Unsupported::node(node, why));
                Value::Unknown
            });
            for (place, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty())
            {
                let value = if place == 0 { value.clone() } else { Value::Unknown };
                if place > 0 && self.readers.contains_key(name.as_str()) {
                    let why = format!("its output {} is read", quoted(name));
                    self.problems.push(Unsupported::node(node, why));
                }
                let is_initializer = self.initializers.contains_key(name.as_str());
                if self.values.insert(name, value).is_some() || is_initializer {
                    let why = format!("{} is given twice", quoted(name));
                    self.problems.push(Unsupported::node(node, why));
                }
            }
        }
        match self.value(output) {
            Ok(Value::Unknown) => None,
            Ok(value) => match self.activation_of(value) {
                Ok(Activation { node, pooled: false }) => Some(node),
                Ok(_) => {
                    let why = "expected logits, [batch, classes], found [batch, classes, 1, 1]";
                    self.problems.push(Unsupported::value("output", output, why.to_owned()));
                    None
                }
                Err(why) => {
                    self.problems.push(Unsupported::value("output", output, why));
                    None
                }
            },
            Err(why) => {
                self.problems.push(Unsupported::value("output", output, why));
                None
            }
        }
    }

    /// The names that the output depends on; counts how often each is read.
    fn needed(&mut self, output: &'a str) -> BTreeSet<&'a str> {
        let mut needed = BTreeSet::from([output]);
        self.readers.insert(output, 1);
        for node in self.graph.node.iter().rev() {
            if is_needed(node, &needed) {
                for input in node.input.iter().filter(|input| !input.is_empty()) {
                    needed.insert(input);
                    *self.readers.entry(input).or_default() += 1;
                }
            }
        }
        needed
    }

    /// What a name stands for.
    fn value(&mut self, name: &'a str) -> Result<Value, String> {
        if let Some(value) = self.values.get(name) {
            return Ok(value.clone());
        }
        let Some(tensor) = self.initializers.get(name) else {
            return Err(match self.given.contains(name) {
                true => format!(
                    "reads {}, which comes later: a cycle, or nodes out of order",
                    quoted(name)
                ),
                false => format!("reads {}, which nothing gives", quoted(name)),
            });
        };
        let value = match self.constant(tensor) {
            Ok(value) => value,
            Err(why) => {
                self.problems.push(Unsupported::value("initializer", name, why));
                Value::Unknown
            }
        };
        self.values.insert(name, value.clone());
        Ok(value)
    }

    pub(super) fn constant(&mut self, tensor: &FileTensor) -> Result<Value, String> {
        Ok(match numbers(tensor, &mut self.external)? {
            Numbers::Floats(tensor) => {
                self.held += tensor.len();
                Value::Floats(tensor)
            }
            Numbers::Integers(sides, values) => Value::Sizes(Sizes::of(&sides, &values)?),
        })
    }

    fn read(&mut self, call: Call<'a>) -> Result<Value, String> {
        if !matches!(call.node.domain.as_str(), "" | "ai.onnx") {
            return Err(format!(
                "operators of domain {} aren't supported",
                quoted(&call.node.domain)
            ));
        }
        let Some(reader) = reader(&call.node.op_type) else {
            return Err(hint(&call.node.op_type)
                .unwrap_or("this operator isn't supported")
                .to_owned());
        };
        for place in 0..call.node.input.len() {
            let value = call.input(place).map(|name| self.value(name)).transpose()?;
            if matches!(value, Some(Value::Unknown)) {
                return Ok(Value::Unknown);
            }
        }
        reader(self, call)
    }

    /// What stands at an input of a node.
    pub(super) fn at(&mut self, call: Call<'a>, place: usize) -> Result<Value, String> {
        let name =
            call.input(place).ok_or_else(|| format!("expected an input at place {place}"))?;
        self.value(name)
    }

    pub(super) fn floats(&mut self, call: Call<'a>, place: usize) -> Result<Tensor, String> {
        match self.at(call, place)? {
            Value::Floats(tensor) => Ok(tensor),
            _ => Err(format!("expected numbers that the file holds at input {place}")),
        }
    }

    pub(super) fn sizes(&mut self, call: Call<'a>, place: usize) -> Result<Sizes, String> {
        match self.at(call, place)? {
            Value::Sizes(sizes) => Ok(sizes),
            _ => Err(format!("expected integers that are known beforehand at input {place}")),
        }
    }

    pub(super) fn activation(
        &mut self,
        call: Call<'a>,
        place: usize,
    ) -> Result<Activation, String> {
        let value = self.at(call, place)?;
        self.activation_of(value)
    }

    /// What a node of the network gives; the input, where it is what the front of the graph makes of the
    /// images.
    pub(super) fn activation_of(&mut self, value: Value) -> Result<Activation, String> {
        match value {
            Value::Node(activation) => Ok(activation),
            Value::Images(affine) => {
                let known = self.affine.get_or_insert_with(|| affine.as_ref().clone());
                if *known != *affine {
                    return Err(
                        "reads the images in another normalisation than nodes before it".to_owned()
                    );
                }
                Ok(Activation::of(self.network.nodes()[0].id))
            }
            Value::Floats(_) | Value::Sizes(_) | Value::Unknown => {
                Err("expected a value that depends on the images, found a constant".to_owned())
            }
        }
    }

    /// An image, and its height and width.
    pub(super) fn image(&mut self, call: Call<'a>) -> Result<(NodeId, [usize; 2]), String> {
        let Activation { node, .. } = self.activation(call, 0)?;
        match self.shapes[&node] {
            Shape::Image { height, width, .. } => Ok((node, [height, width])),
            Shape::Flat { .. } => {
                Err(format!("expected an image, found {} numbers", self.shapes[&node]))
            }
        }
    }

    /// A node of the network, once it is known to fit.
    pub(super) fn push(
        &mut self,
        call: Call<'a>,
        op: Op,
        inputs: &[NodeId],
        parameters: Vec<(Role, Tensor)>,
    ) -> Result<NodeId, String> {
        let shapes: Vec<Shape> = inputs.iter().map(|input| self.shapes[input]).collect();
        let shape = op.output_shape(&shapes).map_err(|error| error.to_string())?;
        if shape.elements() > MAX_ELEMENTS {
            return Err(format!("a value of {shape} is larger than {MAX_ELEMENTS} numbers"));
        }
        for (role, sides) in op.parameters(&shapes) {
            let found = parameters.iter().find(|(known, _)| *known == role).map(|(_, t)| t.shape());
            if found != Some(&sides) {
                let found = found.map_or("none".to_owned(), few);
                return Err(format!("{role}: expected sides {sides:?}, found {found}"));
            }
        }
        if self.network.nodes().len() >= MAX_NODES {
            return Err(format!("expected at most {MAX_NODES} operations"));
        }
        let id = self.network.push(op, inputs, None);
        self.shapes.insert(id, shape);
        self.sources.insert(id, call.node);
        self.weights.extend(parameters.into_iter().map(|(role, t)| (ParamId::new(id, role), t)));
        Ok(id)
    }

    /// The matrix of this name the other way round; made once, however many nodes read it.
    pub(super) fn transposed(&mut self, name: &'a str, matrix: &Tensor) -> Result<Tensor, String> {
        if let Some(known) = self.transposed.get(name) {
            return Ok(known.clone());
        }
        // Turned to and fro without end, a small file would fill the memory.
        self.turned += matrix.len();
        if self.turned > 2 * self.held {
            return Err("matrices are turned more often than twice".to_owned());
        }
        let sides = [matrix.shape()[1], matrix.shape()[0]];
        let turned = tensor(&sides, matrix.t().iter().copied().collect());
        self.transposed.insert(name, turned.clone());
        Ok(turned)
    }

    /// A node that leaves a value's axes as they are.
    pub(super) fn elementwise(
        &mut self,
        call: Call<'a>,
        op: Op,
        parameters: Vec<(Role, Tensor)>,
    ) -> Result<Value, String> {
        let read = self.activation(call, 0)?;
        let node = self.push(call, op, &[read.node], parameters)?;
        Ok(Value::Node(Activation { node, ..read }))
    }
}

fn is_needed(node: &FileNode, needed: &BTreeSet<&str>) -> bool {
    node.output.iter().any(|output| needed.contains(output.as_str()))
}
