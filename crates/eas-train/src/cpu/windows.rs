//! The windows of a convolution in images with a border of zeros.

use super::correlation::Geometry;
use super::kernels::Isa;
use super::kernels::simd::{Arithmetic, Simd, by_widest};
use super::values::{Reader, View};

/// Where windows start in a scratch buffer `[image][height][width][channels]` that holds a block of
/// images with their borders.
#[derive(Debug)]
pub(super) struct Windows {
    /// Images of a full block.
    pub(super) block: usize,
    pub(super) channels: usize,
    /// Rows and columns of zeros before the first pixel.
    border: usize,
    /// Step between pixels in the scratch image.
    spread: usize,
    /// Scratch image, with its border.
    height: usize,
    pub(super) width: usize,
    /// Where each window of a block starts.
    places: Vec<u32>,
    /// Windows of an image.
    pub(super) count: usize,
    /// Windows that stand side by side.
    pub(super) columns: usize,
    /// Numbers between the places of windows that stand side by side.
    pub(super) step: usize,
}

impl Windows {
    /// The windows of a convolution, in images of so many numbers a pixel.
    pub(super) fn forward(geometry: &Geometry, channels: usize) -> Self {
        Windows::new(
            geometry.block(),
            channels,
            [geometry.out_height(), geometry.out_width()],
            geometry.stride,
            (geometry.padding, 1),
            [geometry.height + 2 * geometry.padding, geometry.width + 2 * geometry.padding],
        )
    }

    /// The windows of the gradient of its input, in slopes of so many numbers a pixel.
    pub(super) fn backward(geometry: &Geometry, channels: usize) -> Self {
        // Every input pixel has a window, so the scratch image is larger by kernel − 1; what the
        // stride left over of the input stays zero.
        let border = geometry.kernel - 1 - geometry.padding;
        Windows::new(
            geometry.block(),
            channels,
            [geometry.height, geometry.width],
            1,
            (border, geometry.stride),
            [geometry.height + geometry.kernel - 1, geometry.width + geometry.kernel - 1],
        )
    }

    /// Windows in `[rows, columns]`, `stride` apart, of scratch images of `[height, width]`.
    pub(super) fn new(
        block: usize,
        channels: usize,
        [rows, columns]: [usize; 2],
        stride: usize,
        (border, spread): (usize, usize),
        [height, width]: [usize; 2],
    ) -> Self {
        let place = |image: usize, y: usize, x: usize| {
            (((image * height + y * stride) * width + x * stride) * channels) as u32
        };
        let places = (0..block)
            .flat_map(|image| (0..rows).map(move |y| (image, y)))
            .flat_map(|(image, y)| (0..columns).map(move |x| place(image, y, x)))
            .collect();
        let (count, step) = (rows * columns, stride * channels);
        Windows { block, channels, border, spread, height, width, places, count, columns, step }
    }

    /// Numbers of a scratch image.
    pub(super) fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Numbers of the scratch buffer for a block.
    pub(super) fn scratch(&self) -> usize {
        self.block * self.image()
    }

    /// Places of the windows of `images` images.
    pub(super) fn places(&self, images: usize) -> &[u32] {
        &self.places[..images * self.count]
    }

    /// Whether windows can be read from the images as they stand.
    fn reads_in_place(&self, images: &Reader<'_>) -> bool {
        let same = [self.height, self.width] == [images.view.height, images.view.width];
        same && self.border == 0 && images.is_plain() && images.view.is_whole()
    }

    /// Images as windows read them: as they stand where they can be, else copied into a scratch buffer.
    pub(super) fn images<'a>(
        &self,
        isa: Isa,
        scratch: &'a mut [f32],
        reader: &Reader<'a>,
    ) -> &'a [f32] {
        if self.reads_in_place(reader) {
            return reader.values;
        }
        self.fill(isa, scratch, reader);
        scratch
    }

    /// Copies images into a scratch buffer, with their borders.
    pub(super) fn fill(&self, isa: Isa, scratch: &mut [f32], images: &Reader<'_>) {
        by_widest!(isa, |simd| self.fill_by(simd, scratch, images));
    }

    #[inline(always)]
    fn fill_by<L: Arithmetic>(&self, simd: Simd<L>, scratch: &mut [f32], images: &Reader<'_>) {
        let row_size = self.width * self.channels;
        let image_size = self.height * row_size;
        let (from_height, from_width) = (images.view.height, images.view.width);
        for (index, scratch) in
            scratch[..images.count() * image_size].chunks_exact_mut(image_size).enumerate()
        {
            for (y, row) in scratch.chunks_exact_mut(row_size).enumerate() {
                let first = |y: usize| (index * from_height + y) * from_width;
                if self.spread == 1 {
                    if let Some((y, row)) =
                        within_border(row, self.channels, y, self.border, &images.view)
                    {
                        images.read_by(simd, first(y), row);
                    }
                    continue;
                }
                row.fill(0.0);
                let y = y.checked_sub(self.border).filter(|y| y % self.spread == 0);
                if let Some(y) = y.map(|y| y / self.spread).filter(|y| *y < from_height) {
                    for x in 0..from_width {
                        let to = (self.border + x * self.spread) * self.channels;
                        images.read_by(simd, first(y) + x, &mut row[to..to + self.channels]);
                    }
                }
            }
        }
    }
}

/// Zeros the border in row `y` of a scratch image, `pixel` numbers a column, whose first `border` rows and columns are
/// border. Returns which row of `image` stands there, if one does, and its room.
#[inline(always)]
pub(super) fn within_border<'a>(
    row: &'a mut [f32],
    pixel: usize,
    y: usize,
    border: usize,
    image: &View,
) -> Option<(usize, &'a mut [f32])> {
    let Some(y) = y.checked_sub(border).filter(|y| *y < image.height) else {
        row.fill(0.0);
        return None;
    };
    let (left, rest) = row.split_at_mut(border * pixel);
    let (middle, right) = rest.split_at_mut(image.width * pixel);
    left.fill(0.0);
    right.fill(0.0);
    Some((y, middle))
}
