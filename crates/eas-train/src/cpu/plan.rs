//! From a network to a static program: steps, and the buffers they work on.
//!
//! A batch norm and the ReLU behind it are not stored: the steps that read them apply them to the
//! value before ([`Source`]). What a concatenation joins is written into one buffer at once, where
//! its producer allows it. Gradients live in slots that are shared by those whose lives don't overlap.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use eas_ir::{Network, Node, NodeId, Op, ParamId, Role, Shape, Shapes, parameter_list};

use super::convolution::Convolution;
use super::correlation::Geometry;
use super::kernels::Isa;
use super::placement::{Placement, is_stored, place};
use super::pool::Window;
use super::values::{Source, View};
use super::weights::Parameter;

/// A network as steps over buffers. Nothing in it depends on the size of a batch.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of the forward pass.
    pub(super) steps: Vec<Step>,
    /// How each node's value is read.
    pub(super) nodes: BTreeMap<NodeId, Source>,
    /// The logits.
    pub(super) output: View,
    /// Where the gradient of the logits stands.
    pub(super) output_gradient: View,
    /// Numbers an image takes in each buffer of values, and in each slot of gradients.
    pub(super) values: Vec<usize>,
    pub(super) slots: Vec<usize>,
    /// Channels and epsilon of each batch norm.
    pub(super) norms: Vec<(usize, f32)>,
    /// Winners an image has in each max pool, and mask values in each dropout.
    pub(super) winners: Vec<usize>,
    pub(super) masks: Vec<usize>,
    /// Numbers of the parameter buffer.
    pub(super) parameters: usize,
}

/// One step of the program.
#[derive(Debug)]
pub(super) struct Step {
    /// The node it computes.
    pub(super) node: NodeId,
    /// The node's operation, as it is named in files.
    pub(super) name: &'static str,
    pub(super) work: Work,
    pub(super) inputs: Vec<Input>,
    /// What it writes; for a batch norm or a ReLU, the value before it.
    pub(super) output: View,
    /// The gradient of its value, in a slot.
    pub(super) gradient: View,
    /// Whether its value depends on parameters.
    pub(super) differentiable: bool,
    /// Slots to fill with zeros before its backward pass, which adds to a part of them.
    pub(super) zero: Vec<usize>,
}

/// What a step reads, and where its slope goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    pub(super) source: Source,
    /// None where nothing before it has parameters.
    pub(super) sink: Option<Sink>,
}

/// A gradient that a step writes, or adds to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sink {
    pub(super) view: View,
    pub(super) accumulate: bool,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Work {
    /// Takes the images of the batch.
    Input,
    /// A convolution or a linear layer.
    Convolution(Box<Convolution>),
    /// Statistics of a batch norm; backward, the slope through it and through a ReLU behind it.
    Norm {
        norm: usize,
        relu: bool,
        parameters: NormParameters,
        known: Option<Known>,
    },
    /// Nothing; backward, the slope through a ReLU.
    Relu,
    MaxPool {
        window: Window,
        winners: usize,
    },
    AveragePool(Window),
    /// `[pixel][channel]` to `[channel][pixel]`.
    Flatten,
    Dropout {
        rate: f32,
        mask: usize,
    },
    Add,
    /// Copies the inputs side by side; those that stand there already are left out.
    Concat {
        offsets: Vec<usize>,
    },
    /// Stores what is normalised or rectified.
    Store,
}

/// An earlier batch norm of the first channels of a value, whose statistics are the same: the layers
/// of a dense block each read all channels before them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) norm: usize,
    pub(super) channels: usize,
}

/// Where a batch norm's parameters stand.
#[derive(Debug)]
pub(super) struct NormParameters {
    pub(super) gamma: Parameter,
    pub(super) beta: Parameter,
    pub(super) mean: Parameter,
    pub(super) variance: Parameter,
}

