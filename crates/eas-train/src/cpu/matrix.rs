//! A convolution in bf16 for matrix units, whose registers are tiles of 16 rows at equal distances.
//!
//! As in [`super::paired`], images are rounded as they are copied, two numbers to a place: neighbouring channels for the
//! convolution, the same channel of two images for the weight's gradient, which sums over images too. So that
//! rows stand at equal distances, a tile's are 16 pixels of a row where rows are so long; else the images of a block
//! stand side by side in each pixel, and a tile's rows are 16 images.

use rayon::prelude::*;

use super::convolution::{Method, Pieces, Sums};
use super::correlation::Geometry;
use super::kernels::Isa;
use super::kernels::matrix::{MOST_COLUMNS, SIDE, SLACK, Tiles};
use super::kernels::pairs::{pair, pair_channels};
use super::kernels::transpose::transpose;
use super::memory::Scratch;
use super::values::Reader;
use super::windows::within_border;

/// Filters that make it worth the while: with fewer most of a tile would be empty.
const FEWEST_FILTERS: usize = 12;

/// Output pixels that a part of the weight's gradient has at least.
const PART_PIXELS: usize = 512;

/// Numbers of a thread's scratch buffer at most: 64 MiB.
const MOST_SCRATCH: usize = 1 << 24;

/// Steps of 16 pairs whose factors stay in cache while a block's tiles pass by.
const STEPS: usize = 16;

/// Columns of a block of packed weights.
const COLUMNS: usize = 2 * SIDE;

/// A convolution of stride 1, or the gradient of its input.
#[derive(Debug)]
pub(super) struct Matrix {
    is_backward: bool,
    kernel: usize,
    /// Channels of the images, and of the output.
    channels: usize,
    made: usize,
    layout: Layout,
    forward: Products,
    /// The product that gives the weight's gradient: tiles of filters, by steps of pairs of pixels.
    transposed: Products,
}

/// How the images of a block stand in a scratch buffer: `[set][row][column][lane][number]`.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Images side by side in a pixel: 1 or 16.
    lanes: usize,
    /// Rows and columns of zeros before the first pixel.
    border: usize,
    /// Rows and columns of a scratch image, and of windows.
    height: usize,
    width: usize,
    rows: usize,
    columns: usize,
}

/// The tiles and steps of a product.
#[derive(Debug)]
struct Products {
    runs: Runs,
    a_tiles: Vec<u32>,
    c_tiles: Vec<u32>,
    steps: Vec<[u32; 2]>,
}

/// The numbers of a window: runs that each begin at a whole tile, as if they were longer. What a tile reads beyond a
/// run, of the next pixels or images, is multiplied by 0, so what isn't finite in one image isn't in its neighbours.
#[derive(Debug)]
struct Runs {
    /// Where each begins behind the window's place.
    starts: Vec<usize>,
    /// Numbers of each, without what fills the last tile.
    length: usize,
    /// Numbers of a tap, and taps of a run.
    numbers: usize,
    taps: usize,
}

impl Runs {
    /// Numbers of a run with what fills its last tile.
    fn whole(&self) -> usize {
        self.length.next_multiple_of(SIDE)
    }

    /// Numbers of all.
    fn depth(&self) -> usize {
        self.starts.len() * self.whole()
    }

    /// Where the numbers of a tap stand.
    fn tap(&self, tap: usize) -> usize {
        tap / self.taps * self.whole() + tap % self.taps * self.numbers
    }
}

impl Layout {
    /// Images of a block.
    fn block(&self) -> usize {
        self.lanes.max(2)
    }

    /// Pairs of images in a pixel.
    fn couples(&self) -> usize {
        self.lanes.div_ceil(2)
    }

    /// Sets of images side by side.
    fn sets(&self, images: usize) -> usize {
        images.div_ceil(self.lanes)
    }

