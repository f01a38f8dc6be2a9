//! From a network to a static program: steps over values that are numbered, not yet placed.
//!
//! A ReLU behind a batch norm is part of its step; what leaves a value as it is is no step.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use eas_ir::{Network, Node, NodeId, Op, ParamId, Role, Shape, Shapes, parameter_list};

use super::cudnn::Geometry;

/// A network as steps. Nothing in it depends on the size of a batch.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of the forward pass.
    pub(super) steps: Vec<Step>,
    pub(super) values: Vec<Value>,
    /// The value of each node that has one.
    pub(super) nodes: BTreeMap<NodeId, usize>,
    /// The logits.
    pub(super) output: usize,
    pub(super) parameters: Vec<Parameter>,
    /// Numbers that all parameters take on the GPU, with what aligns them.
    pub(super) length: usize,
    /// And on the host.
    pub(super) host_length: usize,
    /// Nodes that drop values, in order.
    pub(super) dropouts: Vec<NodeId>,
}

/// A value of an image, `[row][column][channel]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Whether it depends on parameters.
    pub(super) differentiable: bool,
}

impl Value {
    pub(super) fn area(&self) -> usize {
        self.height * self.width
    }

    pub(super) fn numbers(&self) -> usize {
        self.area() * self.channels
    }
}

/// A parameter, as it stands on the GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) id: ParamId,
    /// Its beginning there, and on the host.
    pub(super) start: usize,
    pub(super) host: usize,
    pub(super) length: usize,
    /// Channels of a group and pixels of a kernel: on the host `[filter][channel][pixel]`, on the GPU
    /// `[filter][pixel][channel]`.
    pub(super) kernel: (usize, usize),
}

/// One step of the program.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) work: Work,
    pub(super) inputs: Vec<Input>,
    /// The value it makes.
    pub(super) output: usize,
}

/// A value that a step reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    pub(super) value: usize,
    /// Whether its slope is added to what is there; none where nothing before it has parameters.
    pub(super) accumulate: Option<bool>,
}

/// What a step does. Parameters are places in the plan's list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Images,
    /// A convolution or a linear layer.
    Convolution {
        geometry: Geometry,
        weight: usize,
        bias: Option<usize>,
    },
    /// A batch norm, and a ReLU behind it.
    Norm {
        epsilon: f32,
        relu: bool,
        parameters: NormParameters,
    },
    Relu,
    MaxPool {
        size: usize,
        stride: usize,
        padding: usize,
    },
    AveragePool {
        height: usize,
        width: usize,
        stride: usize,
    },
    /// `[pixel][channel]` to `[channel][pixel]`.
    Flatten,
    /// The place is one in the list of dropouts.
    Dropout {
        rate: f32,
        place: usize,
    },
    Add,
    Concat,
}

/// A batch norm's parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormParameters {
    pub(super) gamma: usize,
    pub(super) beta: usize,
    pub(super) mean: usize,
    pub(super) variance: usize,
}

/// Numbers between the beginnings of parameters are multiples of this: cuDNN reads them by vectors.
const ALIGNMENT: usize = 64;

/// Parameters and what aligns them, at most: the kernels count them in 32 bits.
const MAX_PARAMETERS: usize = i32::MAX as usize;

/// Pixels of a max pool's window, at most: the winner's place is kept in 16 bits.
const MAX_WINDOW: usize = u16::MAX as usize;

struct Planner<'a> {
    network: &'a Network,
    shapes: &'a Shapes,
    keep: &'a BTreeSet<NodeId>,
    users: BTreeMap<NodeId, Vec<NodeId>>,
    places: BTreeMap<ParamId, usize>,
    plan: Plan,
}

impl Plan {
    /// Plans a network, so that the values of the nodes in `keep` can be read.
    ///
    /// # Errors
    /// A network that doesn't verify, or one of more than the kernels can count.
    pub(super) fn new(network: &Network, keep: &BTreeSet<NodeId>) -> anyhow::Result<Self> {
        let shapes = network.verify()?;
        let (mut parameters, mut places) = (Vec::new(), BTreeMap::new());
        let (mut start, mut host) = (0, 0);
        for (id, shape) in parameter_list(network, &shapes) {
            let length = shape.iter().product();
            let kernel = match shape[..] {
                [_, channels, height, width] => (channels, height * width),
                _ => (1, 1),
            };
            places.insert(id, parameters.len());
            parameters.push(Parameter { id, start, host, length, kernel });
            host += length;
            start += length.next_multiple_of(ALIGNMENT);
        }
        ensure!(
            start <= MAX_PARAMETERS,
            "expected at most {MAX_PARAMETERS} parameters on a GPU, found {host}"
        );
        for node in network.nodes() {
            if let Op::MaxPool { size, .. } = node.op {
                let found = size.saturating_mul(size);
                ensure!(
                    found <= MAX_WINDOW,
                    "{}: expected windows of at most {MAX_WINDOW} pixels on a GPU, found {found}",
                    node.id
                );
            }
        }
        let mut planner = Planner {
            network,
            shapes: &shapes,
            keep,
            users: network.consumer_map(),
            places,
            plan: Plan {
                steps: Vec::new(),
                values: Vec::new(),
                nodes: BTreeMap::new(),
                output: 0,
                parameters,
                length: start,
                host_length: host,
                dropouts: Vec::new(),
            },
        };
        for node in network.nodes() {
            planner.node(node);
        }
        let output = network.output().context("a network has an output")?;
        let mut plan = planner.plan;
        plan.output = plan.nodes[&output.id];
        plan.decide_who_adds();
        Ok(plan)
    }

