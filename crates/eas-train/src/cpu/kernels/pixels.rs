//! Planes of bytes, made pixels of numbers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use crate::cpu::memory::LINE;
use crate::data::Scale;

/// Pixels that are made at once.
pub(super) const GROUP: usize = 8;

/// What the bytes of three channels become, for each value of a group: times a factor, less a shift.
pub(in crate::cpu) struct Scales {
    factors: [f32; 3 * GROUP],
    shifts: [f32; 3 * GROUP],
}

impl Scales {
    pub(in crate::cpu) fn new(channels: [Scale; 3]) -> Self {
        let mut scales = Scales { factors: [0.0; 3 * GROUP], shifts: [0.0; 3 * GROUP] };
        let values = scales.factors.iter_mut().zip(&mut scales.shifts).enumerate();
        for (place, (factor, shift)) in values {
            (*factor, *shift) = channels[place % 3];
        }
        scales
    }
}

/// Pixels of three channels, and the bytes that they are made of.
pub(in crate::cpu) struct Pixels<'a> {
    pub(in crate::cpu) planes: [&'a [u8]; 3],
    pub(in crate::cpu) scales: &'a Scales,
    /// Whether the last byte is the first pixel's.
    pub(in crate::cpu) reversed: bool,
    /// `[pixel][channel]`.
    pub(in crate::cpu) to: &'a mut [f32],
}

impl Pixels<'_> {
    /// By plain loops.
    #[inline(always)]
    pub(super) fn make(self) {
        let Scales { factors, shifts } = self.scales;
        let last = self.to.len() / 3;
        for (place, pixel) in self.to.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let from = if self.reversed { last - 1 - place } else { place };
            for (channel, value) in pixel.iter_mut().enumerate() {
                let byte = f32::from(self.planes[channel][from]);
                *value = byte * factors[channel] - shifts[channel];
            }
        }
    }
}

/// Lines of a cache that are asked for at once, at most: those of an image of CIFAR-10 are fewer.
#[cfg(target_arch = "x86_64")]
const LINES: usize = 64;

/// Asks for the first bytes of an image that is read soon, so that they are near by then; the processor
/// itself asks for those that follow.
#[inline(always)]
pub(in crate::cpu) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE * size_of::<f32>()).take(LINES) {
        // SAFETY: every x86-64 has the instruction, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
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

/// Makes pixels, eight at once. Where they aren't a multiple of eight the last ones are made twice.
///
/// # Safety
/// Needs AVX2, at least [`GROUP`] bytes in each plane, as many in all, and room for three values of each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline] // It is called for each row of an image.
pub(super) unsafe fn by_groups(job: Pixels<'_>) {
    const ORDERS: [[[i8; 16]; 4]; 2] = [order(false), order(true)];
    let count = job.planes[0].len();
    // SAFETY: all that is read of arrays lies within them; a group starts GROUP pixels before the last one
    // at most, and the caller promises that there are as many.
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
        for place in (0..count).step_by(GROUP) {
            let place = place.min(count - GROUP);
            let from = if job.reversed { count - GROUP - place } else { place };
            let [r, g, b] = job.planes.map(
                #[inline(always)]
                |plane| _mm_loadl_epi64(plane.as_ptr().add(from).cast()),
            );
            let rg = _mm_unpacklo_epi8(r, g);
            let first = _mm_or_si128(_mm_shuffle_epi8(rg, first_rg), _mm_shuffle_epi8(b, first_b));
            let last = _mm_or_si128(_mm_shuffle_epi8(rg, last_rg), _mm_shuffle_epi8(b, last_b));
            let bytes = [first, _mm_srli_si128::<8>(first), last];
            let to = job.to.as_mut_ptr().add(3 * place);
            for part in 0..3 {
                let value = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes[part]));
                let value = _mm256_sub_ps(_mm256_mul_ps(value, factors[part]), shifts[part]);
                _mm256_storeu_ps(to.add(GROUP * part), value);
            }
        }
    }
}