    /// Pairs of pixels that a row of windows has, with what fills the last tile.
    fn row_pairs(&self) -> usize {
        (self.columns * self.couples()).next_multiple_of(SIDE)
    }

    /// Pairs of pixels from a filter to the next: rows of a tile are kept from falling on the same lines of a cache.
    fn filter_pairs(&self) -> usize {
        self.rows * self.row_pairs() + SIDE
    }

    /// The runs of a window, with so many numbers in each of so many lanes.
    fn runs(&self, kernel: usize, lanes: usize, numbers: usize) -> Runs {
        // A row of the kernel is one run where no other image stands between its pixels.
        let taps = if lanes == 1 { kernel } else { 1 };
        let starts = (0..kernel * kernel)
            .step_by(taps)
            .map(|tap| (tap / kernel * self.width + tap % kernel) * lanes * numbers)
            .collect();
        Runs { starts, length: taps * numbers, numbers, taps }
    }
}

impl Products {
    /// Those of the convolution: tiles of pixels, or of images at one pixel, by steps of pairs of channels.
    fn forward(layout: &Layout, kernel: usize, pairs: usize, made: usize) -> Self {
        let Layout { lanes, height, width, rows, columns, .. } = *layout;
        let runs = layout.runs(kernel, lanes, pairs);
        let steps = runs.starts.iter().enumerate().flat_map(|(run, start)| {
            let whole = (0..runs.whole()).step_by(SIDE);
            let first = run * runs.whole();
            whole.map(move |at| [(start + at) as u32, ((first + at) * block_row(made)) as u32])
        });
        let step = if lanes == 1 { SIDE } else { 1 };
        let tiles = (0..layout.block() / lanes).flat_map(|set| {
            let row = move |y| (0..columns).step_by(step).map(move |x| [set, y, x]);
            (0..rows).flat_map(row)
        });
        let tiles: Vec<_> = tiles.collect();
        let place = |[set, y, x]: &[usize; 3]| ((set * height + y) * width + x) * lanes * pairs;
        let pixel = |[set, y, x]: &[usize; 3]| (set * rows + y) * columns + x;
        Products {
            a_tiles: tiles.iter().map(|tile| place(tile) as u32).collect(),
            c_tiles: tiles.iter().map(|tile| pixel(tile) as u32).collect(),
            steps: steps.collect(),
            runs,
        }
    }

    /// Those of the weight's gradient: tiles of filters, by steps of pairs of pixels.
    fn transposed(layout: &Layout, kernel: usize, channels: usize, made: usize) -> Self {
        let (couples, row_pairs) = (layout.couples(), layout.row_pairs());
        let runs = layout.runs(kernel, couples, channels);
        let steps = (0..layout.rows).flat_map(|y| {
            let place = move |at| {
                [(y * row_pairs + at) as u32, ((y * layout.width * couples + at) * channels) as u32]
            };
            (0..row_pairs).step_by(SIDE).map(place)
        });
        let filters = (0..made).step_by(SIDE);
        let places =
            |distance: usize| filters.clone().map(move |filter| (filter * distance) as u32);
        Products {
            a_tiles: places(layout.filter_pairs()).collect(),
            c_tiles: places(runs.depth()).collect(),
            steps: steps.collect(),
            runs,
        }
    }
}

/// Numbers of a row of packed weights.
fn block_row(made: usize) -> usize {
    made.next_multiple_of(SIDE).min(COLUMNS)
}

impl Matrix {
    /// Both directions of a convolution, if matrix units would be put to use.
    pub(super) fn both(geometry: &Geometry) -> Option<[Box<dyn Method>; 2]> {
        let Geometry { filters: FEWEST_FILTERS.., stride: 1, groups: 1, .. } = *geometry else {
            return None;
        };
        let Geometry { channels, height, width, filters, kernel, padding, .. } = *geometry;
        let out = [geometry.out_height(), geometry.out_width()];
        let border = kernel - 1 - padding;
        let forward = Matrix::new(false, kernel, (channels, filters), padding, out);
        let backward = Matrix::new(true, kernel, (filters, channels), border, [height, width]);
        (forward.scratch().max(backward.scratch()) <= MOST_SCRATCH)
            .then(|| -> [Box<dyn Method>; 2] { [Box::new(forward), Box::new(backward)] })
    }

