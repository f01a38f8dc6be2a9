//! A planned network at work: forward, backward, update.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use eas_ir::{Images, Mode, Moments, Network, NodeId, Rng};
use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::batch_norm::{Norm, block_moments, join_moments, partial_size};
use super::elementwise::{apply_mask, copy, draw_mask, flatten, flatten_backward, pass_slope};
use super::images::{Given, take_images};
use super::kernels::Isa;
use super::loss::cross_entropy;
use super::memory::{Memory, Needs, Setting};
use super::plan::{Known, NormParameters, Plan, Step, Work};
use super::values::{View, rectify};
use crate::engine::{Batch, OpTime, Program, StepOptions, StepReport, TrainingStep};
use crate::optimiser::nesterov_step;
use crate::parameters::FlatParameters;
use crate::recipe::Precision;

/// Share of the old running statistics that a training step keeps (the paper's code: 0.9).
const STATISTICS_DECAY: f32 = 0.9;

/// Images that are evaluated at once, at least.
const EVALUATION_BATCH: usize = 64;

/// Numbers of a block of images whose values are summed, about: they stay in cache.
const BLOCK: usize = 16384;

/// A network compiled for the CPU.
#[derive(Debug)]
pub struct CpuProgram {
    isa: Isa,
    plan: Plan,
    memory: Memory,
    /// The gradient of the last step, in the layout of the parameters.
    gradient: Vec<f32>,
    /// A place for each step, then the loss and the update.
    times: Vec<OpTime>,
}

/// How a pass is run.
#[derive(Clone, Copy)]
struct Pass<'a> {
    setting: Setting,
    mode: Mode,
    dropout: Option<&'a Rng>,
}

impl CpuProgram {
    /// Plans a network for the best instructions that this machine has.
    ///
    /// # Errors
    /// A network that doesn't verify.
    pub fn new(network: &Network) -> anyhow::Result<Self> {
        CpuProgram::with_instructions(network, Isa::detect())
    }

    pub(super) fn with_instructions(network: &Network, isa: Isa) -> anyhow::Result<Self> {
        let plan = Plan::new(network, isa)?;
        let memory = Memory::new(&plan);
        let gradient = vec![0.0; plan.parameters];
        let op = |node, name| OpTime { node, name, forward: 0.0, backward: 0.0 };
        let steps = plan.steps.iter().map(|step| match step.work {
            Work::Input => op(Some(step.node), "data"),
            _ => op(Some(step.node), step.name),
        });
        let times = steps.chain([op(None, "loss"), op(None, "update")]).collect();
        Ok(CpuProgram { isa, plan, memory, gradient, times })
    }

    fn check(&self, parameters: &FlatParameters, images: Given<'_>) -> anyhow::Result<()> {
        let (found, expected) = (parameters.values.len(), self.plan.parameters);
        ensure!(found == expected, "expected {expected} parameters, found {found}");
        let (batch, (channels, height, width)) = images.size();
        let View { channels: c, height: h, width: w, .. } = self.plan.steps[0].output;
        ensure!(
            (channels, height, width) == (c, h, w),
            "expected images of {c}x{h}x{w}, found {channels}x{height}x{width}"
        );
        ensure!(batch > 0, "expected at least one image");
        Ok(())
    }

