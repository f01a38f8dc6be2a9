//! Convolutions with a sixth to a third of the multiplications (Winograd 1980; Lavin and Gray 2016).
//!
//! A tile of `TILE` × `TILE` outputs of a `KERNEL` × `KERNEL` convolution is a product of polynomials
//! in both directions, of which one with `POINTS` coefficients is known by its values at as many
//! points: 0, ±1, ±2, with 5x5 kernels ±1/2, and infinity. In the values there is one product for each
//! pair of points, of all tiles' channels and the weights. All three passes are made of five
//! one-dimensional maps: [`evaluate`], its transpose [`gather`], both [`scaled`] for kernels, and
//! [`interpolate`].

#![expect(clippy::needless_range_loop, reason = "constant indices keep values in registers")]

use rayon::prelude::*;

use super::convolution::{Method, Pieces, Sums};
use super::correlation::Geometry;
use super::kernels::simd::{Arithmetic, MOST_LANES, Simd, Vector, by_widest};
use super::kernels::{Columns, Factors, Isa, Rows, Run};
use super::memory::{LINE, Scratch};
use super::polynomials::{evaluate, gather, interpolate, scaled};
use super::product::{PackedShape, Stage, stages};
use super::values::Reader;
use super::windows::Windows;

/// Tiles that are multiplied at once: enough that weights are read from cache many times.
const TILES: usize = 64;

/// Tiles of a block of images, about: small enough that small images make several blocks.
const BLOCK_TILES: usize = 32;

/// Output pixels that a part of a weight's gradient has at least.
const PART_PIXELS: usize = 512;

/// Numbers of a window whose weights are transformed together: so many that what was
/// stored number by number has reached the cache before a vector of it is loaded, which would wait.
const TOGETHER: usize = 8;

/// Taps of the largest kernel.
const MOST_TAPS: usize = 25;

/// Channels and filters that make it worth the while.
const FEWEST: usize = 8;

/// A convolution of stride 1, or the gradient of its input, by vectors of lanes `L`. A tile of the input has
/// `POINTS` × `POINTS` pixels.
#[derive(Debug)]
struct Winograd<const KERNEL: usize, const TILE: usize, const POINTS: usize, L> {
    simd: Simd<L>,
    is_backward: bool,
    windows: Windows,
    /// Rows and columns of the output, and of tiles.
    out: [usize; 2],
    tiles: [usize; 2],
    /// Channels of the output.
    made: usize,
    stages: Vec<Stage>,
    /// The packed weights of a pair of points. All stand as `[block][pair][depth][filter]`, pairs
    /// [`Self::weight_pair`] numbers apart, and so do the sums of their gradient.
    weights: PackedShape,
}

/// Both directions of a convolution, if it can be computed by tiles and is faster so, in f32: than in bf16 too, but by
/// matrix units.
pub(super) fn by_tiles(geometry: &Geometry, isa: Isa) -> Option<[Box<dyn Method>; 2]> {
    let Geometry { channels, filters, stride: 1, groups: 1, .. } = *geometry else {
        return None;
    };
    if channels.min(filters) < FEWEST {
        return None;
    }
    by_widest!(isa, |simd| of_kernel(geometry, simd))
}

/// By the tiles that take the fewest products, if these are fewer than direct ones.
fn of_kernel<L: Arithmetic>(geometry: &Geometry, simd: Simd<L>) -> Option<[Box<dyn Method>; 2]> {
    let by = |tile| products(geometry, tile);
    match geometry.kernel {
        3 if by(4) < by(1) => Some(Winograd::<3, 4, 6, L>::both(geometry, simd)),
        5 if by(4) < by(2).min(by(1)) => Some(Winograd::<5, 4, 8, L>::both(geometry, simd)),
        5 if by(2) < by(1) => Some(Winograd::<5, 2, 6, L>::both(geometry, simd)),
        _ => None,
    }
}

/// Products of each channel and filter for an image by tiles of so many outputs a side, forward and for the gradient
/// of the input; direct ones are those of tiles of one output.
fn products(geometry: &Geometry, tile: usize) -> usize {
    let Geometry { height, width, kernel, .. } = *geometry;
    let tiles = |height: usize, width: usize| height.div_ceil(tile) * width.div_ceil(tile);
    let count = tiles(geometry.out_height(), geometry.out_width()) + tiles(height, width);
    count * (tile + kernel - 1).pow(2)
}

