//! Planes of bytes, made pixels of numbers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::cpu::memory::LINE;
use crate::data::Scale;

/// Pixels that are made at once with AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) const GROUP: usize = 8;

/// Pixels that are made at once with AVX-512.
pub(super) const WIDE_GROUP: usize = 16;

/// What the bytes of three channels become, for each value of a group: times a factor, less a shift.
pub(in crate::cpu) struct Scales {
    factors: [f32; 3 * WIDE_GROUP],
    shifts: [f32; 3 * WIDE_GROUP],
}

impl Scales {
    pub(in crate::cpu) fn new(channels: [Scale; 3]) -> Self {
        let mut scales = Scales { factors: [0.0; 3 * WIDE_GROUP], shifts: [0.0; 3 * WIDE_GROUP] };
        let values = scales.factors.iter_mut().zip(&mut scales.shifts).enumerate();
        for (place, (factor, shift)) in values {
            (*factor, *shift) = channels[place % 3];
        }
        scales
    }
}

/// Rows of pixels of three channels, and the bytes that they are made of.
pub(in crate::cpu) struct Pixels<'a> {
    /// Rows of `width` bytes.
    pub(in crate::cpu) planes: [&'a [u8]; 3],
    pub(in crate::cpu) width: usize,
    /// Where in its plane the first byte stands that is made a pixel.
    pub(in crate::cpu) start: usize,
    /// The columns of pixels that are made of bytes; the others are 0.
    pub(in crate::cpu) columns: Range<usize>,
    /// Whether the first byte of a row is made the last of these columns.
    pub(in crate::cpu) reversed: bool,
    pub(in crate::cpu) scales: &'a Scales,
    /// `[row][column][channel]`.
    pub(in crate::cpu) to: &'a mut [f32],
}

impl Pixels<'_> {
    /// Whether rows are whole, and planes have a byte for each pixel that is made of one.
    pub(super) fn fits(&self) -> bool {
        let Range { start, end } = self.columns;
        let Some(row) = self.width.checked_mul(3).filter(|row| *row > 0) else { return false };
        if !self.to.len().is_multiple_of(row) || start > end || end > self.width {
            return false;
        }
        let rows = self.to.len() / row;
        if rows == 0 || start == end {
            return true;
        }
        let used = self.start.checked_add((rows - 1) * self.width + (end - start));
        used.is_some_and(|used| self.planes.iter().all(|plane| used <= plane.len()))
    }

    /// By plain loops.
    pub(super) fn make(self) {
        let Scales { factors, shifts } = self.scales;
        let count = self.columns.len();
        if count < self.width {
            self.to.fill(0.0);
        }
        for (row, to) in self.to.chunks_exact_mut(3 * self.width).enumerate() {
            let to = &mut to[3 * self.columns.start..3 * self.columns.end];
            for (place, pixel) in to.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let from = if self.reversed { count - 1 - place } else { place };
                for (channel, value) in pixel.iter_mut().enumerate() {
                    let byte = self.planes[channel][self.start + row * self.width + from];
                    *value = f32::from(byte) * factors[channel] - shifts[channel];
                }
            }
        }
    }
}

/// Lines of a cache that are asked for at once, at most: those of an image of CIFAR-10 are fewer.
#[cfg(target_arch = "x86_64")]
const LINES: usize = 64;

/// Asks for the first bytes of an image that is read soon, so that they are near by then; the processor
/// itself asks for those that follow. They go to the second cache: the nearest one fetches a few lines at a time, which
/// the pixels that are written meanwhile need.
#[inline(always)]
pub(in crate::cpu) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE * size_of::<f32>()).take(LINES) {
        // SAFETY: every x86-64 has the instruction, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Where the bytes of a group come from: the first sixteen of them and the last eight, each from red and green,
/// which take turns, and from blue. NONE makes a byte 0, so that both can be joined by an OR.
#[cfg(target_arch = "x86_64")]
const fn order(reversed: bool) -> [[i8; 16]; 4] {
    const NONE: i8 = -1;
    let mut order = [[NONE; 16]; 4];
    let mut value = 0;
    while value < 3 * GROUP {
        let (pixel, channel) = (value / 3, value % 3);
        let from = if reversed { GROUP - 1 - pixel } else { pixel };
        let (half, place) = (value / 16, value % 16);
        if channel < 2 {
            order[2 * half][place] = (2 * from + channel) as i8;
        } else {
            order[2 * half + 1][place] = from as i8;
        }
        value += 1;
    }
    order
}

/// Makes pixels, eight at once. Where they aren't a multiple of eight the last ones of a row are made twice.
///
/// # Safety
/// Needs AVX2, a job that fits, and at least [`GROUP`] columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn by_groups(job: Pixels<'_>) {
    const ORDERS: [[[i8; 16]; 4]; 2] = [order(false), order(true)];
    let count = job.columns.len();
    // At once: a margin of each row is hardly a few places, and to fill these would still be a call.
    if count < job.width {
        job.to.fill(0.0);
    }
    // SAFETY: all that is read of arrays lies within them; a group starts GROUP pixels before the last one
    // at most, and the caller promises that there are as many, with a byte in each plane.
    unsafe {
        let order = &ORDERS[usize::from(job.reversed)];
        let [first_rg, first_b, last_rg, last_b] = [0, 1, 2, 3].map(
            #[inline(always)]
            |part| _mm_loadu_si128(order[part].as_ptr().cast()),
        );
        let starts = [0, GROUP, 2 * GROUP];
        let factors = starts.map(
            #[inline(always)]
            |start| _mm256_loadu_ps(job.scales.factors.as_ptr().add(start)),
        );
        let shifts = starts.map(
            #[inline(always)]
            |start| _mm256_loadu_ps(job.scales.shifts.as_ptr().add(start)),
        );
        for (row, to) in job.to.chunks_exact_mut(3 * job.width).enumerate() {
            let start = job.start + row * job.width;
            let to = to.as_mut_ptr().add(3 * job.columns.start);
            for place in (0..count).step_by(GROUP) {
                let place = place.min(count - GROUP);
                let from = if job.reversed { count - GROUP - place } else { place };
                let [r, g, b] = job.planes.map(
                    #[inline(always)]
                    |plane| _mm_loadl_epi64(plane.as_ptr().add(start + from).cast()),
                );
                let rg = _mm_unpacklo_epi8(r, g);
                let first =
                    _mm_or_si128(_mm_shuffle_epi8(rg, first_rg), _mm_shuffle_epi8(b, first_b));
                let last = _mm_or_si128(_mm_shuffle_epi8(rg, last_rg), _mm_shuffle_epi8(b, last_b));
                let bytes = [first, _mm_srli_si128::<8>(first), last];
                for part in 0..3 {
                    let value = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes[part]));
                    let value = _mm256_sub_ps(_mm256_mul_ps(value, factors[part]), shifts[part]);
                    _mm256_storeu_ps(to.add(3 * place + GROUP * part), value);
                }
            }
        }
    }
}

