//! Windows multiplied with the weights of few outputs, by vectors of pixels.
//!
//! Outputs that fill less than half of a vector waste the rest of its lanes. So an image is cut into a plane for each
//! channel: a vector of a plane holds the same number of windows that stand side by side. Windows are counted through
//! the rows of planes, and those that begin in a border belong to no output: they are computed and left out. Sums are
//! those of [`super::product::Product`], to the bit.

use super::kernels::planes::{Planes as Job, transpose};
use super::kernels::{Factors, Isa, Run};
use super::product::PackedShape;
use super::windows::Windows;

/// Fewest outputs side by side: in narrower images too much is computed for the border.
const WIDE: usize = 12;

/// Windows of an image whose numbers stand in planes.
#[derive(Debug)]
pub(super) struct Planes {
    /// Where each number of a window stands, of the first group.
    places: Vec<u32>,
    /// Numbers of a plane: the pixels of an image with its border.
    plane: usize,
    channels: usize,
    /// Of a row of the image with its border, and of outputs.
    width: usize,
    out_width: usize,
    out_height: usize,
    /// Vectors that hold a window for each pixel from the first output to the last.
    vectors: usize,
    lanes: usize,
}

impl Planes {
    /// Those of windows that stand at all pixels, where outputs are few and images wide.
    pub(super) fn new(
        windows: &Windows,
        runs: &[Run],
        weights: &PackedShape,
        isa: Isa,
    ) -> Option<Self> {
        let Windows { channels, width, .. } = *windows;
        let lanes = isa.lanes(usize::MAX);
        let is_everywhere = runs.len() > 1 && windows.step == channels;
        let is_apt = is_everywhere && 2 * weights.made <= lanes && windows.columns >= WIDE;
        is_apt.then(|| {
            let plane = windows.image() / channels;
            let place = |at: usize| (at % channels * plane + at / channels) as u32;
            let numbers = runs.iter().flat_map(|run| run.start..run.start + run.length);
            let (out_width, out_height) = (windows.columns, windows.count / windows.columns);
            let vectors = ((out_height - 1) * width + out_width).div_ceil(lanes);
            let places = numbers.map(place).collect();
            Planes { places, plane, channels, width, out_width, out_height, vectors, lanes }
        })
    }

    /// Numbers of the planes, and of the last vector beyond them.
    fn planes(&self) -> usize {
        self.channels * self.plane + self.lanes
    }

    /// Numbers of the scratch buffer.
    pub(super) fn scratch(&self) -> usize {
        self.planes() + self.lanes / 2 * self.vectors * self.lanes
    }

    /// Multiplies the windows of an image `[row][column][channel]`, with its border, by packed weights: writes its
    /// outputs `[window][stride]`, or adds to them. The scratch buffer has at least [`Planes::scratch`] numbers.
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
        let shape = [self.plane, self.channels];
        isa.run(
            #[inline(always)]
            || transpose(shape, (image, self.channels), (planes, self.plane)),
        );
        let (row, between) = (weights.row(), self.vectors * self.lanes);
        for group in 0..weights.groups {
            let first = group * self.channels / weights.groups * self.plane;
            let outputs = |y: usize| y * self.out_width * stride + group * weights.made;
            if accumulate {
                isa.run(
                    #[inline(always)]
                    || {
                        for y in 0..self.out_height {
                            let from = (&out[outputs(y)..], stride);
                            let to = (&mut sums[y * self.width..], between);
                            transpose([self.out_width, weights.made], from, to);
                        }
                    },
                );
            }
            isa.planes(Job {
                factors,
                a: &planes[first..],
                places: &self.places,
                b: &packed[group * weights.block_size()..],
                b_stride: row,
                rows: weights.made,
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
                        transpose([weights.made, self.out_width], from, to);
                    }
                },
            );
        }
    }
}
