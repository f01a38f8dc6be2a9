//! Batch normalisation and ReLU. Neither is ever stored: a reader normalises as it reads
//! ([`super::values::Reader`]), and the backward pass works from the value before them.
//!
//! Statistics are taken per block of images in two passes while the block is in cache, and joined in
//! the blocks' order (Chan, Golub and LeVeque 1979), so they don't depend on threads.

use super::values::View;

/// Numbers in a row of coefficients, at least: channels are repeated up to it.
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
    pub(super) slope: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

/// How often `channels` numbers are repeated to make a row.
pub(super) fn repeats(channels: usize) -> usize {
    ROW.div_ceil(channels)
}

/// Numbers that [`block_moments`] and [`Norm::block_slopes`] write for a block.
pub(super) fn partial_size(channels: usize) -> usize {
    2 * channels * repeats(channels)
}

/// Calls `work(first pixel, numbers)` for each row of pixels: several pixels where all views are
/// whole buffers, else one.
#[inline(always)]
fn for_rows(pixels: usize, views: [&View; 2], mut work: impl FnMut(usize, usize)) {
    let channels = views[0].channels;
    let whole = views.iter().all(|view| view.is_whole());
    let step = if whole { repeats(channels) } else { 1 };
    for first in (0..pixels).step_by(step) {
        work(first, step.min(pixels - first) * channels);
    }
}

/// Adds the repeats of a row up, into its first `channels` numbers.
#[inline(always)]
fn fold(row: &mut [f32], channels: usize) {
    let (first, rest) = row.split_at_mut(channels);
    for repeat in rest.chunks_exact(channels) {
        first.iter_mut().zip(repeat).for_each(|(sum, value)| *sum += value);
    }
}

/// The mean and the sum of squared differences from it, of each channel of a block; `partial` is
/// `[2][repeats · channels]`, of which the first `channels` of each half are the result.
#[inline(always)]
pub(super) fn block_moments(view: &View, block: &[f32], partial: &mut [f32]) {
    let channels = view.channels;
    let pixels = block.len() / view.stride;
    let (mean, squares) = partial.split_at_mut(channels * repeats(channels));
    mean.fill(0.0);
    squares.fill(0.0);
    for_rows(
        pixels,
        [view, view],
        #[inline(always)]
        |first, count| {
            let values = &block[first * view.stride + view.offset..][..count];
            mean[..count].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        },
    );
    fold(mean, channels);
    let (first, rest) = mean.split_at_mut(channels);
    first.iter_mut().for_each(|sum| *sum /= pixels as f32);
    rest.chunks_exact_mut(channels).for_each(|repeat| repeat.copy_from_slice(first));
    for_rows(
        pixels,
        [view, view],
        #[inline(always)]
        |first, count| {
            let values = &block[first * view.stride + view.offset..][..count];
            let rows = squares[..count].iter_mut().zip(&mean[..count]).zip(values);
            rows.for_each(|((sum, mean), value)| *sum += (value - mean) * (value - mean));
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
        let row = || vec![0.0; channels * repeats(channels)];
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

    /// Coefficients, repeated.
    #[inline(always)]
    pub(super) fn repeated(&self) -> &Coefficients {
        &self.row
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
    #[inline(always)]
    pub(super) fn block_slopes(
        &self,
        relu: bool,
        (x_view, x): (&View, &[f32]),
        (slope_view, slopes): (&View, &[f32]),
        partial: &mut [f32],
    ) {
        let channels = self.channels;
        let pixels = slopes.len() / slope_view.stride;
        let (sums, products) = partial.split_at_mut(channels * repeats(channels));
        sums.fill(0.0);
        products.fill(0.0);
        let Coefficients { mean, slope, beta } = &self.row;
        for_rows(
            pixels,
            [x_view, slope_view],
            #[inline(always)]
            |first, count| {
                let x = &x[first * x_view.stride + x_view.offset..][..count];
                let slopes = &slopes[first * slope_view.stride + slope_view.offset..][..count];
                let (sums, products) = (&mut sums[..count], &mut products[..count]);
                let (mean, slope, beta) = (&mean[..count], &slope[..count], &beta[..count]);
                for c in 0..count {
                    let centred = x[c] - mean[c];
                    let dead = relu && centred * slope[c] + beta[c] <= 0.0;
                    let passed = if dead { 0.0 } else { slopes[c] };
                    sums[c] += passed;
                    products[c] += passed * centred;
                }
            },
        );
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
    #[inline(always)]
    pub(super) fn backward_in_place(
        &self,
        relu: bool,
        (x_view, x): (&View, &[f32]),
        (slope_view, slopes): (&View, &mut [f32]),
    ) {
        let pixels = slopes.len() / slope_view.stride;
        let Coefficients { mean, slope, beta } = &self.row;
        for_rows(
            pixels,
            [x_view, slope_view],
            #[inline(always)]
            |first, count| {
                let x = &x[first * x_view.stride + x_view.offset..][..count];
                let slopes = &mut slopes[first * slope_view.stride + slope_view.offset..][..count];
                let (mean, slope, beta) = (&mean[..count], &slope[..count], &beta[..count]);
                let (shift, tilt) = (&self.shift[..count], &self.tilt[..count]);
                for c in 0..count {
                    let centred = x[c] - mean[c];
                    let dead = relu && centred * slope[c] + beta[c] <= 0.0;
                    let passed = if dead { 0.0 } else { slopes[c] };
                    slopes[c] = slope[c] * (passed - shift[c] - centred * tilt[c]);
                }
            },
        );
    }

    /// The slope of x in a block from that of y: written, or added.
    #[inline(always)]
    pub(super) fn backward(
        &self,
        relu: bool,
        (x_view, x): (&View, &[f32]),
        (slope_view, slopes): (&View, &[f32]),
        (to_view, to): (&View, &mut [f32]),
        accumulate: bool,
    ) {
        let pixels = slopes.len() / slope_view.stride;
        let Coefficients { mean, slope, beta } = &self.row;
        let keep = if accumulate { 1.0 } else { 0.0 };
        // All three views have the channels of the norm; the third may be a part of a buffer too.
        let other = if x_view.is_whole() { to_view } else { x_view };
        for_rows(
            pixels,
            [other, slope_view],
            #[inline(always)]
            |first, count| {
                let x = &x[first * x_view.stride + x_view.offset..][..count];
                let slopes = &slopes[first * slope_view.stride + slope_view.offset..][..count];
                let to = &mut to[first * to_view.stride + to_view.offset..][..count];
                let (mean, slope, beta) = (&mean[..count], &slope[..count], &beta[..count]);
                let (shift, tilt) = (&self.shift[..count], &self.tilt[..count]);
                for c in 0..count {
                    let centred = x[c] - mean[c];
                    let dead = relu && centred * slope[c] + beta[c] <= 0.0;
                    let passed = if dead { 0.0 } else { slopes[c] };
                    let found = slope[c] * (passed - shift[c] - centred * tilt[c]);
                    to[c] = if keep == 0.0 { found } else { to[c] + found };
                }
            },
        );
    }
}

/// Repeats the first numbers of a row.
fn repeat(row: &mut [f32], channels: usize) {
    let (first, rest) = row.split_at_mut(channels);
    rest.chunks_exact_mut(channels).for_each(|repeat| repeat.copy_from_slice(first));
}