    /// Runs all steps.
    fn forward(&mut self, parameters: &[f32], images: Given<'_>, pass: Pass<'_>) {
        let CpuProgram { plan, memory, times, .. } = self;
        let setting = pass.setting;
        let batch = setting.batch;
        for (index, step) in plan.steps.iter().enumerate() {
            let started = Instant::now();
            let output = &step.output;
            match &step.work {
                Work::Input => take_images(setting, memory, images, output),
                Work::Convolution(convolution) => {
                    let moments = pass.mode == Mode::Training && plan.norm_follows(index);
                    let source = &step.inputs[0].source;
                    convolution.run(setting, parameters, memory, source, output, moments);
                }
                Work::Norm { norm, parameters: of, known, .. } => match pass.mode {
                    Mode::Evaluation => {
                        let (mean, variance) = (of.mean.of(parameters), of.variance.of(parameters));
                        memory.norms[*norm].set(
                            |set| {
                                for (channel, mean) in mean.iter().enumerate() {
                                    set(channel, f64::from(*mean), f64::from(variance[channel]));
                                }
                            },
                            of.gamma.of(parameters),
                            of.beta.of(parameters),
                        );
                    }
                    Mode::Training => {
                        let block = plan.moments_before(index, setting.precision);
                        let from = (block, *known);
                        batch_statistics(setting, memory, step, *norm, from, of, parameters);
                    }
                },
                Work::Relu => {}
                Work::MaxPool { window, winners } => {
                    window.max(setting, pass.mode, memory, &step.inputs[0], output, *winners);
                }
                Work::AveragePool(window) => {
                    window.average(setting, memory, &step.inputs[0], output);
                }
                Work::Flatten => flatten(setting, memory, &step.inputs[0], output),
                Work::Dropout { rate, mask } => {
                    copy(setting, memory, &step.inputs[0], output, false);
                    if let Some(rng) = pass.dropout {
                        let mask = &mut memory.masks[*mask][..batch * output.image()];
                        draw_mask(rng, step.node, *rate, batch, output, mask);
                        let values = &mut memory.values[output.buffer];
                        apply_mask(output, &mut values[..batch * output.image()], mask);
                    }
                }
                Work::Add => {
                    for (index, input) in step.inputs.iter().enumerate() {
                        copy(setting, memory, input, output, index > 0);
                    }
                }
                Work::Concat { offsets } => {
                    for (input, offset) in step.inputs.iter().zip(offsets) {
                        let channels = input.source.view.channels;
                        let part = View { offset: output.offset + offset, channels, ..*output };
                        copy(setting, memory, input, &part, false);
                    }
                }
                Work::Store => copy(setting, memory, &step.inputs[0], output, false),
            }
            times[index].forward += started.elapsed().as_secs_f64();
        }
    }

    /// Runs all steps backward, from the gradient of the logits to those of the parameters.
    fn backward(&mut self, parameters: &[f32], pass: Pass<'_>) {
        let CpuProgram { plan, memory, gradient, times, .. } = self;
        let setting = pass.setting;
        let batch = setting.batch;
        for (index, step) in plan.steps.iter().enumerate().rev() {
            if !step.differentiable {
                continue;
            }
            let started = Instant::now();
            for slot in &step.zero {
                memory.slots[*slot][..batch * plan.slots[*slot]].fill(0.0);
            }
            let slope = &step.gradient;
            match &step.work {
                Work::Input => {}
                Work::Convolution(convolution) => {
                    let input = &step.inputs[0];
                    convolution.run_backward(setting, parameters, memory, input, slope, gradient);
                }
                Work::Norm { norm, relu, parameters: of, .. } => {
                    norm_backward(setting, memory, step, *norm, *relu, of, gradient);
                }
                Work::Relu => relu_backward(setting, memory, step),
                Work::MaxPool { window, winners } => {
                    window.max_backward(setting, memory, &step.inputs[0], slope, *winners);
                }
                Work::AveragePool(window) => {
                    window.average_backward(setting, memory, &step.inputs[0], slope);
                }
                Work::Flatten => flatten_backward(setting, memory, &step.inputs[0], slope),
                Work::Dropout { mask, .. } => {
                    if pass.dropout.is_some() {
                        let slopes = &mut memory.slots[slope.buffer][..batch * slope.image()];
                        apply_mask(slope, slopes, &memory.masks[*mask]);
                    }
                    if let Some(sink) = &step.inputs[0].sink {
                        pass_slope(setting, memory, sink, slope, 0);
                    }
                }
                Work::Add | Work::Store => {
                    for sink in step.inputs.iter().filter_map(|input| input.sink.as_ref()) {
                        pass_slope(setting, memory, sink, slope, 0);
                    }
                }
                Work::Concat { offsets } => {
                    for (input, offset) in step.inputs.iter().zip(offsets) {
                        if let Some(sink) = &input.sink {
                            pass_slope(setting, memory, sink, slope, *offset);
                        }
                    }
                }
            }
            times[index].backward += started.elapsed().as_secs_f64();
        }
    }

