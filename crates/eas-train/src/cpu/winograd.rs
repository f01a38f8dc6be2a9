//! Convolutions with a quarter to a third of the multiplications (Winograd 1980; Lavin and Gray 2016).
//!
//! A tile of `TILE` × `TILE` outputs of a `KERNEL` × `KERNEL` convolution is a product of polynomials
//! in both directions, of which one with [`POINTS`] coefficients is known by its values at as many
//! points: 0, ±1, ±2 and infinity. In the values there is one product for each pair of points, of all
//! tiles' channels and the weights. All three passes are made of five one-dimensional maps:
//! [`evaluate`], its transpose [`gather`], both [`scaled`] for kernels, and [`interpolate`].

#![expect(clippy::needless_range_loop, reason = "constant indices keep values in registers")]
#![expect(clippy::redundant_closure, reason = "a function that is named isn't inlined")]

use std::hint::black_box;

use rayon::prelude::*;

use super::convolution::{Method, Pieces, Sums};
use super::correlation::Geometry;
use super::kernels::{Columns, Factors, Isa, Rows, Run};
use super::memory::{LINE, Scratch};
use super::product::{PackedShape, Stage, stages};
use super::values::Reader;
use super::windows::Windows;

/// Values that a polynomial is known by; also the side of an input tile.
const POINTS: usize = 6;

/// Products, one for each pair of points.
const PAIRS: usize = POINTS * POINTS;

/// Tiles that are multiplied at once: enough that weights are read from cache many times.
const TILES: usize = 64;

/// Tiles of a block of images, about: small enough that small images make several blocks.
const BLOCK_TILES: usize = 32;

/// Output pixels that a part of a weight's gradient has at least.
const PART_PIXELS: usize = 512;

/// Numbers of a window whose weights are transformed together, a divisor of [`MULTIPLE`]: enough that what was stored one by one is
/// in place when it is read by the vector.
const TOGETHER: usize = 8;

/// Channels and filters that make it worth the while: so many at least, a multiple of so many.
const FEWEST: usize = 32;
const MULTIPLE: usize = 16;

/// Multiply-adds that take as long as making one value of a tile, or using one. Estimated: in a profile of a
/// network of 96 to 256 filters, products were 53 % of the time.
const TRANSFORM: usize = 78;

type Lane<const L: usize> = [f32; L];

/// A convolution of stride 1, or the gradient of its input, by tiles and weights of `LANES` channels at once: of more
/// than a register holds, values would be moved to and fro.
#[derive(Debug)]
pub(super) struct Winograd<const KERNEL: usize, const TILE: usize, const LANES: usize> {
    is_backward: bool,
    windows: Windows,
    /// Rows and columns of the output, and of tiles.
    out: [usize; 2],
    tiles: [usize; 2],
    /// Channels of the output.
    made: usize,
    stages: Vec<Stage>,
    /// The packed weights of a pair of points; all stand as `[block][pair][depth][filter]`, and the sums of
    /// their gradient too.
    weights: PackedShape,
}

/// Both directions of a convolution, if it can be computed by tiles and is faster so.
pub(super) fn by_tiles(geometry: &Geometry, isa: Isa) -> Option<[Box<dyn Method>; 2]> {
    let wide = |channels: usize| channels.is_multiple_of(MULTIPLE) && channels >= FEWEST;
    let Geometry { channels, filters, kernel, stride: 1, groups: 1, .. } = *geometry else {
        return None;
    };
    if !wide(channels) || !wide(filters) {
        return None;
    }
    match (kernel, isa.lanes(MULTIPLE)) {
        (3, 16) => Some(Winograd::<3, 4, 16>::both(geometry, isa)),
        (3, _) => Some(Winograd::<3, 4, 8>::both(geometry, isa)),
        (5, 16) => Some(Winograd::<5, 2, 16>::both(geometry, isa)),
        (5, _) => Some(Winograd::<5, 2, 8>::both(geometry, isa)),
        _ => None,
    }
}

