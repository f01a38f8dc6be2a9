//! Batch normalisation and ReLU. Neither is ever stored: a reader normalises as it reads
//! ([`super::values::Reader`]), and the backward pass works from the value before them.
//!
//! Statistics are taken per block of images in two passes while the block is in cache, and joined in
//! the blocks' order (Chan, Golub and LeVeque 1979), so they don't depend on threads.

use std::ops::Range;

use super::kernels::Isa;
use super::kernels::simd::{Arithmetic, MOST_LANES, Simd, Vector, by_widest};
use super::values::View;

/// Numbers in a row of coefficients, at least: channels are repeated up to it, so that few fill vectors too.
const ROW: usize = 64;

/// The coefficients of a batch norm for one batch.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) channels: usize,
    pub(super) epsilon: f32,
    /// y = (x − mean) · slope + beta; each repeated, `[repeats][channels]`.
    pub(super) row: Coefficients,
    /// 1 / √(variance + epsilon).
    pub(super) scale: Vec<f32>,
    /// The biased variance of the batch.
    pub(super) variance: Vec<f32>,
    /// Values a channel has in the batch.
    pub(super) count: usize,
    /// Mean of the slope of y, and of its product with the normalised x, times scale; repeated.
    shift: Vec<f32>,
    tilt: Vec<f32>,
}

/// Coefficients of the forward pass.
#[derive(Debug)]
pub(super) struct Coefficients {
    pub(super) mean: Vec<f32>,
    slope: Vec<f32>,
    beta: Vec<f32>,
}

/// How often `channels` numbers are repeated to make a row.
fn repeats(channels: usize) -> usize {
    ROW.div_ceil(channels)
}

/// Numbers of a row.
fn row_size(channels: usize) -> usize {
    channels * repeats(channels)
}

/// The two rows of sums in what is written for a block, as zeros.
fn no_sums(partial: &mut [f32]) -> [&mut [f32]; 2] {
    partial.fill(0.0);
    let (one, other) = partial.split_at_mut(partial.len() / 2);
    [one, other]
}

/// Numbers that [`block_moments`] and [`Norm::block_slopes`] write for a block: two rows of sums, with room for whole
/// vectors.
pub(super) fn partial_size(channels: usize) -> usize {
    2 * row_size(channels).next_multiple_of(MOST_LANES)
}

/// Pixels of a row: several where all views are whole buffers, else one.
fn row_pixels(views: [&View; 2]) -> usize {
    let whole = views.iter().all(|view| view.is_whole());
    if whole { repeats(views[0].channels) } else { 1 }
}

/// Calls `work(first pixel, numbers)` for each row of pixels.
#[inline(always)]
fn for_rows(pixels: usize, views: [&View; 2], mut work: impl FnMut(usize, usize)) {
    let step = row_pixels(views);
    for first in (0..pixels).step_by(step) {
        work(first, step.min(pixels - first) * views[0].channels);
    }
}

/// Part of a row of pixels.
#[derive(Clone, Copy)]
struct Part {
    /// The row's first pixel, and how many numbers it has.
    first: usize,
    numbers: usize,
    /// Where in the row a vector starts, and how many numbers it has.
    at: usize,
    some: usize,
}

