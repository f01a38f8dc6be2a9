//! Convolutions and linear layers, forward and backward.

use rayon::prelude::*;

use super::batch_norm::{block_moments, partial_size};
use super::correlation::{Correlation, Geometry};
use super::kernels::Isa;
use super::memory::{Memory, Needs, Scratch, Setting};
use super::plan::Input;
use super::values::{Reader, Source, View};
use super::weights::{Parameter, pack_backward, pack_forward, unpack_gradient};

/// Parts that the gradient of a weight is summed in, at most: as many threads can work on it.
const PARTS: usize = 8;

/// Output pixels that a part has at least.
const PART_PIXELS: usize = 1024;

/// A convolution; a linear layer is one of kernel 1 on one pixel.
#[derive(Debug)]
pub(super) struct Convolution {
    geometry: Geometry,
    forward: Correlation,
    backward: Correlation,
    weight: Parameter,
    bias: Option<Parameter>,
}

/// The blocks of images of a batch.
fn image_blocks(batch: usize, block: usize) -> usize {
    batch.div_ceil(block)
}

impl Convolution {
    pub(super) fn new(
        geometry: Geometry,
        weight: Parameter,
        bias: Option<Parameter>,
        isa: Isa,
    ) -> Self {
        let forward = Correlation::forward(&geometry, isa);
        let backward = Correlation::backward(&geometry, isa);
        Convolution { geometry, forward, backward, weight, bias }
    }

    /// Images of a block.
    pub(super) fn block(&self) -> usize {
        self.forward.block
    }

    pub(super) fn needs(&self, batch: usize) -> Needs {
        let blocks = image_blocks(batch, self.block());
        let moments = blocks * partial_size(self.geometry.filters);
        Needs {
            packed: self.forward.weights().size().max(self.backward.weights().size()),
            partials: moments.max(self.parts(batch) * self.forward.weights().size()),
            scratch: self.forward.scratch().max(self.backward.scratch()),
        }
    }

    /// Computes the output; with `moments`, also those of each block of it, into the partial sums.
    pub(super) fn run(
        &self,
        Setting { isa, batch }: Setting,
        parameters: &[f32],
        memory: &mut Memory,
        source: &Source,
        output: &View,
        moments: bool,
    ) {
        let Convolution { geometry, forward, .. } = self;
        let shape = forward.weights();
        pack_forward(
            isa,
            geometry,
            shape,
            self.weight.of(parameters),
            &mut memory.packed[..shape.size()],
        );
        let bias = self.bias.map(|bias| bias.of(parameters));
        let mut out = std::mem::take(&mut memory.values[output.buffer]);
        let mut partials = std::mem::take(&mut memory.partials);
        let Memory { values, norms, packed, scratch, .. } = &*memory;
        let size = partial_size(geometry.filters);
        out[..batch * output.image()]
            .par_chunks_mut(forward.block * output.image())
            .zip(partials.par_chunks_mut(size))
            .enumerate()
            .for_each(|(index, (out, partial))| {
                let first = index * forward.block;
                let images = out.len() / output.image();
                let reader = source.reader(values, norms, first..first + images);
                if let Some(bias) = bias {
                    output.pixels_mut(out).for_each(|pixel| pixel.copy_from_slice(bias));
                }
                with_images(isa, forward, scratch, &reader, |filled| {
                    let out = &mut out[output.offset..];
                    let packed = &packed[..shape.size()];
                    let out = (out, output.stride);
                    forward.run(isa, filled, images, packed, out, bias.is_some());
                });
                if moments {
                    isa.run(
                        #[inline(always)]
                        || block_moments(output, out, partial),
                    );
                }
            });
        memory.values[output.buffer] = out;
        memory.partials = partials;
    }

