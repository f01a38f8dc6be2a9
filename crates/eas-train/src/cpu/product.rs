//! Products of windows' numbers with packed weights, and with pixels of the other side, in blocks of outputs.

use super::convolution::Sums;
use super::kernels::{Columns, Factors, Isa, Rows, Run, WIDEST};
use super::windows::Windows;

/// Numbers of a window that are multiplied before the next output vectors: as many rows of weights
/// stay in cache while the block's pixels pass by.
const DEPTH: usize = 256;

/// Pixels of the other side that stay in cache while a weight's gradient is summed.
const TRANSPOSED_PIXELS: usize = 512;

/// Windows, and the form of the weights that their numbers are multiplied with. Images stand as the windows have them,
/// `[image][row][column][channel]` with borders, each number a pair of bf16 where factors are pairs.
#[derive(Debug)]
pub(super) struct Product {
    factors: Factors,
    /// Where windows start in images.
    pub(super) windows: Windows,
    /// Numbers of a group in a pixel of the images.
    pub(super) read: usize,
    /// The runs of a window, of the first group.
    runs: Vec<Run>,
    stages: Vec<Stage>,
    /// The form of packed weights, and of the sums of their gradient.
    pub(super) weights: PackedShape,
}

impl Product {
    /// Windows of `kernel` × `kernel` pixels, whose channels are cut into `groups` of `made` outputs each.
    pub(super) fn new(
        factors: Factors,
        windows: Windows,
        kernel: usize,
        groups: usize,
        made: usize,
        isa: Isa,
    ) -> Self {
        let read = windows.channels / groups;
        let runs = kernel_runs(kernel, groups, &windows);
        let stages = stages(&runs);
        let weights = PackedShape::new(groups, kernel * kernel * read, made, isa);
        Product { factors, windows, read, runs, stages, weights }
    }

    /// Multiplies the windows of `count` images by packed weights: writes all outputs `[window][stride]`, or adds to
    /// them.
    pub(super) fn run(
        &self,
        isa: Isa,
        (images, count): (&[f32], usize),
        packed: &[f32],
        (out, stride): (&mut [f32], usize),
        accumulate: bool,
    ) {
        let shape = &self.weights;
        let blocks = packed[..shape.size()].chunks_exact(shape.block_size());
        for stage in &self.stages {
            for (index, packed) in blocks.clone().enumerate() {
                let Block { group, column, width, vectors } = shape.block(index);
                let row = vectors * shape.lanes;
                isa.rows(Rows {
                    factors: self.factors,
                    a: &images[group * self.read..],
                    places: self.windows.places(count),
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

    /// Numbers of the pixels that a block's windows are multiplied with.
    pub(super) fn pixels(&self) -> usize {
        self.windows.block * self.windows.count * self.weights.pixel()
    }

    /// Sums the gradient of some blocks of weights, from the images whose windows start at `places` and the pixels of the
    /// other side `[place][stride]`.
    pub(super) fn run_transposed(
        &self,
        isa: Isa,
        (images, places): (&[f32], &[u32]),
        (pixels, stride): (&[f32], usize),
        Sums { first, values, accumulate }: Sums<'_>,
    ) {
        let shape = &self.weights;
        for (index, sums) in values.chunks_exact_mut(shape.block_size()).enumerate() {
            let Block { group, column, width, vectors } = shape.block(first + index);
            let row = vectors * shape.lanes;
            // Some pixels stay in cache while all rows of the weight pass by.
            for (part, places) in places.chunks(TRANSPOSED_PIXELS).enumerate() {
                let pixel = part * TRANSPOSED_PIXELS;
                let mut depth = 0;
                for run in &self.runs {
                    isa.columns(Columns {
                        factors: self.factors,
                        a: images,
                        places,
                        start: group * self.read + run.start,
                        rows: run.length,
                        b: &pixels[pixel * stride + group * shape.made + column..],
                        b_stride: stride,
                        lanes: shape.lanes,
                        vectors,
                        c: &mut sums[depth * row..],
                        c_stride: row,
                        width,
                        accumulate: accumulate || part > 0,
                    });
                    depth += run.length;
                }
            }
        }
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

/// The runs of a window, of the first group.
fn kernel_runs(kernel: usize, groups: usize, windows: &Windows) -> Vec<Run> {
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

    /// Outputs of all groups, which a pixel of the other side has.
    pub(super) fn pixel(&self) -> usize {
        self.groups * self.made
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
