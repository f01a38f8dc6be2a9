//! Products of windows' numbers with packed weights, and with pixels of the other side, in blocks of outputs.

use super::convolution::Sums;
use super::kernels::{Columns, Factors, Isa, Rows, Run, WIDEST};
use super::memory::LINE;
use super::planes::PlaneProduct;
use super::windows::Windows;

/// Numbers of a window that are multiplied before the next output vectors: as many rows of weights
/// stay in cache while the block's pixels pass by.
const DEPTH: usize = 256;

/// Numbers, 24 of 32 KiB, that stay in the nearest cache while a weight's gradient is summed: of windows and of pixels.
const NEAR: usize = 6144;

/// Pixels that it is summed over at once, at most.
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
    /// What multiplies in its stead where outputs are few.
    planes: Option<PlaneProduct>,
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
        let planes = PlaneProduct::new(&windows, kernel, &runs, made, isa);
        Product { factors, windows, read, runs, stages, weights, planes }
    }

    /// Multiplies the windows of `count` images by packed weights: writes all outputs `[window][stride]`, or adds to
    /// them. The scratch buffer has at least [`Product::scratch`] numbers.
    pub(super) fn run(
        &self,
        isa: Isa,
        scratch: &mut [f32],
        (images, count): (&[f32], usize),
        packed: &[f32],
        (out, stride): (&mut [f32], usize),
        accumulate: bool,
    ) {
        let shape = &self.weights;
        if let Some(planes) = &self.planes {
            let images = images.chunks_exact(self.windows.image()).take(count);
            for (image, out) in images.zip(out.chunks_mut(self.windows.count * stride)) {
                let weights = (self.factors, shape);
                planes.run(isa, scratch, weights, (image, packed), (out, stride), accumulate);
            }
            return;
        }
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

    /// Numbers of the scratch buffer for [`Product::run`].
    pub(super) fn scratch(&self) -> usize {
        self.planes.as_ref().map_or(0, PlaneProduct::scratch)
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
            // Of a window, those that are multiplied at once stand in a line of the cache.
            let numbers = width + self.windows.channels.min(LINE);
            let together = TRANSPOSED_PIXELS.min(NEAR / numbers);
            for (part, places) in places.chunks(together).enumerate() {
                let pixel = part * together;
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
        PackedShape::of_lanes(groups, depth, made, isa.lanes(made))
    }

    /// For vectors of so many lanes.
    pub(super) fn of_lanes(groups: usize, depth: usize, made: usize, lanes: usize) -> Self {
        let blocks = made.div_ceil(lanes).div_ceil(WIDEST);
        PackedShape { groups, depth, made, lanes, blocks }
    }

    /// Outputs of all groups, which a pixel of the other side has.
    pub(super) fn pixel(&self) -> usize {
        self.groups * self.made
    }

    /// Places of a row of the widest block.
    pub(super) fn row(&self) -> usize {
        self.made.div_ceil(self.lanes).div_ceil(self.blocks) * self.lanes
    }

    /// Places of a block.
    pub(super) fn block_size(&self) -> usize {
        self.depth * self.row()
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

#[cfg(test)]
mod tests {
    use eas_ir::Rng;

    use super::*;
    use crate::cpu::correlation::Geometry;
    use crate::cpu::kernels::pairs::pair;

    #[test]
    fn outputs_by_planes_are_those_by_rows_to_the_bit() {
        for isa in Isa::available() {
            let mut by_planes = 0;
            for seed in 0..300 {
                let mut rng = Rng::new(seed);
                let groups = 1 + rng.below(2);
                let kernel = 1 + rng.below(5);
                let geometry = Geometry {
                    channels: groups * (1 + rng.below(6)),
                    height: kernel + rng.below(12),
                    width: kernel + rng.below(30),
                    filters: groups * (1 + rng.below(9)),
                    kernel,
                    stride: 1 + rng.below(3) / 2,
                    padding: rng.below(kernel),
                    groups,
                };
                let (windows, made) = match rng.below(2) {
                    0 => (Windows::forward(&geometry, geometry.channels), geometry.made()),
                    _ => (Windows::backward(&geometry, geometry.filters), geometry.read()),
                };
                let factors = [Factors::Single, Factors::Pairs][rng.below(2)];
                let mut numbers = |count: usize| -> Vec<f32> {
                    let mut number = || rng.normal() as f32;
                    let mut number = || match factors {
                        Factors::Single => number(),
                        Factors::Pairs => pair(number(), number()),
                    };
                    (0..count).map(|_| number()).collect()
                };
                let mut product = Product::new(factors, windows, kernel, groups, made, isa);
                let count = 1 + seed as usize % product.windows.block;
                let images = numbers(product.windows.scratch());
                let packed = numbers(product.weights.size());
                // Outputs are some channels of a buffer that has more.
                let offset = seed as usize % 3;
                let stride = offset + groups * made + seed as usize % 2;
                let accumulate = seed % 4 < 2;
                let before: Vec<f32> = numbers(count * product.windows.count * stride);
                // What an earlier step left there.
                let mut scratch = vec![f32::NAN; product.scratch()];
                let mut run = |product: &Product| {
                    let mut out = before.clone();
                    let to = (&mut out[offset..], stride);
                    product.run(isa, &mut scratch, (&images, count), &packed, to, accumulate);
                    out
                };
                let found = run(&product);
                by_planes += usize::from(product.planes.take().is_some());
                let expected = run(&product);
                let same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "seed {seed}, {isa:?}, {factors:?}: {geometry:?}, {made} outputs");
            }
            assert!(by_planes > 20, "{isa:?}: {by_planes} by planes");
        }
    }
}
