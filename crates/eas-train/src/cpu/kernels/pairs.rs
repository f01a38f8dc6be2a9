//! Pairs of bf16 in the bits of an f32: the first in the lower half.

/// Numbers that are rounded at once.
const LANES: usize = 16;

/// A pair, each number rounded to the nearest bf16, to the even one of two. NaN stays NaN.
#[inline(always)]
pub(in super::super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(upper(first) >> 16 | upper(second))
}

/// The numbers of a pair.
#[inline(always)]
pub(in super::super) fn parts(pair: f32) -> (f32, f32) {
    let bits = pair.to_bits();
    (f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000))
}

/// The bits of a number rounded to bf16, as an f32.
#[inline(always)]
fn upper(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let kept = if value.is_nan() { bits | 0x40_0000 } else { rounded };
    kept & 0xffff_0000
}

/// Makes pairs of neighbours, `[pixel][channel]`, in place: of an odd number of channels the last one
/// is paired with 0. Pairs come to stand one behind another.
#[inline(always)]
pub(in super::super) fn pair_channels(values: &mut [f32], channels: usize) {
    if channels.is_multiple_of(2) {
        return pair_neighbours(values);
    }
    let pairs = channels.div_ceil(2);
    for pixel in 0..values.len() / channels {
        let (from, to) = (pixel * channels, pixel * pairs);
        for index in 0..pairs - 1 {
            values[to + index] = pair(values[from + 2 * index], values[from + 2 * index + 1]);
        }
        values[to + pairs - 1] = pair(values[from + channels - 1], 0.0);
    }
}

/// Pairs the numbers 2 i and 2 i + 1 at place i.
#[inline(always)]
fn pair_neighbours(values: &mut [f32]) {
    let pairs = values.len() / 2;
    let vectors = pairs / LANES;
    for vector in 0..vectors {
        // What is read is copied first: the compiler can't know that no pair overwrites a number that
        // a later one needs.
        let mut from = [0.0; 2 * LANES];
        from.copy_from_slice(&values[2 * vector * LANES..][..2 * LANES]);
        let to = &mut values[vector * LANES..][..LANES];
        for lane in 0..LANES {
            to[lane] = pair(from[2 * lane], from[2 * lane + 1]);
        }
    }
    for index in vectors * LANES..pairs {
        values[index] = pair(values[2 * index], values[2 * index + 1]);
    }
}

/// Pairs each number with the one `distance` behind it, or 0, in place.
#[inline(always)]
pub(in super::super) fn pair_with_later(values: &mut [f32], distance: usize) {
    let count = values.len().saturating_sub(distance);
    let vectors = count / LANES;
    for vector in 0..vectors {
        let start = vector * LANES;
        let mut later = [0.0; LANES];
        later.copy_from_slice(&values[start + distance..][..LANES]);
        let to = &mut values[start..][..LANES];
        for lane in 0..LANES {
            to[lane] = pair(to[lane], later[lane]);
        }
    }
    for index in vectors * LANES..values.len() {
        let later = values.get(index + distance).copied().unwrap_or(0.0);
        values[index] = pair(values[index], later);
    }
}