impl<const KERNEL: usize, const TILE: usize, const POINTS: usize, L: Arithmetic>
    Winograd<KERNEL, TILE, POINTS, L>
{
    /// Products, one for each pair of points.
    const PAIRS: usize = POINTS * POINTS;

    fn both(geometry: &Geometry, simd: Simd<L>) -> [Box<dyn Method>; 2] {
        let Geometry { channels, height, width, filters, padding, .. } = *geometry;
        let out = [geometry.out_height(), geometry.out_width()];
        let forward = Self::new(simd, false, channels, out, filters, padding);
        let border = KERNEL - 1 - padding;
        let backward = Self::new(simd, true, filters, [height, width], channels, border);
        [Box::new(forward), Box::new(backward)]
    }

    fn new(
        simd: Simd<L>,
        is_backward: bool,
        channels: usize,
        out: [usize; 2],
        made: usize,
        border: usize,
    ) -> Self {
        let tiles = out.map(|size| size.div_ceil(TILE));
        let block = (BLOCK_TILES / (tiles[0] * tiles[1])).clamp(1, BLOCK_TILES);
        let sides = tiles.map(|tiles| tiles * TILE + KERNEL - 1);
        let windows = Windows::new(block, channels, tiles, TILE, (border, 1), sides);
        let stages = stages(&[Run { start: 0, length: channels }]);
        let weights = PackedShape::of_lanes(1, channels, made, Simd::<L>::LANES);
        Winograd { simd, is_backward, windows, out, tiles, made, stages, weights }
    }

    /// Tiles that are multiplied at once.
    fn chunk(&self) -> usize {
        TILES.min(self.windows.block * self.windows.count)
    }

    /// Splits a thread's scratch buffer: images, values of tiles, values of products.
    fn split<'a>(&self, scratch: &'a mut [f32]) -> [&'a mut [f32]; 3] {
        let (images, rest) = scratch.split_at_mut(self.images());
        let (values, rest) = rest.split_at_mut(Self::PAIRS * self.pair(self.windows.channels));
        [images, values, &mut rest[..Self::PAIRS * self.pair(self.made)]]
    }

    /// Numbers of a block's images, and of a vector that begins within them. Values begin with a line of the cache.
    fn images(&self) -> usize {
        (self.windows.scratch() + MOST_LANES).next_multiple_of(LINE)
    }

    /// Numbers from a tile's values of a pair to the next tile's: whole vectors, of which the last one's rest is
    /// never looked at.
    fn padded(channels: usize) -> usize {
        channels.next_multiple_of(Simd::<L>::LANES)
    }

    /// Numbers from a pair's values to the next one's: those of a tile's pairs, which are written
    /// together, are kept from falling on the same lines of a cache.
    fn pair(&self, channels: usize) -> usize {
        self.chunk() * Self::padded(channels) + LINE
    }

    /// Numbers from a pair's weights of a block to the next pair's, which are kept apart for the same reason.
    fn weight_pair(&self) -> usize {
        self.weights.block_size() + LINE
    }

    /// The values of tiles of images, `[pair][tile][channel]`.
    #[inline(always)]
    fn take_tiles(&self, images: &[f32], places: &[u32], values: &mut [f32]) {
        let channels = self.windows.channels;
        let row = self.windows.width * channels;
        // Not within the loop, where it would be filled with zeros each time.
        let mut rows = [[self.simd.zero(); POINTS]; POINTS];
        for (tile, place) in places.iter().enumerate() {
            let image = &images[*place as usize..];
            for channel in (0..channels).step_by(Simd::<L>::LANES) {
                for y in 0..POINTS {
                    for x in 0..POINTS {
                        rows[y][x] = self.simd.load(image, y * row + x * channels + channel);
                    }
                    rows[y] = interpolate(rows[y]);
                }
                let to = tile * Self::padded(channels) + channel;
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
        // Not within the loop, where it would be filled with zeros each time.
        let mut rows = [[self.simd.zero(); POINTS]; TILE];
        for tile in 0..count {
            let corner = self.corner(first + tile);
            for filter in (0..self.made).step_by(Simd::<L>::LANES) {
                let lanes = self.made - filter;
                for y in 0..TILE {
                    let mut row = [self.simd.zero(); TILE];
                    for x in 0..TILE {
                        if let Some(pixel) = self.pixel(corner, y, x) {
                            let at = pixel * stride + filter;
                            row[x] = self.simd.load_up_to(lanes, slopes, at);
                        }
                    }
                    rows[y] = evaluate(row);
                }
                let to = tile * Self::padded(self.made) + filter;
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
        // Not within the loop, where it would be filled with zeros each time.
        let mut rows = [[self.simd.zero(); TILE]; POINTS];
        for tile in 0..count {
            let corner = self.corner(first + tile);
            for filter in (0..self.made).step_by(Simd::<L>::LANES) {
                let lanes = self.made - filter;
                let from = tile * Self::padded(self.made) + filter;
                for y in 0..POINTS {
                    let mut row = [self.simd.zero(); POINTS];
                    for x in 0..POINTS {
                        let pair = y * POINTS + x;
                        let at = pair * self.pair(self.made) + from;
                        row[x] = self.simd.load_up_to(lanes, values, at);
                    }
                    rows[y] = gather(row);
                }
                for x in 0..TILE {
                    let found: [_; TILE] = gather(column(&rows, x));
                    for y in 0..TILE {
                        let Some(pixel) = self.pixel(corner, y, x) else { continue };
                        let to = pixel * stride + filter;
                        let kept = match accumulate {
                            true => self.simd.load_up_to(lanes, out, to),
                            false => self.simd.zero(),
                        };
                        (found[y] + kept).store_up_to(lanes, out, to);
                    }
                }
            }
        }
    }

    /// The kernels of up to `TOGETHER` numbers of a window and a vector of outputs, as the convolution has them:
    /// `[number][row][column][output]`. Beyond the last output anything may stand.
    ///
    /// A function of its own, it is compiled for plain x86-64: beside vectors the compiler would gather
    /// numbers by instructions that take several times as long.
    #[inline(never)]
    fn take_kernels(&self, weight: &[f32], first: usize, output: usize, kernels: &mut [f32]) {
        let (taps, depth, lanes) = (KERNEL * KERNEL, self.weights.depth, Simd::<L>::LANES);
        for (index, kernels) in kernels.chunks_exact_mut(taps * lanes).enumerate() {
            let from = first + index;
            for lane in 0..lanes.min(self.made - output) {
                let to = output + lane;
                let kernel = match self.is_backward {
                    false => to * depth + from,
                    true => from * self.made + to,
                };
                let kernel = &weight[kernel * taps..][..taps];
                for (tap, value) in kernel.iter().enumerate() {
                    // On the way back kernels are flipped.
                    let tap = if self.is_backward { taps - 1 - tap } else { tap };
                    kernels[tap * lanes + lane] = *value;
                }
            }
        }
    }

    /// Writes the kernels of a vector of filters and one channel, `[row][column][filter]`, to the filters' gradient.
    ///
    /// A function of its own: see [`Self::take_kernels`].
    #[inline(never)]
    fn put_kernels(&self, kernels: &[f32], from: usize, gradient: &mut [f32]) {
        let (taps, depth, lanes) = (KERNEL * KERNEL, self.weights.depth, Simd::<L>::LANES);
        for (lane, filter) in gradient.chunks_exact_mut(depth * taps).enumerate() {
            let kernel = &mut filter[from * taps..][..taps];
            for (tap, value) in kernel.iter_mut().enumerate() {
                *value = kernels[tap * lanes + lane];
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

impl<const KERNEL: usize, const TILE: usize, const POINTS: usize, L: Arithmetic> Method
    for Winograd<KERNEL, TILE, POINTS, L>
{
    fn block(&self) -> usize {
        self.windows.block
    }

    fn scratch(&self) -> usize {
        self.images() + Self::PAIRS * (self.pair(self.windows.channels) + self.pair(self.made))
    }

    fn pieces(&self) -> Pieces {
        Pieces { count: 1, size: self.weights.count() * Self::PAIRS * self.weight_pair() }
    }

    fn part_pixels(&self) -> usize {
        PART_PIXELS
    }

    fn pack(&self, _isa: Isa, weight: &[f32], packed: &mut [f32]) {
        let (shape, depth, pair) = (&self.weights, self.weights.depth, self.weight_pair());
        let lanes = Simd::<L>::LANES;
        packed.par_chunks_exact_mut(Self::PAIRS * pair).enumerate().for_each(|(index, packed)| {
            let block = shape.block(index);
            let row = block.vectors * shape.lanes;
            self.simd.run(
                #[inline(always)]
                || {
                    let mut room = [0.0; TOGETHER * MOST_TAPS * MOST_LANES];
                    // Not within the loop, where it would be filled with zeros each time.
                    let mut rows = [[self.simd.zero(); POINTS]; KERNEL];
                    for first in (0..depth).step_by(TOGETHER) {
                        let count = TOGETHER.min(depth - first);
                        let kernels = &mut room[..count * KERNEL * KERNEL * lanes];
                        for lane in (0..block.width).step_by(lanes) {
                            self.take_kernels(weight, first, block.column + lane, kernels);
                            for index in 0..count {
                                for y in 0..KERNEL {
                                    let mut row = [self.simd.zero(); KERNEL];
                                    for x in 0..KERNEL {
                                        let at = ((index * KERNEL + y) * KERNEL + x) * lanes;
                                        row[x] = self.simd.load(kernels, at);
                                    }
                                    rows[y] = scaled(evaluate(row));
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
            self.windows.fill(isa, filled, images);
            for (index, places) in self.windows.places(images.count()).chunks(chunk).enumerate() {
                self.simd.run(
                    #[inline(always)]
                    || self.take_tiles(filled, places, values),
                );
                let count = places.len();
                let rows: [u32; TILES] =
                    std::array::from_fn(|tile| (tile * Self::padded(depth)) as u32);
                for pair in 0..Self::PAIRS {
                    let values = &values[pair * self.pair(depth)..];
                    let products = &mut products[pair * self.pair(self.made)..];
                    for stage in &self.stages {
                        for index in 0..shape.count() {
                            let block = shape.block(index);
                            let row = block.vectors * shape.lanes;
                            let packed =
                                &packed[(index * Self::PAIRS + pair) * self.weight_pair()..];
                            isa.rows(Rows {
                                factors: Factors::Single,
                                a: values,
                                places: &rows[..count],
                                runs: &stage.runs,
                                b: &packed[stage.start * row..][..stage.length * row],
                                lanes: shape.lanes,
                                vectors: block.vectors,
                                c: &mut products[block.column..],
                                c_stride: Self::padded(self.made),
                                width: block.width,
                                accumulate: stage.start > 0,
                            });
                        }
                    }
                }
                self.simd.run(
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
            self.windows.fill(isa, filled, images);
            for (part, places) in self.windows.places(images.count()).chunks(chunk).enumerate() {
                let count = places.len();
                self.simd.run(
                    #[inline(always)]
                    || {
                        self.take_tiles(filled, places, values);
                        self.take_slopes(part * chunk, count, slopes.stored(), products);
                    },
                );
                let rows: [u32; TILES] =
                    std::array::from_fn(|tile| (tile * Self::padded(depth)) as u32);
                for pair in 0..Self::PAIRS {
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
                            b_stride: Self::padded(self.made),
                            lanes: shape.lanes,
                            vectors: block.vectors,
                            c: &mut sums[(index * Self::PAIRS + pair) * self.weight_pair()..],
                            c_stride: row,
                            width: block.width,
                            accumulate: accumulate || part > 0,
                        });
                    }
                }
            }
        });
    }

    fn unpack(&self, _isa: Isa, sums: &[f32], gradient: &mut [f32]) {
        let (shape, depth, pair) = (&self.weights, self.weights.depth, self.weight_pair());
        let (taps, lanes, made) = (KERNEL * KERNEL, Simd::<L>::LANES, self.made);
        let filters = gradient.par_chunks_mut(lanes * depth * taps).enumerate();
        filters.for_each(|(index, gradient)| {
            let filter = index * lanes;
            let within = |index: &usize| {
                let block = shape.block(*index);
                (block.column..block.column + block.width).contains(&filter)
            };
            let index = (0..shape.count()).find(within).expect("a filter has a block");
            let block = shape.block(index);
            let row = block.vectors * shape.lanes;
            let sums = &sums[index * Self::PAIRS * pair + filter - block.column..];
            self.simd.run(
                #[inline(always)]
                || {
                    let mut kernels = [0.0; MOST_TAPS * MOST_LANES];
                    // Not within the loop, where it would be filled with zeros each time.
                    let mut rows = [[self.simd.zero(); KERNEL]; POINTS];
                    for from in 0..depth {
                        for y in 0..POINTS {
                            let mut values = [self.simd.zero(); POINTS];
                            for x in 0..POINTS {
                                let at = (y * POINTS + x) * pair + from * row;
                                values[x] = self.simd.load_up_to(made - filter, sums, at);
                            }
                            rows[y] = gather(scaled(values));
                        }
                        for x in 0..KERNEL {
                            let found: [_; KERNEL] = gather(scaled(column(&rows, x)));
                            for y in 0..KERNEL {
                                found[y].store(&mut kernels, (y * KERNEL + x) * lanes);
                            }
                        }
                        self.put_kernels(&kernels, from, gradient);
                    }
                },
            );
        });
    }
}

/// Maps each column of `rows` and writes the values, those of a pair `step` behind the last pair's.
/// `map` is an inlined closure: a function of its own would be compiled for plain x86-64.
#[inline(always)]
fn put_pairs<const N: usize, const POINTS: usize, L: Arithmetic>(
    rows: &[[Vector<L>; POINTS]; N],
    map: impl Fn([Vector<L>; N]) -> [Vector<L>; POINTS],
    to: &mut [f32],
    start: usize,
    step: usize,
) {
    for x in 0..POINTS {
        let found = map(column(rows, x));
        for y in 0..POINTS {
            found[y].store(to, start + (y * POINTS + x) * step);
        }
    }
}

#[inline(always)]
fn column<const N: usize, const M: usize, L: Arithmetic>(
    rows: &[[Vector<L>; M]; N],
    x: usize,
) -> [Vector<L>; N] {
    let mut column = [rows[0][x]; N];
    for y in 1..N {
        column[y] = rows[y][x];
    }
    column
}