/// Adds what `of` gives for each vector of each row of pixels to rows of sums, which have room for whole vectors. The sums
/// of up to eight vectors stay in registers over all rows: in memory, each row would wait for what the last one stored.
#[inline(always)]
fn sum_rows<const SUMS: usize, L: Arithmetic>(
    simd: Simd<L>,
    pixels: usize,
    views: [&View; 2],
    mut sums: [&mut [f32]; SUMS],
    of: impl Fn(Part) -> [Vector<L>; SUMS],
) {
    let most = L::REGISTERS / 4;
    let (step, channels) = (row_pixels(views), views[0].channels);
    let (whole, rest) = (pixels / step, pixels % step);
    let last = whole + usize::from(rest > 0);
    for (rows, numbers) in [(0..whole, step * channels), (whole..last, rest * channels)] {
        for at in (0..numbers).step_by(most * L::COUNT) {
            let vectors = (numbers - at).div_ceil(L::COUNT).min(most);
            let (rows, part, sums, of) = ((rows.clone(), step), (numbers, at), &mut sums, &of);
            match vectors {
                1 => sum_vectors::<1, SUMS, L>(simd, rows, part, sums, of),
                2 => sum_vectors::<2, SUMS, L>(simd, rows, part, sums, of),
                3 => sum_vectors::<3, SUMS, L>(simd, rows, part, sums, of),
                4 => sum_vectors::<4, SUMS, L>(simd, rows, part, sums, of),
                5 => sum_vectors::<5, SUMS, L>(simd, rows, part, sums, of),
                6 => sum_vectors::<6, SUMS, L>(simd, rows, part, sums, of),
                7 => sum_vectors::<7, SUMS, L>(simd, rows, part, sums, of),
                8 => sum_vectors::<8, SUMS, L>(simd, rows, part, sums, of),
                _ => unreachable!("a quarter of the registers are eight at most"),
            }
        }
    }
}

/// [`sum_rows`], of some rows `step` pixels apart, which have so many numbers, and of some vectors from a place on.
#[inline(always)]
fn sum_vectors<const VECTORS: usize, const SUMS: usize, L: Arithmetic>(
    simd: Simd<L>,
    (rows, step): (Range<usize>, usize),
    (numbers, start): (usize, usize),
    sums: &mut [&mut [f32]; SUMS],
    of: &impl Fn(Part) -> [Vector<L>; SUMS],
) {
    let mut found = [[simd.zero(); SUMS]; VECTORS];
    for (vector, found) in found.iter_mut().enumerate() {
        for (found, sums) in found.iter_mut().zip(&*sums) {
            *found = simd.load(sums, start + vector * L::COUNT);
        }
    }
    for row in rows {
        for (vector, found) in found.iter_mut().enumerate() {
            let at = start + vector * L::COUNT;
            let is_last = vector + 1 == VECTORS;
            let some = if is_last { (numbers - at).min(L::COUNT) } else { L::COUNT };
            let terms = of(Part { first: row * step, numbers, at, some });
            for (found, term) in found.iter_mut().zip(terms) {
                *found = *found + term;
            }
        }
    }
    for (vector, found) in found.into_iter().enumerate() {
        for (found, sums) in found.into_iter().zip(&mut *sums) {
            found.store(sums, start + vector * L::COUNT);
        }
    }
}

/// Adds the repeats of a row up, into its first `channels` numbers.
#[inline(always)]
fn fold(row: &mut [f32], channels: usize) {
    let (first, rest) = row[..row_size(channels)].split_at_mut(channels);
    for repeat in rest.chunks_exact(channels) {
        first.iter_mut().zip(repeat).for_each(|(sum, value)| *sum += value);
    }
}

/// The mean and the sum of squared differences from it, of each channel of a block; the first `channels` numbers of
/// either half of `partial` are the result.
pub(super) fn block_moments(isa: Isa, view: &View, block: &[f32], partial: &mut [f32]) {
    by_widest!(isa, |simd| moments(simd, view, block, partial));
}

#[inline(always)]
fn moments<L: Arithmetic>(simd: Simd<L>, view: &View, block: &[f32], partial: &mut [f32]) {
    let channels = view.channels;
    let pixels = block.len() / view.stride;
    let [mean, squares] = no_sums(&mut partial[..partial_size(channels)]);
    sum_rows(
        simd,
        pixels,
        [view, view],
        [mean],
        #[inline(always)]
        |Part { first, numbers, at, some }| {
            [simd.load_up_to(some, view.numbers(first, numbers, block), at)]
        },
    );
    fold(mean, channels);
    mean[..channels].iter_mut().for_each(|sum| *sum /= pixels as f32);
    repeat(&mut mean[..row_size(channels)], channels);
    sum_rows(
        simd,
        pixels,
        [view, view],
        [squares],
        #[inline(always)]
        |Part { first, numbers, at, some }| {
            let value = simd.load_up_to(some, view.numbers(first, numbers, block), at);
            let apart = value - simd.load_up_to(some, mean, at);
            [apart * apart]
        },
    );
    fold(squares, channels);
}