    fn new(
        is_backward: bool,
        kernel: usize,
        (channels, made): (usize, usize),
        border: usize,
        [rows, columns]: [usize; 2],
    ) -> Self {
        let lanes = if columns.is_multiple_of(SIDE) { 1 } else { SIDE };
        let [height, width] = [rows, columns].map(|side| side + kernel - 1);
        let layout = Layout { lanes, border, height, width, rows, columns };
        Matrix {
            is_backward,
            kernel,
            channels,
            made,
            layout,
            forward: Products::forward(&layout, kernel, channels.div_ceil(2), made),
            transposed: Products::transposed(&layout, kernel, channels, made),
        }
    }

    /// Numbers of the images of a block as the convolution reads them, `[lane][pairs of channels]` in a pixel.
    fn paired_channels(&self, images: usize) -> usize {
        let Layout { lanes, height, width, .. } = self.layout;
        self.layout.sets(images) * height * width * lanes * self.channels.div_ceil(2)
    }

    /// Numbers of the images of a block as the weight's gradient reads them, `[pair of images][channel]` in a pixel.
    fn paired_images(&self) -> usize {
        let Layout { height, width, .. } = self.layout;
        height * width * self.layout.couples() * self.channels
    }

    /// Numbers behind the images of a block that a tile may reach: 16 rows of channels.
    fn beyond(&self) -> usize {
        SIDE * self.channels + MOST_COLUMNS
    }

    /// Numbers of a row of the images that are read.
    fn row(&self) -> usize {
        (self.layout.width - 2 * self.layout.border) * self.channels
    }

    /// Where a tap stands in a filter `[row][column]`.
    fn flipped(&self, tap: usize) -> usize {
        if self.is_backward { self.kernel * self.kernel - 1 - tap } else { tap }
    }

    /// Copies images with their borders, pairing neighbouring channels.
    #[inline(always)]
    fn fill(&self, isa: Isa, images: &Reader<'_>, to: &mut [f32], row: &mut [f32]) {
        let Layout { lanes, border, height, width, .. } = self.layout;
        let (count, pairs) = (images.count(), self.channels.div_ceil(2));
        let (from_height, from_width) = (images.view.height, images.view.width);
        let pixel = lanes * pairs;
        let (to, beyond) = to.split_at_mut(self.paired_channels(count));
        beyond[..SLACK].fill(0.0);
        for (index, to) in to.chunks_exact_mut(width * pixel).enumerate() {
            let (set, y) = (index / height, index % height);
            let Some((from, middle)) = within_border(to, pixel, y, border, &images.view) else {
                continue;
            };
            let filled = lanes.min(count - set * lanes);
            if filled < lanes {
                // A tile reaches beyond the last image's numbers.
                middle.fill(0.0);
            }
            for lane in 0..filled {
                let first = ((set * lanes + lane) * from_height + from) * from_width;
                images.read(isa, first, row);
                pair_channels(row, self.channels);
                if lanes == 1 {
                    middle.copy_from_slice(&row[..from_width * pairs]);
                    continue;
                }
                let pixels = middle.chunks_exact_mut(pixel).zip(row.chunks_exact(pairs));
                for (to, from) in pixels {
                    to[lane * pairs..][..pairs].copy_from_slice(from);
                }
            }
        }
    }