    /// Computes the gradient of the input, if somebody wants it, and of the parameters.
    pub(super) fn run_backward(
        &self,
        setting: Setting,
        parameters: &[f32],
        memory: &mut Memory,
        input: &Input,
        slope: &View,
        gradient: &mut [f32],
    ) {
        let Setting { isa, batch } = setting;
        self.weight_gradient(setting, memory, &input.source, slope, gradient);
        if let Some(bias) = self.bias {
            bias_gradient(batch, memory, slope, bias.of_mut(gradient));
        }
        if let Some(sink) = input.sink {
            let Convolution { geometry, backward, .. } = self;
            let shape = backward.weights();
            pack_backward(
                isa,
                geometry,
                shape,
                self.weight.of(parameters),
                &mut memory.packed[..shape.size()],
            );
            let mut out = std::mem::take(&mut memory.slots[sink.view.buffer]);
            let Memory { slots, norms, packed, scratch, .. } = &*memory;
            let source = Source::plain(*slope);
            out[..batch * sink.view.image()]
                .par_chunks_mut(backward.block * sink.view.image())
                .enumerate()
                .for_each(|(index, out)| {
                    let first = index * backward.block;
                    let images = out.len() / sink.view.image();
                    let reader = source.reader(slots, norms, first..first + images);
                    with_images(isa, backward, scratch, &reader, |filled| {
                        let out = &mut out[sink.view.offset..];
                        let packed = &packed[..shape.size()];
                        let out = (out, sink.view.stride);
                        backward.run(isa, filled, images, packed, out, sink.accumulate);
                    });
                });
            memory.slots[sink.view.buffer] = out;
        }
    }

    /// Parts that the weight's gradient is summed in: a function of shapes alone.
    fn parts(&self, batch: usize) -> usize {
        let blocks = image_blocks(batch, self.block());
        let pixels = batch * self.geometry.out_height() * self.geometry.out_width();
        (pixels / PART_PIXELS).clamp(1, PARTS).min(blocks)
    }

    fn weight_gradient(
        &self,
        Setting { isa, batch }: Setting,
        memory: &mut Memory,
        source: &Source,
        slope: &View,
        gradient: &mut [f32],
    ) {
        let Convolution { geometry, forward, .. } = self;
        let shape = forward.weights();
        let parts = self.parts(batch);
        let blocks = image_blocks(batch, forward.block);
        // Where there are few parts, the blocks of the weight are shared out too.
        let together = shape.count().div_ceil(PARTS / parts);
        let mut partials = std::mem::take(&mut memory.partials);
        let Memory { values, slots, norms, scratch, .. } = &*memory;
        let sums = &mut partials[..parts * shape.size()];
        sums.par_chunks_mut(shape.size()).enumerate().for_each(|(part, sums)| {
            let (from, to) = (part * blocks / parts, (part + 1) * blocks / parts);
            sums.par_chunks_mut(together * shape.block_size()).enumerate().for_each(
                |(index, sums)| {
                    sums.fill(0.0);
                    for block in from..to {
                        let first = block * forward.block;
                        let images = forward.block.min(batch - first);
                        let reader = source.reader(values, norms, first..first + images);
                        let size = slope.image();
                        let slopes = &slots[slope.buffer][first * size..(first + images) * size];
                        with_images(isa, forward, scratch, &reader, |filled| {
                            forward.run_transposed(
                                isa,
                                filled,
                                images,
                                (slope.of(slopes), slope.stride),
                                index * together,
                                sums,
                            );
                        });
                    }
                },
            );
        });
        unpack_gradient(isa, geometry, shape, sums, self.weight.of_mut(gradient));
        memory.partials = partials;
    }
}

/// Calls `work` with images as the products read them: as they stand where they can, else copied
/// into this thread's scratch buffer.
fn with_images(
    isa: Isa,
    correlation: &Correlation,
    scratch: &Scratch,
    reader: &Reader<'_>,
    work: impl FnOnce(&[f32]),
) {
    if correlation.reads_in_place(reader) {
        work(reader.values);
    } else {
        scratch.with(|scratch| {
            isa.run(
                #[inline(always)]
                || correlation.fill(scratch, reader),
            );
            work(scratch);
        });
    }
}

/// The sum of the slopes of each filter.
fn bias_gradient(batch: usize, memory: &mut Memory, slope: &View, gradient: &mut [f32]) {
    let slopes = &memory.slots[slope.buffer][..batch * slope.image()];
    // One image at a time, so that sums stay short.
    gradient.fill(0.0);
    let sums = &mut memory.partials[..slope.channels];
    for image in slopes.chunks_exact(slope.image()) {
        sums.fill(0.0);
        for pixel in slope.pixels(image) {
            sums.iter_mut().zip(pixel).for_each(|(sum, slope)| *sum += slope);
        }
        gradient.iter_mut().zip(&*sums).for_each(|(total, sum)| *total += sum);
    }
}