/// Whether a convolution that tiles could compute in f32 takes less time multiplied directly in bf16,
/// two products at once. A tile takes [`PAIRS`] products of each channel and filter, and is transformed
/// once a channel and once a filter. It is decided for processors that have bf16, and holds of all without matrix
/// units, so that these compute the same.
pub(super) fn is_faster_in_pairs(geometry: &Geometry) -> bool {
    let Geometry { channels, filters, kernel, .. } = *geometry;
    let outputs = (POINTS + 1 - kernel).pow(2);
    let by_tiles = PAIRS * (channels * filters + TRANSFORM * (channels + filters));
    kernel.pow(2) * channels * filters * outputs < 2 * by_tiles
}

impl<const KERNEL: usize, const TILE: usize, const LANES: usize> Winograd<KERNEL, TILE, LANES> {
    fn both(geometry: &Geometry, isa: Isa) -> [Box<dyn Method>; 2] {
        let Geometry { channels, height, width, filters, padding, .. } = *geometry;
        let out = [geometry.out_height(), geometry.out_width()];
        let forward = Self::new(false, channels, out, filters, padding, isa);
        let border = KERNEL - 1 - padding;
        let backward = Self::new(true, filters, [height, width], channels, border, isa);
        [Box::new(forward), Box::new(backward)]
    }

    fn new(
        is_backward: bool,
        channels: usize,
        out: [usize; 2],
        made: usize,
        border: usize,
        isa: Isa,
    ) -> Self {
        let tiles = out.map(|size| size.div_ceil(TILE));
        let block = (BLOCK_TILES / (tiles[0] * tiles[1])).clamp(1, BLOCK_TILES);
        let sides = tiles.map(|tiles| tiles * TILE + KERNEL - 1);
        let windows = Windows::new(block, channels, tiles, TILE, (border, 1), sides);
        let stages = stages(&[Run { start: 0, length: channels }]);
        let weights = PackedShape::new(1, channels, made, isa);
        Winograd { is_backward, windows, out, tiles, made, stages, weights }
    }

    /// Tiles that are multiplied at once.
    fn chunk(&self) -> usize {
        TILES.min(self.windows.block * self.windows.count)
    }