    /// Copies images with their borders, pairing each with the next one.
    #[inline(always)]
    fn fill_couples(&self, isa: Isa, images: &Reader<'_>, to: &mut [f32], rows: &mut [f32]) {
        let Layout { border, width, .. } = self.layout;
        let (count, channels, couples) = (images.count(), self.channels, self.layout.couples());
        let (from_height, from_width) = (images.view.height, images.view.width);
        let pixel = couples * channels;
        let (to, beyond) = to.split_at_mut(self.paired_images());
        beyond[..self.beyond()].fill(0.0);
        let (one, other) = rows.split_at_mut(self.row());
        for (y, to) in to.chunks_exact_mut(width * pixel).enumerate() {
            let Some((from, middle)) = within_border(to, pixel, y, border, &images.view) else {
                continue;
            };
            for couple in 0..couples {
                let first = |image: usize| (image * from_height + from) * from_width;
                for (image, row) in [&mut *one, &mut *other].into_iter().enumerate() {
                    match 2 * couple + image {
                        image if image < count => images.read(isa, first(image), row),
                        _ => row.fill(0.0),
                    }
                }
                let pixels = one.chunks_exact(channels).zip(other.chunks_exact(channels));
                for (to, (one, other)) in middle.chunks_exact_mut(pixel).zip(pixels) {
                    let to = &mut to[couple * channels..][..channels];
                    for channel in 0..channels {
                        to[channel] = pair(one[channel], other[channel]);
                    }
                }
            }
        }
    }

    /// The slopes of pairs of images, `[filter][row][column][pair of images]`.
    #[inline(always)]
    fn take_slopes(&self, images: usize, (slopes, stride): (&[f32], usize), to: &mut [f32]) {
        let Layout { rows, columns, .. } = self.layout;
        let (couples, row_pairs) = (self.layout.couples(), self.layout.row_pairs());
        let between = self.layout.filter_pairs();
        for y in 0..rows {
            for first in (0..row_pairs).step_by(SIDE) {
                // Where the slopes of each pair's images stand, if there are such images.
                let mut places = [[usize::MAX; 2]; SIDE];
                for (index, places) in places.iter_mut().enumerate() {
                    let (x, couple) = ((first + index) / couples, (first + index) % couples);
                    for (image, place) in places.iter_mut().enumerate() {
                        let image = 2 * couple + image;
                        if x < columns && image < images {
                            *place = ((image * rows + y) * columns + x) * stride;
                        }
                    }
                }
                for filter in (0..self.made).step_by(SIDE) {
                    let count = SIDE.min(self.made - filter);
                    let read = |place: usize| {
                        let mut found = [0.0; SIDE];
                        if place < usize::MAX {
                            let from = &slopes[place + filter..];
                            match count {
                                SIDE => found.copy_from_slice(&from[..SIDE]),
                                _ => found[..count].copy_from_slice(&from[..count]),
                            }
                        }
                        found
                    };
                    let mut square = [[0.0; SIDE]; SIDE];
                    for (square, [one, other]) in square.iter_mut().zip(places) {
                        let (one, other) = (read(one), read(other));
                        for lane in 0..SIDE {
                            square[lane] = pair(one[lane], other[lane]);
                        }
                    }
                    let to = &mut to[filter * between + y * row_pairs + first..];
                    transpose([SIDE; 2], (square.as_flattened(), SIDE), (to, between));
                }
            }
        }
    }
}

impl Method for Matrix {
    fn block(&self) -> usize {
        self.layout.block()
    }

    fn scratch(&self) -> usize {
        let forward = self.paired_channels(self.block()) + SLACK + self.row();
        if self.is_backward {
            return forward;
        }
        let slopes = self.transposed.a_tiles.len() * SIDE * self.layout.filter_pairs();
        forward.max(self.paired_images() + self.beyond() + slopes + 2 * self.row())
    }

    fn pieces(&self) -> Pieces {
        let weights =
            self.made.div_ceil(COLUMNS) * self.forward.runs.depth() * block_row(self.made);
        let sums = match self.is_backward {
            false => self.made.next_multiple_of(SIDE) * self.transposed.runs.depth(),
            true => 0,
        };
        Pieces { count: 1, size: weights.max(sums) }
    }

