//! A planned network at work on a GPU.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, ensure};
use eas_ir::{Images, Mode, Moments, Network, NodeId, Rng, Role};
use ndarray::{Array2, Axis};

use super::cudnn::Cudnn;
use super::gpu::{Gpu, Layout, Memory, Pinned, Place, Queue};
use super::instance::{Instance, MemoryPlan, Pass, Purpose, Source};
use super::kernels::{Kernels, TILES, UpdatePlaces};
use super::plan::{Parameter, Plan};
use crate::data::Placement;
use crate::engine::{Batch, Program, StepOptions, StepReport, TrainingStep};
use crate::parameters::FlatParameters;
use crate::recipe::Precision;

/// Steps that are given to the GPU before they are waited for, at most: so many that what comes between them,
/// the parameters' way to the host and back, is little.
const STRIDE: usize = 256;

/// Images that are evaluated at once, at most, and where no training has taken memory already.
const EVALUATION_BATCH: usize = 256;
const LEAST_EVALUATION_BATCH: usize = 32;

/// Numbers of a layer's values in a batch, at most: the kernels count them in 32 bits.
const MAX_NUMBERS: usize = i32::MAX as usize;

/// Parameters that a block of the update moves.
const CHUNK_LENGTH: usize = 2048;

/// Lengths of what `kernels.cu` reads, in words of 32 bits.
pub(super) const STEP: usize = 10;
pub(super) const PLACED: usize = 14;
pub(super) const CHUNK: usize = 7;
const REPORT: usize = 4;

/// What a chunk of parameters is.
const TRAINED: u32 = 1;
const WEIGHT: u32 = 2;
const FOLLOWS: u32 = 4;

/// Where a step's own numbers stand in what is uploaded for it, in words: the step, keys of dropouts,
/// scales and shifts of channels, images.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockLayout {
    dropouts: usize,
    channels: usize,
}

impl BlockLayout {
    pub(super) fn new(plan: &Plan) -> Self {
        let channels = plan.values[plan.steps[0].output].channels;
        BlockLayout { dropouts: plan.dropouts.len(), channels }
    }

    fn keys_at(self) -> usize {
        STEP
    }

    fn scales_at(self) -> usize {
        self.keys_at() + 2 * self.dropouts
    }

    fn placed_at(self) -> usize {
        // Places hold numbers of 64 bits.
        self.scales_at() + (2 * self.channels).next_multiple_of(2)
    }

    /// Words for a batch.
    pub(super) fn length(self, batch: usize) -> usize {
        self.placed_at() + PLACED * batch
    }

    pub(super) fn step(self, block: Place) -> Place {
        block.part(0, 4 * STEP)
    }

    pub(super) fn key(self, block: Place, dropout: usize) -> Place {
        block.part(4 * (self.keys_at() + 2 * dropout), 8)
    }

    pub(super) fn scales(self, block: Place) -> (Place, Place) {
        let part = |start| block.part(4 * start, 4 * self.channels);
        (part(self.scales_at()), part(self.scales_at() + self.channels))
    }

    pub(super) fn placed(self, block: Place, batch: usize) -> Place {
        block.part(4 * self.placed_at(), 4 * PLACED * batch)
    }
}

/// What doesn't depend on the batch, and stays where it is.
#[derive(Debug)]
pub(super) struct Fixed {
    /// What the places are in.
    memory: Memory,
    pub(super) parameters: UpdatePlaces,
    pub(super) reports: Place,
    pub(super) diverged: Place,
    pub(super) counters: Place,
}

