//! How an image is cut from its padded form, mirrored, cut out and normalised.

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

/// What the bytes of a channel become: times the first, less the second.
pub(crate) type Scale = (f32, f32);

/// What normalises a channel's bytes.
pub(super) fn scale(normalisation: &Normalisation, channel: usize) -> Scale {
    let (mean, deviation) = (normalisation.mean[channel], normalisation.deviation[channel]);
    (1.0 / (255.0 * deviation), mean / deviation)
}

/// Writes an image `[channel][row][column]` of this height and width, placed and normalised, as it stands.
#[inline(always)]
pub(crate) fn place(
    image: &[u8],
    size: (usize, usize),
    placement: Placement,
    scales: &[Scale],
    to: &mut [f32],
) {
    let area = size.0 * size.1;
    let planes = image.chunks_exact(area).zip(to.chunks_exact_mut(area));
    for ((plane, to), (factor, shift)) in planes.zip(scales) {
        placement.for_rows(
            size,
            to,
            #[inline(always)]
            |start, to| {
                let bytes = &plane[start..][..to.len()];
                let value = |byte: &u8| f32::from(*byte) * factor - shift;
                if placement.mirror {
                    for (to, byte) in to.iter_mut().zip(bytes.iter().rev()) {
                        *to = value(byte);
                    }
                } else {
                    for (to, byte) in to.iter_mut().zip(bytes) {
                        *to = value(byte);
                    }
                }
            },
        );
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

    /// Writes `to`, `[row][column][values]`, of an image of this height and width: gives `show` what of a row shows the
    /// image, with the place in a plane of its first pixel, or of its last one, if it is mirrored, and sets the rest to
    /// 0, the mean once normalised.
    #[inline(always)]
    pub(crate) fn for_rows(
        self,
        (height, width): (usize, usize),
        to: &mut [f32],
        mut show: impl FnMut(usize, &mut [f32]),
    ) {
        let values = to.len() / (height * width);
        // At once: a margin of each row is hardly a few places, and to fill these would still be a call.
        if (self.down, self.right) != (0, 0) {
            to.fill(0.0);
        }
        let columns = self.columns(width);
        if !columns.is_empty() {
            for row in self.rows(height) {
                let to = &mut to[row * width * values..][..width * values];
                let to = &mut to[columns.start * values..columns.end * values];
                show(self.start(row, &columns, width), to);
            }
        }
        self.clear_cutout((height, width), to);
    }

    /// Sets what is cut out of an image, `[row][column][values]` of this height and width, to 0.
    pub(crate) fn clear_cutout(&self, (height, width): (usize, usize), image: &mut [f32]) {
        let Some((down, right, side)) = self.cutout else { return };
        let values = image.len() / (height * width);
        let span = |centre: usize, end: usize| {
            (centre + side / 2 + 1).saturating_sub(side)..(centre + side / 2 + 1).min(end)
        };
        let columns = span(right, width);
        for row in span(down, height) {
            let row = &mut image[row * width * values..][..width * values];
            row[columns.start * values..columns.end * values].fill(0.0);
        }
    }

    /// The rows of the crop that show the image.
    pub(crate) fn rows(&self, height: usize) -> Range<usize> {
        shown(self.down, height)
    }

    /// The columns of the crop that show it, but for the cutout.
    pub(crate) fn columns(&self, width: usize) -> Range<usize> {
        let Range { start, end } = shown(self.right, width);
        if self.mirror { width - end..width - start } else { start..end }
    }

    /// Where in a plane the first pixel stands that a row shows in some columns. Where it shows none it means nothing.
    pub(crate) fn start(&self, row: usize, columns: &Range<usize>, width: usize) -> usize {
        let first = if self.mirror { width - columns.end } else { columns.start };
        let row = row.wrapping_add_signed(self.down);
        row.wrapping_mul(width).wrapping_add(first).wrapping_add_signed(self.right)
    }
}

/// The rows or columns of a crop, of so many, that show the image, which they are `offset` behind.
fn shown(offset: isize, size: usize) -> Range<usize> {
    let start = usize::try_from(-offset).unwrap_or(0).min(size);
    start..size.saturating_sub(usize::try_from(offset).unwrap_or(0)).max(start)
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
    fn every_value_of_a_placed_image_is_written() {
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
            let scales: Vec<Scale> = (0..channels).map(|at| scale(&normalisation, at)).collect();
            let mut found = vec![f32::NAN; image.len()];
            place(&image, (height, width), placement, &scales, &mut found);
            for (at, found) in found.iter().enumerate() {
                let (channel, pixel) = (at / (height * width), at % (height * width));
                let at = (channel, pixel / width, pixel % width);
                let expected = expected(&image, size, placement, &normalisation, at);
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "seed {seed}: {size:?}, {placement:?}, {at:?}: {found}"
                );
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
