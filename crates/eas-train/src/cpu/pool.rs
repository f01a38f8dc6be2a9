//! Max and average pooling.

use std::ops::Range;

use eas_ir::Mode;
use rayon::prelude::*;

use super::memory::{Memory, Setting};
use super::plan::Input;
use super::values::View;

/// The windows of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Window {
    /// Calls `work` with each output pixel, and the rows and columns of the image that its window holds.
    #[inline(always)]
    fn for_windows(
        &self,
        image: &View,
        output: &View,
        mut work: impl FnMut(usize, Range<usize>, Range<usize>),
    ) {
        let along = |index: usize, size: usize, side: usize| {
            let start = index * self.stride;
            start.saturating_sub(self.padding)..(start + size - self.padding).min(side)
        };
        for y in 0..output.height {
            let rows = along(y, self.height, image.height);
            for x in 0..output.width {
                let columns = along(x, self.width, image.width);
                work(y * output.width + x, rows.clone(), columns);
            }
        }
    }

    /// Writes the largest value of each window; in training, also its place in the image.
    pub(super) fn max(
        &self,
        Setting { isa, batch, .. }: Setting,
        mode: Mode,
        memory: &mut Memory,
        input: &Input,
        output: &View,
        winners: usize,
    ) {
        let mut out = std::mem::take(&mut memory.values[output.buffer]);
        let mut won = std::mem::take(&mut memory.winners[winners]);
        let Memory { values, norms, scratch, .. } = &*memory;
        let source = &input.source;
        let channels = output.channels;
        let images = out[..batch * output.image()].par_chunks_mut(output.image()).enumerate();
        let max_of = |image: usize, out: &mut [f32], won: &mut [u32]| {
            let reader = source.reader(values, norms, image..image + 1);
            scratch.with(|scratch| {
                let from = &mut scratch[..source.view.area() * channels];
                reader.read(isa, 0, from);
                isa.run(
                    #[inline(always)]
                    || match channels {
                        c if c % 16 == 0 => self.max_of::<16>(&source.view, from, output, out, won),
                        c if c % 4 == 0 => self.max_of::<4>(&source.view, from, output, out, won),
                        _ => self.max_of::<1>(&source.view, from, output, out, won),
                    },
                );
            });
        };
        match mode {
            Mode::Evaluation => images.for_each(|(image, out)| max_of(image, out, &mut [])),
            Mode::Training => images
                .zip(won.par_chunks_mut(output.area() * channels))
                .for_each(|((image, out), won)| max_of(image, out, won)),
        }
        memory.values[output.buffer] = out;
        memory.winners[winners] = won;
    }

    /// Gives each slope to the winner of its window.
    pub(super) fn max_backward(
        &self,
        Setting { isa, batch, .. }: Setting,
        memory: &mut Memory,
        input: &Input,
        slope: &View,
        winners: usize,
    ) {
        let Some(sink) = input.sink else { return };
        let mut out = std::mem::take(&mut memory.slots[sink.view.buffer]);
        let Memory { slots, winners: all_winners, .. } = &*memory;
        let (slopes, won) = (&slots[slope.buffer], &all_winners[winners]);
        let (channels, view) = (slope.channels, &sink.view);
        out[..batch * view.image()].par_chunks_mut(view.image()).enumerate().for_each(
            |(image, out)| {
                let slopes = &slopes[image * slope.image()..][..slope.image()];
                let won = &won[image * slope.area() * channels..][..slope.area() * channels];
                isa.run(
                    #[inline(always)]
                    || {
                        if !sink.accumulate {
                            out.fill(0.0);
                        }
                        match channels {
                            c if c % 16 == 0 => self.give_to::<16>(slope, slopes, won, view, out),
                            c if c % 4 == 0 => self.give_to::<4>(slope, slopes, won, view, out),
                            _ => self.give_to::<1>(slope, slopes, won, view, out),
                        }
                    },
                );
            },
        );
        memory.slots[sink.view.buffer] = out;
    }

    /// The largest values of one image `from`, [pixel][channels], `N` channels at once; and their places, if there is
    /// room for them.
    #[inline(always)]
    fn max_of<const N: usize>(
        &self,
        source: &View,
        from: &[f32],
        output: &View,
        out: &mut [f32],
        won: &mut [u32],
    ) {
        let channels = output.channels;
        let has_places = !won.is_empty();
        self.for_windows(
            source,
            output,
            #[inline(always)]
            |pixel, rows, columns| {
                let to = &mut out[pixel * output.stride + output.offset..][..channels];
                let to = to.as_chunks_mut::<N>().0.iter_mut().enumerate();
                let window = |group| (source, &from[group * N..], rows.clone(), columns.clone());
                if has_places {
                    let won = &mut won[pixel * channels..][..channels];
                    for ((group, to), won) in to.zip(won.as_chunks_mut::<N>().0) {
                        (*to, *won) = largest::<N, true>(window(group));
                    }
                } else {
                    for (group, to) in to {
                        (*to, _) = largest::<N, false>(window(group));
                    }
                }
            },
        );
    }

    /// Adds the slopes of one image to their winners' places, `N` channels at once.
    #[inline(always)]
    fn give_to<const N: usize>(
        &self,
        slope: &View,
        slopes: &[f32],
        won: &[u32],
        view: &View,
        out: &mut [f32],
    ) {
        self.for_windows(
            view,
            slope,
            #[inline(always)]
            |pixel, rows, columns| {
                let slopes = &slopes[pixel * slope.stride + slope.offset..][..slope.channels];
                let won = &won[pixel * slope.channels..][..slope.channels];
                let groups = slopes.as_chunks::<N>().0.iter().zip(won.as_chunks::<N>().0);
                for (group, (slopes, won)) in groups.enumerate() {
                    // Copies, so that a slope is read whether or not it is given, without a branch.
                    let (slopes, won) = (*slopes, *won);
                    for y in rows.clone() {
                        let row = y * view.width;
                        for place in row + columns.start..row + columns.end {
                            let to = &mut out[place * view.stride + view.offset + group * N..][..N];
                            for c in 0..N {
                                let given = if won[c] == place as u32 { slopes[c] } else { 0.0 };
                                to[c] += given;
                            }
                        }
                    }
                }
            },
        );
    }

    /// Writes the mean of each window.
    pub(super) fn average(
        &self,
        Setting { isa, batch, .. }: Setting,
        memory: &mut Memory,
        input: &Input,
        output: &View,
    ) {
        let mut out = std::mem::take(&mut memory.values[output.buffer]);
        let Memory { values, norms, scratch, .. } = &*memory;
        let source = &input.source;
        let channels = output.channels;
        let share = 1.0 / (self.height * self.width) as f32;
        out[..batch * output.image()].par_chunks_mut(output.image()).enumerate().for_each(
            |(image, out)| {
                let reader = source.reader(values, norms, image..image + 1);
                scratch.with(|scratch| {
                    let from = &mut scratch[..source.view.area() * channels];
                    reader.read(isa, 0, from);
                    isa.run(
                        #[inline(always)]
                        || {
                            self.for_windows(
                                &source.view,
                                output,
                                #[inline(always)]
                                |pixel, rows, columns| {
                                    let mean = &mut out[pixel * output.stride + output.offset..];
                                    let mean = &mut mean[..channels];
                                    mean.fill(0.0);
                                    for y in rows {
                                        for x in columns.clone() {
                                            let place = y * source.view.width + x;
                                            let values = &from[place * channels..][..channels];
                                            for c in 0..channels {
                                                mean[c] += values[c];
                                            }
                                        }
                                    }
                                    mean.iter_mut().for_each(|mean| *mean *= share);
                                },
                            );
                        },
                    );
                });
            },
        );
        memory.values[output.buffer] = out;
    }

    /// Spreads each slope over its window.
    pub(super) fn average_backward(
        &self,
        Setting { isa, batch, .. }: Setting,
        memory: &mut Memory,
        input: &Input,
        slope: &View,
    ) {
        let Some(sink) = input.sink else { return };
        let mut out = std::mem::take(&mut memory.slots[sink.view.buffer]);
        let slopes = &memory.slots[slope.buffer];
        let (channels, view) = (slope.channels, &sink.view);
        let share = 1.0 / (self.height * self.width) as f32;
        out[..batch * view.image()].par_chunks_mut(view.image()).enumerate().for_each(
            |(image, out)| {
                let slopes = &slopes[image * slope.image()..][..slope.image()];
                isa.run(
                    #[inline(always)]
                    || {
                        if !sink.accumulate {
                            out.fill(0.0);
                        }
                        self.for_windows(
                            view,
                            slope,
                            #[inline(always)]
                            |pixel, rows, columns| {
                                let slopes = &slopes[pixel * slope.stride + slope.offset..];
                                let slopes = &slopes[..channels];
                                for y in rows {
                                    for x in columns.clone() {
                                        let place = y * view.width + x;
                                        let to = &mut out[place * view.stride + view.offset..]
                                            [..channels];
                                        for c in 0..channels {
                                            to[c] += share * slopes[c];
                                        }
                                    }
                                }
                            },
                        );
                    },
                );
            },
        );
        memory.slots[sink.view.buffer] = out;
    }
}

/// The largest values of some channels in a window, the first of those behind a pixel's place in `from`; and, with
/// `PLACES`, where they are.
#[inline(always)]
fn largest<const N: usize, const PLACES: bool>(
    (image, from, rows, columns): (&View, &[f32], Range<usize>, Range<usize>),
) -> ([f32; N], [u32; N]) {
    let first = rows.start * image.width + columns.start;
    let (mut best, mut places) = ([f32::NEG_INFINITY; N], [first as u32; N]);
    for y in rows {
        let row = y * image.width;
        for place in row + columns.start..row + columns.end {
            let values = &from[place * image.channels..][..N];
            for c in 0..N {
                let wins = wins(values[c], best[c]);
                best[c] = if wins { values[c] } else { best[c] };
                if PLACES {
                    places[c] = if wins { place as u32 } else { places[c] };
                }
            }
        }
    }
    (best, places)
}

/// Whether a value comes in place of the best one before it: NaN does, so that divergence shows.
#[inline(always)]
fn wins(value: f32, best: f32) -> bool {
    value > best || value.is_nan()
}
