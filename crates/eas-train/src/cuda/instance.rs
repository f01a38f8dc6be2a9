//! A plan for batches of one size: where everything stands, and how its convolutions are computed.

use std::rc::Rc;
use std::sync::Arc;

use super::cudnn::{Convolution, Cudnn, Direction, Engine, Operands, TIMED, WORKSPACE};
use super::gpu::{Layout, Memory, Place, Queue, Recording};
use super::kernels::{
    Kernels, LossPlaces, Matrix, NormPlaces, SumPlaces, UpdatePlaces, Window, partial_bytes, size,
};
use super::plan::{Parameter, Plan, Step, Value, Work};
use super::program::{BlockLayout, Fixed};
use crate::recipe::Precision;

/// What an instance is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Purpose {
    pub(super) precision: Precision,
    pub(super) batch: usize,
    /// Whether there is a backward pass.
    pub(super) trains: bool,
}

/// Where the images of a pass come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// They were uploaded.
    Given,
    /// From those of a data set, which are here.
    Drawn(Place),
}

/// Where a step's own numbers stand.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    mean: Place,
    inverse: Place,
    means: Place,
    winners: Place,
}

/// Everything that a pass of a batch works in.
#[derive(Debug)]
pub(super) struct MemoryPlan {
    pub(super) purpose: Purpose,
    values: Vec<Place>,
    slopes: Vec<Place>,
    steps: Vec<Places>,
    pub(super) given: Place,
    pub(super) block: Place,
    losses: Place,
    hits: Place,
    partials: Place,
    /// A slope before it is added to another.
    addend: Place,
    workspace: Place,
    pub(super) bytes: usize,
}

impl MemoryPlan {
    /// Plans it: places are counted from its beginning.
    pub(super) fn new(plan: &Plan, purpose: Purpose) -> Self {
        let Purpose { precision, batch, trains } = purpose;
        let mut layout = Layout::default();
        let number = size(precision);
        let of = |value: &Value| batch * value.numbers() * number;
        let values = plan.values.iter().map(|value| layout.take(of(value))).collect();
        let slopes = plan
            .values
            .iter()
            .map(|value| layout.take(if trains && value.differentiable { of(value) } else { 0 }))
            .collect();
        let (mut partials, mut addend) = (0, 0);
        let mut sum = |value: &Value| {
            let bytes = partial_bytes(precision, batch * value.area(), value.channels);
            partials = partials.max(bytes);
        };
        let mut steps = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let value = &plan.values[step.output];
            let mut places = Places::default();
            match step.work {
                Work::Norm { .. } => {
                    places.mean = layout.take(4 * value.channels);
                    places.inverse = layout.take(4 * value.channels);
                    places.means = layout.take(8 * value.channels);
                    sum(value);
                }
                Work::MaxPool { .. } => places.winners = layout.take(2 * batch * value.numbers()),
                Work::Convolution { bias, .. } => {
                    if bias.is_some() {
                        sum(value);
                    }
                    let before = step.inputs[0];
                    if before.accumulate == Some(true) {
                        addend = addend.max(of(&plan.values[before.value]));
                    }
                }
                Work::Images
                | Work::Relu
                | Work::AveragePool { .. }
                | Work::Flatten
                | Work::Dropout { .. }
                | Work::Add
                | Work::Concat => {}
            }
            steps.push(places);
        }
        let input = &plan.values[plan.steps[0].output];
        let block = BlockLayout::new(plan);
        MemoryPlan {
            purpose,
            values,
            slopes,
            steps,
            given: layout.take(4 * batch * input.numbers()),
            block: layout.take(4 * block.length(batch)),
            losses: layout.take(8 * batch),
            hits: layout.take(4 * batch),
            partials: layout.take(partials),
            addend: layout.take(if trains { addend } else { 0 }),
            workspace: layout.take(WORKSPACE),
            bytes: layout.bytes(),
        }
    }

    /// Moves all places to where the memory is.
    fn moved(mut self, memory: Place) -> Self {
        let by_step = self.steps.iter_mut().flat_map(|step| {
            [&mut step.mean, &mut step.inverse, &mut step.means, &mut step.winners]
        });
        let single = [
            &mut self.given,
            &mut self.block,
            &mut self.losses,
            &mut self.hits,
            &mut self.partials,
            &mut self.addend,
            &mut self.workspace,
        ];
        let all = self.values.iter_mut().chain(&mut self.slopes).chain(by_step).chain(single);
        for place in all {
            *place = memory.part(place.pointer as usize, place.bytes);
        }
        self
    }
}