impl Fixed {
    fn new(queue: &Queue, plan: &Plan) -> anyhow::Result<Self> {
        let mut chunks: Vec<u32> = Vec::new();
        for parameter in &plan.parameters {
            let kind = match parameter.id.role {
                Role::Weight => TRAINED | WEIGHT,
                Role::Bias | Role::Gamma | Role::Beta => TRAINED,
                Role::Mean | Role::Variance => FOLLOWS,
            };
            let Parameter { start, host, length, kernel: (channels, pixels), .. } = *parameter;
            for first in (0..length).step_by(CHUNK_LENGTH) {
                let count = CHUNK_LENGTH.min(length - first);
                let [start, host, first, count, channels, pixels] =
                    [start, host, first, count, channels, pixels].map(|number| number as u32);
                chunks.extend([start, host, first, count, kind, channels, pixels]);
            }
        }
        let mut layout = Layout::default();
        let mut take = |bytes| layout.take(bytes);
        let (numbers, halves) = (4 * plan.length, 2 * plan.length);
        let places = UpdatePlaces {
            values: take(numbers),
            momentum: take(numbers),
            halves: take(halves),
            slopes: take(numbers),
            half_slopes: take(halves),
            host: take(4 * plan.host_length),
            chunks: take(4 * chunks.len()),
        };
        let (reports, diverged, counters) = (take(4 * REPORT * STRIDE), take(4), take(4 * TILES));
        let memory = Memory::new(queue, layout.bytes())?;
        let at = |place: Place| memory.whole().part(place.pointer as usize, place.bytes);
        let parameters = UpdatePlaces {
            values: at(places.values),
            momentum: at(places.momentum),
            halves: at(places.halves),
            slopes: at(places.slopes),
            half_slopes: at(places.half_slopes),
            host: at(places.host),
            chunks: at(places.chunks),
        };
        let (reports, diverged, counters) = (at(reports), at(diverged), at(counters));
        queue.clear(memory.whole())?;
        queue.upload(parameters.chunks, &chunks)?;
        Ok(Fixed { memory, parameters, reports, diverged, counters })
    }
}

/// A network compiled for a GPU.
#[derive(Debug)]
pub(super) struct CudaProgram {
    network: Network,
    plan: Plan,
    /// By purpose; all of them work in `memory`.
    instances: BTreeMap<Purpose, Instance>,
    memory: Option<Memory>,
    fixed: Fixed,
    /// The images that steps under way read, held for as long: other programs of this GPU may come to read
    /// others.
    images: Vec<Arc<Memory>>,
    /// What steps depend on, until the GPU has read it: a part for each of a stride.
    blocks: Pinned<u32>,
    cudnn: Rc<Cudnn>,
    queue: Queue,
}

impl Drop for CudaProgram {
    fn drop(&mut self) {
        // What the GPU still works on must not be freed. A GPU that failed works on nothing.
        let _ = self.queue.wait();
    }
}

impl CudaProgram {
    /// Plans a network.
    ///
    /// # Errors
    /// A network that doesn't verify, or a GPU that hasn't room for its parameters.
    pub(super) fn new(gpu: &Arc<Gpu>, network: &Network) -> anyhow::Result<Self> {
        CudaProgram::keeping(gpu, network, &BTreeSet::new())
    }

    fn keeping(gpu: &Arc<Gpu>, network: &Network, keep: &BTreeSet<NodeId>) -> anyhow::Result<Self> {
        let plan = Plan::new(network, keep)?;
        let queue = Queue::new(gpu.clone())?;
        let cudnn = Cudnn::new(&queue)?;
        let fixed = Fixed::new(&queue, &plan)?;
        Ok(CudaProgram {
            network: network.clone(),
            plan,
            instances: BTreeMap::new(),
            memory: None,
            fixed,
            images: Vec::new(),
            blocks: Pinned::new(&queue, 0)?,
            cudnn,
            queue,
        })
    }

    /// Bytes of the GPU's memory that the program holds.
    pub(super) fn bytes(&self) -> usize {
        self.fixed.memory.bytes() + self.memory.as_ref().map_or(0, Memory::bytes)
    }

