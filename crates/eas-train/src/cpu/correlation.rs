//! A convolution as products of rows, for one block of images.
//!
//! The images of a block are copied into a scratch buffer `[image][height][width][channels]` with
//! their border of zeros, so that every window is a place in it and a few runs of numbers behind the
//! place. The input gradient is a convolution of the output's gradient in the same way, with zeros
//! between its pixels where the stride leaves gaps, and flipped kernels.

use super::kernels::{Columns, Isa, Rows, Run, WIDEST};
use super::values::Reader;

/// Output pixels of a block of images, about: enough that weights are read from cache many times.
const PIXELS: usize = 256;

/// Numbers of a window that are multiplied before the next output vectors: as many rows of weights
/// stay in cache while the block's pixels pass by.
const DEPTH: usize = 256;

/// Pixels whose slopes stay in cache while a weight's gradient is summed.
const TRANSPOSED_PIXELS: usize = 512;

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
struct Stage {
    runs: Vec<Run>,
    /// Numbers of a window before it.
    start: usize,
    length: usize,
}

/// A convolution of blocks of images.
#[derive(Debug)]
pub(super) struct Correlation {
    /// Images of a full block.
    pub(super) block: usize,
    /// Channels of the scratch images, and of a group of them.
    channels: usize,
    read: usize,
    /// Rows and columns of zeros before the first pixel.
    border: usize,
    /// Step between pixels in the scratch image.
    spread: usize,
    /// Scratch image, with its border.
    height: usize,
    width: usize,
    /// Where the window of each output pixel of a block starts.
    places: Vec<u32>,
    pixels: usize,
    /// The runs of a window, of the first group.
    runs: Vec<Run>,
    stages: Vec<Stage>,
    weights: PackedShape,
}

impl Correlation {
    /// The convolution itself.
    pub(super) fn forward(geometry: &Geometry, isa: Isa) -> Self {
        Correlation::new(
            geometry,
            [geometry.out_height(), geometry.out_width()],
            (geometry.channels, geometry.made()),
            geometry.stride,
            (geometry.padding, 1),
            [geometry.height + 2 * geometry.padding, geometry.width + 2 * geometry.padding],
            isa,
        )
    }

    /// The gradient of its input, from that of its output.
    pub(super) fn backward(geometry: &Geometry, isa: Isa) -> Self {
        // Every input pixel has a window, so the scratch image is larger by kernel − 1; what the
        // stride left over of the input stays zero.
        let border = geometry.kernel - 1 - geometry.padding;
        Correlation::new(
            geometry,
            [geometry.height, geometry.width],
            (geometry.filters, geometry.read()),
            1,
            (border, geometry.stride),
            [geometry.height + geometry.kernel - 1, geometry.width + geometry.kernel - 1],
            isa,
        )
    }

    fn new(
        geometry: &Geometry,
        out: [usize; 2],
        (channels, made): (usize, usize),
        stride: usize,
        (border, spread): (usize, usize),
        [height, width]: [usize; 2],
        isa: Isa,
    ) -> Self {
        let (block, kernel, groups) = (geometry.block(), geometry.kernel, geometry.groups);
        let read = channels / groups;
        let image = height * width * channels;
        let place = |image_index: usize, y: usize, x: usize| {
            (image_index * image + (y * stride * width + x * stride) * channels) as u32
        };
        let places = (0..block)
            .flat_map(|index| (0..out[0]).map(move |y| (index, y)))
            .flat_map(|(index, y)| (0..out[1]).map(move |x| place(index, y, x)))
            .collect();
        // A row of the kernel is one run where a group has all channels.
        let runs: Vec<Run> = if groups == 1 {
            let length = kernel * channels;
            (0..kernel).map(|y| Run { start: y * width * channels, length }).collect()
        } else {
            (0..kernel * kernel)
                .map(|at| (at / kernel * width + at % kernel) * channels)
                .map(|start| Run { start, length: read })
                .collect()
        };
        let depth = kernel * kernel * read;
        let stages = stages(&runs);
        let weights = PackedShape::new(groups, depth, made, isa);
        let pixels = out[0] * out[1];
        Correlation {
            block,
            channels,
            read,
            border,
            spread,
            height,
            width,
            places,
            pixels,
            runs,
            stages,
            weights,
        }
    }

    /// Numbers of the scratch buffer for a block.
    pub(super) fn scratch(&self) -> usize {
        self.block * self.height * self.width * self.channels
    }

    /// Shape of the packed weights.
    pub(super) fn weights(&self) -> &PackedShape {
        &self.weights
    }

    /// Places of the windows of `images` images.
    fn places(&self, images: usize) -> &[u32] {
        &self.places[..images * self.pixels]
    }

    /// Whether windows can be read from the images as they stand.
    pub(super) fn reads_in_place(&self, images: &Reader<'_>) -> bool {
        let same = [self.height, self.width] == [images.view.height, images.view.width];
        same && self.border == 0 && images.is_plain() && images.view.is_whole()
    }

    /// Copies images into a scratch buffer, with their borders.
    #[inline(always)]
    pub(super) fn fill(&self, scratch: &mut [f32], images: &Reader<'_>) {
        let row_size = self.width * self.channels;
        let image_size = self.height * row_size;
        let (from_height, from_width) = (images.view.height, images.view.width);
        for (index, scratch) in
            scratch[..images.count() * image_size].chunks_exact_mut(image_size).enumerate()
        {
            for (y, row) in scratch.chunks_exact_mut(row_size).enumerate() {
                let from = y.checked_sub(self.border).filter(|y| y % self.spread == 0);
                let Some(from) = from.map(|y| y / self.spread).filter(|y| *y < from_height) else {
                    row.fill(0.0);
                    continue;
                };
                let first = index * from_height * from_width + from * from_width;
                if self.spread == 1 {
                    let (left, rest) = row.split_at_mut(self.border * self.channels);
                    let (middle, right) = rest.split_at_mut(from_width * self.channels);
                    left.fill(0.0);
                    images.read(first, middle);
                    right.fill(0.0);
                } else {
                    row.fill(0.0);
                    for x in 0..from_width {
                        let to = (self.border + x * self.spread) * self.channels;
                        images.read(first + x, &mut row[to..to + self.channels]);
                    }
                }
            }
        }
    }

    /// Convolves the images in a scratch buffer: writes all channels `[pixel][stride]` of the
    /// output, or adds to them.
    pub(super) fn run(
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
                    a: &scratch[group * self.read..],
                    places: self.places(images),
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
    pub(super) fn run_transposed(
        &self,
        isa: Isa,
        scratch: &[f32],
        images: usize,
        (slopes, stride): (&[f32], usize),
        first: usize,
        packed: &mut [f32],
    ) {
        let shape = &self.weights;
        let places = self.places(images);
        for (index, packed) in packed.chunks_exact_mut(shape.block_size()).enumerate() {
            let Block { group, column, width, vectors } = shape.block(first + index);
            let row = vectors * shape.lanes;
            // Slopes of some pixels stay in cache while all rows of the weight pass by.
            for (part, places) in places.chunks(TRANSPOSED_PIXELS).enumerate() {
                let pixel = part * TRANSPOSED_PIXELS;
                let mut depth = 0;
                for run in &self.runs {
                    isa.columns(Columns {
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

/// Cuts the runs of a window into stages of about [`DEPTH`] numbers.
fn stages(runs: &[Run]) -> Vec<Stage> {
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
    fn new(groups: usize, depth: usize, made: usize, isa: Isa) -> Self {
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