/// A plan ready to work on batches of one size.
#[derive(Debug)]
pub(super) struct Instance {
    memory: MemoryPlan,
    /// Of each step, where it is a convolution.
    layers: Vec<Option<Layer>>,
    /// A recorded step of training, and the images it reads.
    pub(super) recorded: Option<(Arc<Memory>, Recording)>,
    /// Whether a step was done, so that everything is loaded that a recording needs.
    pub(super) warm: bool,
}

/// How a convolution and its slopes are computed.
#[derive(Debug)]
struct Layer {
    forward: Rc<Engine>,
    /// The slopes of input and weight, where there are.
    data: Option<Rc<Engine>>,
    filter: Option<Rc<Engine>>,
}

/// What passes work with besides their instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass<'a> {
    pub(super) plan: &'a Plan,
    pub(super) queue: &'a Queue,
    pub(super) cudnn: &'a Cudnn,
    pub(super) fixed: &'a Fixed,
}

impl Pass<'_> {
    /// The place of a parameter in a buffer of all.
    fn of(&self, all: Place, parameter: usize) -> Place {
        let Parameter { start, length, .. } = self.plan.parameters[parameter];
        all.part(4 * start, 4 * length)
    }

    fn value(&self, parameter: usize) -> Place {
        self.of(self.fixed.parameters.values, parameter)
    }

    fn slope(&self, parameter: usize) -> Place {
        self.of(self.fixed.parameters.slopes, parameter)
    }

    /// A weight, and its slope, as products have them.
    fn weight(&self, precision: Precision, parameter: usize) -> (Place, Place) {
        let UpdatePlaces { halves, half_slopes, .. } = self.fixed.parameters;
        let Parameter { start, length, .. } = self.plan.parameters[parameter];
        let half = |all: Place| all.part(2 * start, 2 * length);
        match precision {
            Precision::F32 => (self.value(parameter), self.slope(parameter)),
            Precision::Bf16 => (half(halves), half(half_slopes)),
        }
    }
}

impl Instance {
    /// Makes a plan ready in this memory, whose contents are lost.
    ///
    /// # Errors
    /// A convolution that cuDNN can't compute.
    pub(super) fn new(pass: Pass<'_>, memory: MemoryPlan, at: Place) -> anyhow::Result<Self> {
        let memory = memory.moved(at);
        let layers = pass.plan.steps.iter().map(|step| layer(pass, &memory, step));
        let layers = layers.collect::<anyhow::Result<_>>()?;
        Ok(Instance { memory, layers, recorded: None, warm: false })
    }

    /// Where uploaded images are read.
    pub(super) fn given(&self) -> Place {
        self.memory.given
    }

    /// Where what a step depends on is read.
    pub(super) fn block(&self) -> Place {
        self.memory.block
    }

    /// A value of the batch.
    pub(super) fn value(&self, plan: &Plan, value: usize) -> Matrix {
        self.matrix(plan, self.memory.values[value], value)
    }

    fn slope(&self, plan: &Plan, value: usize) -> Matrix {
        self.matrix(plan, self.memory.slopes[value], value)
    }

    fn matrix(&self, plan: &Plan, place: Place, value: usize) -> Matrix {
        let Value { channels, .. } = plan.values[value];
        let rows = self.memory.purpose.batch * plan.values[value].area();
        Matrix { place, rows, channels }
    }

    fn sums(&self, pass: Pass<'_>) -> SumPlaces {
        SumPlaces { partials: self.memory.partials, counters: pass.fixed.counters }
    }

