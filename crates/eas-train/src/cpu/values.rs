//! Where values stand in memory, and what their readers apply to them.

use std::ops::Range;

use super::batch_norm::Norm;
use super::kernels::Isa;
use super::kernels::simd::{Arithmetic, Simd, by_widest};

/// Some channels of a buffer `[image][row][column][stride]`; a vector is an image of one pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) buffer: usize,
    /// The first channel.
    pub(super) offset: usize,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Channels of the whole buffer.
    pub(super) stride: usize,
}

impl View {
    /// Pixels of an image.
    pub(super) fn area(&self) -> usize {
        self.height * self.width
    }

    /// Numbers of an image in the buffer.
    pub(super) fn image(&self) -> usize {
        self.area() * self.stride
    }

    /// Whether the view is the whole buffer.
    pub(super) fn is_whole(&self) -> bool {
        self.channels == self.stride
    }

    /// The view's part of images in a slice that starts with the first of them.
    pub(super) fn of<'a>(&self, images: &'a [f32]) -> &'a [f32] {
        &images[self.offset..]
    }

    /// Calls `work` with each pixel's channels.
    #[inline(always)]
    pub(super) fn pixels<'a>(&self, images: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        let range = self.range();
        images.chunks_exact(self.stride).map(move |pixel| &pixel[range.clone()])
    }

    /// [`View::pixels`] to write.
    #[inline(always)]
    pub(super) fn pixels_mut<'a>(
        &self,
        images: &'a mut [f32],
    ) -> impl Iterator<Item = &'a mut [f32]> {
        let range = self.range();
        images.chunks_exact_mut(self.stride).map(move |pixel| &mut pixel[range.clone()])
    }

    /// So many numbers of pixels that stand one behind another, from the first one's.
    #[inline(always)]
    pub(super) fn numbers<'a>(&self, first: usize, count: usize, images: &'a [f32]) -> &'a [f32] {
        &images[first * self.stride + self.offset..][..count]
    }

    /// [`View::numbers`] to write.
    #[inline(always)]
    pub(super) fn numbers_mut<'a>(
        &self,
        first: usize,
        count: usize,
        images: &'a mut [f32],
    ) -> &'a mut [f32] {
        &mut images[first * self.stride + self.offset..][..count]
    }

    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.channels
    }
}

/// A stored value as a node's readers see it: normalised, then rectified, as they read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) view: View,
    /// The batch norm to apply.
    pub(super) norm: Option<usize>,
    /// Whether negative values become 0.
    pub(super) relu: bool,
}

impl Source {
    /// A value that is read as it stands.
    pub(super) fn plain(view: View) -> Self {
        Source { view, norm: None, relu: false }
    }

    pub(super) fn is_plain(&self) -> bool {
        self.norm.is_none() && !self.relu
    }

    /// Its images at these places of a batch.
    pub(super) fn reader<'a>(
        &self,
        buffers: &'a [Vec<f32>],
        norms: &'a [Norm],
        images: Range<usize>,
    ) -> Reader<'a> {
        let size = self.view.image();
        Reader {
            values: &buffers[self.view.buffer][images.start * size..images.end * size],
            view: self.view,
            norm: self.norm.map(|norm| &norms[norm]),
            relu: self.relu,
        }
    }
}

/// Images of a source.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) values: &'a [f32],
    pub(super) view: View,
    pub(super) norm: Option<&'a Norm>,
    pub(super) relu: bool,
}

impl Reader<'_> {
    /// Whether the values are read as they stand.
    pub(super) fn is_plain(&self) -> bool {
        self.norm.is_none() && !self.relu
    }

    /// How many images.
    pub(super) fn count(&self) -> usize {
        self.values.len() / self.view.image()
    }

    /// The pixels `[pixel][stride]` of a plain source, as they stand, and the stride.
    pub(super) fn stored(&self) -> (&[f32], usize) {
        debug_assert!(self.is_plain(), "nothing is left to apply");
        (self.view.of(self.values), self.view.stride)
    }

    /// Its pixels `[pixel][stride]`, and the stride: as they stand where they are read so, else copied into `room`.
    pub(super) fn pixels<'b>(&'b self, isa: Isa, room: &'b mut [f32]) -> (&'b [f32], usize) {
        let channels = self.view.channels;
        if self.is_plain() {
            return self.stored();
        }
        let room = &mut room[..self.count() * self.view.area() * channels];
        self.read(isa, 0, room);
        (room, channels)
    }

    /// Reads consecutive pixels, as many as fit `to`, `[pixel][channels]`, from the one at `first`.
    pub(super) fn read(&self, isa: Isa, first: usize, to: &mut [f32]) {
        by_widest!(isa, |simd| self.read_by(simd, first, to));
    }

    /// [`Reader::read`] by vectors of one kind.
    #[inline(always)]
    pub(super) fn read_by<L: Arithmetic>(&self, simd: Simd<L>, first: usize, to: &mut [f32]) {
        let View { channels, stride, offset, .. } = self.view;
        let pixels = to.len() / channels;
        let from = &self.values[first * stride + offset..];
        if channels == stride {
            self.transform(simd, &from[..pixels * channels], to);
        } else {
            for (pixel, to) in to.chunks_exact_mut(channels).enumerate() {
                self.transform(simd, &from[pixel * stride..][..channels], to);
            }
        }
    }

    /// Reads whole pixels `[pixel][channels]`.
    #[inline(always)]
    fn transform<L: Arithmetic>(&self, simd: Simd<L>, from: &[f32], to: &mut [f32]) {
        match (self.norm, self.relu) {
            (None, false) => to.copy_from_slice(from),
            (None, true) => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = rectify(*from);
                }
            }
            (Some(norm), relu) => norm.normalise(simd, relu, from, to),
        }
    }
}

/// max(0, x) that keeps NaN, so that divergence shows.
#[inline(always)]
pub(super) fn rectify(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}