/// A value while the plan is made.
#[derive(Clone, Copy)]
struct Value {
    source: Source,
    /// Its gradient; the buffer is a number that becomes a slot.
    gradient: View,
    differentiable: bool,
}

struct Planner<'a> {
    network: &'a Network,
    shapes: &'a Shapes,
    isa: Isa,
    placement: Placement,
    parameters: BTreeMap<ParamId, Parameter>,
    users: BTreeMap<NodeId, Vec<NodeId>>,
    known: BTreeMap<NodeId, Value>,
    /// The buffer of values of each concatenation that others write into.
    roots: BTreeMap<NodeId, View>,
    /// The gradient of each buffer of values.
    gradient_of: Vec<usize>,
    /// Numbers an image takes in each gradient.
    gradients: Vec<usize>,
    plan: Plan,
}

impl Plan {
    /// Plans a network.
    ///
    /// # Errors
    /// A network that doesn't verify.
    pub(super) fn new(network: &Network, isa: Isa) -> anyhow::Result<Self> {
        let shapes = network.verify()?;
        let mut parameters = BTreeMap::new();
        let mut total = 0;
        for (id, shape) in parameter_list(network, &shapes) {
            let length = shape.iter().product();
            parameters.insert(id, Parameter { start: total, length });
            total += length;
        }
        let view = View { buffer: 0, offset: 0, channels: 0, height: 0, width: 0, stride: 0 };
        let mut planner = Planner {
            network,
            shapes: &shapes,
            isa,
            placement: place(network),
            parameters,
            users: network.consumer_map(),
            known: BTreeMap::new(),
            roots: BTreeMap::new(),
            gradient_of: Vec::new(),
            gradients: Vec::new(),
            plan: Plan {
                steps: Vec::new(),
                nodes: BTreeMap::new(),
                output: view,
                output_gradient: view,
                values: Vec::new(),
                slots: Vec::new(),
                norms: Vec::new(),
                winners: Vec::new(),
                masks: Vec::new(),
                parameters: total,
            },
        };
        for node in network.nodes() {
            planner.node(node)?;
        }
        planner.finish()
    }
}