/// Joins the moments of blocks; `pixels` are those of each block. Calls `result(channel, mean,
/// biased variance)`.
pub(super) fn join_moments(
    channels: usize,
    partials: &[f32],
    pixels: impl Iterator<Item = usize> + Clone,
    mut result: impl FnMut(usize, f64, f64),
) {
    let size = partial_size(channels);
    for channel in 0..channels {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for (partial, pixels) in partials.chunks_exact(size).zip(pixels.clone()) {
            let pixels = pixels as f64;
            let apart = f64::from(partial[channel]) - mean;
            let both = count + pixels;
            mean += apart * pixels / both;
            squares +=
                f64::from(partial[size / 2 + channel]) + apart * apart * count * pixels / both;
            count = both;
        }
        result(channel, mean, squares / count);
    }
}

impl Norm {
    pub(super) fn new(channels: usize, epsilon: f32) -> Self {
        let row = || vec![0.0; row_size(channels)];
        Norm {
            channels,
            epsilon,
            row: Coefficients { mean: row(), slope: row(), beta: row() },
            scale: vec![0.0; channels],
            variance: vec![0.0; channels],
            count: 0,
            shift: row(),
            tilt: row(),
        }
    }

    /// Normalises whole pixels `[pixel][channel]`, and rectifies them if a ReLU follows.
    #[inline(always)]
    pub(super) fn normalise<L: Arithmetic>(
        &self,
        simd: Simd<L>,
        relu: bool,
        from: &[f32],
        to: &mut [f32],
    ) {
        let floor = simd.splat(if relu { 0.0 } else { f32::NEG_INFINITY });
        let size = self.row.mean.len();
        for (to, from) in to.chunks_mut(size).zip(from.chunks(size)) {
            let count = to.len();
            let (from, Row { mean, slope, beta, .. }) =
                (&from[..count], self.coefficients(count, relu));
            simd.for_vectors(
                count,
                #[inline(always)]
                |at, some| {
                    let of = |row: &[f32]| simd.load_up_to(some, row, at);
                    let value = (of(from) - of(mean)) * of(slope) + of(beta);
                    // NaN is not less than the floor, and stays.
                    floor.greater(value).store_up_to(some, to, at);
                },
            );
        }
    }

