//! Convolutions and linear layers, forward and backward.

use std::fmt::Debug;

use rayon::prelude::*;

use super::batch_norm::{block_moments, partial_size};
use super::correlation::{Correlation, Geometry};
use super::kernels::Isa;
use super::matrix::Matrix;
use super::memory::{Memory, Needs, Scratch, Setting, aligned};
use super::paired::Paired;
use super::plan::Input;
use super::values::{Reader, Source, View};
use super::weights::Parameter;
use super::winograd::{by_tiles, is_faster_in_pairs};
use crate::recipe::Precision;

/// Parts that the gradient of a weight is summed in, at most: as many threads can work on it.
const PARTS: usize = 8;

/// How a convolution, or the gradient of its input, is computed for a block of images.
pub(super) trait Method: Debug + Send + Sync {
    /// Images of a full block.
    fn block(&self) -> usize;

    /// Numbers of the scratch buffer of a thread.
    fn scratch(&self) -> usize;

    /// The packed weights.
    fn pieces(&self) -> Pieces;

    /// Output pixels that a part of the weight's gradient has at least.
    fn part_pixels(&self) -> usize;

    /// Packs a weight `[filter][channel of group][row][column]`.
    fn pack(&self, isa: Isa, weight: &[f32], packed: &mut [f32]);

    /// Convolves images: writes all channels `[pixel][stride]` of the output, or adds to them.
    fn run(
        &self,
        isa: Isa,
        scratch: &Scratch,
        images: &Reader<'_>,
        packed: &[f32],
        out: (&mut [f32], usize),
        accumulate: bool,
    );

    /// Adds the gradient of some pieces of the packed weight, from images and the slopes of their
    /// outputs `[pixel][stride]`; `sums` starts with piece `first`.
    fn run_transposed(
        &self,
        isa: Isa,
        scratch: &Scratch,
        images: &Reader<'_>,
        slopes: (&[f32], usize),
        first: usize,
        sums: &mut [f32],
    );

    /// Adds parts of the weight's gradient up, in their order, into the form of the weight.
    fn unpack(&self, isa: Isa, parts: &[f32], gradient: &mut [f32]);
}

/// Pieces of a packed weight whose gradients can be computed each alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    pub(super) count: usize,
    /// Numbers of one.
    pub(super) size: usize,
}

impl Pieces {
    /// Numbers of all.
    pub(super) fn total(self) -> usize {
        self.count * self.size
    }
}

