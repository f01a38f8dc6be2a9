//! A convolution as products of rows in bf16, whose sums are f32.
//!
//! As [`super::correlation`], but the images of a block are rounded as they are copied: for the
//! convolution, two neighbouring channels come into one place; for the weight's gradient, which sums
//! over pixels, a pixel and the one that the next window has there. Either way the kernels see places
//! and runs of numbers that each are a pair of bf16.

use rayon::prelude::*;

use super::convolution::{Method, Pieces, Sums};
use super::correlation::{Geometry, PART_PIXELS};
use super::kernels::pairs::{pair, pair_channels, pair_with_later};
use super::kernels::{Factors, Isa};
use super::memory::Scratch;
use super::product::Product;
use super::values::Reader;
use super::weights::{unpack_backward, unpack_forward};
use super::windows::Windows;

/// A convolution of blocks of images, or the gradient of its input.
#[derive(Debug)]
pub(super) struct Paired {
    geometry: Geometry,
    is_backward: bool,
    /// Over pairs of channels.
    paired: Product,
    /// Over pairs of pixels, for the weight's gradient; its windows fill the images either way.
    single: Product,
    couples: Couples,
}

/// Windows of a block of which two that stand side by side are summed at once.
#[derive(Debug)]
struct Couples {
    /// The first window of each, and its place.
    first: Vec<usize>,
    places: Vec<u32>,
}

impl Couples {
    /// Couples windows that stand `step` apart, as those of a row of pixels do.
    fn new(places: &[u32], step: usize) -> Self {
        let mut couples = Couples { first: Vec::new(), places: Vec::new() };
        let mut window = 0;
        while window < places.len() {
            couples.first.push(window);
            couples.places.push(places[window]);
            let next = places.get(window + 1);
            let is_beside = next.is_some_and(|next| *next == places[window] + step as u32);
            window += if is_beside { 2 } else { 1 };
        }
        couples
    }

    /// How many hold the first `windows`.
    fn of(&self, windows: usize) -> usize {
        self.first.partition_point(|first| *first < windows)
    }
}

impl Paired {
    /// Both directions of a convolution, unless a group has an odd number of channels.
    pub(super) fn both(geometry: &Geometry, isa: Isa) -> Option<[Box<dyn Method>; 2]> {
        let is_even = geometry.read().is_multiple_of(2) && geometry.made().is_multiple_of(2);
        (geometry.groups == 1 || is_even).then(|| -> [Box<dyn Method>; 2] {
            let forward = Paired::new(geometry, false, Windows::forward, isa);
            [Box::new(forward), Box::new(Paired::new(geometry, true, Windows::backward, isa))]
        })
    }

    fn new(
        geometry: &Geometry,
        is_backward: bool,
        windows: fn(&Geometry, usize) -> Windows,
        isa: Isa,
    ) -> Self {
        let Geometry { channels, filters, kernel, groups, .. } = *geometry;
        let (channels, made) = match is_backward {
            false => (channels, geometry.made()),
            true => (filters, geometry.read()),
        };
        let pairs = channels.div_ceil(2);
        let (single, paired) = (windows(geometry, channels), windows(geometry, pairs));
        let couples = Couples::new(single.places(single.block), single.step);
        let product = |windows| Product::new(Factors::Pairs, windows, kernel, groups, made, isa);
        let (single, paired) = (product(single), product(paired));
        Paired { geometry: *geometry, is_backward, paired, single, couples }
    }

    /// The pixels of couples of windows, `[couple][number]`; 0 where there is no second window.
    #[inline(always)]
    fn pair_pixels(&self, windows: usize, (pixels, stride): (&[f32], usize), to: &mut [f32]) {
        let numbers = self.single.weights.pixel();
        let first = &self.couples.first;
        for (couple, to) in to.chunks_exact_mut(numbers).enumerate() {
            let window = first[couple];
            let end = first.get(couple + 1).map_or(windows, |end| windows.min(*end));
            let one = &pixels[window * stride..][..numbers];
            if end - window == 2 {
                let other = &pixels[(window + 1) * stride..][..numbers];
                for number in 0..numbers {
                    to[number] = pair(one[number], other[number]);
                }
            } else {
                for number in 0..numbers {
                    to[number] = pair(one[number], 0.0);
                }
            }
        }
    }
}