    fn pass(&self) -> Pass<'_> {
        Pass { plan: &self.plan, queue: &self.queue, cudnn: &self.cudnn, fixed: &self.fixed }
    }

    /// Makes an instance ready.
    fn prepare(&mut self, purpose: Purpose) -> anyhow::Result<()> {
        if self.instances.contains_key(&purpose) {
            return Ok(());
        }
        let most = self.plan.values.iter().map(|value| value.numbers()).max().unwrap_or(0);
        ensure!(
            most.saturating_mul(purpose.batch) <= MAX_NUMBERS,
            "expected layers of at most {MAX_NUMBERS} numbers in a batch, found one of {most} for each \
             of {} images: make the batch smaller",
            purpose.batch
        );
        let memory = MemoryPlan::new(&self.plan, purpose);
        if self.memory.as_ref().is_none_or(|taken| taken.bytes() < memory.bytes) {
            self.queue.wait()?;
            self.instances.clear();
            // The old memory is given back before more is taken.
            self.memory = None;
            let besides = || format!("besides {} MiB for its parameters", self.bytes() >> 20);
            self.memory = Some(Memory::new(&self.queue, memory.bytes).with_context(besides)?);
        }
        let taken = self.memory.as_ref().expect("it was taken").whole();
        let instance = Instance::new(self.pass(), memory, taken)?;
        self.instances.insert(purpose, instance);
        let block = BlockLayout::new(&self.plan).length(purpose.batch);
        if self.blocks.numbers().len() < STRIDE * block {
            self.queue.wait()?;
            self.blocks = Pinned::new(&self.queue, STRIDE * block)?;
        }
        Ok(())
    }

    /// Brings parameters and momentum to the GPU.
    fn load(&self, parameters: &FlatParameters, precision: Precision) -> anyhow::Result<()> {
        let kernels = Kernels { queue: &self.queue, precision };
        let places = self.fixed.parameters;
        for (to, from) in
            [(places.values, &parameters.values), (places.momentum, &parameters.momentum)]
        {
            self.queue.upload(places.host, from)?;
            kernels.place_parameters(places, to)?;
        }
        match precision {
            Precision::F32 => Ok(()),
            Precision::Bf16 => kernels.round_all(places),
        }
    }

    /// Brings parameters and momentum from the GPU.
    fn store(&self, parameters: &mut FlatParameters) -> anyhow::Result<()> {
        let UpdatePlaces { values, momentum, .. } = self.fixed.parameters;
        self.fetch(values, false, &mut parameters.values)?;
        self.fetch(momentum, false, &mut parameters.momentum)
    }

    /// Numbers of all parameters; with `halves`, the slopes of weights as bf16 has them.
    fn fetch(&self, from: Place, halves: bool, to: &mut [f32]) -> anyhow::Result<()> {
        let kernels = Kernels { queue: &self.queue, precision: Precision::F32 };
        kernels.collect_parameters(self.fixed.parameters, from, halves)?;
        self.queue.download(self.fixed.parameters.host, to)
    }

    fn check_parameters(&self, parameters: &FlatParameters) -> anyhow::Result<()> {
        let (expected, found) = (self.plan.host_length, parameters.values.len());
        ensure!(found == expected, "expected {expected} parameters, found {found}");
        Ok(())
    }

    fn check(&self, parameters: &FlatParameters, images: &Images) -> anyhow::Result<()> {
        self.check_parameters(parameters)?;
        let (batch, channels, height, width) = images.dim();
        let input = self.plan.values[self.plan.steps[0].output];
        let (c, h, w) = (input.channels, input.height, input.width);
        ensure!(
            (channels, height, width) == (c, h, w),
            "expected images of {c}x{h}x{w}, found {channels}x{height}x{width}"
        );
        ensure!(batch > 0, "expected at least one image");
        Ok(())
    }

    /// Uploads what a step depends on, as the part of this number of a stride.
    fn give(
        &mut self,
        purpose: Purpose,
        slot: usize,
        options: &StepOptions<'_>,
        images: &[(Placed, Shown)],
        normalisation: Option<(&[f32], &[f32])>,
    ) -> anyhow::Result<()> {
        let layout = BlockLayout::new(&self.plan);
        let length = layout.length(purpose.batch);
        let start = slot * (self.blocks.numbers().len() / STRIDE);
        let block = &mut self.blocks.numbers_mut()[start..][..length];
        let update = options.update;
        let smoothing = words(options.label_smoothing.to_bits());
        block[..STEP].copy_from_slice(&[
            (update.learning_rate as f32).to_bits(),
            (update.momentum as f32).to_bits(),
            (update.weight_decay as f32).to_bits(),
            u32::from(update.decoupled),
            u32::from(update.decay_all),
            u32::from(options.dropout.is_some()),
            slot as u32,
            0,
            smoothing[0],
            smoothing[1],
        ]);
        if let Some(rng) = options.dropout {
            for (place, node) in self.plan.dropouts.iter().enumerate() {
                let key = mask_stream(rng, *node).seed();
                block[layout.keys_at() + 2 * place..][..2].copy_from_slice(&words(key));
            }
        }
        if let Some((scales, shifts)) = normalisation {
            let to = &mut block[layout.scales_at()..];
            for (to, number) in to.iter_mut().zip(scales.iter().chain(shifts)) {
                *to = number.to_bits();
            }
        }
        let to = block[layout.placed_at()..].chunks_exact_mut(PLACED);
        for (to, (placed, shown)) in to.zip(images) {
            let Placement { down, right, mirror, cutout } = placed.placement;
            let (row, column, side) = cutout.unwrap_or_default();
            let larger = words(shown.larger.to_bits());
            to.copy_from_slice(&[
                placed.index as u32,
                down as i32 as u32,
                right as i32 as u32,
                u32::from(mirror),
                row as u32,
                column as u32,
                side as u32,
                placed.own.unwrap_or(1.0).to_bits(),
                u32::from(placed.own.is_some()),
                shown.label as u32,
                shown.other as u32,
                0,
                larger[0],
                larger[1],
            ]);
        }
        let to = self.instances[&purpose].block();
        self.queue.upload_pinned(to, &self.blocks, start..start + length)
    }

    /// Takes a batch that is made already: its images and what it depends on.
    fn give_batch(
        &mut self,
        purpose: Purpose,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<()> {
        let images = (0..batch.labels.len()).map(|image| {
            let (label, other, larger) = batch.shown(image);
            (Placed::default(), Shown { label, other, larger })
        });
        let images: Vec<_> = images.collect();
        self.give(purpose, 0, options, &images, None)?;
        self.give_images(purpose, &batch.images)
    }

    fn give_images(&self, purpose: Purpose, images: &Images) -> anyhow::Result<()> {
        let images = images.as_standard_layout();
        let images = images.as_slice().expect("the layout is standard");
        self.queue.upload(self.instances[&purpose].given(), images)
    }

    /// Forward, loss, backward of a batch that was given.
    fn differentiate(&self, purpose: Purpose, source: Source) -> anyhow::Result<()> {
        let (instance, pass) = (&self.instances[&purpose], self.pass());
        instance.forward(pass, source, true)?;
        instance.loss(pass)?;
        instance.backward(pass)
    }

    /// One step of a batch that was drawn and given: by a recording, once all is loaded.
    fn replay(&mut self, purpose: Purpose, images: &Arc<Memory>) -> anyhow::Result<()> {
        let instance = &self.instances[&purpose];
        let source = Source::Drawn(images.whole());
        let step = || {
            self.differentiate(purpose, source)?;
            instance.update(self.pass())
        };
        match &instance.recorded {
            Some((known, recording)) if Arc::ptr_eq(known, images) => return recording.replay(),
            _ if instance.warm => {
                let recording = self.queue.record(step)?;
                recording.replay()?;
                let instance = self.instances.get_mut(&purpose).expect("it is there");
                instance.recorded = Some((images.clone(), recording));
            }
            _ => {
                step()?;
                self.instances.get_mut(&purpose).expect("it is there").warm = true;
            }
        }
        Ok(())
    }

    /// Gives steps to the GPU, and returns how many they were.
    fn give_steps(
        &mut self,
        parameters: &FlatParameters,
        steps: &mut dyn Iterator<Item = TrainingStep<'_>>,
    ) -> anyhow::Result<usize> {
        let (mut loaded, mut given) = (None, 0);
        let input = self.plan.values[self.plan.steps[0].output];
        let expected = (input.channels, input.height, input.width);
        let classes = self.plan.values[self.plan.output].numbers();
        for step in steps {
            ensure!(given < STRIDE, "expected at most {STRIDE} steps at once");
            let options = step.options();
            if loaded.is_none() {
                self.check_parameters(parameters)?;
                self.queue.clear(self.fixed.diverged)?;
                self.load(parameters, options.precision)?;
            }
            let precision = *loaded.get_or_insert(options.precision);
            ensure!(precision == options.precision, "expected steps of one precision");
            let source = step.drawn.source();
            let size = source.size();
            ensure!(size == expected, "expected images of {expected:?}, found {size:?}");
            let placed = (0..step.drawn.count()).map(|image| {
                let (index, placement) = (step.drawn.index(image), step.drawn.placement(image));
                let own = step.drawn.own(image);
                let (label, other, larger) = step.drawn.shown(image);
                (Placed { index, placement, own }, Shown { label, other, larger })
            });
            let placed: Vec<_> = placed.collect();
            let most = placed.iter().map(|(_, shown)| shown.label.max(shown.other)).max();
            ensure!(most < Some(classes), "expected labels below {classes}, found {most:?}");
            let purpose = purpose_of(&options, step.drawn.count());
            self.prepare(purpose)?;
            let images = self.queue.gpu.images(&self.queue, source)?;
            if self.images.last().is_none_or(|last| !Arc::ptr_eq(last, &images)) {
                self.images.push(images.clone());
            }
            let (scales, shifts): (Vec<_>, Vec<_>) = step.drawn.scales().iter().copied().unzip();
            self.give(purpose, given, &options, &placed, Some((&scales, &shifts)))?;
            self.replay(purpose, &images)?;
            given += 1;
        }
        Ok(given)
    }

    /// What steps found, once they are done.
    fn reports(&self, count: usize) -> anyhow::Result<Vec<StepReport>> {
        let mut words = vec![0u64; count * REPORT / 2];
        self.queue.download(self.fixed.reports, &mut words)?;
        let reports = words.chunks_exact(REPORT / 2).map(|report| StepReport {
            loss: f64::from_bits(report[0]),
            correct: report[1] as usize,
        });
        Ok(reports.collect())
    }

    /// Runs images forward, a part at a time; `done` is told which instance did how many.
    fn evaluate(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        mode: Mode,
        done: &mut dyn FnMut(&Self, &Instance) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.check(parameters, images)?;
        self.load(parameters, Precision::F32)?;
        // Batch statistics are of the whole batch; running ones allow it to be cut.
        let most = match mode {
            Mode::Evaluation => self.evaluation_batch(),
            Mode::Training => images.dim().0,
        };
        let options = StepOptions {
            update: crate::optimiser::Nesterov::default(),
            label_smoothing: 0.0,
            precision: Precision::F32,
            dropout: None,
        };
        for part in images.axis_chunks_iter(Axis(0), most) {
            let batch = part.dim().0;
            let purpose = Purpose { precision: Precision::F32, batch, trains: false };
            self.prepare(purpose)?;
            self.give(purpose, 0, &options, &[], None)?;
            self.give_images(purpose, &part.to_owned())?;
            let instance = &self.instances[&purpose];
            instance.forward(self.pass(), Source::Given, mode == Mode::Training)?;
            done(self, instance)?;
        }
        Ok(())
    }

    /// Images that are evaluated at once: as many as fit into what a training has taken, so that it needs no
    /// more memory at its end than before.
    fn evaluation_batch(&self) -> usize {
        let taken = self.memory.as_ref().map_or(0, Memory::bytes);
        let needs = |batch| {
            let purpose = Purpose { precision: Precision::F32, batch, trains: false };
            MemoryPlan::new(&self.plan, purpose).bytes
        };
        let mut batch = EVALUATION_BATCH;
        while batch > LEAST_EVALUATION_BATCH && needs(batch) > taken {
            batch /= 2;
        }
        batch
    }

    /// A value of the last batch, in f32.
    fn read(&self, instance: &Instance, value: usize) -> anyhow::Result<Vec<f32>> {
        let matrix = instance.value(&self.plan, value);
        let mut numbers = vec![0f32; matrix.rows * matrix.channels];
        self.queue.download(matrix.place, &mut numbers)?;
        Ok(numbers)
    }
}

