//! How an image is cut from its padded form, mirrored, cut out and normalised: in one pass over its pixels.

use std::ops::Range;

use eas_ir::{Normalisation, Rng};

use super::{Augment, Mirror};

/// Where an image is cut from its padded form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Placement {
    /// Rows by which the crop starts below the image's top.
    pub(crate) down: isize,
    /// Columns by which it starts right of the image's left side.
    pub(crate) right: isize,
    /// Whether it is mirrored, left to right.
    pub(crate) mirror: bool,
    /// Row and column of the centre of the cutout, and its side.
    pub(crate) cutout: Option<(usize, usize, usize)>,
}

/// How the values of an image stand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[channel][row][column]`.
    Planes,
    /// `[row][column][channel]`.
    Pixels,
}

/// What each byte of a channel becomes, for each channel.
pub(super) type Tables = [[f32; 256]];

/// A channel of an image, and what its bytes become.
#[derive(Clone, Copy)]
struct Plane<'a> {
    bytes: &'a [u8],
    table: &'a [f32; 256],
}

impl Plane<'_> {
    #[inline(always)]
    fn value(&self, place: usize) -> f32 {
        self.table[usize::from(self.bytes[place])]
    }
}

/// What a channel's values are multiplied by, and what is taken from them then.
pub(super) fn scale(normalisation: &Normalisation, channel: usize) -> (f32, f32) {
    let (mean, deviation) = (normalisation.mean[channel], normalisation.deviation[channel]);
    (1.0 / (255.0 * deviation), mean / deviation)
}

/// What the bytes of so many channels become by a normalisation.
///
/// # Panics
/// Where the normalisation is for fewer channels.
pub(super) fn tables(normalisation: &Normalisation, channels: usize) -> Vec<[f32; 256]> {
    let table = |channel| {
        let (scale, shift) = scale(normalisation, channel);
        let mut table = [0.0; 256];
        for (byte, value) in (0u8..=255).zip(&mut table) {
            *value = f32::from(byte) * scale - shift;
        }
        table
    };
    (0..channels).map(table).collect()
}

/// Gives every value of an image `[channel][row][column]` of this size, placed and normalised, to `put`,
/// with its place in `to`. The padding and the cutout are the mean, which is 0 once normalised.
#[inline(always)]
pub(super) fn place(
    image: &[u8],
    (channels, height, width): (usize, usize, usize),
    placement: Placement,
    tables: &Tables,
    (to, layout): (&mut [f32], Layout),
    put: impl Fn(&mut f32, f32) + Copy,
) {
    let area = height * width;
    let plane =
        |channel: usize| Plane { bytes: &image[channel * area..][..area], table: &tables[channel] };
    // The usual strides are constants, so that few instructions are left of a value.
    match (layout, channels) {
        (Layout::Pixels, 3) => {
            placement.write([plane(0), plane(1), plane(2)], width, to, (3, 0), put);
        }
        (Layout::Planes, _) | (Layout::Pixels, 1) => {
            for (channel, to) in to.chunks_exact_mut(area).enumerate() {
                placement.write([plane(channel)], width, to, (1, 0), put);
            }
        }
        (Layout::Pixels, _) => {
            for channel in 0..channels {
                placement.write([plane(channel)], width, to, (channels, channel), put);
            }
        }
    }
}

impl Placement {
    /// Draws one for an image of this height and width.
    pub(super) fn draw(
        augment: Augment,
        (height, width): (usize, usize),
        rng: &mut Rng,
    ) -> Placement {
        let pad = augment.pad_crop;
        // 0 to 2 pad, both included.
        let mut offset = || rng.below(2 * pad + 1) as isize - pad as isize;
        let (down, right) = (offset(), offset());
        let mirror = augment.mirror == Mirror::Random && rng.next_u32() & 1 == 1;
        let side = augment.cutout;
        let cutout = (side > 0).then(|| (rng.below(height), rng.below(width), side));
        Placement { down, right, mirror, cutout }
    }

    /// Gives every value of some channels to `put`, with its place in `to`, `[row][column][stride]`, of
    /// which they are those from `first` on.
    #[inline(always)]
    fn write<const CHANNELS: usize>(
        self,
        planes: [Plane<'_>; CHANNELS],
        width: usize,
        to: &mut [f32],
        (stride, first): (usize, usize),
        put: impl Fn(&mut f32, f32) + Copy,
    ) {
        let clear = |pixels: &mut [f32]| {
            for pixel in pixels.chunks_exact_mut(stride) {
                for value in &mut pixel[first..first + CHANNELS] {
                    put(value, 0.0);
                }
            }
        };
        let height = to.len() / (width * stride);
        for (row, to) in to.chunks_exact_mut(width * stride).enumerate() {
            let from = row.checked_add_signed(self.down).filter(|row| *row < height);
            let parts = from.map(|_| self.shown(row, (height, width))).unwrap_or_default();
            let mut done = 0;
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                clear(&mut to[done * stride..part.start * stride]);
                let start = if self.mirror { width - part.end } else { part.start };
                let start = from.unwrap_or(0) * width + start.wrapping_add_signed(self.right);
                // One count of all slices, so that no place in them needs a check.
                let count = part.end - part.start;
                let mut planes = planes;
                for plane in &mut planes {
                    plane.bytes = &plane.bytes[start..][..count];
                }
                let pixels = &mut to[part.start * stride..][..count * stride];
                let pixels = pixels.chunks_exact_mut(stride).enumerate();
                if self.mirror {
                    for (column, pixel) in pixels {
                        for (channel, plane) in planes.iter().enumerate() {
                            let value = plane.value(count - 1 - column);
                            put(&mut pixel[first + channel], value);
                        }
                    }
                } else {
                    for (column, pixel) in pixels {
                        for (channel, plane) in planes.iter().enumerate() {
                            put(&mut pixel[first + channel], plane.value(column));
                        }
                    }
                }
                done = part.end;
            }
            clear(&mut to[done * stride..]);
        }
    }