impl Method for Paired {
    fn block(&self) -> usize {
        self.single.windows.block
    }

    fn scratch(&self) -> usize {
        // Behind the images stand the pixels of couples of windows, and the pixels that these are made of.
        let couples = self.couples.first.len() * self.single.weights.pixel();
        self.single.windows.scratch() + (couples + self.single.pixels()).max(self.paired.scratch())
    }

    fn pieces(&self) -> Pieces {
        // The sums of a weight's gradient take more places than its pairs.
        let shape = &self.single.weights;
        Pieces { count: shape.count(), size: shape.block_size() }
    }

    fn part_pixels(&self) -> usize {
        PART_PIXELS
    }

    fn pack(&self, isa: Isa, weight: &[f32], packed: &mut [f32]) {
        let (geometry, shape) = (&self.geometry, &self.paired.weights);
        let (from, to) = (geometry.read(), geometry.made());
        let taps = geometry.kernel * geometry.kernel;
        let packed = &mut packed[..shape.size()];
        packed.par_chunks_exact_mut(shape.block_size()).enumerate().for_each(|(index, packed)| {
            let block = shape.block(index);
            let row = block.vectors * shape.lanes;
            let first = block.group * to;
            // Where the number of an output, a channel that is read and a tap stands.
            let place = |output: usize, channel: usize, tap: usize| match self.is_backward {
                false => ((first + output) * from + channel) * taps + tap,
                true => ((first + channel) * from + output) * taps + taps - 1 - tap,
            };
            let channels = if self.is_backward { to } else { from };
            isa.run(
                #[inline(always)]
                || {
                    for index in 0..self.paired.read {
                        for tap in 0..taps {
                            let packed =
                                &mut packed[(tap * self.paired.read + index) * row..][..row];
                            let (used, room) = packed.split_at_mut(block.width);
                            for (lane, to) in used.iter_mut().enumerate() {
                                let place = |channel| place(block.column + lane, channel, tap);
                                let last = 2 * index + 1 == channels;
                                let next = if last { 0.0 } else { weight[place(2 * index + 1)] };
                                *to = pair(weight[place(2 * index)], next);
                            }
                            room.fill(0.0);
                        }
                    }
                },
            );
        });
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
        let windows = &self.single.windows;
        scratch.with(|scratch| {
            let (filled, rest) = scratch.split_at_mut(images.count() * windows.image());
            windows.fill(isa, filled, images);
            isa.run(
                #[inline(always)]
                || pair_channels(filled, windows.channels),
            );
            self.paired.run(isa, rest, (filled, images.count()), packed, out, accumulate);
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
        let (single, numbers) = (&self.single.windows, self.single.weights.pixel());
        let windows = images.count() * single.count;
        let couples = self.couples.of(windows);
        scratch.with(|scratch| {
            let (filled, rest) = scratch.split_at_mut(images.count() * single.image());
            let (paired, rest) = rest.split_at_mut(couples * numbers);
            let pixels = pixels.pixels(isa, rest);
            single.fill(isa, filled, images);
            isa.run(
                #[inline(always)]
                || {
                    pair_with_later(filled, single.step);
                    self.pair_pixels(windows, pixels, paired);
                },
            );
            let images = (&*filled, &self.couples.places[..couples]);
            self.single.run_transposed(isa, images, (paired, numbers), sums);
        });
    }

    fn unpack(&self, isa: Isa, sums: &[f32], gradient: &mut [f32]) {
        let unpack = if self.is_backward { unpack_backward } else { unpack_forward };
        unpack(isa, &self.geometry, &self.single.weights, sums, gradient);
    }
}