    /// Forward, loss, backward; the gradient is left in `self.gradient`, unless the loss isn't finite. `shown`
    /// are the classes of each image.
    fn differentiate(
        &mut self,
        parameters: &FlatParameters,
        images: Given<'_>,
        shown: impl ExactSizeIterator<Item = (usize, usize, f64)>,
        options: &StepOptions<'_>,
    ) -> StepReport {
        let count = shown.len();
        let setting = self.setting(options.precision, count);
        self.memory.reserve(&self.plan, setting);
        let pass = Pass { setting, mode: Mode::Training, dropout: options.dropout };
        self.forward(&parameters.values, images, pass);
        let started = Instant::now();
        let (logits, slopes) = (self.plan.output, self.plan.output_gradient);
        let Memory { values, slots, .. } = &mut self.memory;
        let report = cross_entropy(
            &values[logits.buffer][..count * logits.image()],
            shown,
            options.label_smoothing,
            &mut slots[slopes.buffer][..count * slopes.image()],
        );
        self.times[self.plan.steps.len()].forward += started.elapsed().as_secs_f64();
        if report.is_finite() {
            self.backward(&parameters.values, pass);
        }
        report
    }

    /// As [`Program::step`], of images that fit the network.
    fn train(
        &mut self,
        parameters: &mut FlatParameters,
        images: Given<'_>,
        shown: impl ExactSizeIterator<Item = (usize, usize, f64)> + Send,
        options: &StepOptions<'_>,
    ) -> StepReport {
        in_pool(|| {
            let report = self.differentiate(parameters, images, shown, options);
            if report.is_finite() {
                let started = Instant::now();
                self.isa.run(
                    #[inline(always)]
                    || nesterov_step(parameters, &self.gradient, options.update),
                );
                self.follow_statistics(&mut parameters.values);
                let update = self.times.last_mut().expect("the update has a place");
                update.backward += started.elapsed().as_secs_f64();
            }
            report
        })
    }

    /// Moves the running statistics towards those of the batch.
    fn follow_statistics(&self, parameters: &mut [f32]) {
        for step in &self.plan.steps {
            let Work::Norm { norm, parameters: of, .. } = &step.work else { continue };
            let norm = &self.memory.norms[*norm];
            // Normalised by the biased variance; the running one is unbiased, as in PyTorch.
            let unbiased = norm.count as f32 / (norm.count.max(2) - 1) as f32;
            let follow = |running: &mut [f32], found: &[f32], factor: f32| {
                for (running, found) in running.iter_mut().zip(found) {
                    *running =
                        STATISTICS_DECAY * *running + (1.0 - STATISTICS_DECAY) * factor * found;
                }
            };
            follow(of.mean.of_mut(parameters), &norm.row.mean, 1.0);
            follow(of.variance.of_mut(parameters), &norm.variance, unbiased);
        }
    }

    fn setting(&self, precision: Precision, batch: usize) -> Setting {
        Setting { isa: self.isa, precision, batch }
    }

    /// Images that are evaluated at once.
    fn evaluation_batch(&self, images: usize) -> usize {
        self.memory.batch.max(EVALUATION_BATCH).min(images)
    }
}

/// Runs work on a thread of the current pool, so that each parallel loop starts without a hand-over.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match rayon::current_thread_index() {
        Some(_) => work(),
        None => rayon::scope(|_| work()),
    }
}

impl Program for CpuProgram {
    fn times(&self) -> &[OpTime] {
        &self.times
    }

    fn steps(
        &mut self,
        parameters: &mut FlatParameters,
        steps: &mut dyn Iterator<Item = TrainingStep<'_>>,
    ) -> anyhow::Result<Vec<StepReport>> {
        let mut reports: Vec<StepReport> = Vec::new();
        while reports.last().is_none_or(StepReport::is_finite) {
            let started = Instant::now();
            let Some(step) = steps.next() else { break };
            self.times[0].forward += started.elapsed().as_secs_f64();
            let images = Given::Drawn(&step.drawn);
            self.check(parameters, images)?;
            step.drawn.check(self.plan.output.channels)?;
            let shown = (0..step.drawn.count()).map(|image| step.drawn.shown(image));
            reports.push(self.train(parameters, images, shown, &step.options()));
        }
        Ok(reports)
    }

