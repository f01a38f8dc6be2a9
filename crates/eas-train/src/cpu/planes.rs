//! Windows multiplied with the weights of few outputs, by vectors of pixels.
//!
//! Up to half as many outputs as there are lanes leave lanes without work, or make vectors narrow. So an image is cut
//! into a plane for each channel: a vector of a plane holds the same number of windows that stand side by side. Windows
//! are counted through the rows of planes, and those at the end of a row, which would reach into the next, belong to no
//! output: they are computed and left out. Sums are those of [`super::product::Product`], to the bit.

use super::kernels::planes::Planes;
use super::kernels::transpose::transpose;
use super::kernels::{Factors, Isa, Run};
use super::memory::LINE;
use super::product::PackedShape;
use super::windows::Windows;

/// Fewest outputs side by side: in narrower images too many windows are left out.
const WIDE: usize = 12;

/// Most numbers of an image, 512 KiB: each vector of outputs reads all planes, which have to be near.
const NEAR: usize = 1 << 17;

/// The product of the windows of an image whose numbers stand in planes.
#[derive(Debug)]
pub(super) struct PlaneProduct {
    /// Where each number of a window stands, of the first group.
    places: Vec<u32>,
    channels: usize,
    /// Numbers from one plane to the next.
    plane: usize,
    /// Of a row of the image with its border, and of outputs.
    width: usize,
    out_width: usize,
    out_height: usize,
    /// Outputs of a group.
    made: usize,
    /// Vectors that hold a window for each pixel from the first output to the last.
    vectors: usize,
    lanes: usize,
}

impl PlaneProduct {
    /// Of windows of several pixels that stand at all of an image's, where outputs are few and side by side.
    pub(super) fn new(
        windows: &Windows,
        kernel: usize,
        runs: &[Run],
        made: usize,
        isa: Isa,
    ) -> Option<Self> {
        let Windows { channels, width, columns, .. } = *windows;
        let lanes = isa.lanes(usize::MAX);
        let is_side_by_side = kernel > 1 && windows.step == channels;
        let is_wide = columns >= WIDE && 4 * width <= 5 * columns;
        let is_apt = is_side_by_side && is_wide && 2 * made <= lanes && windows.image() <= NEAR;
        is_apt.then(|| {
            // An odd number of lines, so that the same pixels of all planes don't fall on the same lines of the cache.
            let plane = ((windows.image() / channels).div_ceil(LINE) | 1) * LINE;
            let place = |at: usize| (at % channels * plane + at / channels) as u32;
            let numbers = runs.iter().flat_map(|run| run.start..run.start + run.length);
            let places = numbers.map(place).collect();
            let (out_width, out_height) = (columns, windows.count / columns);
            let vectors = ((out_height - 1) * width + out_width).div_ceil(lanes);
            PlaneProduct {
                places,
                channels,
                plane,
                width,
                out_width,
                out_height,
                made,
                vectors,
                lanes,
            }
        })
    }

    /// Numbers of the planes, and of the last vector beyond them.
    fn planes(&self) -> usize {
        self.channels * self.plane + self.lanes
    }

    /// Numbers of the scratch buffer.
    pub(super) fn scratch(&self) -> usize {
        self.planes() + self.made * self.vectors * self.lanes
    }

    /// Multiplies the windows of an image `[row][column][channel]`, with its border, by packed weights: writes its
    /// outputs `[window][stride]`, or adds to them. The scratch buffer has at least [`PlaneProduct::scratch`] numbers.
    pub(super) fn run(
        &self,
        isa: Isa,
        scratch: &mut [f32],
        (factors, weights): (Factors, &PackedShape),
        (image, packed): (&[f32], &[f32]),
        (out, stride): (&mut [f32], usize),
        accumulate: bool,
    ) {
        let (planes, sums) = scratch.split_at_mut(self.planes());
        let shape = [image.len() / self.channels, self.channels];
        isa.run(
            #[inline(always)]
            || transpose(shape, (image, self.channels), (planes, self.plane)),
        );
        let (row, between) = (weights.row(), self.vectors * self.lanes);
        for group in 0..weights.groups {
            let first = group * self.channels / weights.groups * self.plane;
            let outputs = |y: usize| y * self.out_width * stride + group * self.made;
            if accumulate {
                isa.run(
                    #[inline(always)]
                    || {
                        for y in 0..self.out_height {
                            let from = (&out[outputs(y)..], stride);
                            let to = (&mut sums[y * self.width..], between);
                            transpose([self.out_width, self.made], from, to);
                        }
                    },
                );
            }
            isa.planes(Planes {
                factors,
                a: &planes[first..],
                places: &self.places,
                b: &packed[group * weights.block_size()..],
                b_stride: row,
                rows: self.made,
                lanes: self.lanes,
                vectors: self.vectors,
                c: sums,
                c_stride: between,
                accumulate,
            });
            isa.run(
                #[inline(always)]
                || {
                    for y in 0..self.out_height {
                        let from = (&sums[y * self.width..], between);
                        let to = (&mut out[outputs(y)..], stride);
                        transpose([self.made, self.out_width], from, to);
                    }
                },
            );
        }
    }
}
