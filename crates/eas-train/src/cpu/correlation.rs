//! A convolution as products of rows, for one block of images.
//!
//! The images of a block are copied into a scratch buffer `[image][height][width][channels]` with
//! their border of zeros, so that every window is a place in it and a few runs of numbers behind the
//! place. The input gradient is a convolution of the output's gradient in the same way, with zeros
//! between its pixels where the stride leaves gaps, and flipped kernels.

use super::convolution::{Method, Pieces};
use super::kernels::{Columns, Factors, Isa, Rows, Run, WIDEST};
use super::memory::Scratch;
use super::values::Reader;
use super::weights::{pack_backward, pack_forward, unpack_gradient};
use super::windows::Windows;

/// Output pixels of a block of images, about: enough that weights are read from cache many times.
const PIXELS: usize = 256;

/// Numbers of a window that are multiplied before the next output vectors: as many rows of weights
/// stay in cache while the block's pixels pass by.
const DEPTH: usize = 256;

/// Pixels whose slopes stay in cache while a weight's gradient is summed.
pub(super) const TRANSPOSED_PIXELS: usize = 512;

/// Output pixels that a part of a weight's gradient has at least.
pub(super) const PART_PIXELS: usize = 1024;

/// What a convolution, or a linear layer as a 1×1 convolution of one pixel, looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) filters: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) groups: usize,
}

impl Geometry {
    pub(super) fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    pub(super) fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Input channels of a group.
    pub(super) fn read(&self) -> usize {
        self.channels / self.groups
    }

    /// Filters of a group.
    pub(super) fn made(&self) -> usize {
        self.filters / self.groups
    }

    /// Images of a block.
    pub(super) fn block(&self) -> usize {
        (PIXELS / (self.out_height() * self.out_width())).clamp(1, 16)
    }
}

/// Consecutive numbers of windows that are multiplied together.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) runs: Vec<Run>,
    /// Numbers of a window before it.
    pub(super) start: usize,
    pub(super) length: usize,
}

/// A convolution of blocks of images.
#[derive(Debug)]
pub(super) struct Correlation {
    geometry: Geometry,
    /// Whether it is the gradient of the input.
    is_backward: bool,
    windows: Windows,
    /// Channels of a group of the scratch images.
    read: usize,
    /// The runs of a window, of the first group.
    runs: Vec<Run>,
    stages: Vec<Stage>,
    weights: PackedShape,
}

impl Correlation {
    /// The convolution itself.
    pub(super) fn forward(geometry: &Geometry, isa: Isa) -> Self {
        let windows = Windows::forward(geometry, geometry.channels);
        Correlation::new(geometry, false, windows, geometry.made(), isa)
    }

    /// The gradient of its input, from that of its output.
    pub(super) fn backward(geometry: &Geometry, isa: Isa) -> Self {
        let windows = Windows::backward(geometry, geometry.filters);
        Correlation::new(geometry, true, windows, geometry.read(), isa)
    }

    fn new(
        geometry: &Geometry,
        is_backward: bool,
        windows: Windows,
        made: usize,
        isa: Isa,
    ) -> Self {
        let (kernel, groups) = (geometry.kernel, geometry.groups);
        let read = windows.channels / groups;
        let runs = kernel_runs(kernel, groups, &windows);
        let stages = stages(&runs);
        let weights = PackedShape::new(groups, kernel * kernel * read, made, isa);
        Correlation { geometry: *geometry, is_backward, windows, read, runs, stages, weights }
    }
}

impl Method for Correlation {
    fn block(&self) -> usize {
        self.windows.block
    }

    fn scratch(&self) -> usize {
        self.windows.scratch()
    }

    fn pieces(&self) -> Pieces {
        Pieces { count: self.weights.count(), size: self.weights.block_size() }
    }

    fn part_pixels(&self) -> usize {
        PART_PIXELS
    }

    fn pack(&self, isa: Isa, weight: &[f32], packed: &mut [f32]) {
        let pack = if self.is_backward { pack_backward } else { pack_forward };
        pack(isa, &self.geometry, &self.weights, weight, packed);
    }

    fn run(
        &self,
        isa: Isa,
        scratch: &Scratch,
        images: &Reader<'_>,
        packed: &[f32],
        out: (&mut [f32], usize),
        accumulate: bool,
    ) {
        self.windows.with_images(isa, scratch, images, |filled| {
            self.multiply(isa, filled, images.count(), packed, out, accumulate);
        });
    }

    fn run_transposed(
        &self,
        isa: Isa,
        scratch: &Scratch,
        images: &Reader<'_>,
        slopes: (&[f32], usize),
        first: usize,
        sums: &mut [f32],
    ) {
        self.windows.with_images(isa, scratch, images, |filled| {
            self.multiply_transposed(isa, filled, images.count(), slopes, first, sums);
        });
    }

    fn unpack(&self, isa: Isa, parts: &[f32], gradient: &mut [f32]) {
        unpack_gradient(isa, &self.geometry, &self.weights, parts, gradient);
    }
}