impl Planner<'_> {
    fn node(&mut self, node: &Node) -> anyhow::Result<()> {
        let inputs: Vec<Value> = node.inputs.iter().map(|id| self.known[id]).collect();
        let shape = self.shapes[node.id];
        let value = match node.op {
            Op::Input { .. } => {
                let value = self.stored(node, shape, false);
                self.step(node, Work::Input, &[], value);
                value
            }
            Op::Conv { filters, kernel, stride, padding, groups, .. } => {
                let from = inputs[0].source.view;
                let geometry = Geometry {
                    channels: from.channels,
                    height: from.height,
                    width: from.width,
                    filters,
                    kernel,
                    stride,
                    padding,
                    groups,
                };
                self.convolution(node, geometry, &inputs)
            }
            Op::Linear { units, .. } => {
                let geometry = Geometry {
                    channels: inputs[0].source.view.channels,
                    height: 1,
                    width: 1,
                    filters: units,
                    kernel: 1,
                    stride: 1,
                    padding: 0,
                    groups: 1,
                };
                self.convolution(node, geometry, &inputs)
            }
            Op::BatchNorm { epsilon } => self.batch_norm(node, epsilon, inputs[0]),
            Op::Relu => self.relu(node, inputs[0]),
            Op::MaxPool { size, stride, padding } => {
                let window = Window { height: size, width: size, stride, padding };
                let winners = self.plan.winners.len();
                self.plan.winners.push(shape.elements());
                self.plain(node, Work::MaxPool { window, winners }, &inputs)
            }
            Op::AveragePool { size, stride } => {
                let window = Window { height: size, width: size, stride, padding: 0 };
                self.plain(node, Work::AveragePool(window), &inputs)
            }
            Op::GlobalPool => {
                let View { height, width, .. } = inputs[0].source.view;
                let window = Window { height, width, stride: 1, padding: 0 };
                self.plain(node, Work::AveragePool(window), &inputs)
            }
            // A single pixel is channel-major as it stands.
            Op::Flatten if inputs[0].source.view.area() == 1 => inputs[0],
            Op::Flatten => self.plain(node, Work::Flatten, &inputs),
            Op::Dropout { rate: 0.0 } => inputs[0],
            Op::Dropout { rate } => {
                let mask = self.plan.masks.len();
                self.plan.masks.push(shape.elements());
                self.plain(node, Work::Dropout { rate, mask }, &inputs)
            }
            Op::Add => self.plain(node, Work::Add, &inputs),
            Op::Concat => self.concat(node, &inputs),
        };
        self.known.insert(node.id, value);
        self.plan.nodes.insert(node.id, value.source);
        Ok(())
    }

    fn convolution(&mut self, node: &Node, geometry: Geometry, inputs: &[Value]) -> Value {
        let parameter = |role| self.parameters.get(&ParamId::new(node.id, role)).copied();
        let weight = parameter(Role::Weight).expect("a convolution has a weight");
        let convolution = Convolution::new(geometry, weight, parameter(Role::Bias), self.isa);
        let value = self.stored(node, self.shapes[node.id], true);
        self.step(node, Work::Convolution(Box::new(convolution)), inputs, value);
        value
    }

    /// A step with a stored value, that has no parameters.
    fn plain(&mut self, node: &Node, work: Work, inputs: &[Value]) -> Value {
        let differentiable = inputs.iter().any(|input| input.differentiable);
        let value = self.stored(node, self.shapes[node.id], differentiable);
        self.step(node, work, inputs, value);
        value
    }

    fn batch_norm(&mut self, node: &Node, epsilon: f32, input: Value) -> Value {
        let input = self.as_plain(node, input);
        // Where a ReLU alone reads it, both are one step.
        let relu = match self.users.get(&node.id).map(Vec::as_slice) {
            Some([user]) => {
                matches!(self.network.node(*user), Some(Node { op: Op::Relu, .. }))
            }
            _ => false,
        };
        let norm = self.plan.norms.len();
        self.plan.norms.push((input.source.view.channels, epsilon));
        let source = Source { norm: Some(norm), ..input.source };
        let parameter = |role| self.parameters[&ParamId::new(node.id, role)];
        let parameters = NormParameters {
            gamma: parameter(Role::Gamma),
            beta: parameter(Role::Beta),
            mean: parameter(Role::Mean),
            variance: parameter(Role::Variance),
        };
        let known = self.known_statistics(&input.source.view);
        self.deferred(node, Work::Norm { norm, relu, parameters, known }, input, source, true)
    }

    /// The earlier batch norm that has the statistics of the most channels of a view, but not all.
    fn known_statistics(&self, view: &View) -> Option<Known> {
        let norms = self.plan.steps.iter().filter_map(|step| match step.work {
            Work::Norm { norm, .. } => Some((norm, step.output)),
            _ => None,
        });
        norms
            .filter(|(_, output)| (output.buffer, output.offset) == (view.buffer, view.offset))
            .filter(|(_, output)| output.channels < view.channels)
            .map(|(norm, output)| Known { norm, channels: output.channels })
            .max_by_key(|known| known.channels)
    }

    fn relu(&mut self, node: &Node, input: Value) -> Value {
        let behind_norm = self.users.get(&node.inputs[0]).is_some_and(|users| users.len() == 1)
            && matches!(
                self.network.node(node.inputs[0]),
                Some(Node { op: Op::BatchNorm { .. }, .. })
            );
        if behind_norm {
            return Value { source: Source { relu: true, ..input.source }, ..input };
        }
        let input = self.as_plain(node, input);
        let source = Source { relu: true, ..input.source };
        self.deferred(node, Work::Relu, input, source, input.differentiable)
    }

    /// A value that its readers make from a stored one.
    fn deferred(
        &mut self,
        node: &Node,
        work: Work,
        input: Value,
        source: Source,
        differentiable: bool,
    ) -> Value {
        let view = input.source.view;
        // The slope before takes the place of the slope behind where nobody else adds to it. What a
        // concatenation joins may be read elsewhere too.
        let before = self.network.node(node.inputs[0]).map(|node| node.op);
        let own = before.is_some_and(|op| is_stored(&op) && op != Op::Concat);
        let stored = matches!(self.plan.steps.last().map(|step| &step.work), Some(Work::Store));
        let alone = view.is_whole()
            && (stored || own && self.users[&node.inputs[0]].len() == 1)
            && input.differentiable;
        let gradient = match alone {
            true => input.gradient,
            false => View {
                buffer: self.gradient(view.area() * view.channels),
                offset: 0,
                stride: view.channels,
                ..view
            },
        };
        let value = Value { source, gradient, differentiable };
        self.push(node, work, &[input], view, gradient, differentiable);
        value
    }

    fn concat(&mut self, node: &Node, inputs: &[Value]) -> Value {
        let differentiable = inputs.iter().any(|input| input.differentiable);
        let value = self.stored(node, self.shapes[node.id], differentiable);
        let mut offset = 0;
        let (mut copied, mut offsets) = (Vec::new(), Vec::new());
        for (id, input) in node.inputs.iter().zip(inputs) {
            if !self.placement.joins(*id, node.id) {
                copied.push(*input);
                offsets.push(offset);
            }
            offset += input.source.view.channels;
        }
        if !copied.is_empty() {
            self.step(node, Work::Concat { offsets }, &copied, value);
        }
        value
    }

    /// A value without a norm or a ReLU to apply: stored first, if it has one.
    fn as_plain(&mut self, node: &Node, value: Value) -> Value {
        if value.source.is_plain() {
            return value;
        }
        let View { channels, height, width, .. } = value.source.view;
        let view = self.buffer(channels, height, width);
        let stored = Value {
            source: Source::plain(view),
            gradient: self.gradient_view(view),
            differentiable: value.differentiable,
        };
        self.step(node, Work::Store, &[value], stored);
        stored
    }

    /// A place for a node's value: its own buffer, or a part of a concatenation's.
    fn stored(&mut self, node: &Node, shape: Shape, differentiable: bool) -> Value {
        let (channels, height, width) = match shape {
            Shape::Image { channels, height, width } => (channels, height, width),
            Shape::Flat { features } => (features, 1, 1),
        };
        let view = match self.placement.of(node.id) {
            Some((root, offset)) => {
                let whole = match self.roots.get(&root) {
                    Some(view) => *view,
                    None => {
                        let view = self.buffer(self.shapes[root].channels(), height, width);
                        self.roots.insert(root, view);
                        view
                    }
                };
                View { offset, channels, ..whole }
            }
            None => self.buffer(channels, height, width),
        };
        Value { source: Source::plain(view), gradient: self.gradient_view(view), differentiable }
    }

    fn buffer(&mut self, channels: usize, height: usize, width: usize) -> View {
        let buffer = self.plan.values.len();
        self.plan.values.push(channels * height * width);
        let gradient = self.gradient(channels * height * width);
        self.gradient_of.push(gradient);
        View { buffer, offset: 0, channels, height, width, stride: channels }
    }

    fn gradient(&mut self, size: usize) -> usize {
        self.gradients.push(size);
        self.gradients.len() - 1
    }

    fn gradient_view(&self, view: View) -> View {
        View { buffer: self.gradient_of[view.buffer], ..view }
    }

    fn step(&mut self, node: &Node, work: Work, inputs: &[Value], value: Value) {
        let output = value.source.view;
        self.push(node, work, inputs, output, value.gradient, value.differentiable);
    }

    fn push(
        &mut self,
        node: &Node,
        work: Work,
        inputs: &[Value],
        output: View,
        gradient: View,
        differentiable: bool,
    ) {
        let inputs = inputs
            .iter()
            .map(|input| Input {
                source: input.source,
                sink: input
                    .differentiable
                    .then_some(Sink { view: input.gradient, accumulate: true }),
            })
            .collect();
        let name = node.op.name();
        let zero = Vec::new();
        let step =
            Step { node: node.id, name, work, inputs, output, gradient, differentiable, zero };
        self.plan.steps.push(step);
    }

    /// Makes the output plain, then decides who writes and who adds, and shares slots.
    fn finish(mut self) -> anyhow::Result<Plan> {
        let node = self.network.output().context("a network has an output")?;
        let output = self.known[&node.id];
        let output = self.as_plain(node, output);
        self.plan.output = output.source.view;
        let mut lives = Lives::new(self.gradients);
        lives.touch(output.gradient.buffer);
        for step in self.plan.steps.iter_mut().rev().filter(|step| step.differentiable) {
            if !lives.touch(step.gradient.buffer) {
                step.zero.push(step.gradient.buffer);
            }
            for sink in step.inputs.iter_mut().filter_map(|input| input.sink.as_mut()) {
                let begun = lives.touch(sink.view.buffer);
                sink.accumulate = begun || !sink.view.is_whole();
                if !begun && !sink.view.is_whole() {
                    step.zero.push(sink.view.buffer);
                }
            }
            lives.pass();
        }
        let (slot_of, slots) = lives.slots();
        self.plan.slots = slots;
        let slotted = |view: View| View { buffer: slot_of[view.buffer], ..view };
        self.plan.output_gradient = slotted(output.gradient);
        for step in &mut self.plan.steps {
            step.gradient = slotted(step.gradient);
            step.zero.iter_mut().for_each(|buffer| *buffer = slot_of[*buffer]);
            for sink in step.inputs.iter_mut().filter_map(|input| input.sink.as_mut()) {
                sink.view = slotted(sink.view);
            }
        }
        Ok(self.plan)
    }
}