/// Where the bytes of a wide group come from, `[vector][channel]`: sixteen values each. NONE makes a byte 0, so that the
/// channels' can be joined by an OR.
#[cfg(target_arch = "x86_64")]
const fn wide_order(reversed: bool) -> [[[i8; 16]; 3]; 3] {
    const NONE: i8 = -1;
    let mut order = [[[NONE; 16]; 3]; 3];
    let mut value = 0;
    while value < 3 * WIDE_GROUP {
        let (pixel, channel) = (value / 3, value % 3);
        let from = if reversed { WIDE_GROUP - 1 - pixel } else { pixel };
        order[value / 16][channel][value % 16] = from as i8;
        value += 1;
    }
    order
}

/// Makes pixels, sixteen at once, and what isn't made of bytes 0 under masks, so that rows are written whole.
///
/// # Safety
/// Needs AVX-512 (F, BW and VL), a job that fits, and rows of whole groups of [`WIDE_GROUP`] pixels.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn by_wide_groups(job: Pixels<'_>) {
    const ORDERS: [[[[i8; 16]; 3]; 3]; 2] = [wide_order(false), wide_order(true)];
    let order = &ORDERS[usize::from(job.reversed)];
    let mut orders = [[_mm_setzero_si128(); 3]; 3];
    let (mut factors, mut shifts) = ([_mm512_setzero_ps(); 3], [_mm512_setzero_ps(); 3]);
    for part in 0..3 {
        // SAFETY: the arrays have so many numbers.
        unsafe {
            factors[part] = _mm512_loadu_ps(job.scales.factors.as_ptr().add(16 * part));
            shifts[part] = _mm512_loadu_ps(job.scales.shifts.as_ptr().add(16 * part));
            for channel in 0..3 {
                orders[part][channel] = _mm_loadu_si128(order[part][channel].as_ptr().cast());
            }
        }
    }
    for group in (0..job.width).step_by(WIDE_GROUP) {
        // A bit for each column that is made of bytes, and for each of its values.
        let within = |column: usize| column.clamp(group, group + WIDE_GROUP) - group;
        let (start, end) = (within(job.columns.start), within(job.columns.end));
        let bits = |start: usize, end: usize| (1u64 << end) - (1 << start);
        let columns = bits(start, end.max(start)) as u16;
        let values = bits(3 * start, 3 * end.max(start));
        // Where the group's bytes begin, which may be beyond the plane, and which of them are made pixels.
        let (begin, bytes) = if job.reversed {
            (job.columns.end.wrapping_sub(WIDE_GROUP + group), columns.reverse_bits())
        } else {
            (group.wrapping_sub(job.columns.start), columns)
        };
        let begin = job.start.wrapping_add(begin);
        for (row, to) in job.to.chunks_exact_mut(3 * job.width).enumerate() {
            let begin = begin.wrapping_add(row * job.width);
            // SAFETY: what the masks let read is in the planes, as the job fits; the row has the group's values.
            unsafe {
                let [r, g, b] = job.planes.map(
                    #[inline(always)]
                    |plane| _mm_maskz_loadu_epi8(bytes, plane.as_ptr().wrapping_add(begin).cast()),
                );
                let to = to.as_mut_ptr().add(3 * group);
                for part in 0..3 {
                    let order = orders[part];
                    let rg =
                        _mm_or_si128(_mm_shuffle_epi8(r, order[0]), _mm_shuffle_epi8(g, order[1]));
                    let found = _mm_or_si128(rg, _mm_shuffle_epi8(b, order[2]));
                    let value = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(found));
                    let value = _mm512_mul_ps(value, factors[part]);
                    let made = (values >> (16 * part)) as u16;
                    let value = _mm512_maskz_sub_ps(made, value, shifts[part]);
                    _mm512_storeu_ps(to.add(16 * part), value);
                }
            }
        }
    }
}