    fn step(
        &mut self,
        parameters: &mut FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<StepReport> {
        let images = Given::Made(batch.images.view());
        self.check(parameters, images)?;
        batch.check(self.plan.output.channels)?;
        let shown = (0..batch.labels.len()).map(|image| batch.shown(image));
        Ok(self.train(parameters, images, shown, options))
    }

    fn gradient(
        &mut self,
        parameters: &FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<(Vec<f32>, StepReport)> {
        let images = Given::Made(batch.images.view());
        self.check(parameters, images)?;
        batch.check(self.plan.output.channels)?;
        let shown = (0..batch.labels.len()).map(|image| batch.shown(image));
        in_pool(|| {
            let report = self.differentiate(parameters, images, shown, options);
            let gradient = match report.is_finite() {
                true => self.gradient.clone(),
                false => vec![f32::NAN; self.gradient.len()],
            };
            Ok((gradient, report))
        })
    }

    fn logits(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        mode: Mode,
    ) -> anyhow::Result<Array2<f32>> {
        self.check(parameters, Given::Made(images.view()))?;
        in_pool(|| {
            let count = images.dim().0;
            // Batch statistics are of the whole batch; running ones allow it to be cut.
            let chunk = match mode {
                Mode::Evaluation => self.evaluation_batch(count),
                Mode::Training => count,
            };
            self.memory.reserve_forward(&self.plan, self.setting(Precision::F32, chunk));
            let output = self.plan.output;
            let mut all = Vec::with_capacity(count * output.channels);
            for part in images.axis_chunks_iter(Axis(0), chunk) {
                let batch = part.dim().0;
                let setting = self.setting(Precision::F32, batch);
                self.forward(
                    &parameters.values,
                    Given::Made(part),
                    Pass { setting, mode, dropout: None },
                );
                all.extend(&self.memory.values[output.buffer][..batch * output.image()]);
            }
            Ok(Array2::from_shape_vec((count, output.channels), all)?)
        })
    }

    fn moments(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>> {
        self.check(parameters, Given::Made(images.view()))?;
        let sources = nodes.iter().map(|id| {
            let source = self.plan.nodes.get(id).with_context(|| format!("no node {id}"))?;
            Ok((*id, *source))
        });
        let sources: Vec<_> = sources.collect::<anyhow::Result<_>>()?;
        in_pool(|| {
            let count = images.dim().0;
            let chunk = self.evaluation_batch(count);
            self.memory.reserve_forward(&self.plan, self.setting(Precision::F32, chunk));
            // The moments of each image, one behind another.
            let mut partials = vec![Vec::new(); sources.len()];
            for part in images.axis_chunks_iter(Axis(0), chunk) {
                let batch = part.dim().0;
                let setting = self.setting(Precision::F32, batch);
                let pass = Pass { setting, mode: Mode::Evaluation, dropout: None };
                self.forward(&parameters.values, Given::Made(part), pass);
                for ((_, source), partials) in sources.iter().zip(&mut partials) {
                    let view = View { offset: 0, stride: source.view.channels, ..source.view };
                    let mut values = vec![0.0; view.image()];
                    for image in 0..batch {
                        let Memory { values: buffers, norms, .. } = &self.memory;
                        let reader = source.reader(buffers, norms, image..image + 1);
                        reader.read(self.isa, 0, &mut values);
                        let start = partials.len();
                        partials.resize(start + partial_size(view.channels), 0.0);
                        block_moments(self.isa, &view, &values, &mut partials[start..]);
                    }
                }
            }
            let joined = sources.iter().zip(&partials).map(|((id, source), partials)| {
                let view = source.view;
                let mut moments =
                    Moments { mean: vec![0.0; view.channels], variance: vec![0.0; view.channels] };
                let pixels = std::iter::repeat_n(view.area(), count);
                join_moments(view.channels, partials, pixels, |channel, mean, variance| {
                    moments.mean[channel] = mean;
                    moments.variance[channel] = variance;
                });
                (*id, moments)
            });
            Ok(joined.collect())
        })
    }
}

impl Plan {
    /// Whether the step behind this one is a batch norm of its output.
    fn norm_follows(&self, index: usize) -> bool {
        self.steps.get(index + 1).is_some_and(|next| {
            matches!(next.work, Work::Norm { .. }) && next.output == self.steps[index].output
        })
    }

    /// The images of a block, where the step before this batch norm found the moments already.
    fn moments_before(&self, index: usize, precision: Precision) -> Option<usize> {
        match &self.steps[index.checked_sub(1)?].work {
            Work::Convolution(convolution) if self.norm_follows(index - 1) => {
                Some(convolution.block(precision))
            }
            _ => None,
        }
    }
}

impl Step {
    /// What a step needs besides values and gradients.
    pub(super) fn needs(&self, setting: Setting) -> Needs {
        let batch = setting.batch;
        let images =
            self.inputs.iter().map(|input| input.source.view.area() * input.source.view.channels);
        let scratch = images.max().unwrap_or(0);
        match &self.work {
            Work::Convolution(convolution) => convolution.needs(setting),
            Work::Norm { known, .. } => {
                let sums =
                    |view: View| batch.div_ceil(norm_block(&view)) * partial_size(view.channels);
                let partials = sums(self.output).max(sums(unknown_channels(&self.output, *known)));
                Needs { partials, ..Needs::default() }
            }
            Work::Input
            | Work::Relu
            | Work::MaxPool { .. }
            | Work::AveragePool(_)
            | Work::Flatten
            | Work::Dropout { .. }
            | Work::Add
            | Work::Concat { .. }
            | Work::Store => Needs { scratch, ..Needs::default() },
        }
    }
}

/// Images of a block for the sums of a batch norm.
fn norm_block(view: &View) -> usize {
    (BLOCK / (view.area() * view.channels)).clamp(1, 16)
}

/// The statistics of a batch; `found` is the block size of the step before, if it summed them, and
/// `known` an earlier batch norm that has some of them.
fn batch_statistics(
    Setting { isa, batch, .. }: Setting,
    memory: &mut Memory,
    step: &Step,
    norm: usize,
    (found, known): (Option<usize>, Option<Known>),
    of: &NormParameters,
    parameters: &[f32],
) {
    let known = known.filter(|_| found.is_none());
    let view = &unknown_channels(&step.output, known);
    let size = partial_size(view.channels);
    let block = found.unwrap_or(norm_block(view));
    let Memory { values, norms, partials, .. } = memory;
    if found.is_none() {
        let values = &values[view.buffer][..batch * view.image()];
        let blocks = values.par_chunks(block * view.image());
        blocks
            .zip(partials.par_chunks_mut(size))
            .for_each(|(block, partial)| block_moments(isa, view, block, partial));
    }
    let pixels = block_pixels(batch, block, view);
    let (earlier, norms) = norms.split_at_mut(norm);
    norms[0].count = batch * view.area();
    norms[0].set(
        |set| {
            if let Some(Known { norm, channels }) = known {
                let Norm { row, variance, .. } = &earlier[norm];
                let statistics = row.mean[..channels].iter().zip(variance).enumerate();
                for (channel, (mean, variance)) in statistics {
                    set(channel, f64::from(*mean), f64::from(*variance));
                }
            }
            let first = step.output.channels - view.channels;
            join_moments(view.channels, partials, pixels, |channel, mean, variance| {
                set(first + channel, mean, variance);
            });
        },
        of.gamma.of(parameters),
        of.beta.of(parameters),
    );
}

/// The channels of a view whose statistics an earlier batch norm doesn't have: the last ones.
fn unknown_channels(view: &View, known: Option<Known>) -> View {
    let channels = known.map_or(0, |known| known.channels);
    View { offset: view.offset + channels, channels: view.channels - channels, ..*view }
}

/// Pixels of each block of images.
fn block_pixels(batch: usize, block: usize, view: &View) -> impl Iterator<Item = usize> + Clone {
    let area = view.area();
    (0..batch).step_by(block).map(move |first| block.min(batch - first) * area)
}

/// The slope through a batch norm, and through the ReLU behind it.
fn norm_backward(
    Setting { isa, batch, .. }: Setting,
    memory: &mut Memory,
    step: &Step,
    norm: usize,
    relu: bool,
    of: &NormParameters,
    gradient: &mut [f32],
) {
    let (view, slope) = (&step.output, &step.gradient);
    let block = norm_block(view);
    let size = partial_size(view.channels);
    let blocks = batch.div_ceil(block);
    let Memory { values, slots, norms, partials, .. } = memory;
    let x = &values[view.buffer][..batch * view.image()];
    let x_blocks = x.par_chunks(block * view.image());
    let slopes = &slots[slope.buffer][..batch * slope.image()];
    let partials = &mut partials[..blocks * size];
    let known = &norms[norm];
    x_blocks
        .clone()
        .zip(slopes.par_chunks(block * slope.image()))
        .zip(partials.par_chunks_mut(size))
        .for_each(|((x, slopes), partial)| {
            known.block_slopes(isa, relu, (view, x), (slope, slopes), partial);
        });
    // A batch norm's scale and shift stand side by side.
    let both = &mut gradient[of.gamma.start..of.beta.start + of.beta.length];
    let (gamma, beta) = both.split_at_mut(of.gamma.length);
    norms[norm].join_slopes(partials, gamma, beta);
    let Some(sink) = &step.inputs[0].sink else { return };
    let known = &norms[norm];
    let mut to = std::mem::take(&mut slots[sink.view.buffer]);
    let to_blocks = to[..batch * sink.view.image()].par_chunks_mut(block * sink.view.image());
    if sink.view.buffer == slope.buffer {
        x_blocks.zip(to_blocks).for_each(|(x, slopes)| {
            known.backward_in_place(isa, relu, (view, x), (slope, slopes));
        });
    } else {
        let slopes = slots[slope.buffer][..batch * slope.image()].par_chunks(block * slope.image());
        x_blocks.zip(slopes).zip(to_blocks).for_each(|((x, slopes), to)| {
            let (slope, to) = ((slope, slopes), (&sink.view, to));
            known.backward(isa, relu, (view, x), slope, to, sink.accumulate);
        });
    }
    slots[sink.view.buffer] = to;
}

/// The slope through a ReLU without a batch norm.
fn relu_backward(Setting { isa, batch, .. }: Setting, memory: &mut Memory, step: &Step) {
    let (view, slope) = (&step.output, &step.gradient);
    let Some(sink) = &step.inputs[0].sink else { return };
    let Memory { values, slots, .. } = memory;
    let x = values[view.buffer][..batch * view.image()].par_chunks(view.image());
    let mut to = std::mem::take(&mut slots[sink.view.buffer]);
    let in_place = sink.view.buffer == slope.buffer;
    let to_images = to[..batch * sink.view.image()].par_chunks_mut(sink.view.image());
    let alive = |x: f32| rectify(x) != 0.0;
    if in_place {
        x.zip(to_images).for_each(|(x, slopes)| {
            isa.run(
                #[inline(always)]
                || {
                    for (x, slopes) in view.pixels(x).zip(slope.pixels_mut(slopes)) {
                        for (x, slope) in x.iter().zip(slopes) {
                            *slope = if alive(*x) { *slope } else { 0.0 };
                        }
                    }
                },
            );
        });
    } else {
        let slopes = slots[slope.buffer][..batch * slope.image()].par_chunks(slope.image());
        x.zip(slopes).zip(to_images).for_each(|((x, slopes), to)| {
            isa.run(
                #[inline(always)]
                || {
                    let pixels = view.pixels(x).zip(slope.pixels(slopes));
                    for ((x, slopes), to) in pixels.zip(sink.view.pixels_mut(to)) {
                        for ((x, slope), to) in x.iter().zip(slopes).zip(to) {
                            let passed = if alive(*x) { *slope } else { 0.0 };
                            *to = if sink.accumulate { *to + passed } else { passed };
                        }
                    }
                },
            );
        });
    }
    slots[sink.view.buffer] = to;
}