/// When each gradient is first and last used in the backward pass.
struct Lives {
    sizes: Vec<usize>,
    spans: Vec<Option<(usize, usize)>>,
    now: usize,
}

impl Lives {
    fn new(sizes: Vec<usize>) -> Self {
        Lives { spans: vec![None; sizes.len()], sizes, now: 0 }
    }

    /// Uses a gradient now; whether it was used before.
    fn touch(&mut self, gradient: usize) -> bool {
        let span = &mut self.spans[gradient];
        let begun = span.is_some();
        *span = Some((span.map_or(self.now, |(first, _)| first), self.now));
        begun
    }

    fn pass(&mut self) {
        self.now += 1;
    }

    /// The slot of each gradient, and the size of each slot: the free one that fits best, or the
    /// largest free one, enlarged.
    fn slots(&self) -> (Vec<usize>, Vec<usize>) {
        let mut slot_of = vec![0; self.sizes.len()];
        let mut slots: Vec<usize> = Vec::new();
        let mut free: BTreeSet<usize> = BTreeSet::new();
        for now in 0..=self.now {
            for (gradient, size) in self.sizes.iter().enumerate() {
                if self.spans[gradient].is_some_and(|(first, _)| first == now) {
                    let fits = free.iter().filter(|slot| slots[**slot] >= *size);
                    let best = fits.min_by_key(|slot| slots[**slot]);
                    let best = best.or(free.iter().max_by_key(|slot| slots[**slot])).copied();
                    let slot = best.unwrap_or_else(|| {
                        slots.push(0);
                        slots.len() - 1
                    });
                    free.remove(&slot);
                    slots[slot] = slots[slot].max(*size);
                    slot_of[gradient] = slot;
                }
            }
            for (slot, span) in slot_of.iter().zip(&self.spans) {
                if span.is_some_and(|(_, last)| last == now) {
                    free.insert(*slot);
                }
            }
        }
        (slot_of, slots)
    }
}