    /// The coefficients of so many numbers of a row.
    #[inline(always)]
    fn coefficients(&self, count: usize, relu: bool) -> Row<'_> {
        Row {
            relu,
            mean: &self.row.mean[..count],
            slope: &self.row.slope[..count],
            beta: &self.row.beta[..count],
            shift: &self.shift[..count],
            tilt: &self.tilt[..count],
        }
    }

    /// Takes the statistics of a batch, given as [`block_moments`], or running ones.
    pub(super) fn set(
        &mut self,
        statistics: impl FnOnce(&mut dyn FnMut(usize, f64, f64)),
        gamma: &[f32],
        beta: &[f32],
    ) {
        let channels = self.channels;
        let epsilon = f64::from(self.epsilon);
        let Norm { row, scale, variance, .. } = self;
        statistics(&mut |channel, mean, found| {
            variance[channel] = found as f32;
            scale[channel] = (1.0 / (f64::from(found as f32) + epsilon).sqrt()) as f32;
            row.mean[channel] = mean as f32;
        });
        for channel in 0..channels {
            row.slope[channel] = gamma[channel] * scale[channel];
            row.beta[channel] = beta[channel];
        }
        for row in [&mut row.mean, &mut row.slope, &mut row.beta] {
            repeat(row, channels);
        }
    }

    /// Sums of a block for the backward pass: of the slope of y, and of its product with x − mean.
    pub(super) fn block_slopes(
        &self,
        isa: Isa,
        relu: bool,
        (x_view, x): (&View, &[f32]),
        (slope_view, slopes): (&View, &[f32]),
        partial: &mut [f32],
    ) {
        let channels = self.channels;
        let pixels = slopes.len() / slope_view.stride;
        let [sums, products] = no_sums(&mut partial[..partial_size(channels)]);
        by_widest!(isa, |simd| sum_rows(
            simd,
            pixels,
            [x_view, slope_view],
            [sums, products],
            #[inline(always)]
            |Part { first, numbers, at, some }| {
                let x = x_view.numbers(first, numbers, x);
                let slopes = slope_view.numbers(first, numbers, slopes);
                let row = self.coefficients(numbers, relu);
                let (centred, passed) = row.passed(simd, (at, some), (x, slopes));
                [passed, passed * centred]
            },
        ));
        fold(sums, channels);
        fold(products, channels);
    }

    /// Joins the sums of blocks: the gradients of beta and gamma, and what [`Norm::backward`] needs.
    pub(super) fn join_slopes(&mut self, partials: &[f32], gamma: &mut [f32], beta: &mut [f32]) {
        let channels = self.channels;
        let size = partial_size(channels);
        let count = self.count as f64;
        for channel in 0..channels {
            let of = |place: usize| {
                partials.chunks_exact(size).map(|part| f64::from(part[place])).sum::<f64>()
            };
            let scale = f64::from(self.scale[channel]);
            let (sum, product) = (of(channel), of(size / 2 + channel) * scale);
            beta[channel] = sum as f32;
            gamma[channel] = product as f32;
            self.shift[channel] = (sum / count) as f32;
            self.tilt[channel] = (product / count * scale) as f32;
        }
        repeat(&mut self.shift, channels);
        repeat(&mut self.tilt, channels);
    }

    /// The slope of x in a block from that of y, in place of it.
    pub(super) fn backward_in_place(
        &self,
        isa: Isa,
        relu: bool,
        (x_view, x): (&View, &[f32]),
        (slope_view, slopes): (&View, &mut [f32]),
    ) {
        let pixels = slopes.len() / slope_view.stride;
        by_widest!(isa, |simd| for_rows(
            pixels,
            [x_view, slope_view],
            #[inline(always)]
            |first, count| {
                let x = x_view.numbers(first, count, x);
                let slopes = slope_view.numbers_mut(first, count, slopes);
                let row = self.coefficients(count, relu);
                simd.for_vectors(
                    count,
                    #[inline(always)]
                    |at, some| {
                        let found = row.slope(simd, (at, some), (x, slopes));
                        found.store_up_to(some, slopes, at);
                    },
                );
            },
        ));
    }

    /// The slope of x in a block from that of y: written, or added.
    pub(super) fn backward(
        &self,
        isa: Isa,
        relu: bool,
        (x_view, x): (&View, &[f32]),
        (slope_view, slopes): (&View, &[f32]),
        (to_view, to): (&View, &mut [f32]),
        accumulate: bool,
    ) {
        let pixels = slopes.len() / slope_view.stride;
        // All three views have the channels of the norm; the third may be a part of a buffer too.
        let other = if x_view.is_whole() { to_view } else { x_view };
        by_widest!(isa, |simd| for_rows(
            pixels,
            [other, slope_view],
            #[inline(always)]
            |first, count| {
                let (x, slopes) =
                    (x_view.numbers(first, count, x), slope_view.numbers(first, count, slopes));
                let to = to_view.numbers_mut(first, count, to);
                let row = self.coefficients(count, relu);
                simd.for_vectors(
                    count,
                    #[inline(always)]
                    |at, some| {
                        let found = row.slope(simd, (at, some), (x, slopes));
                        let found =
                            if accumulate { simd.load_up_to(some, to, at) + found } else { found };
                        found.store_up_to(some, to, at);
                    },
                );
            },
        ));
    }
}

/// The coefficients of a row's numbers.
#[derive(Clone, Copy)]
struct Row<'a> {
    /// Whether a ReLU follows.
    relu: bool,
    mean: &'a [f32],
    slope: &'a [f32],
    beta: &'a [f32],
    shift: &'a [f32],
    tilt: &'a [f32],
}