    /// The columns of a row that show the image, on both sides of the cutout.
    #[inline(always)]
    fn shown(&self, row: usize, (height, width): (usize, usize)) -> [Range<usize>; 2] {
        // Columns of the crop that lie within the image.
        let start = usize::try_from(-self.right).unwrap_or(0).min(width);
        let end = width.saturating_sub(usize::try_from(self.right).unwrap_or(0)).max(start);
        let (start, end) = if self.mirror { (width - end, width - start) } else { (start, end) };
        let cut = self.cutout.and_then(|(down, right, side)| {
            let span = |centre: usize, end: usize| {
                (centre + side / 2 + 1).saturating_sub(side)..(centre + side / 2 + 1).min(end)
            };
            span(down, height).contains(&row).then(|| span(right, width))
        });
        let cut = cut.unwrap_or(end..end);
        [start..end.min(cut.start), start.max(cut.end)..end]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A value of a placed image, by the words of [`Placement`] and [`scale`].
    fn expected(
        image: &[u8],
        (_, height, width): (usize, usize, usize),
        placement: Placement,
        normalisation: &Normalisation,
        (channel, row, column): (usize, usize, usize),
    ) -> f32 {
        let near = |at: usize, centre: usize, side: usize| {
            // An even side reaches one pixel further down and to the right.
            let gap = 2 * (at as isize - centre as isize) - 1 + (side % 2) as isize;
            gap.unsigned_abs() < side
        };
        let cut = placement
            .cutout
            .is_some_and(|(y, x, side)| near(row, y, side) && near(column, x, side));
        let seen = if placement.mirror { width - 1 - column } else { column };
        let y = row.checked_add_signed(placement.down).filter(|y| *y < height);
        let x = seen.checked_add_signed(placement.right).filter(|x| *x < width);
        match (y, x) {
            (Some(y), Some(x)) if !cut => {
                let (scale, shift) = scale(normalisation, channel);
                f32::from(image[(channel * height + y) * width + x]) * scale - shift
            }
            _ => 0.0,
        }
    }

    #[test]
    fn every_value_of_a_placed_image_is_written_in_either_layout() {
        for seed in 0..2000 {
            let mut rng = Rng::new(seed);
            let size = (1 + rng.below(5), 1 + rng.below(9), 1 + rng.below(70));
            let (channels, height, width) = size;
            let image: Vec<u8> =
                (0..channels * height * width).map(|_| rng.next_u32() as u8).collect();
            let mean = (0..channels).map(|_| rng.unit() as f32).collect();
            let deviation = (0..channels).map(|_| 0.1 + rng.unit() as f32).collect();
            let normalisation = Normalisation { mean, deviation };
            // Crops that lie outside the image too.
            let mut offset = |size: usize| rng.below(2 * size + 5) as isize - size as isize - 2;
            let (down, right) = (offset(height), offset(width));
            let mirror = rng.below(2) == 0;
            let centre = (rng.below(height), rng.below(width), 1 + rng.below(12));
            let cutout = (rng.below(2) == 0).then_some(centre);
            let placement = Placement { down, right, mirror, cutout };
            for layout in [Layout::Planes, Layout::Pixels] {
                let mut found = vec![f32::NAN; image.len()];
                let put = |to: &mut f32, value| *to = value;
                let tables = tables(&normalisation, channels);
                place(&image, size, placement, &tables, (&mut found, layout), put);
                for (at, found) in found.iter().enumerate() {
                    let (channel, pixel) = match layout {
                        Layout::Planes => (at / (height * width), at % (height * width)),
                        Layout::Pixels => (at % channels, at / channels),
                    };
                    let at = (channel, pixel / width, pixel % width);
                    let expected = expected(&image, size, placement, &normalisation, at);
                    assert_eq!(
                        found.to_bits(),
                        expected.to_bits(),
                        "seed {seed}: {layout:?}, {size:?}, {placement:?}, {at:?}: {found}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_offset_of_pad_and_crop_occurs_equally_often_and_the_last_one_too() {
        for pad in [0usize, 1, 4] {
            let augment = Augment { pad_crop: pad, mirror: Mirror::Random, ..Augment::NONE };
            let rng = Rng::new(11);
            let kinds = (2 * pad + 1) * (2 * pad + 1) * 2;
            let draws = 200 * kinds;
            let mut counts: BTreeMap<Placement, usize> = BTreeMap::new();
            for index in 0..draws as u64 {
                *counts
                    .entry(Placement::draw(augment, (9, 9), &mut rng.split_index(index)))
                    .or_default() += 1;
            }
            assert_eq!(counts.len(), kinds, "pad {pad}: {counts:?}");
            // Six deviations of a binomial count with mean 200 are 85.
            let even = counts.values().all(|count| (115..285).contains(count));
            assert!(even, "pad {pad}: {counts:?}");
            let last = pad as isize;
            for mirror in [false, true] {
                for offset in [last, -last] {
                    let (down, right, cutout) = (offset, offset, None);
                    assert!(counts.contains_key(&Placement { down, right, mirror, cutout }));
                }
            }
        }
    }
}
