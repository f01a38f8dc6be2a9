//! Steps that copy, add or mask values.

use eas_ir::{NodeId, Rng};
use rayon::prelude::*;

use super::memory::{Memory, Setting};
use super::plan::{Input, Sink};
use super::values::View;

/// Copies a value, normalised and rectified, to a view of the same shape; or adds it.
pub(super) fn copy(
    Setting { isa, batch, .. }: Setting,
    memory: &mut Memory,
    input: &Input,
    output: &View,
    accumulate: bool,
) {
    let mut out = std::mem::take(&mut memory.values[output.buffer]);
    let Memory { values, norms, scratch, .. } = &*memory;
    let source = &input.source;
    out[..batch * output.image()].par_chunks_mut(output.image()).enumerate().for_each(
        |(image, out)| {
            let reader = source.reader(values, norms, image..image + 1);
            scratch.with(|scratch| {
                let from = &mut scratch[..output.area() * output.channels];
                reader.read(isa, 0, from);
                isa.run(
                    #[inline(always)]
                    || put(output, out, from, accumulate),
                );
            });
        },
    );
    memory.values[output.buffer] = out;
}

/// Gives the slope of a part of a value, from its first channel `offset` on, to where it came from.
pub(super) fn pass_slope(
    Setting { isa, batch, .. }: Setting,
    memory: &mut Memory,
    sink: &Sink,
    slope: &View,
    offset: usize,
) {
    let part = View { offset: slope.offset + offset, channels: sink.view.channels, ..*slope };
    let mut out = std::mem::take(&mut memory.slots[sink.view.buffer]);
    let slopes = &memory.slots[slope.buffer];
    out[..batch * sink.view.image()].par_chunks_mut(sink.view.image()).enumerate().for_each(
        |(image, out)| {
            let slopes = &slopes[image * slope.image()..][..slope.image()];
            isa.run(
                #[inline(always)]
                || {
                    for (to, from) in sink.view.pixels_mut(out).zip(part.pixels(slopes)) {
                        put_pixel(to, from, sink.accumulate);
                    }
                },
            );
        },
    );
    memory.slots[sink.view.buffer] = out;
}

#[inline(always)]
fn put(view: &View, to: &mut [f32], from: &[f32], accumulate: bool) {
    if view.is_whole() {
        put_pixel(to, from, accumulate);
    } else {
        let pixels = view.pixels_mut(to).zip(from.chunks_exact(view.channels));
        pixels.for_each(|(to, from)| put_pixel(to, from, accumulate));
    }
}

#[inline(always)]
fn put_pixel(to: &mut [f32], from: &[f32], accumulate: bool) {
    if accumulate {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    } else {
        to.copy_from_slice(from);
    }
}

/// `[pixel][channel]` to `[channel][pixel]`.
pub(super) fn flatten(
    Setting { isa, batch, .. }: Setting,
    memory: &mut Memory,
    input: &Input,
    output: &View,
) {
    let mut out = std::mem::take(&mut memory.values[output.buffer]);
    let Memory { values, norms, scratch, .. } = &*memory;
    let source = &input.source;
    let (area, channels) = (source.view.area(), source.view.channels);
    out[..batch * output.image()].par_chunks_mut(output.image()).enumerate().for_each(
        |(image, out)| {
            let reader = source.reader(values, norms, image..image + 1);
            scratch.with(|scratch| {
                let from = &mut scratch[..area * channels];
                reader.read(isa, 0, from);
                isa.run(
                    #[inline(always)]
                    || {
                        for (channel, out) in out.chunks_exact_mut(area).enumerate() {
                            for (pixel, to) in out.iter_mut().enumerate() {
                                *to = from[pixel * channels + channel];
                            }
                        }
                    },
                );
            });
        },
    );
    memory.values[output.buffer] = out;
}

/// The way back from [`flatten`].
pub(super) fn flatten_backward(
    Setting { isa, batch, .. }: Setting,
    memory: &mut Memory,
    input: &Input,
    slope: &View,
) {
    let Some(sink) = input.sink else { return };
    let mut out = std::mem::take(&mut memory.slots[sink.view.buffer]);
    let slopes = &memory.slots[slope.buffer];
    let area = sink.view.area();
    out[..batch * sink.view.image()].par_chunks_mut(sink.view.image()).enumerate().for_each(
        |(image, out)| {
            let slopes = &slopes[image * slope.image()..][..slope.image()];
            isa.run(
                #[inline(always)]
                || {
                    for (pixel, to) in sink.view.pixels_mut(out).enumerate() {
                        for (channel, to) in to.iter_mut().enumerate() {
                            let found = slopes[channel * area + pixel];
                            *to = if sink.accumulate { *to + found } else { found };
                        }
                    }
                },
            );
        },
    );
    memory.slots[sink.view.buffer] = out;
}

/// Draws the factors of a dropout: zeros with probability `rate`, 1 / (1 − rate) elsewhere. The
/// stream depends on the node alone and runs over `[channel][image][pixel]`.
pub(super) fn draw_mask(
    rng: &Rng,
    node: NodeId,
    rate: f32,
    batch: usize,
    view: &View,
    mask: &mut [f32],
) {
    let mut rng = rng.split("dropout").split_index(u64::from(node.number()));
    let keep = 1.0 / (1.0 - rate);
    let threshold = (f64::from(rate) * 2f64.powi(32)) as u64;
    for channel in 0..view.channels {
        for pixel in 0..batch * view.area() {
            let kept = u64::from(rng.next_u32()) >= threshold;
            mask[pixel * view.channels + channel] = if kept { keep } else { 0.0 };
        }
    }
}

/// Multiplies values `[pixel][stride]` by the factors of a dropout.
pub(super) fn apply_mask(view: &View, values: &mut [f32], mask: &[f32]) {
    for (values, mask) in view.pixels_mut(values).zip(mask.chunks_exact(view.channels)) {
        values.iter_mut().zip(mask).for_each(|(value, factor)| *value *= factor);
    }
}
