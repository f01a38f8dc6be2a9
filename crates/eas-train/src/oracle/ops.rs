//! Operations that candle lacks or differentiates wrongly, as custom operations on
//! `[channels, batch, height, width]`.
//!
//! Work is shared among threads by channel, and each channel is summed in one fixed order, so results
//! don't depend on the number of threads.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

/// The contiguous f32 values behind a storage.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("expected contiguous f32 values"),
    }
}

/// A sum in f64, the same whatever the number of threads: lanes of f32 over short runs.
fn sum(count: usize, term: impl Fn(usize) -> f32) -> f64 {
    const LANES: usize = 16;
    const RUN: usize = 64 * LANES;
    let mut total = 0.0;
    let mut start = 0;
    while start < count {
        let end = (start + RUN).min(count);
        let mut lanes = [0.0f32; LANES];
        let whole = start + (end - start) / LANES * LANES;
        for first in (start..whole).step_by(LANES) {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                *sum += term(first + lane);
            }
        }
        total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        total += (whole..end).map(|index| f64::from(term(index))).sum::<f64>();
        start = end;
    }
    total
}

/// Fills the `size` values of each channel by `fill(channel, values)`, channels in parallel.
fn by_channel(channels: usize, size: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut output = vec![0.0f32; channels * size];
    output
        .par_chunks_mut(size.max(1))
        .enumerate()
        .for_each(|(channel, values)| fill(channel, values));
    output
}

/// What `read` makes of the values of a contiguous tensor, which are not copied.
fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(values(storage, layout)?)),
        _ => bail!("expected values on the CPU"),
    }
}

/// The slope of an input, in the shape of `input`: what `run` makes of the values of `known` and of
/// the slope of the output.
fn back(
    input: &Tensor,
    known: &Tensor,
    slope: &Tensor,
    run: impl FnOnce(&[f32], &[f32]) -> Vec<f32>,
) -> Result<Option<Tensor>> {
    let slope = slope.contiguous()?;
    let dx = with_values(known, |known| with_values(&slope, |slope| run(known, slope)))??;
    Tensor::from_vec(dx, input.shape(), input.device()).map(Some)
}

/// max(0, x), with slope 0 at 0.
pub(super) struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        // A comparison that keeps NaN, so that divergence shows.
        let rectified = |x: &f32| if *x < 0.0 { 0.0 } else { *x };
        let y = values(x, layout)?.iter().map(rectified).collect();
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, slope: &Tensor) -> Result<Option<Tensor>> {
        back(x, y, slope, |y, slope| {
            let passed = |(y, slope): (&f32, &f32)| if *y > 0.0 { *slope } else { 0.0 };
            y.iter().zip(slope).map(passed).collect()
        })
    }
}

/// The windows of a convolution as columns: `[channels, batch, height, width]` to
/// `[channels · kernel², batch · rows · columns]`.
#[derive(Clone, Copy)]
pub(super) struct Im2Col {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

/// The shape of an image tensor.
#[derive(Clone, Copy)]
struct Dimensions {
    channels: usize,
    batch: usize,
    height: usize,
    width: usize,
}

impl Dimensions {
    fn of(shape: &Shape) -> Result<Self> {
        let (channels, batch, height, width) = shape.dims4()?;
        Ok(Dimensions { channels, batch, height, width })
    }

