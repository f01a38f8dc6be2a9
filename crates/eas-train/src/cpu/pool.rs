//! Max and average pooling.

use std::ops::Range;

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
    /// The rows and columns of the image that a window holds.
    #[inline(always)]
    fn places(&self, view: &View, y: usize, x: usize) -> (Range<usize>, Range<usize>) {
        let along = |index: usize, size: usize, side: usize| {
            let start = index * self.stride;
            start.saturating_sub(self.padding)..(start + size - self.padding).min(side)
        };
        (along(y, self.height, view.height), along(x, self.width, view.width))
    }

    /// Writes the largest value of each window, and its place in the image.
    pub(super) fn max(
        &self,
        Setting { isa, batch, .. }: Setting,
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
        out[..batch * output.image()]
            .par_chunks_mut(output.image())
            .zip(won.par_chunks_mut(output.area() * channels))
            .enumerate()
            .for_each(|(image, (out, won))| {
                let reader = source.reader(values, norms, image..image + 1);
                scratch.with(|scratch| {
                    isa.run(
                        #[inline(always)]
                        || {
                            let from = &mut scratch[..source.view.area() * channels];
                            reader.read(0, from);
                            match channels {
                                c if c % 16 == 0 => {
                                    self.max_of::<16>(&source.view, from, output, out, won)
                                }
                                c if c % 4 == 0 => {
                                    self.max_of::<4>(&source.view, from, output, out, won)
                                }
                                _ => self.max_of::<1>(&source.view, from, output, out, won),
                            }
                        },
                    );
                });
            });
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

    /// The largest values of one image `from`, [pixel][channels], `N` channels at once.
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
        let pixels = output.pixels_mut(out).zip(won.chunks_exact_mut(channels));
        for (pixel, (to, won)) in pixels.enumerate() {
            let (rows, columns) = self.places(source, pixel / output.width, pixel % output.width);
            let start = rows.start * source.width + columns.start;
            let groups = to.as_chunks_mut::<N>().0.iter_mut().zip(won.as_chunks_mut::<N>().0);
            for (group, (to, won)) in groups.enumerate() {
                let values = |place: usize| {
                    let values = &from[place * channels + group * N..];
                    *values.first_chunk::<N>().expect("a pixel has all channels")
                };
                let (mut best, mut winner) = (values(start), [start as u32; N]);
                for y in rows.clone() {
                    for x in columns.clone() {
                        let place = y * source.width + x;
                        let values = values(place);
                        for c in 0..N {
                            // NaN wins, so that divergence shows.
                            let wins = values[c] > best[c] || values[c].is_nan();
                            best[c] = if wins { values[c] } else { best[c] };
                            winner[c] = if wins { place as u32 } else { winner[c] };
                        }
                    }
                }
                (*to, *won) = (best, winner);
            }
        }
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
        let pixels = slope.pixels(slopes).zip(won.chunks_exact(slope.channels));
        for (pixel, (slopes, won)) in pixels.enumerate() {
            let (rows, columns) = self.places(view, pixel / slope.width, pixel % slope.width);
            let groups = slopes.as_chunks::<N>().0.iter().zip(won.as_chunks::<N>().0);
            for (group, (slopes, won)) in groups.enumerate() {
                // Copies, so that a slope is read whether or not it is given, without a branch.
                let (slopes, won) = (*slopes, *won);
                for y in rows.clone() {
                    for x in columns.clone() {
                        let place = y * view.width + x;
                        let to = &mut out[place * view.stride + view.offset + group * N..];
                        let to = to.first_chunk_mut::<N>().expect("a pixel has all channels");
                        let mut sums = *to;
                        for c in 0..N {
                            sums[c] += if won[c] == place as u32 { slopes[c] } else { 0.0 };
                        }
                        *to = sums;
                    }
                }
            }
        }
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
                    isa.run(
                        #[inline(always)]
                        || {
                            let from = &mut scratch[..source.view.area() * channels];
                            reader.read(0, from);
                            for (pixel, mean) in output.pixels_mut(out).enumerate() {
                                let at = (pixel / output.width, pixel % output.width);
                                let (rows, columns) = self.places(&source.view, at.0, at.1);
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
                            }
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
                        for (pixel, slopes) in slope.pixels(slopes).enumerate() {
                            let at = (pixel / slope.width, pixel % slope.width);
                            let (rows, columns) = self.places(view, at.0, at.1);
                            let slopes = &slopes[..channels];
                            for y in rows {
                                for x in columns.clone() {
                                    let place = y * view.width + x;
                                    let to =
                                        &mut out[place * view.stride + view.offset..][..channels];
                                    for c in 0..channels {
                                        to[c] += share * slopes[c];
                                    }
                                }
                            }
                        }
                    },
                );
            },
        );
        memory.slots[sink.view.buffer] = out;
    }
}