    /// The first step to have a slope for a value writes it, the others add.
    fn decide_who_adds(&mut self) {
        let mut written = BTreeSet::new();
        for step in self.steps.iter_mut().rev() {
            for input in &mut step.inputs {
                if self.values[input.value].differentiable {
                    input.accumulate = Some(!written.insert(input.value));
                }
            }
        }
    }
}

impl Planner<'_> {
    fn node(&mut self, node: &Node) {
        let before: Vec<usize> = node.inputs.iter().map(|id| self.plan.nodes[id]).collect();
        let work = match node.op {
            Op::Input { .. } => Work::Images,
            Op::Conv { filters, kernel, stride, padding, groups, .. } => {
                let Value { channels, height, width, .. } = self.plan.values[before[0]];
                let geometry =
                    Geometry { channels, height, width, filters, kernel, stride, padding, groups };
                self.convolution(node, geometry)
            }
            Op::Linear { units, .. } => {
                let geometry = Geometry {
                    channels: self.plan.values[before[0]].numbers(),
                    height: 1,
                    width: 1,
                    filters: units,
                    kernel: 1,
                    stride: 1,
                    padding: 0,
                    groups: 1,
                };
                self.convolution(node, geometry)
            }
            Op::BatchNorm { epsilon } => {
                let parameter = |role| self.places[&ParamId::new(node.id, role)];
                let parameters = NormParameters {
                    gamma: parameter(Role::Gamma),
                    beta: parameter(Role::Beta),
                    mean: parameter(Role::Mean),
                    variance: parameter(Role::Variance),
                };
                Work::Norm { epsilon, relu: self.rectified(node), parameters }
            }
            // The batch norm's value is the one behind its ReLU.
            Op::Relu
                if self
                    .network
                    .node(node.inputs[0])
                    .is_some_and(|before| self.rectified(before)) =>
            {
                return self.alias(node, before[0]);
            }
            Op::Relu => Work::Relu,
            Op::MaxPool { size, stride, padding } => Work::MaxPool { size, stride, padding },
            Op::AveragePool { size, stride } => {
                Work::AveragePool { height: size, width: size, stride }
            }
            Op::GlobalPool => {
                let Value { height, width, .. } = self.plan.values[before[0]];
                Work::AveragePool { height, width, stride: 1 }
            }
            // A single pixel is channel-major as it stands.
            Op::Flatten if self.plan.values[before[0]].area() == 1 => {
                return self.alias(node, before[0]);
            }
            Op::Flatten => Work::Flatten,
            Op::Dropout { rate: 0.0 } => return self.alias(node, before[0]),
            Op::Dropout { rate } => {
                self.plan.dropouts.push(node.id);
                Work::Dropout { rate, place: self.plan.dropouts.len() - 1 }
            }
            Op::Add => Work::Add,
            Op::Concat => Work::Concat,
        };
        let (channels, height, width) = match self.shapes[node.id] {
            Shape::Image { channels, height, width } => (channels, height, width),
            Shape::Flat { features } => (features, 1, 1),
        };
        let parameters = matches!(work, Work::Convolution { .. } | Work::Norm { .. });
        let differentiable =
            parameters || before.iter().any(|value| self.plan.values[*value].differentiable);
        self.plan.values.push(Value { channels, height, width, differentiable });
        let output = self.plan.values.len() - 1;
        let inputs = before.iter().map(|value| Input { value: *value, accumulate: None });
        self.plan.steps.push(Step { work, inputs: inputs.collect(), output });
        self.plan.nodes.insert(node.id, output);
    }

    fn convolution(&self, node: &Node, geometry: Geometry) -> Work {
        let parameter = |role| self.places.get(&ParamId::new(node.id, role)).copied();
        let weight = parameter(Role::Weight).expect("a convolution has a weight");
        Work::Convolution { geometry, weight, bias: parameter(Role::Bias) }
    }

    /// Whether a node is a batch norm that a ReLU alone reads.
    fn rectified(&self, node: &Node) -> bool {
        matches!(node.op, Op::BatchNorm { .. })
            && !self.keep.contains(&node.id)
            && match self.users.get(&node.id).map(Vec::as_slice) {
                Some([user]) => {
                    matches!(self.network.node(*user), Some(Node { op: Op::Relu, .. }))
                }
                _ => false,
            }
    }

    fn alias(&mut self, node: &Node, value: usize) {
        self.plan.nodes.insert(node.id, value);
    }
}