impl Row<'_> {
    /// Of a vector at a place, x − mean, and what of the slopes of y passes the ReLU.
    #[inline(always)]
    fn passed<L: Arithmetic>(
        self,
        simd: Simd<L>,
        (at, some): (usize, usize),
        (x, slopes): (&[f32], &[f32]),
    ) -> (Vector<L>, Vector<L>) {
        let of = |row: &[f32]| simd.load_up_to(some, row, at);
        let (centred, passed) = (of(x) - of(self.mean), of(slopes));
        if !self.relu {
            return (centred, passed);
        }
        (centred, passed.kept_above_zero(centred * of(self.slope) + of(self.beta)))
    }

    /// Of a vector at a place, the slopes of x.
    #[inline(always)]
    fn slope<L: Arithmetic>(
        self,
        simd: Simd<L>,
        (at, some): (usize, usize),
        both: (&[f32], &[f32]),
    ) -> Vector<L> {
        let of = |row: &[f32]| simd.load_up_to(some, row, at);
        let (centred, passed) = self.passed(simd, (at, some), both);
        of(self.slope) * (passed - of(self.shift) - centred * of(self.tilt))
    }
}

/// Repeats the first numbers of a row.
fn repeat(row: &mut [f32], channels: usize) {
    let (first, rest) = row.split_at_mut(channels);
    rest.chunks_exact_mut(channels).for_each(|repeat| repeat.copy_from_slice(first));
}

#[cfg(test)]
mod tests {
    use eas_ir::Rng;

    use super::*;
    use crate::cpu::values::Reader;

    /// A block of images and a batch norm, as of some seed.
    struct Block {
        norm: Norm,
        relu: bool,
        accumulate: bool,
        /// Of x, of the slope of y, and where that of x goes.
        views: [View; 3],
        values: [Vec<f32>; 3],
    }

    impl Block {
        fn new(seed: u64) -> Self {
            let mut rng = Rng::new(seed);
            let channels = [1 + rng.below(40), 12 * (1 + rng.below(12))][rng.below(2)];
            let pixels = 1 + rng.below(200);
            let views = [(); 3].map(|()| {
                let (offset, rest) = [(0, 0), (rng.below(20), rng.below(20))][rng.below(2)];
                let stride = offset + channels + rest;
                View { buffer: 0, offset, channels, height: 1, width: pixels, stride }
            });
            let (relu, accumulate) = (rng.below(2) == 0, rng.below(2) == 0);
            let mut numbers = |count: usize| -> Vec<f32> {
                let mut number = || match rng.below(3000) {
                    0 => f32::NAN,
                    1..10 => 0.0,
                    _ => rng.normal() as f32,
                };
                (0..count).map(|_| number()).collect()
            };
            let mut norm = Norm::new(channels, 1e-5);
            norm.count = pixels;
            let [gamma, beta, mean, variance] = [(); 4].map(|()| numbers(channels));
            let statistics = |set: &mut dyn FnMut(usize, f64, f64)| {
                for channel in 0..channels {
                    set(channel, f64::from(mean[channel]), f64::from(variance[channel].abs()));
                }
            };
            norm.set(statistics, &gamma, &beta);
            Block { norm, relu, accumulate, views, values: views.map(|view| numbers(view.image())) }
        }

        /// Everything that is computed of it, one after another.
        fn by_vectors(self, isa: Isa) -> Vec<f32> {
            let Block { mut norm, relu, accumulate, views, values } = self;
            let [x_view, slope_view, to_view] = &views;
            let [x, mut slopes, mut to] = values;
            let channels = norm.channels;
            let mut moments = vec![f32::NAN; partial_size(channels)];
            block_moments(isa, x_view, &x, &mut moments);
            let mut read = vec![f32::NAN; x_view.area() * channels];
            let reader = Reader { values: &x, view: *x_view, norm: Some(&norm), relu };
            reader.read(isa, 0, &mut read);
            let mut sums = vec![f32::NAN; partial_size(channels)];
            norm.block_slopes(isa, relu, (x_view, &x), (slope_view, &slopes), &mut sums);
            norm.join_slopes(&sums, &mut vec![0.0; channels], &mut vec![0.0; channels]);
            let slope = (slope_view, &*slopes);
            norm.backward(isa, relu, (x_view, &x), slope, (to_view, &mut to), accumulate);
            norm.backward_in_place(isa, relu, (x_view, &x), (slope_view, &mut slopes));
            let results = |sums: Vec<f32>| {
                let (one, other) = sums.split_at(sums.len() / 2);
                [&one[..channels], &other[..channels]].concat()
            };
            [results(moments), read, results(sums), to, slopes].concat()
        }

