//! A convolution as products of rows in bf16, whose sums are f32.
//!
//! As [`super::correlation`], but the images of a block are rounded as they are copied: for the
//! convolution, two neighbouring channels come into one place; for the weight's gradient, which sums
//! over pixels, a pixel and the one that the next window has there. Either way the kernels see places
//! and runs of numbers that each are a pair of bf16.

use rayon::prelude::*;

use super::convolution::{Method, Pieces};
use super::correlation::{
    Block, Geometry, PART_PIXELS, PackedShape, Stage, TRANSPOSED_PIXELS, kernel_runs, stages,
};
use super::kernels::pairs::{pair, pair_channels, pair_with_later};
use super::kernels::{Columns, Factors, Isa, Rows, Run};
use super::memory::Scratch;
use super::values::Reader;
use super::weights::unpack_gradient;
use super::windows::Windows;

/// A convolution of blocks of images, or the gradient of its input.
#[derive(Debug)]
pub(super) struct Paired {
    geometry: Geometry,
    is_backward: bool,
    /// Pairs of a group's channels, and the windows over them.
    read: usize,
    paired: Windows,
    stages: Vec<Stage>,
    weights: PackedShape,
    /// For the weight's gradient: windows over channels, their runs of the first group, and the form
    /// of the sums.
    single: Windows,
    runs: Vec<Run>,
    sums: PackedShape,
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
        let Geometry { channels, filters, kernel, stride, groups, .. } = *geometry;
        let (channels, made) = match is_backward {
            false => (channels, geometry.made()),
            true => (filters, geometry.read()),
        };
        let pairs = channels.div_ceil(2);
        let (single, paired) = (windows(geometry, channels), windows(geometry, pairs));
        let shape = |channels| PackedShape::new(groups, kernel * kernel * channels, made, isa);
        Paired {
            geometry: *geometry,
            is_backward,
            read: pairs / groups,
            stages: stages(&kernel_runs(kernel, groups, &paired)),
            weights: shape(pairs / groups),
            runs: kernel_runs(kernel, groups, &single),
            sums: shape(channels / groups),
            couples: Couples::new(single.places(single.block), stride * channels),
            single,
            paired,
        }
    }

    /// The slopes of couples of windows, `[couple][filter]`; 0 where there is no second window.
    #[inline(always)]
    fn pair_slopes(&self, windows: usize, (slopes, stride): (&[f32], usize), to: &mut [f32]) {
        let filters = self.geometry.filters;
        let first = &self.couples.first;
        for (couple, to) in to.chunks_exact_mut(filters).enumerate() {
            let window = first[couple];
            let end = first.get(couple + 1).map_or(windows, |end| windows.min(*end));
            let one = &slopes[window * stride..][..filters];
            if end - window == 2 {
                let other = &slopes[(window + 1) * stride..][..filters];
                for filter in 0..filters {
                    to[filter] = pair(one[filter], other[filter]);
                }
            } else {
                for filter in 0..filters {
                    to[filter] = pair(one[filter], 0.0);
                }
            }
        }
    }
}

impl Method for Paired {
    fn block(&self) -> usize {
        self.single.block
    }

    fn scratch(&self) -> usize {
        // Behind the images stand the slopes of couples of windows.
        self.single.scratch() + self.couples.first.len() * self.geometry.filters
    }

    fn pieces(&self) -> Pieces {
        // The sums of a weight's gradient take more places than its pairs.
        Pieces { count: self.sums.count(), size: self.sums.block_size() }
    }

    fn part_pixels(&self) -> usize {
        PART_PIXELS
    }

    fn pack(&self, isa: Isa, weight: &[f32], packed: &mut [f32]) {
        let (geometry, shape) = (&self.geometry, &self.weights);
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
                    for index in 0..self.read {
                        for tap in 0..taps {
                            let packed = &mut packed[(tap * self.read + index) * row..][..row];
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
        (out, stride): (&mut [f32], usize),
        accumulate: bool,
    ) {
        let shape = &self.weights;
        scratch.with(|scratch| {
            let filled = &mut scratch[..images.count() * self.single.image()];
            isa.run(
                #[inline(always)]
                || {
                    self.single.fill(filled, images);
                    pair_channels(filled, self.single.channels);
                },
            );
            let blocks = packed[..shape.size()].chunks_exact(shape.block_size());
            for stage in &self.stages {
                for (index, packed) in blocks.clone().enumerate() {
                    let Block { group, column, width, vectors } = shape.block(index);
                    let row = vectors * shape.lanes;
                    isa.rows(Rows {
                        factors: Factors::Pairs,
                        a: &filled[group * self.read..],
                        places: self.paired.places(images.count()),
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
        let (shape, filters) = (&self.sums, self.geometry.filters);
        let windows = images.count() * self.single.count;
        let couples = self.couples.of(windows);
        scratch.with(|scratch| {
            let (filled, rest) = scratch.split_at_mut(images.count() * self.single.image());
            let paired = &mut rest[..couples * filters];
            isa.run(
                #[inline(always)]
                || {
                    self.single.fill(filled, images);
                    let step = self.geometry.stride * self.single.channels;
                    pair_with_later(filled, step);
                    self.pair_slopes(windows, slopes, paired);
                },
            );
            let all = self.geometry.channels / self.geometry.groups;
            for (index, sums) in sums.chunks_exact_mut(shape.block_size()).enumerate() {
                let Block { group, column, width, vectors } = shape.block(first + index);
                let row = vectors * shape.lanes;
                let column = group * shape.made + column;
                // Slopes of some pixels stay in cache while all rows of the weight pass by.
                let chunks = self.couples.places[..couples].chunks(TRANSPOSED_PIXELS);
                for (places, slopes) in chunks.zip(paired.chunks(TRANSPOSED_PIXELS * filters)) {
                    let mut depth = 0;
                    for run in &self.runs {
                        isa.columns(Columns {
                            factors: Factors::Pairs,
                            a: filled,
                            places,
                            start: group * all + run.start,
                            rows: run.length,
                            b: &slopes[column..],
                            b_stride: filters,
                            lanes: shape.lanes,
                            vectors,
                            c: &mut sums[depth * row..],
                            c_stride: row,
                            width,
                        });
                        depth += run.length;
                    }
                }
            }
        });
    }

    fn unpack(&self, isa: Isa, parts: &[f32], gradient: &mut [f32]) {
        unpack_gradient(isa, &self.geometry, &self.sums, parts, gradient);
    }
}
