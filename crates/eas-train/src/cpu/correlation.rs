//! A convolution as products of rows, for one block of images.
//!
//! The images of a block are copied into a scratch buffer `[image][height][width][channels]` with
//! their border of zeros, so that every window is a place in it and a few runs of numbers behind the
//! place. The weight's gradient sums products of windows with pixels of the other side, which are copied behind the
//! images where they are normalised first. The input gradient is a convolution of the output's gradient in the same way, with zeros
//! between its pixels where the stride leaves gaps, and flipped kernels.

use super::convolution::{Method, Pieces, Sums};
use super::kernels::{Factors, Isa};
use super::memory::Scratch;
use super::product::Product;
use super::values::Reader;
use super::weights::{pack_backward, pack_forward, unpack_backward, unpack_forward};
use super::windows::Windows;

/// Output pixels of a block of images, about: enough that weights are read from cache many times.
const PIXELS: usize = 256;

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

    /// Whether channels are many and filters so few, fewer than sixteen, that a vector of so many lanes holds them. The
    /// weight's gradient is then summed over windows of the slopes, not of the images: either way a number of a window
    /// is multiplied with all of a pixel on the other side, and one vector at a time is slow. Slopes have a window for
    /// each pixel of the input, so these must not be more than the outputs.
    pub(super) fn is_narrow(&self, lanes: usize) -> bool {
        let is_kept = self.stride == 1 && 2 * self.padding + 1 >= self.kernel;
        let is_one_vector = self.made() <= lanes && self.made() < 16;
        self.kernel > 1 && is_kept && is_one_vector && self.read() >= 32
    }

    /// Images of a block.
    pub(super) fn block(&self) -> usize {
        (PIXELS / (self.out_height() * self.out_width())).clamp(1, 16)
    }
}

/// A convolution of blocks of images.
#[derive(Debug)]
pub(super) struct Correlation {
    geometry: Geometry,
    /// Whether it is the gradient of the input.
    is_backward: bool,
    product: Product,
}

impl Correlation {
    /// A convolution and the gradient of its input, which is one of its output's.
    pub(super) fn both(geometry: &Geometry, isa: Isa) -> [Box<dyn Method>; 2] {
        let forward = Windows::forward(geometry, geometry.channels);
        let backward = Windows::backward(geometry, geometry.filters);
        [
            Box::new(Correlation::new(geometry, false, forward, geometry.made(), isa)),
            Box::new(Correlation::new(geometry, true, backward, geometry.read(), isa)),
        ]
    }

    fn new(
        geometry: &Geometry,
        is_backward: bool,
        windows: Windows,
        made: usize,
        isa: Isa,
    ) -> Self {
        let Geometry { kernel, groups, .. } = *geometry;
        let product = Product::new(Factors::Single, windows, kernel, groups, made, isa);
        Correlation { geometry: *geometry, is_backward, product }
    }
}

impl Method for Correlation {
    fn block(&self) -> usize {
        self.product.windows.block
    }

    fn scratch(&self) -> usize {
        self.product.windows.scratch() + self.product.pixels().max(self.product.scratch())
    }

    fn pieces(&self) -> Pieces {
        let shape = &self.product.weights;
        Pieces { count: shape.count(), size: shape.block_size() }
    }

    fn part_pixels(&self) -> usize {
        PART_PIXELS
    }

    fn pack(&self, isa: Isa, weight: &[f32], packed: &mut [f32]) {
        let pack = if self.is_backward { pack_backward } else { pack_forward };
        pack(isa, &self.geometry, &self.product.weights, weight, packed);
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
        scratch.with(|scratch| {
            let (filled, rest) = scratch.split_at_mut(self.product.windows.scratch());
            let filled = self.product.windows.images(isa, filled, images);
            self.product.run(isa, rest, (filled, images.count()), packed, out, accumulate);
        });
    }

    fn run_transposed(
        &self,
        isa: Isa,
        scratch: &Scratch,
        images: &Reader<'_>,
        pixels: &Reader<'_>,
        sums: Sums<'_>,
    ) {
        let windows = &self.product.windows;
        scratch.with(|scratch| {
            let (filled, rest) = scratch.split_at_mut(windows.scratch());
            let filled = windows.images(isa, filled, images);
            let images = (filled, windows.places(images.count()));
            self.product.run_transposed(isa, images, pixels.pixels(isa, rest), sums);
        });
    }

    fn unpack(&self, isa: Isa, sums: &[f32], gradient: &mut [f32]) {
        let unpack = if self.is_backward { unpack_backward } else { unpack_forward };
        unpack(isa, &self.geometry, &self.product.weights, sums, gradient);
    }
}