    fn area(&self) -> usize {
        self.height * self.width
    }
}

impl Im2Col {
    /// Windows along a side.
    pub(super) fn side(&self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Whether columns are the image itself.
    pub(super) fn is_identity(&self) -> bool {
        (self.kernel, self.stride, self.padding) == (1, 1, 0)
    }

    /// Calls `visit(row of columns, start in the columns, start in the channel, length)` for each
    /// run of pixels of a channel that one place of the kernel reads; only for stride 1 are runs
    /// longer than one pixel.
    fn runs(&self, x: Dimensions, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let (rows, columns) = (self.side(x.height), self.side(x.width));
        let (stride, padding) = (self.stride, self.padding);
        for i in 0..self.kernel {
            for j in 0..self.kernel {
                let place = i * self.kernel + j;
                for image in 0..x.batch {
                    for row in 0..rows {
                        let Some(y) = (row * stride + i).checked_sub(padding) else { continue };
                        if y >= x.height {
                            continue;
                        }
                        let to = (image * rows + row) * columns;
                        let from = image * x.area() + y * x.width;
                        // Columns c with 0 <= c · stride + j - padding < width.
                        let first = padding.saturating_sub(j).div_ceil(stride);
                        let end =
                            (x.width + padding).saturating_sub(j).div_ceil(stride).min(columns);
                        if first >= end {
                            continue;
                        }
                        if stride == 1 {
                            visit(place, to + first, from + first + j - padding, end - first);
                        } else {
                            for column in first..end {
                                visit(place, to + column, from + column * stride + j - padding, 1);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl CustomOp1 for Im2Col {
    fn name(&self) -> &'static str {
        "im2col"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let size = Dimensions::of(layout.shape())?;
        let x = values(x, layout)?;
        let length = size.batch * self.side(size.height) * self.side(size.width);
        let places = self.kernel * self.kernel;
        let columns = by_channel(size.channels, places * length, |channel, columns| {
            let x = &x[channel * size.batch * size.area()..][..size.batch * size.area()];
            self.runs(size, |place, to, from, count| {
                let to = place * length + to;
                columns[to..to + count].copy_from_slice(&x[from..from + count]);
            });
        });
        Ok((CpuStorage::F32(columns), Shape::from((size.channels * places, length))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, slope: &Tensor) -> Result<Option<Tensor>> {
        let size = Dimensions::of(x.shape())?;
        let length = size.batch * self.side(size.height) * self.side(size.width);
        let places = self.kernel * self.kernel;
        back(x, x, slope, |_, slope| {
            by_channel(size.channels, size.batch * size.area(), |channel, dx| {
                let slope = &slope[channel * places * length..][..places * length];
                self.runs(size, |place, from, to, count| {
                    let from = place * length + from;
                    let pairs = dx[to..to + count].iter_mut().zip(&slope[from..from + count]);
                    pairs.for_each(|(dx, slope)| *dx += slope);
                });
            })
        })
    }
}

/// The largest value of each window; the first in row-major order wins a tie and takes the slope.
#[derive(Clone, Copy)]
pub(super) struct MaxPool {
    pub(super) size: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl MaxPool {
    fn side(&self, side: usize) -> usize {
        (side + 2 * self.padding - self.size) / self.stride + 1
    }

    /// Calls `visit(window, place of its winner)` for each window of one image.
    fn winners(&self, image: &[f32], size: Dimensions, mut visit: impl FnMut(usize, usize)) {
        let (rows, columns) = (self.side(size.height), self.side(size.width));
        let bounds = |index: usize, side: usize| {
            let start = index * self.stride;
            start.saturating_sub(self.padding)..(start + self.size - self.padding).min(side)
        };
        for row in 0..rows {
            for column in 0..columns {
                let mut best = None;
                for y in bounds(row, size.height) {
                    for x in bounds(column, size.width) {
                        let place = y * size.width + x;
                        // NaN wins, so that divergence shows.
                        let wins =
                            |best: usize| image[place] > image[best] || image[place].is_nan();
                        if best.is_none_or(wins) {
                            best = Some(place);
                        }
                    }
                }
                visit(row * columns + column, best.expect("a window holds a pixel"));
            }
        }
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let size = Dimensions::of(layout.shape())?;
        let x = values(x, layout)?;
        let (rows, columns) = (self.side(size.height), self.side(size.width));
        let y = by_channel(size.channels * size.batch, rows * columns, |plane, y| {
            let image = &x[plane * size.area()..][..size.area()];
            self.winners(image, size, |window, place| y[window] = image[place]);
        });
        Ok((CpuStorage::F32(y), Shape::from((size.channels, size.batch, rows, columns))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, slope: &Tensor) -> Result<Option<Tensor>> {
        let size = Dimensions::of(x.shape())?;
        let windows = self.side(size.height) * self.side(size.width);
        back(x, x, slope, |images, slope| {
            by_channel(size.channels * size.batch, size.area(), |plane, dx| {
                let image = &images[plane * size.area()..][..size.area()];
                let slope = &slope[plane * windows..][..windows];
                self.winners(image, size, |window, place| dx[place] += slope[window]);
            })
        })
    }
}

/// The mean of each window.
#[derive(Clone, Copy)]
pub(super) struct AveragePool {
    pub(super) size: usize,
    pub(super) stride: usize,
}

impl AveragePool {
    fn side(&self, side: usize) -> usize {
        (side - self.size) / self.stride + 1
    }

    /// Calls `visit(window, place)` for each pixel of each window of one image.
    fn places(&self, size: Dimensions, mut visit: impl FnMut(usize, usize)) {
        let (rows, columns) = (self.side(size.height), self.side(size.width));
        for row in 0..rows {
            for column in 0..columns {
                for i in 0..self.size {
                    for j in 0..self.size {
                        let (y, x) = (row * self.stride + i, column * self.stride + j);
                        visit(row * columns + column, y * size.width + x);
                    }
                }
            }
        }
    }
}

impl CustomOp1 for AveragePool {
    fn name(&self) -> &'static str {
        "average pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let size = Dimensions::of(layout.shape())?;
        let x = values(x, layout)?;
        let share = 1.0 / (self.size * self.size) as f32;
        let (rows, columns) = (self.side(size.height), self.side(size.width));
        let y = by_channel(size.channels * size.batch, rows * columns, |plane, y| {
            let image = &x[plane * size.area()..][..size.area()];
            self.places(size, |window, place| y[window] += share * image[place]);
        });
        Ok((CpuStorage::F32(y), Shape::from((size.channels, size.batch, rows, columns))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, slope: &Tensor) -> Result<Option<Tensor>> {
        let size = Dimensions::of(x.shape())?;
        let share = 1.0 / (self.size * self.size) as f32;
        let windows = self.side(size.height) * self.side(size.width);
        back(x, x, slope, |_, slope| {
            by_channel(size.channels * size.batch, size.area(), |plane, dx| {
                let slope = &slope[plane * windows..][..windows];
                self.places(size, |window, place| dx[place] += share * slope[window]);
            })
        })
    }
}

/// Mean and biased variance of each channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statistics {
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
    /// Values a channel has.
    pub(super) count: usize,
}

impl Statistics {
    /// The statistics of the first axis.
    pub(super) fn of(x: &Tensor) -> Result<Self> {
        let channels = x.dim(0)?;
        let count = x.elem_count() / channels.max(1);
        let of_row = |row: &[f32]| {
            let mean = (sum(count, |index| row[index]) / count as f64) as f32;
            let squares = sum(count, |index| (row[index] - mean) * (row[index] - mean));
            (mean, (squares / count as f64) as f32)
        };
        let (mean, variance) = with_values(x, |x| x.par_chunks(count.max(1)).map(of_row).unzip())?;
        Ok(Statistics { mean, variance, count })
    }
}

/// Batch normalisation of the first axis by given statistics. The backward pass takes them for the
/// batch's own.
#[derive(Clone)]
pub(super) struct BatchNorm {
    mean: Vec<f32>,
    /// 1 / √(variance + epsilon).
    scale: Vec<f32>,
}

impl BatchNorm {
    pub(super) fn new(statistics: &Statistics, epsilon: f32) -> Self {
        let scale =
            |variance: &f32| (1.0 / (f64::from(*variance) + f64::from(epsilon)).sqrt()) as f32;
        let mean = statistics.mean.clone();
        BatchNorm { mean, scale: statistics.variance.iter().map(scale).collect() }
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(x, layout)?;
        let (gamma, beta) = (values(gamma, gamma_layout)?, values(beta, beta_layout)?);
        let channels = gamma.len();
        let count = x.len() / channels.max(1);
        let y = by_channel(channels, count, |channel, y| {
            let (mean, slope) = (self.mean[channel], gamma[channel] * self.scale[channel]);
            let beta = beta[channel];
            for (y, x) in y.iter_mut().zip(&x[channel * count..]) {
                *y = (x - mean) * slope + beta;
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _: &Tensor,
        _: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let channels = gamma.elem_count();
        let count = x.elem_count() / channels.max(1);
        let gammas = gamma.to_vec1::<f32>()?;
        let (mut dgamma, mut dbeta) = (Vec::new(), Vec::new());
        let dx = back(x, x, slope, |x, slope| {
            let row = |channel: usize| channel * count..(channel + 1) * count;
            (dgamma, dbeta) = (0..channels)
                .into_par_iter()
                .map(|channel| {
                    let (x, slope) = (&x[row(channel)], &slope[row(channel)]);
                    let (mean, scale) = (self.mean[channel], self.scale[channel]);
                    let dgamma = sum(count, |i| slope[i] * (x[i] - mean) * scale);
                    (dgamma as f32, sum(count, |i| slope[i]) as f32)
                })
                .unzip();
            by_channel(channels, count, |channel, dx| {
                let (mean, scale) = (self.mean[channel], self.scale[channel]);
                let factor = gammas[channel] * scale;
                let shift = dbeta[channel] / count as f32;
                let tilt = dgamma[channel] / count as f32 * scale;
                let read = x[row(channel)].iter().zip(&slope[row(channel)]);
                for (dx, (x, slope)) in dx.iter_mut().zip(read) {
                    *dx = factor * (slope - shift - (x - mean) * tilt);
                }
            })
        })?;
        let parameter = |values: Vec<f32>| Tensor::from_vec(values, channels, x.device());
        Ok((dx, Some(parameter(dgamma)?), Some(parameter(dbeta)?)))
    }
}