/// Where an image of a drawn batch comes from.
#[derive(Clone, Copy, Debug, Default)]
struct Placed {
    index: usize,
    placement: Placement,
    /// The share it keeps, where another is mixed in.
    own: Option<f32>,
}

/// What an image shows: as [`Batch::shown`].
#[derive(Clone, Copy, Debug)]
struct Shown {
    label: usize,
    other: usize,
    larger: f64,
}

fn words(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// The stream of a dropout's masks.
fn mask_stream(rng: &Rng, node: NodeId) -> Rng {
    rng.split("dropout").split_index(u64::from(node.number()))
}

fn purpose_of(options: &StepOptions<'_>, batch: usize) -> Purpose {
    Purpose { precision: options.precision, batch, trains: true }
}

impl Program for CudaProgram {
    fn stride(&self) -> usize {
        STRIDE
    }

    fn steps(
        &mut self,
        parameters: &mut FlatParameters,
        steps: &mut dyn Iterator<Item = TrainingStep<'_>>,
    ) -> anyhow::Result<Vec<StepReport>> {
        let given = self.give_steps(parameters, steps);
        if given.is_err() {
            // What was given is read until it is done.
            self.queue.wait()?;
        }
        let given = given?;
        let mut reports = self.reports(given)?;
        self.images.clear();
        let finite = reports.iter().take_while(|report| report.is_finite()).count();
        reports.truncate(finite + 1);
        if given > 0 {
            self.store(parameters)?;
        }
        Ok(reports)
    }

    fn step(
        &mut self,
        parameters: &mut FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<StepReport> {
        self.check(parameters, &batch.images)?;
        batch.check(self.plan.values[self.plan.output].numbers())?;
        let purpose = purpose_of(options, batch.labels.len());
        self.prepare(purpose)?;
        self.queue.clear(self.fixed.diverged)?;
        self.load(parameters, options.precision)?;
        self.give_batch(purpose, batch, options)?;
        self.differentiate(purpose, Source::Given)?;
        self.instances[&purpose].update(self.pass())?;
        let report = self.reports(1)?[0];
        self.store(parameters)?;
        Ok(report)
    }

    fn gradient(
        &mut self,
        parameters: &FlatParameters,
        batch: &Batch,
        options: &StepOptions<'_>,
    ) -> anyhow::Result<(Vec<f32>, StepReport)> {
        self.check(parameters, &batch.images)?;
        batch.check(self.plan.values[self.plan.output].numbers())?;
        let purpose = purpose_of(options, batch.labels.len());
        self.prepare(purpose)?;
        self.load(parameters, options.precision)?;
        self.give_batch(purpose, batch, options)?;
        self.differentiate(purpose, Source::Given)?;
        let report = self.reports(1)?[0];
        let mut gradient = vec![0f32; parameters.values.len()];
        let halves = options.precision == Precision::Bf16;
        self.fetch(self.fixed.parameters.slopes, halves, &mut gradient)?;
        for slot in parameters.slots().iter().filter(|slot| !slot.is_trainable()) {
            gradient[slot.range()].fill(0.0);
        }
        if !report.is_finite() {
            gradient.fill(f32::NAN);
        }
        Ok((gradient, report))
    }

    fn logits(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        mode: Mode,
    ) -> anyhow::Result<Array2<f32>> {
        let classes = self.plan.values[self.plan.output].numbers();
        let mut all = Vec::with_capacity(images.dim().0 * classes);
        self.evaluate(parameters, images, mode, &mut |program, instance| {
            all.extend(program.read(instance, program.plan.output)?);
            Ok(())
        })?;
        Ok(Array2::from_shape_vec((images.dim().0, classes), all)?)
    }

    fn moments(
        &mut self,
        parameters: &FlatParameters,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>> {
        for id in nodes {
            ensure!(self.network.node(*id).is_some(), "no node {id}");
        }
        let keep = nodes.iter().copied().collect();
        let mut program = CudaProgram::keeping(&self.queue.gpu, &self.network, &keep)?;
        // Sums of values and of their squares, less a first value each.
        let mut sums: BTreeMap<NodeId, Sums> = BTreeMap::new();
        let mode = Mode::Evaluation;
        program.evaluate(parameters, images, mode, &mut |program, instance| {
            for node in &keep {
                let value = program.plan.nodes[node];
                let numbers = program.read(instance, value)?;
                let channels = program.plan.values[value].channels;
                sums.entry(*node).or_default().add(&numbers, channels);
            }
            Ok(())
        })?;
        Ok(sums.into_iter().map(|(node, sums)| (node, sums.moments())).collect())
    }
}

/// Sums of the values of each channel.
#[derive(Clone, Debug, Default)]
struct Sums {
    origin: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    rows: usize,
}

impl Sums {
    /// Adds values `[row][channel]`.
    fn add(&mut self, numbers: &[f32], channels: usize) {
        if self.rows == 0 {
            self.origin = numbers[..channels].iter().map(|number| f64::from(*number)).collect();
            (self.first, self.second) = (vec![0.0; channels], vec![0.0; channels]);
        }
        for row in numbers.chunks_exact(channels) {
            for (channel, number) in row.iter().enumerate() {
                let gap = f64::from(*number) - self.origin[channel];
                self.first[channel] += gap;
                self.second[channel] += gap * gap;
            }
            self.rows += 1;
        }
    }

    fn moments(&self) -> Moments {
        let rows = self.rows as f64;
        let mean = self.origin.iter().zip(&self.first).map(|(origin, sum)| origin + sum / rows);
        let variance = self
            .first
            .iter()
            .zip(&self.second)
            .map(|(first, second)| (second / rows - (first / rows).powi(2)).max(0.0));
        Moments { mean: mean.collect(), variance: variance.collect() }
    }
}