impl Correlation {
    /// Convolves the images in a scratch buffer: writes all channels `[pixel][stride]` of the
    /// output, or adds to them.
    fn multiply(
        &self,
        isa: Isa,
        scratch: &[f32],
        images: usize,
        packed: &[f32],
        (out, stride): (&mut [f32], usize),
        accumulate: bool,
    ) {
        let shape = &self.weights;
        for stage in &self.stages {
            for (index, packed) in packed.chunks_exact(shape.block_size()).enumerate() {
                let Block { group, column, width, vectors } = shape.block(index);
                let row = vectors * shape.lanes;
                isa.rows(Rows {
                    factors: Factors::Single,
                    a: &scratch[group * self.read..],
                    places: self.windows.places(images),
                    runs: &stage.runs,
                    b: &packed[stage.start * row..][..stage.length * row],
                    lanes: shape.lanes,
                    vectors,
                    c: &mut out[group * shape.made + column..],
                    c_stride: stride,
                    width,
                    accumulate: accumulate || stage.start > 0,
                });
            }
        }
    }

    /// Adds the gradient of some blocks of weights, from the images in a scratch buffer and the
    /// slopes of their outputs `[pixel][stride]`; `packed` starts with block `first`.
    fn multiply_transposed(
        &self,
        isa: Isa,
        scratch: &[f32],
        images: usize,
        (slopes, stride): (&[f32], usize),
        first: usize,
        packed: &mut [f32],
    ) {
        let shape = &self.weights;
        let places = self.windows.places(images);
        for (index, packed) in packed.chunks_exact_mut(shape.block_size()).enumerate() {
            let Block { group, column, width, vectors } = shape.block(first + index);
            let row = vectors * shape.lanes;
            // Slopes of some pixels stay in cache while all rows of the weight pass by.
            for (part, places) in places.chunks(TRANSPOSED_PIXELS).enumerate() {
                let pixel = part * TRANSPOSED_PIXELS;
                let mut depth = 0;
                for run in &self.runs {
                    isa.columns(Columns {
                        factors: Factors::Single,
                        a: scratch,
                        places,
                        start: group * self.read + run.start,
                        rows: run.length,
                        b: &slopes[pixel * stride + group * shape.made + column..],
                        b_stride: stride,
                        lanes: shape.lanes,
                        vectors,
                        c: &mut packed[depth * row..],
                        c_stride: row,
                        width,
                    });
                    depth += run.length;
                }
            }
        }
    }
}

/// The runs of a window, of the first group.
pub(super) fn kernel_runs(kernel: usize, groups: usize, windows: &Windows) -> Vec<Run> {
    let Windows { channels, width, .. } = *windows;
    // A row of the kernel is one run where a group has all channels.
    if groups == 1 {
        let length = kernel * channels;
        return (0..kernel).map(|y| Run { start: y * width * channels, length }).collect();
    }
    (0..kernel * kernel)
        .map(|at| (at / kernel * width + at % kernel) * channels)
        .map(|start| Run { start, length: channels / groups })
        .collect()
}

/// Cuts the runs of a window into stages of about [`DEPTH`] numbers.
pub(super) fn stages(runs: &[Run]) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut start = 0;
    for run in runs {
        let parts = run.length.div_ceil(DEPTH);
        for part in 0..parts {
            let (from, to) = (part * run.length / parts, (part + 1) * run.length / parts);
            let piece = Run { start: run.start + from, length: to - from };
            match stages.last_mut().filter(|stage| stage.length + piece.length <= DEPTH) {
                Some(stage) => {
                    stage.runs.push(piece);
                    stage.length += piece.length;
                }
                None => {
                    stages.push(Stage { runs: vec![piece], start, length: piece.length });
                }
            }
            start += piece.length;
        }
    }
    stages
}

/// Outputs that a tile computes at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) group: usize,
    /// Its first output in the group, and how many it has.
    pub(super) column: usize,
    pub(super) width: usize,
    /// Vectors that hold them; the last may have room left.
    pub(super) vectors: usize,
}

/// The form of packed weights: per group, blocks of up to [`WIDEST`] vectors of outputs, each
/// `[depth][vectors · lanes]` at the start of as many places as the widest block takes.
#[derive(Debug)]
pub(super) struct PackedShape {
    pub(super) groups: usize,
    /// Numbers of a window.
    pub(super) depth: usize,
    /// Outputs of a group.
    pub(super) made: usize,
    pub(super) lanes: usize,
    /// Blocks of a group.
    blocks: usize,
}

impl PackedShape {
    pub(super) fn new(groups: usize, depth: usize, made: usize, isa: Isa) -> Self {
        let lanes = isa.lanes(made);
        let blocks = made.div_ceil(lanes).div_ceil(WIDEST);
        PackedShape { groups, depth, made, lanes, blocks }
    }

    /// Places of a block.
    pub(super) fn block_size(&self) -> usize {
        self.depth * self.made.div_ceil(self.lanes).div_ceil(self.blocks) * self.lanes
    }

    /// Places of all weights.
    pub(super) fn size(&self) -> usize {
        self.count() * self.block_size()
    }

    /// Blocks of all groups.
    pub(super) fn count(&self) -> usize {
        self.groups * self.blocks
    }

    /// A block, counted over all groups: its vectors are nearly as many as those of the others.
    pub(super) fn block(&self, index: usize) -> Block {
        let (group, index) = (index / self.blocks, index % self.blocks);
        let vectors = self.made.div_ceil(self.lanes);
        let first = index * vectors / self.blocks;
        let end = (index + 1) * vectors / self.blocks;
        let column = first * self.lanes;
        Block {
            group,
            column,
            vectors: end - first,
            width: (end * self.lanes).min(self.made) - column,
        }
    }
}