    /// Splits a thread's scratch buffer: images, values of tiles, values of products.
    fn split<'a>(&self, scratch: &'a mut [f32]) -> [&'a mut [f32]; 3] {
        let (images, rest) = scratch.split_at_mut(self.windows.scratch());
        let (values, rest) = rest.split_at_mut(PAIRS * self.pair(self.windows.channels));
        [images, values, &mut rest[..PAIRS * self.pair(self.made)]]
    }

    /// Numbers from a pair's values to the next one's: those of a tile's pairs, which are written
    /// together, are kept from falling on the same lines of a cache.
    fn pair(&self, channels: usize) -> usize {
        self.chunk() * channels + LINE
    }

    /// The same of a block's weights.
    fn weight_pair(&self) -> usize {
        self.weights.block_size() + LINE
    }

    /// The values of tiles of images, `[pair][tile][channel]`.
    #[inline(always)]
    fn take_tiles(&self, images: &[f32], places: &[u32], values: &mut [f32]) {
        let channels = self.windows.channels;
        let row = self.windows.width * channels;
        let mut rows = [[[0.0; LANES]; POINTS]; POINTS];
        for (tile, place) in places.iter().enumerate() {
            let image = &images[*place as usize..];
            for channel in (0..channels).step_by(LANES) {
                for y in 0..POINTS {
                    for x in 0..POINTS {
                        rows[y][x] = load(image, y * row + x * channels + channel);
                    }
                    rows[y] = interpolate(rows[y]);
                }
                let to = tile * channels + channel;
                put_pairs(
                    &rows,
                    #[inline(always)]
                    |column| interpolate(column),
                    values,
                    to,
                    self.pair(channels),
                );
            }
        }
    }

    /// The values of slopes of tiles, `[pair][tile][filter]`, of those from `first` on.
    #[inline(always)]
    fn take_slopes(
        &self,
        first: usize,
        count: usize,
        (slopes, stride): (&[f32], usize),
        values: &mut [f32],
    ) {
        let mut rows = [[[0.0; LANES]; POINTS]; TILE];
        for tile in 0..count {
            let corner = self.corner(first + tile);
            for filter in (0..self.made).step_by(LANES) {
                for y in 0..TILE {
                    let mut row = [[0.0; LANES]; TILE];
                    for x in 0..TILE {
                        if let Some(pixel) = self.pixel(corner, y, x) {
                            row[x] = load(slopes, pixel * stride + filter);
                        }
                    }
                    rows[y] = evaluate(row);
                }
                let to = tile * self.made + filter;
                put_pairs(
                    &rows,
                    #[inline(always)]
                    |column| evaluate(column),
                    values,
                    to,
                    self.pair(self.made),
                );
            }
        }
    }

    /// Writes tiles of the output from the values of products, or adds to it.
    #[inline(always)]
    fn put_tiles(
        &self,
        first: usize,
        count: usize,
        values: &[f32],
        (out, stride): (&mut [f32], usize),
        accumulate: bool,
    ) {
        let mut rows = [[[0.0; LANES]; TILE]; POINTS];
        for tile in 0..count {
            let corner = self.corner(first + tile);
            for filter in (0..self.made).step_by(LANES) {
                let from = tile * self.made + filter;
                for y in 0..POINTS {
                    let mut row = [[0.0; LANES]; POINTS];
                    for x in 0..POINTS {
                        let pair = y * POINTS + x;
                        row[x] = load(values, pair * self.pair(self.made) + from);
                    }
                    rows[y] = gather(row);
                }
                for x in 0..TILE {
                    let found: [_; TILE] = gather(column(&rows, x));
                    for y in 0..TILE {
                        let Some(pixel) = self.pixel(corner, y, x) else { continue };
                        let to = &mut out[pixel * stride + filter..][..LANES];
                        let kept = if accumulate { load(to, 0) } else { [0.0; LANES] };
                        to.copy_from_slice(&add(found[y], kept));
                    }
                }
            }
        }
    }

    /// The kernels of `TOGETHER` numbers of a window and `LANES` outputs, as the convolution has them.
    ///
    /// A function of its own, it is compiled for plain x86-64: see [`unknown`].
    #[inline(never)]
    fn take_kernels(
        &self,
        weight: &[f32],
        first: usize,
        output: usize,
        kernels: &mut [[[Lane<LANES>; KERNEL]; KERNEL]; TOGETHER],
    ) {
        let (taps, depth) = (KERNEL * KERNEL, self.weights.depth);
        for index in 0..TOGETHER {
            let from = first + index;
            for lane in 0..LANES {
                let to = output + lane;
                let kernel = match self.is_backward {
                    false => to * depth + from,
                    true => from * self.made + to,
                };
                let kernel = &weight[kernel * taps..][..KERNEL * KERNEL];
                for y in 0..KERNEL {
                    for x in 0..KERNEL {
                        // On the way back kernels are flipped.
                        let [y, x, tap] = match self.is_backward {
                            false => [y, x, y * KERNEL + x],
                            true => [KERNEL - 1 - y, KERNEL - 1 - x, y * KERNEL + x],
                        };
                        kernels[index][y][x][lane] = kernel[tap];
                    }
                }
            }
        }
    }

    /// The image, row and column of a tile's first output.
    #[inline(always)]
    fn corner(&self, tile: usize) -> [usize; 3] {
        let [rows, columns] = self.tiles;
        [tile / (rows * columns), tile / columns % rows * TILE, tile % columns * TILE]
    }

    /// The pixel of an output of a tile, unless it is beyond the image.
    #[inline(always)]
    fn pixel(&self, [image, top, left]: [usize; 3], y: usize, x: usize) -> Option<usize> {
        let ([height, width], y, x) = (self.out, top + y, left + x);
        (y < height && x < width).then_some((image * height + y) * width + x)
    }
}