/// A convolution; a linear layer is one of kernel 1 on one pixel.
#[derive(Debug)]
pub(super) struct Convolution {
    geometry: Geometry,
    single: [Box<dyn Method>; 2],
    /// The same in bf16, where processors that have it are faster so.
    in_bf16: Option<[Box<dyn Method>; 2]>,
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
        let tiles = by_tiles(&geometry, isa);
        let in_bf16 = match &tiles {
            // Beside matrix units, a processor's other instructions for bf16 are no faster than those for f32.
            _ if isa.has_matrix_units() => Matrix::both(&geometry),
            // Tiles themselves would lose too much by bf16.
            Some(_) if !is_faster_in_pairs(&geometry) => None,
            _ => Paired::both(&geometry, isa),
        };
        let single = tiles.unwrap_or_else(|| {
            let forward = Correlation::forward(&geometry, isa);
            [Box::new(forward), Box::new(Correlation::backward(&geometry, isa))]
        });
        Convolution { geometry, single, in_bf16, weight, bias }
    }

    /// The convolution and the gradient of its input in a precision.
    fn methods(&self, precision: Precision) -> &[Box<dyn Method>; 2] {
        match precision {
            Precision::F32 => &self.single,
            Precision::Bf16 => self.in_bf16.as_ref().unwrap_or(&self.single),
        }
    }

    /// Images of a block.
    pub(super) fn block(&self, precision: Precision) -> usize {
        self.methods(precision)[0].block()
    }

    pub(super) fn needs(&self, Setting { precision, batch, .. }: Setting) -> Needs {
        let [forward, backward] = self.methods(precision);
        let blocks = image_blocks(batch, forward.block());
        let moments = blocks * partial_size(self.geometry.filters);
        Needs {
            packed: forward.pieces().total().max(backward.pieces().total()),
            partials: moments.max(self.parts(forward.as_ref(), batch) * forward.pieces().total()),
            scratch: forward.scratch().max(backward.scratch()),
        }
    }

    /// Computes the output; with `moments`, also those of each block of it, into the partial sums.
    pub(super) fn run(
        &self,
        Setting { isa, precision, batch }: Setting,
        parameters: &[f32],
        memory: &mut Memory,
        source: &Source,
        output: &View,
        moments: bool,
    ) {
        let [forward, _] = self.methods(precision);
        let mut buffer = std::mem::take(&mut memory.packed);
        let packed = &mut aligned(&mut buffer)[..forward.pieces().total()];
        forward.pack(isa, self.weight.of(parameters), packed);
        let packed = &*packed;
        let bias = self.bias.map(|bias| bias.of(parameters));
        let mut out = std::mem::take(&mut memory.values[output.buffer]);
        let mut partials = std::mem::take(&mut memory.partials);
        let Memory { values, norms, scratch, .. } = &*memory;
        let size = partial_size(self.geometry.filters);
        out[..batch * output.image()]
            .par_chunks_mut(forward.block() * output.image())
            .zip(partials.par_chunks_mut(size))
            .enumerate()
            .for_each(|(index, (out, partial))| {
                let first = index * forward.block();
                let images = out.len() / output.image();
                let reader = source.reader(values, norms, first..first + images);
                if let Some(bias) = bias {
                    output.pixels_mut(out).for_each(|pixel| pixel.copy_from_slice(bias));
                }
                let to = (&mut out[output.offset..], output.stride);
                forward.run(isa, scratch, &reader, packed, to, bias.is_some());
                if moments {
                    isa.run(
                        #[inline(always)]
                        || block_moments(output, out, partial),
                    );
                }
            });
        memory.values[output.buffer] = out;
        memory.partials = partials;
        memory.packed = buffer;
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
        let Setting { isa, precision, batch } = setting;
        self.weight_gradient(setting, memory, &input.source, slope, gradient);
        if let Some(bias) = self.bias {
            isa.run(
                #[inline(always)]
                || bias_gradient(batch, memory, slope, bias.of_mut(gradient)),
            );
        }
        if let Some(sink) = input.sink {
            let [_, backward] = self.methods(precision);
            let mut buffer = std::mem::take(&mut memory.packed);
            let packed = &mut aligned(&mut buffer)[..backward.pieces().total()];
            backward.pack(isa, self.weight.of(parameters), packed);
            let packed = &*packed;
            let mut out = std::mem::take(&mut memory.slots[sink.view.buffer]);
            let Memory { slots, norms, scratch, .. } = &*memory;
            let source = Source::plain(*slope);
            out[..batch * sink.view.image()]
                .par_chunks_mut(backward.block() * sink.view.image())
                .enumerate()
                .for_each(|(index, out)| {
                    let first = index * backward.block();
                    let images = out.len() / sink.view.image();
                    let reader = source.reader(slots, norms, first..first + images);
                    let to = (&mut out[sink.view.offset..], sink.view.stride);
                    backward.run(isa, scratch, &reader, packed, to, sink.accumulate);
                });
            memory.slots[sink.view.buffer] = out;
            memory.packed = buffer;
        }
    }

    /// Parts that the weight's gradient is summed in: a function of shapes alone.
    fn parts(&self, forward: &dyn Method, batch: usize) -> usize {
        let blocks = image_blocks(batch, forward.block());
        let pixels = batch * self.geometry.out_height() * self.geometry.out_width();
        (pixels / forward.part_pixels()).clamp(1, PARTS).min(blocks)
    }

    fn weight_gradient(
        &self,
        Setting { isa, precision, batch }: Setting,
        memory: &mut Memory,
        source: &Source,
        slope: &View,
        gradient: &mut [f32],
    ) {
        let forward = self.methods(precision)[0].as_ref();
        let pieces = forward.pieces();
        let parts = self.parts(forward, batch);
        let blocks = image_blocks(batch, forward.block());
        // Where there are few parts, the pieces of the weight are shared out too.
        let together = pieces.count.div_ceil(PARTS / parts);
        let mut partials = std::mem::take(&mut memory.partials);
        let Memory { values, slots, norms, scratch, .. } = &*memory;
        let sums = &mut partials[..parts * pieces.total()];
        sums.par_chunks_mut(pieces.total()).enumerate().for_each(|(part, sums)| {
            let (from, to) = (part * blocks / parts, (part + 1) * blocks / parts);
            sums.par_chunks_mut(together * pieces.size).enumerate().for_each(|(index, sums)| {
                sums.fill(0.0);
                for block in from..to {
                    let first = block * forward.block();
                    let images = forward.block().min(batch - first);
                    let reader = source.reader(values, norms, first..first + images);
                    let size = slope.image();
                    let slopes = &slots[slope.buffer][first * size..(first + images) * size];
                    let slopes = (slope.of(slopes), slope.stride);
                    forward.run_transposed(isa, scratch, &reader, slopes, index * together, sums);
                }
            });
        });
        forward.unpack(isa, sums, self.weight.of_mut(gradient));
        memory.partials = partials;
    }
}

/// The sum of the slopes of each filter.
#[inline(always)]
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