    fn kernels<'a>(&self, pass: Pass<'a>) -> Kernels<'a> {
        Kernels { queue: pass.queue, precision: self.memory.purpose.precision }
    }

    fn norm(&self, pass: Pass<'_>, step: usize) -> Option<NormPlaces> {
        let Work::Norm { relu, parameters, .. } = pass.plan.steps[step].work else { return None };
        let Places { mean, inverse, means, .. } = self.memory.steps[step];
        let (gamma, beta) = (pass.value(parameters.gamma), pass.value(parameters.beta));
        Some(NormPlaces { gamma, beta, mean, inverse, means, relu })
    }

    /// The windows of a pool step.
    fn window(&self, plan: &Plan, step: &Step) -> Window {
        let (from, to) = (plan.values[step.inputs[0].value], plan.values[step.output]);
        let (size_height, size_width, stride, padding) = match step.work {
            Work::MaxPool { size, stride, padding } => (size, size, stride, padding),
            Work::AveragePool { height, width, stride } => (height, width, stride, 0),
            _ => unreachable!("a step that pools"),
        };
        Window {
            count: self.memory.purpose.batch as u32,
            channels: from.channels as u32,
            height: from.height as u32,
            width: from.width as u32,
            out_height: to.height as u32,
            out_width: to.width as u32,
            size_height: size_height as u32,
            size_width: size_width as u32,
            stride: stride as u32,
            padding: padding as u32,
        }
    }

    /// Gives all steps to the queue. In training mode batch norms take the batch's statistics; dropout
    /// is off where the block says so.
    pub(super) fn forward(
        &self,
        pass: Pass<'_>,
        source: Source,
        training: bool,
    ) -> anyhow::Result<()> {
        let plan = pass.plan;
        let kernels = self.kernels(pass);
        let batch = self.memory.purpose.batch;
        let block = BlockLayout::new(plan);
        for (index, step) in plan.steps.iter().enumerate() {
            let output = self.value(plan, step.output);
            let input = |place: usize| self.value(plan, step.inputs[place].value);
            match step.work {
                Work::Images => {
                    let Value { height, width, .. } = plan.values[step.output];
                    match source {
                        Source::Given => kernels.images_given(self.memory.given, output, batch)?,
                        Source::Drawn(images) => {
                            let (scales, shifts) = block.scales(self.memory.block);
                            let placed = block.placed(self.memory.block, batch);
                            let size = (height, width);
                            kernels.images_drawn(
                                images, placed, scales, shifts, output, batch, size,
                            )?;
                        }
                    }
                }
                Work::Convolution { weight, bias, .. } => {
                    let (weight, _) = pass.weight(kernels.precision, weight);
                    let operands = Operands {
                        input: input(0).place,
                        weight,
                        output: output.place,
                        workspace: self.memory.workspace,
                    };
                    pass.cudnn.run(&self.layer(index).forward, operands)?;
                    if let Some(bias) = bias {
                        kernels.add_bias(output, pass.value(bias))?;
                    }
                }
                Work::Norm { epsilon, parameters, .. } => {
                    let norm = self.norm(pass, index).expect("the step is a batch norm");
                    if training {
                        let found = (pass.slope(parameters.mean), pass.slope(parameters.variance));
                        let sums = self.sums(pass);
                        kernels.norm_statistics(input(0), epsilon, norm, found, sums)?;
                    } else {
                        let running =
                            (pass.value(parameters.mean), pass.value(parameters.variance));
                        kernels.norm_running(running, epsilon, norm, output.channels)?;
                    }
                    kernels.norm_apply(input(0), norm, output.place)?;
                }
                Work::Relu => {
                    kernels.relu(input(0).place, output.place, output.rows * output.channels)?;
                }
                Work::MaxPool { .. } => {
                    let winners = self.memory.steps[index].winners;
                    let window = self.window(plan, step);
                    kernels.max_pool(input(0).place, output.place, winners, window)?;
                }
                Work::AveragePool { .. } => {
                    let window = self.window(plan, step);
                    kernels.average_pool(input(0).place, output.place, window)?;
                }
                Work::Flatten => {
                    let Value { channels, .. } = plan.values[step.inputs[0].value];
                    let area = plan.values[step.inputs[0].value].area();
                    let sizes = [batch, area, channels];
                    kernels.transposed(input(0).place, output.place, false, sizes)?;
                }
                Work::Dropout { rate, place } => {
                    let key = block.key(self.memory.block, place);
                    let step = (block.step(self.memory.block), key);
                    kernels.dropout(input(0), output.place, step, rate, false)?;
                }
                Work::Add => {
                    for place in 0..step.inputs.len() {
                        let (from, to) = ((input(place), 0), (output, 0));
                        kernels.copy(from, to, output.channels, place > 0)?;
                    }
                }
                Work::Concat => {
                    let mut offset = 0;
                    for place in 0..step.inputs.len() {
                        let from = input(place);
                        kernels.copy((from, 0), (output, offset), from.channels, false)?;
                        offset += from.channels;
                    }
                }
            }
        }
        Ok(())
    }

    /// The loss of the logits, its slope, and what is reported.
    pub(super) fn loss(&self, pass: Pass<'_>) -> anyhow::Result<()> {
        let Pass { plan, fixed, .. } = pass;
        let block = BlockLayout::new(plan);
        let loss = LossPlaces {
            placed: block.placed(self.memory.block, self.memory.purpose.batch),
            step: block.step(self.memory.block),
            losses: self.memory.losses,
            hits: self.memory.hits,
            reports: fixed.reports,
            diverged: fixed.diverged,
            counters: fixed.counters,
        };
        let slopes = self.memory.slopes[plan.output];
        self.kernels(pass).cross_entropy(self.value(plan, plan.output), slopes, loss)
    }

    /// Gives all steps to the queue backward, from the slope of the logits to those of parameters.
    pub(super) fn backward(&self, pass: Pass<'_>) -> anyhow::Result<()> {
        let Pass { plan, .. } = pass;
        let kernels = self.kernels(pass);
        let batch = self.memory.purpose.batch;
        let block = BlockLayout::new(plan);
        for (index, step) in plan.steps.iter().enumerate().rev() {
            if !plan.values[step.output].differentiable {
                continue;
            }
            let slope = self.slope(plan, step.output);
            // Where the slope of each input goes, and whether it is added.
            let sinks = step.inputs.iter().filter_map(|input| {
                let accumulate = input.accumulate?;
                Some((self.slope(plan, input.value), accumulate))
            });
            let value = |place: usize| self.value(plan, step.inputs[place].value);
            match step.work {
                Work::Images => {}
                Work::Convolution { weight, bias, .. } => {
                    if let Some(bias) = bias {
                        kernels.bias_slopes(slope, pass.slope(bias), self.sums(pass))?;
                    }
                    let (weight, weight_slope) = pass.weight(kernels.precision, weight);
                    let Layer { data, filter, .. } = self.layer(index);
                    let of_weight = Operands {
                        input: value(0).place,
                        weight: weight_slope,
                        output: slope.place,
                        workspace: self.memory.workspace,
                    };
                    let filter = filter.as_ref().expect("the instance trains");
                    pass.cudnn.run(filter, of_weight)?;
                    for (sink, accumulate) in sinks {
                        let data = data.as_ref().expect("the input has a slope");
                        let addend = Matrix { place: self.memory.addend, ..sink };
                        let to = if accumulate { addend } else { sink };
                        let of_input = Operands { input: to.place, weight, ..of_weight };
                        pass.cudnn.run(data, of_input)?;
                        if accumulate {
                            kernels.copy((addend, 0), (sink, 0), sink.channels, true)?;
                        }
                    }
                }
                Work::Norm { parameters, .. } => {
                    let norm = self.norm(pass, index).expect("the step is a batch norm");
                    let found = (pass.slope(parameters.gamma), pass.slope(parameters.beta));
                    let sums = self.sums(pass);
                    kernels.norm_slopes(value(0), slope.place, norm, found, sums)?;
                    for (sink, accumulate) in sinks {
                        kernels.norm_backward(
                            value(0),
                            slope.place,
                            norm,
                            sink.place,
                            accumulate,
                        )?;
                    }
                }
                Work::Relu => {
                    for (sink, accumulate) in sinks {
                        let numbers = slope.rows * slope.channels;
                        let (values, slope) = (value(0).place, slope.place);
                        kernels.relu_backward(values, slope, sink.place, accumulate, numbers)?;
                    }
                }
                Work::MaxPool { .. } => {
                    let winners = self.memory.steps[index].winners;
                    let window = self.window(plan, step);
                    for (sink, accumulate) in sinks {
                        let (slope, to) = (slope.place, sink.place);
                        kernels.max_pool_backward(winners, slope, to, accumulate, window)?;
                    }
                }
                Work::AveragePool { .. } => {
                    let window = self.window(plan, step);
                    for (sink, accumulate) in sinks {
                        let (slope, to) = (slope.place, sink.place);
                        kernels.average_pool_backward(slope, to, accumulate, window)?;
                    }
                }
                Work::Flatten => {
                    let before = plan.values[step.inputs[0].value];
                    let sizes = [batch, before.channels, before.area()];
                    for (sink, accumulate) in sinks {
                        kernels.transposed(slope.place, sink.place, accumulate, sizes)?;
                    }
                }
                Work::Dropout { rate, place } => {
                    let key = block.key(self.memory.block, place);
                    let step = (block.step(self.memory.block), key);
                    for (sink, accumulate) in sinks {
                        kernels.dropout(slope, sink.place, step, rate, accumulate)?;
                    }
                }
                Work::Add => {
                    for (sink, accumulate) in sinks {
                        kernels.copy((slope, 0), (sink, 0), slope.channels, accumulate)?;
                    }
                }
                Work::Concat => {
                    let mut offset = 0;
                    for input in &step.inputs {
                        let channels = plan.values[input.value].channels;
                        if let Some(accumulate) = input.accumulate {
                            let sink = self.slope(plan, input.value);
                            kernels.copy((slope, offset), (sink, 0), channels, accumulate)?;
                        }
                        offset += channels;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves all parameters, and the running statistics.
    pub(super) fn update(&self, pass: Pass<'_>) -> anyhow::Result<()> {
        let Fixed { parameters, diverged, .. } = *pass.fixed;
        let step = BlockLayout::new(pass.plan).step(self.memory.block);
        self.kernels(pass).update(parameters, step, diverged)
    }

    fn layer(&self, step: usize) -> &Layer {
        self.layers[step].as_ref().expect("the step is a convolution")
    }
}

/// How a step is computed, if it is a convolution.
fn layer(pass: Pass<'_>, memory: &MemoryPlan, step: &Step) -> anyhow::Result<Option<Layer>> {
    let Work::Convolution { geometry, weight, .. } = step.work else { return Ok(None) };
    let Purpose { precision, batch, trains } = memory.purpose;
    let (weight, weight_slope) = pass.weight(precision, weight);
    let before = step.inputs[0];
    let workspace = memory.workspace;
    let (value, output) = (memory.values[before.value], memory.values[step.output]);
    let (slope, sink) = (memory.slopes[step.output], memory.slopes[before.value]);
    let sink = if before.accumulate == Some(true) { memory.addend } else { sink };
    let engine = |direction, input, weight, output| {
        let convolution = Convolution { direction, geometry, precision, batch };
        let operands = Operands { input, weight, output, workspace };
        // A few batches that are evaluated aren't worth a search.
        let timed = if trains { TIMED } else { 1 };
        pass.cudnn.engine(pass.queue, convolution, operands, timed)
    };
    let forward = engine(Direction::Forward, value, weight, output)?;
    let (mut data, mut filter) = (None, None);
    if trains {
        filter = Some(engine(Direction::Filter, value, weight_slope, slope)?);
        if before.accumulate.is_some() {
            data = Some(engine(Direction::Data, sink, weight, slope)?);
        }
    }
    Ok(Some(Layer { forward, data, filter }))
}