    fn part_pixels(&self) -> usize {
        PART_PIXELS
    }

    fn pack(&self, isa: Isa, weight: &[f32], packed: &mut [f32]) {
        let (runs, row, taps) = (&self.forward.runs, block_row(self.made), self.kernel.pow(2));
        let (channels, made) = (self.channels, self.made);
        packed
            .par_chunks_mut(runs.depth() * row)
            .take(made.div_ceil(COLUMNS))
            .enumerate()
            .for_each(|(index, packed)| {
                let first = index * COLUMNS;
                isa.run(
                    #[inline(always)]
                    || {
                        packed.fill(0.0);
                        for column in 0..row.min(made - first) {
                            let output = first + column;
                            // Where the kernel of a channel stands.
                            let kernel = |channel: usize| match self.is_backward {
                                false => &weight[(output * channels + channel) * taps..][..taps],
                                true => &weight[(channel * made + output) * taps..][..taps],
                            };
                            for index in 0..channels.div_ceil(2) {
                                let one = kernel(2 * index);
                                let other =
                                    (2 * index + 1 < channels).then(|| kernel(2 * index + 1));
                                for tap in 0..taps {
                                    let from = self.flipped(tap);
                                    let next = other.map_or(0.0, |kernel| kernel[from]);
                                    packed[(runs.tap(tap) + index) * row + column] =
                                        pair(one[from], next);
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
        let Layout { lanes, rows, columns, .. } = self.layout;
        let (count, pairs) = (images.count(), self.channels.div_ceil(2));
        let Products { runs, a_tiles, c_tiles, steps } = &self.forward;
        let (rows_of_tile, c_stride) =
            if lanes == 1 { (SIDE, stride) } else { (count, rows * columns * stride) };
        let tiles = self.layout.sets(count) * a_tiles.len() / self.layout.sets(self.block());
        scratch.with(|scratch| {
            let (filled, rest) = scratch.split_at_mut(self.paired_channels(count) + SLACK);
            isa.run(
                #[inline(always)]
                || self.fill(isa, images, filled, &mut rest[..self.row()]),
            );
            for (stage, steps) in steps.chunks(STEPS).enumerate() {
                for (index, packed) in
                    packed.chunks(runs.depth() * block_row(self.made)).enumerate()
                {
                    let column = index * COLUMNS;
                    if column >= self.made {
                        break;
                    }
                    isa.tiles(Tiles {
                        a: filled,
                        a_tiles: &a_tiles[..tiles],
                        a_stride: pairs,
                        b: packed,
                        b_stride: block_row(self.made),
                        steps,
                        c: &mut out[column..],
                        c_tiles: &c_tiles[..tiles],
                        c_pixel: stride,
                        c_stride,
                        rows: rows_of_tile,
                        width: COLUMNS.min(self.made - column),
                        accumulate: accumulate || stage > 0,
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
        slopes: &Reader<'_>,
        Sums { values: sums, accumulate, .. }: Sums<'_>,
    ) {
        let Products { runs, a_tiles, c_tiles, steps } = &self.transposed;
        let (depth, between) = (runs.depth(), self.layout.filter_pairs());
        // One tile of filters is multiplied with more columns at once.
        let widest = if a_tiles.len() == 1 { MOST_COLUMNS } else { COLUMNS };
        scratch.with(|scratch| {
            let (filled, rest) = scratch.split_at_mut(self.paired_images() + self.beyond());
            let (taken, rest) = rest.split_at_mut(a_tiles.len() * SIDE * between);
            isa.run(
                #[inline(always)]
                || {
                    self.fill_couples(isa, images, filled, &mut rest[..2 * self.row()]);
                    self.take_slopes(images.count(), slopes.stored(), taken);
                },
            );
            for (part, steps) in steps.chunks(STEPS).enumerate() {
                for (run, start) in runs.starts.iter().enumerate() {
                    for column in (0..runs.whole()).step_by(widest) {
                        isa.tiles(Tiles {
                            a: taken,
                            a_tiles,
                            a_stride: between,
                            b: &filled[start + column..],
                            b_stride: self.channels,
                            steps,
                            c: &mut sums[run * runs.whole() + column..],
                            c_tiles,
                            c_pixel: 1,
                            c_stride: depth,
                            rows: SIDE,
                            width: widest.min(runs.whole() - column),
                            accumulate: accumulate || part > 0,
                        });
                    }
                }
            }
        });
    }

    fn unpack(&self, isa: Isa, sums: &[f32], gradient: &mut [f32]) {
        let (runs, taps) = (&self.transposed.runs, self.kernel.pow(2));
        let filters = gradient.par_chunks_mut(self.channels * taps).enumerate();
        filters.for_each(|(filter, gradient)| {
            isa.run(
                #[inline(always)]
                || {
                    let sums = &sums[filter * runs.depth()..][..runs.depth()];
                    for tap in 0..taps {
                        let sums = &sums[runs.tap(tap)..][..self.channels];
                        for (channel, sum) in sums.iter().enumerate() {
                            gradient[channel * taps + tap] = *sum;
                        }
                    }
                },
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use eas_ir::Rng;

    use super::Matrix;
    use crate::cpu::convolution::{Method, Sums};
    use crate::cpu::correlation::{Correlation, Geometry};
    use crate::cpu::kernels::Isa;
    use crate::cpu::kernels::pairs::{pair, parts};
    use crate::cpu::memory::Scratch;
    use crate::cpu::values::{Source, View};

    /// Numbers that are bf16 already, so that products by matrix units are exact.
    fn numbers(count: usize, rng: &mut Rng) -> Vec<f32> {
        (0..count).map(|_| parts(pair(rng.normal() as f32, 0.0)).0).collect()
    }

    /// How images are read and outputs written.
    #[derive(Clone, Copy, Debug)]
    struct Case {
        geometry: Geometry,
        count: usize,
        /// Channels of others in a pixel, before and behind.
        others: [usize; 2],
        relu: bool,
        accumulate: bool,
    }

    /// What methods make of images and slopes, beside or added to what was there; and the gradient of the weight.
    fn results(
        isa: Isa,
        methods: &[Box<dyn Method>; 2],
        case: &Case,
        [images, slopes, weight, before]: [&[f32]; 4],
    ) -> [Vec<f32>; 3] {
        let Case { geometry, count, others: [offset, behind], relu, accumulate } = *case;
        let Geometry { channels, height, width, filters, .. } = geometry;
        let stride = |channels| offset + channels + behind;
        let view = |channels, height, width| View {
            buffer: 0,
            offset,
            channels,
            height,
            width,
            stride: stride(channels),
        };
        let from = view(channels, height, width);
        let out = view(filters, geometry.out_height(), geometry.out_width());
        let mut scratch = Scratch::default();
        scratch.reserve(methods.iter().map(|method| method.scratch()).max().unwrap());
        // What an earlier step left there.
        scratch.with(|scratch| scratch.fill(f32::NAN));
        let [forward, backward] = methods;
        let run = |method: &dyn Method, values: &[f32], view: View, to: View| {
            let mut packed = vec![f32::NAN; method.pieces().total()];
            method.pack(isa, weight, &mut packed);
            let mut found = before[..count * to.image()].to_vec();
            for first in (0..count).step_by(method.block()) {
                let end = count.min(first + method.block());
                let buffers = [values.to_vec()];
                let source = Source { view, norm: None, relu };
                let reader = source.reader(&buffers, &[], first..end);
                let found = &mut found[first * to.image() + offset..end * to.image()];
                method.run(isa, &scratch, &reader, &packed, (found, to.stride), accumulate);
            }
            found
        };
        let found = run(forward.as_ref(), images, from, out);
        let input_gradient = run(backward.as_ref(), slopes, out, from);
        let size = forward.pieces().total();
        let mut sums = vec![f32::NAN; size];
        for first in (0..count).step_by(forward.block()) {
            let end = count.min(first + forward.block());
            let buffers = [images.to_vec()];
            let reader = Source { view: from, norm: None, relu }.reader(&buffers, &[], first..end);
            let slopes = [slopes.to_vec()];
            let slopes = Source::plain(out).reader(&slopes, &[], first..end);
            let pieces = forward.pieces();
            for (piece, values) in sums.chunks_mut(pieces.size).enumerate() {
                let sums = Sums { first: piece, values, accumulate: first > 0 };
                forward.run_transposed(isa, &scratch, &reader, &slopes, sums);
            }
        }
        let mut gradient = vec![f32::NAN; weight.len()];
        forward.unpack(isa, &sums, &mut gradient);
        [found, input_gradient, gradient]
    }

    #[test]
    fn it_computes_what_direct_products_do_of_any_shape_and_number_of_images() {
        let units = Isa::available().into_iter().filter(|isa| isa.has_matrix_units());
        for (isa, seed) in units.flat_map(|isa| (0..60).map(move |seed| (isa, seed))) {
            let mut rng = Rng::new(seed);
            let kernel = [1, 2, 3, 5][rng.below(4)];
            let side = [7, 8, 13, 16, 32][rng.below(5)];
            let geometry = Geometry {
                channels: [1, 2, 3, 5, 16, 17, 36, 50][rng.below(8)],
                height: 5 + rng.below(4),
                width: side,
                filters: [12, 16, 17, 31, 32, 40, 65][rng.below(7)],
                kernel,
                stride: 1,
                padding: rng.below(kernel),
                groups: 1,
            };
            let count = 1 + rng.below(35);
            let others = [rng.below(3), rng.below(3)];
            let (relu, accumulate) = (rng.below(2) == 0, rng.below(2) == 0);
            let case = Case { geometry, count, others, relu, accumulate };
            let Geometry { channels, height, width, filters, .. } = geometry;
            let beside: usize = others.iter().sum();
            let images = numbers(count * (channels + beside) * height * width, &mut rng);
            let out = geometry.out_height() * geometry.out_width();
            let slopes = numbers(count * (filters + beside) * out, &mut rng);
            let weight = numbers(filters * channels * kernel * kernel, &mut rng);
            let before = numbers(images.len().max(slopes.len()), &mut rng);
            let given = [&*images, &slopes, &weight, &before];
            let direct = Correlation::both(&geometry, isa);
            let expected = results(isa, &direct, &case, given);
            let methods = Matrix::both(&geometry).expect("matrix units are put to use");
            let found = results(isa, &methods, &case, given);
            for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let largest = expected.iter().fold(1.0f32, |most, value| most.max(value.abs()));
                for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let gap = (found - expected).abs() / largest;
                    assert!(
                        gap < 1e-5,
                        "seed {seed}, {isa:?}, {case:?}: result {which}, \
                         place {place}: expected {expected}, found {found}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_would_leave_matrix_units_idle_is_left_to_others() {
        let of = |change: fn(&mut Geometry)| {
            let mut geometry = Geometry {
                channels: 64,
                height: 16,
                width: 16,
                filters: 64,
                kernel: 3,
                stride: 1,
                padding: 1,
                groups: 1,
            };
            change(&mut geometry);
            Matrix::both(&geometry).is_some()
        };
        assert!(of(|_| ()));
        assert!(!of(|geometry| geometry.filters = 8));
        assert!(!of(|geometry| geometry.stride = 2));
        assert!(!of(|geometry| geometry.groups = 2));
        // Sixteen images side by side would take gigabytes.
        assert!(!of(|geometry| (geometry.height, geometry.width) = (1000, 1001)));
    }
}