        /// The same, number by number.
        fn by_numbers(self) -> Vec<f32> {
            let Block { norm, relu, accumulate, views, values } = self;
            let [x_view, slope_view, _] = &views;
            let [x, mut slopes, mut to] = values;
            let (channels, pixels) = (norm.channels, x_view.width);
            let place = |view: usize, (pixel, channel): (usize, usize)| {
                pixel * views[view].stride + views[view].offset + channel
            };
            let all = || (0..pixels).flat_map(|pixel| (0..channels).map(move |c| (pixel, c)));
            // Of a row, the pixels' sums stand apart until the end.
            let sum = |views: [&View; 2], of: &dyn Fn((usize, usize)) -> f32| -> Vec<f32> {
                let mut sums = vec![0.0; row_size(channels)];
                for at in all() {
                    sums[at.0 % row_pixels(views) * channels + at.1] += of(at);
                }
                let (first, rest) = sums.split_at(channels);
                let mut first = first.to_vec();
                for (place, sum) in rest.iter().enumerate() {
                    first[place % channels] += sum;
                }
                first
            };
            let total = sum([x_view; 2], &|at| x[place(0, at)]);
            let mean: Vec<f32> = total.iter().map(|total| total / pixels as f32).collect();
            let squares = sum([x_view; 2], &|at| {
                let apart = x[place(0, at)] - mean[at.1];
                apart * apart
            });

            let Coefficients { mean: centre, slope, beta } = &norm.row;
            let centred = |at: (usize, usize)| x[place(0, at)] - centre[at.1];
            let y = |at: (usize, usize)| centred(at) * slope[at.1] + beta[at.1];
            let rectified = |at| if relu && y(at) < 0.0 { 0.0 } else { y(at) };
            let passed = |at, slopes: &[f32]| {
                if relu && y(at) <= 0.0 { 0.0 } else { slopes[place(1, at)] }
            };
            let read: Vec<f32> = all().map(rectified).collect();
            let both = [x_view, slope_view];
            let sums = sum(both, &|at| passed(at, &slopes));
            let products = sum(both, &|at| passed(at, &slopes) * centred(at));

            let mut partial = vec![0.0; partial_size(channels)];
            let half = partial.len() / 2;
            partial[..channels].copy_from_slice(&sums);
            partial[half..half + channels].copy_from_slice(&products);
            let mut joined = Norm::new(channels, 0.0);
            (joined.count, joined.scale) = (norm.count, norm.scale.clone());
            joined.join_slopes(&partial, &mut vec![0.0; channels], &mut vec![0.0; channels]);
            let found = |at: (usize, usize), slopes: &[f32]| {
                let tilted = centred(at) * joined.tilt[at.1];
                slope[at.1] * (passed(at, slopes) - joined.shift[at.1] - tilted)
            };
            for at in all() {
                let (found, to) = (found(at, &slopes), &mut to[place(2, at)]);
                *to = if accumulate { *to + found } else { found };
            }
            for at in all() {
                slopes[place(1, at)] = found(at, &slopes);
            }
            [mean, squares, read, sums, products, to, slopes].concat()
        }
    }

    #[test]
    fn vectors_compute_what_loops_do_to_the_bit() {
        for seed in 0..300 {
            let expected = Block::new(seed).by_numbers();
            for isa in Isa::available() {
                let found = Block::new(seed).by_vectors(isa);
                assert_eq!(found.len(), expected.len(), "seed {seed}, {isa:?}");
                for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    // One NaN is as good as another.
                    let same = found.to_bits() == expected.to_bits()
                        || found.is_nan() && expected.is_nan();
                    assert!(same, "seed {seed}, {isa:?}, place {place}: {found} for {expected}");
                }
            }
        }
    }
}