impl<const KERNEL: usize, const TILE: usize, const LANES: usize> Method
    for Winograd<KERNEL, TILE, LANES>
{
    fn block(&self) -> usize {
        self.windows.block
    }

    fn scratch(&self) -> usize {
        self.windows.scratch() + PAIRS * (self.pair(self.windows.channels) + self.pair(self.made))
    }

    fn pieces(&self) -> Pieces {
        Pieces { count: 1, size: self.weights.count() * PAIRS * self.weight_pair() }
    }

    fn part_pixels(&self) -> usize {
        PART_PIXELS
    }

    fn pack(&self, isa: Isa, weight: &[f32], packed: &mut [f32]) {
        let (shape, depth, pair) = (&self.weights, self.weights.depth, self.weight_pair());
        packed.par_chunks_exact_mut(PAIRS * pair).enumerate().for_each(|(index, packed)| {
            let block = shape.block(index);
            let row = block.vectors * shape.lanes;
            isa.run(
                #[inline(always)]
                || {
                    let mut kernels = [[[[0.0; LANES]; KERNEL]; KERNEL]; TOGETHER];
                    let mut rows = [[[0.0; LANES]; POINTS]; KERNEL];
                    for first in (0..depth).step_by(TOGETHER) {
                        for lane in (0..block.width).step_by(LANES) {
                            self.take_kernels(weight, first, block.column + lane, &mut kernels);
                            for index in 0..TOGETHER {
                                for y in 0..KERNEL {
                                    let y = unknown(y);
                                    rows[y] = scaled(evaluate(kernels[index][y]));
                                }
                                put_pairs(
                                    &rows,
                                    #[inline(always)]
                                    |column| scaled(evaluate(column)),
                                    packed,
                                    (first + index) * row + lane,
                                    pair,
                                );
                            }
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
        let (shape, depth, chunk) = (&self.weights, self.weights.depth, self.chunk());
        scratch.with(|scratch| {
            let [filled, values, products] = self.split(scratch);
            isa.run(
                #[inline(always)]
                || self.windows.fill(filled, images),
            );
            for (index, places) in self.windows.places(images.count()).chunks(chunk).enumerate() {
                isa.run(
                    #[inline(always)]
                    || self.take_tiles(filled, places, values),
                );
                let count = places.len();
                let rows: [u32; TILES] = std::array::from_fn(|tile| (tile * depth) as u32);
                for pair in 0..PAIRS {
                    let values = &values[pair * self.pair(depth)..];
                    let products = &mut products[pair * self.pair(self.made)..];
                    for stage in &self.stages {
                        for index in 0..shape.count() {
                            let block = shape.block(index);
                            let row = block.vectors * shape.lanes;
                            let packed = &packed[(index * PAIRS + pair) * self.weight_pair()..];
                            isa.rows(Rows {
                                factors: Factors::Single,
                                a: values,
                                places: &rows[..count],
                                runs: &stage.runs,
                                b: &packed[stage.start * row..][..stage.length * row],
                                lanes: shape.lanes,
                                vectors: block.vectors,
                                c: &mut products[block.column..],
                                c_stride: self.made,
                                width: block.width,
                                accumulate: stage.start > 0,
                            });
                        }
                    }
                }
                isa.run(
                    #[inline(always)]
                    || self.put_tiles(index * chunk, count, products, (out, stride), accumulate),
                );
            }
        });
    }

    fn run_transposed(
        &self,
        isa: Isa,
        scratch: &Scratch,
        images: &Reader<'_>,
        slopes: &Reader<'_>,
        Sums { values: sums, accumulate, .. }: Sums<'_>,
    ) {
        let (shape, depth, chunk) = (&self.weights, self.weights.depth, self.chunk());
        scratch.with(|scratch| {
            let [filled, values, products] = self.split(scratch);
            isa.run(
                #[inline(always)]
                || self.windows.fill(filled, images),
            );
            for (part, places) in self.windows.places(images.count()).chunks(chunk).enumerate() {
                let count = places.len();
                isa.run(
                    #[inline(always)]
                    || {
                        self.take_tiles(filled, places, values);
                        self.take_slopes(part * chunk, count, slopes.stored(), products);
                    },
                );
                let rows: [u32; TILES] = std::array::from_fn(|tile| (tile * depth) as u32);
                for pair in 0..PAIRS {
                    for index in 0..shape.count() {
                        let block = shape.block(index);
                        let row = block.vectors * shape.lanes;
                        isa.columns(Columns {
                            factors: Factors::Single,
                            a: &values[pair * self.pair(depth)..],
                            places: &rows[..count],
                            start: 0,
                            rows: depth,
                            b: &products[pair * self.pair(self.made) + block.column..],
                            b_stride: self.made,
                            lanes: shape.lanes,
                            vectors: block.vectors,
                            c: &mut sums[(index * PAIRS + pair) * self.weight_pair()..],
                            c_stride: row,
                            width: block.width,
                            accumulate: accumulate || part > 0,
                        });
                    }
                }
            }
        });
    }

    fn unpack(&self, isa: Isa, sums: &[f32], gradient: &mut [f32]) {
        let (shape, depth, pair) = (&self.weights, self.weights.depth, self.weight_pair());
        let filters = LANES * depth * KERNEL * KERNEL;
        gradient.par_chunks_exact_mut(filters).enumerate().for_each(|(index, gradient)| {
            let filter = index * LANES;
            let within = |index: &usize| {
                let block = shape.block(*index);
                (block.column..block.column + block.width).contains(&filter)
            };
            let index = (0..shape.count()).find(within).expect("a filter has a block");
            let block = shape.block(index);
            let row = block.vectors * shape.lanes;
            let sums = &sums[index * PAIRS * pair + filter - block.column..];
            isa.run(
                #[inline(always)]
                || {
                    let mut rows = [[[0.0; LANES]; KERNEL]; POINTS];
                    let mut kernels = [[[0.0; LANES]; KERNEL]; KERNEL];
                    for from in 0..depth {
                        for y in 0..POINTS {
                            let y = unknown(y);
                            let mut row_sums = [[0.0; LANES]; POINTS];
                            for x in 0..POINTS {
                                row_sums[x] = load(sums, (y * POINTS + x) * pair + from * row);
                            }
                            rows[y] = gather(scaled(row_sums));
                        }
                        for x in 0..KERNEL {
                            let x = unknown(x);
                            let found: [_; KERNEL] = gather(scaled(column(&rows, x)));
                            for y in 0..KERNEL {
                                kernels[y][x] = found[y];
                            }
                        }
                        put_kernels(&kernels, from, depth, gradient);
                    }
                },
            );
        });
    }
}

/// Writes the kernels of `L` filters and one channel of `depth`.
///
/// A function of its own, it is compiled for plain x86-64: see [`unknown`].
#[inline(never)]
fn put_kernels<const KERNEL: usize, const L: usize>(
    kernels: &[[Lane<L>; KERNEL]; KERNEL],
    from: usize,
    depth: usize,
    gradient: &mut [f32],
) {
    for lane in 0..L {
        let kernel = (lane * depth + from) * KERNEL * KERNEL;
        let kernel = &mut gradient[kernel..][..KERNEL * KERNEL];
        for y in 0..KERNEL {
            for x in 0..KERNEL {
                kernel[y * KERNEL + x] = kernels[y][x][lane];
            }
        }
    }
}

/// An index that the compiler doesn't know. Where it knows those of a short loop it computes a number of each
/// round at once, gathered by instructions that take several times as long as vectors of lanes.
#[inline(always)]
fn unknown(index: usize) -> usize {
    black_box(index)
}

/// Maps each column of `rows` and writes the values, those of a pair `step` behind the last pair's.
/// `map` is an inlined closure: a function of its own would be compiled for plain x86-64.
#[inline(always)]
fn put_pairs<const N: usize, const L: usize>(
    rows: &[[Lane<L>; POINTS]; N],
    map: impl Fn([Lane<L>; N]) -> [Lane<L>; POINTS],
    to: &mut [f32],
    start: usize,
    step: usize,
) {
    for x in 0..POINTS {
        let found = map(column(rows, x));
        for y in 0..POINTS {
            to[start + (y * POINTS + x) * step..][..L].copy_from_slice(&found[y]);
        }
    }
}

#[inline(always)]
fn column<const N: usize, const M: usize, const L: usize>(
    rows: &[[Lane<L>; M]; N],
    x: usize,
) -> [Lane<L>; N] {
    let mut column = [[0.0; L]; N];
    for y in 0..N {
        column[y] = rows[y][x];
    }
    column
}

/// A polynomial's values at the points, from its coefficients.
#[inline(always)]
fn evaluate<const N: usize, const L: usize>(of: [Lane<L>; N]) -> [Lane<L>; POINTS] {
    let [mut even, mut odd] = [[[0.0; L]; 2]; 2];
    for power in 0..N {
        let half = if power % 2 == 0 { &mut even } else { &mut odd };
        half[0] = add(half[0], of[power]);
        half[1] = add_times(half[1], (1 << power) as f32, of[power]);
    }
    let [[e1, e2], [o1, o2]] = [even, odd];
    [of[0], add(e1, o1), subtract(e1, o1), add(e2, o2), subtract(e2, o2), of[N - 1]]
}

/// The transpose of [`evaluate`].
#[inline(always)]
fn gather<const N: usize, const L: usize>(values: [Lane<L>; POINTS]) -> [Lane<L>; N] {
    let [zero, p1, m1, p2, m2, infinity] = values;
    let even = [add(p1, m1), add(p2, m2)];
    let odd = [subtract(p1, m1), subtract(p2, m2)];
    let mut found = [[0.0; L]; N];
    for power in 0..N {
        let half = if power % 2 == 0 { even } else { odd };
        found[power] = add_times(half[0], (1 << power) as f32, half[1]);
    }
    found[0] = add(found[0], zero);
    found[N - 1] = add(found[N - 1], infinity);
    found
}

/// The transpose of the interpolation of a polynomial from its values, but for the factors that
/// [`scaled`] has.
#[inline(always)]
fn interpolate<const L: usize>([x0, x1, x2, x3, x4, x5]: [Lane<L>; POINTS]) -> [Lane<L>; POINTS] {
    let end0 = add_times(add_times(x4, -5.0, x2), 4.0, x0);
    let end1 = add_times(add_times(x5, -5.0, x3), 4.0, x1);
    let (even1, odd1) = (add_times(x4, -4.0, x2), add_times(x3, -4.0, x1));
    let (even2, odd2) = (subtract(x4, x2), subtract(x3, x1));
    [
        end0,
        add(even1, odd1),
        subtract(even1, odd1),
        add_times(even2, 2.0, odd2),
        add_times(even2, -2.0, odd2),
        end1,
    ]
}

/// Each point's value over the product of its distances to the other points.
#[inline(always)]
fn scaled<const L: usize>(mut values: [Lane<L>; POINTS]) -> [Lane<L>; POINTS] {
    const FACTORS: [f32; POINTS] = [1.0 / 4.0, -1.0 / 6.0, -1.0 / 6.0, 1.0 / 24.0, 1.0 / 24.0, 1.0];
    for point in 0..POINTS {
        for lane in 0..L {
            values[point][lane] *= FACTORS[point];
        }
    }
    values
}

#[inline(always)]
fn load<const L: usize>(from: &[f32], at: usize) -> Lane<L> {
    let mut lane = [0.0; L];
    lane.copy_from_slice(&from[at..at + L]);
    lane
}

#[inline(always)]
fn add<const L: usize>(mut a: Lane<L>, b: Lane<L>) -> Lane<L> {
    for lane in 0..L {
        a[lane] += b[lane];
    }
    a
}

#[inline(always)]
fn subtract<const L: usize>(mut a: Lane<L>, b: Lane<L>) -> Lane<L> {
    for lane in 0..L {
        a[lane] -= b[lane];
    }
    a
}

/// a + factor · b
#[inline(always)]
fn add_times<const L: usize>(mut a: Lane<L>, factor: f32, b: Lane<L>) -> Lane<L> {
    for lane in 0..L {
        a[lane] += factor * b[lane];
    }
    a
}

#[cfg(test)]
mod tests {
    use super::{Geometry, is_faster_in_pairs};

    #[test]
    fn wide_convolutions_stay_with_tiles_in_bf16() {
        let is_faster = |kernel, channels, filters| {
            is_faster_in_pairs(&Geometry {
                channels,
                height: 8,
                width: 8,
                filters,
                kernel,
                stride: 1,
                padding: kernel / 2,
                groups: 1,
            })
        };
        for (kernel, narrow, wide) in [(3, 144, 160), (5, 400, 416)] {
            assert!(is_faster(kernel, narrow, narrow), "{kernel}x{kernel}, {narrow}");
            assert!(!is_faster(kernel, wide, wide), "{kernel}x{kernel}, {wide}");
            // What a channel costs is shared among filters, and the other way round.
            assert!(is_faster(kernel, 32, 4096) && is_faster(kernel, 4096, 32), "{kernel}");
        }
    }
}
