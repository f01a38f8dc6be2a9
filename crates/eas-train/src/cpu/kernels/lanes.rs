//! Vectors of f32 as the kernels see them, one type an instruction set; and vectors of pairs of bf16,
//! of which a lane holds two in the place of an f32.

use super::pairs::parts;

/// A vector of `COUNT` numbers and what the kernels do with it.
pub(in super::super) trait Lanes {
    /// Numbers of a vector.
    const COUNT: usize;
    /// Vectors that registers hold.
    const REGISTERS: usize;
    /// Vectors that a factor is split into before it is multiplied.
    const PARTS: usize;
    /// The vector.
    type Vector: Copy;
    /// The first lanes of a vector.
    type Mask: Copy;

    /// # Safety
    /// All functions need the instruction set of the type; those with a pointer read or write the
    /// first `count` (or all) numbers behind it.
    unsafe fn zero() -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// The first `count` lanes, at most `COUNT`.
    unsafe fn mask(count: usize) -> Self::Mask;
    /// The numbers of a mask, then zeros.
    unsafe fn load_part(from: *const f32, mask: Self::Mask) -> Self::Vector;
    unsafe fn splat(from: *const f32) -> Self::Vector;
    unsafe fn multiply_add(
        factor: Self::Vector,
        other: Self::Vector,
        sum: Self::Vector,
    ) -> Self::Vector;
    unsafe fn store(to: *mut f32, vector: Self::Vector);
    /// The first half of the numbers.
    unsafe fn store_half(to: *mut f32, vector: Self::Vector);
    unsafe fn store_part(to: *mut f32, vector: Self::Vector, mask: Self::Mask);
}

/// Eight numbers without intrinsics.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Portable;

/// Eight pairs of bf16 without intrinsics. A product of two is exact in f32, and the second of a pair
/// is added first, so sums are those of AVX512-BF16 but for denormals, which it takes for 0.
pub(super) struct PortablePairs;

macro_rules! portable {
    ($name:ident, $parts:literal, |$x:ident, $y:ident, $sum:ident| $add:block) => {
        impl Lanes for $name {
            const COUNT: usize = 8;
            const REGISTERS: usize = 16;
            const PARTS: usize = $parts;
            type Vector = [f32; 8];
            type Mask = usize;

            #[inline(always)]
            unsafe fn zero() -> [f32; 8] {
                [0.0; 8]
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> [f32; 8] {
                // SAFETY: the caller promises eight numbers.
                unsafe { from.cast::<[f32; 8]>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn mask(count: usize) -> usize {
                count
            }

            #[inline(always)]
            unsafe fn load_part(from: *const f32, count: usize) -> [f32; 8] {
                let mut vector = [0.0; 8];
                // SAFETY: the caller promises `count` numbers, at most eight.
                unsafe { from.copy_to_nonoverlapping(vector.as_mut_ptr(), count) };
                vector
            }

            #[inline(always)]
            unsafe fn splat(from: *const f32) -> [f32; 8] {
                // SAFETY: the caller promises a number.
                [unsafe { *from }; 8]
            }

            #[inline(always)]
            unsafe fn multiply_add(x: [f32; 8], y: [f32; 8], mut sums: [f32; 8]) -> [f32; 8] {
                for lane in 0..8 {
                    let ($x, $y, $sum) = (x[lane], y[lane], &mut sums[lane]);
                    $add
                }
                sums
            }

            #[inline(always)]
            unsafe fn store(to: *mut f32, vector: [f32; 8]) {
                // SAFETY: the caller promises eight places.
                unsafe { to.cast::<[f32; 8]>().write_unaligned(vector) };
            }

            #[inline(always)]
            unsafe fn store_half(to: *mut f32, vector: [f32; 8]) {
                // SAFETY: the caller promises four places.
                unsafe { vector.as_ptr().copy_to_nonoverlapping(to, 4) };
            }

            #[inline(always)]
            unsafe fn store_part(to: *mut f32, vector: [f32; 8], count: usize) {
                // SAFETY: the caller promises `count` places, at most eight.
                unsafe { vector.as_ptr().copy_to_nonoverlapping(to, count) };
            }
        }
    };
}

portable!(Portable, 1, |x, y, sum| { *sum += x * y });
portable!(PortablePairs, 2, |x, y, sum| {
    let [(x0, x1), (y0, y1)] = [parts(x), parts(y)];
    *sum += x1 * y1;
    *sum += x0 * y0;
});

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{
    Avx2, Avx2Pairs, Avx512, Avx512Half, Avx512HalfPairs, Avx512HalfSplit, Avx512Pairs, Avx512Split,
};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::super::joined::Halves;
    use super::Lanes;

    /// Sixteen numbers: AVX-512.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx512;
    /// Eight numbers with AVX-512's registers and masks, for outputs that would leave half of
    /// sixteen empty.
    pub(crate) struct Avx512Half;
    /// Eight numbers: AVX2 and FMA.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx2;
    /// Sixteen pairs of bf16: AVX512-BF16.
    pub(crate) struct Avx512Pairs;
    /// Eight pairs of bf16.
    pub(crate) struct Avx512HalfPairs;
    /// Pairs of bf16 without the instruction for them, which are split into f32.
    pub(crate) struct Avx512Split;
    pub(crate) struct Avx512HalfSplit;
    pub(crate) struct Avx2Pairs;

    // SAFETY of all blocks below: the caller promises the instruction set and the numbers behind the
    // pointers, as the trait asks.
    macro_rules! lanes {
        ($name:ident, $registers:literal, $count:literal, $vector:ty, $mask:ty,
         $zero:ident, $load:ident, $first:ident, $load_part:ident, $set:ident,
         $parts:literal, $multiply_add:ident, $store:ident, $store_half:ident, $store_part:ident) => {
            impl Lanes for $name {
                const COUNT: usize = $count;
                const REGISTERS: usize = $registers;
                const PARTS: usize = $parts;
                type Vector = $vector;
                type Mask = $mask;

                #[inline(always)]
                unsafe fn zero() -> $vector {
                    unsafe { $zero() }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> $vector {
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn mask(count: usize) -> $mask {
                    unsafe { $first(count) }
                }

                #[inline(always)]
                unsafe fn load_part(from: *const f32, mask: $mask) -> $vector {
                    unsafe { $load_part(from, mask) }
                }

                #[inline(always)]
                unsafe fn splat(from: *const f32) -> $vector {
                    unsafe { $set(*from) }
                }

                #[inline(always)]
                unsafe fn multiply_add(factor: $vector, other: $vector, sum: $vector) -> $vector {
                    unsafe { $multiply_add(factor, other, sum) }
                }

                #[inline(always)]
                unsafe fn store(to: *mut f32, vector: $vector) {
                    unsafe { $store(to, vector) }
                }

                #[inline(always)]
                unsafe fn store_half(to: *mut f32, vector: $vector) {
                    unsafe { $store_half(to, vector) }
                }

                #[inline(always)]
                unsafe fn store_part(to: *mut f32, vector: $vector, mask: $mask) {
                    unsafe { $store_part(to, mask, vector) }
                }
            }
        };
    }

    macro_rules! lanes512 {
        ($name:ident, $parts:literal, $multiply_add:ident) => {
            lanes!(
                $name,
                32,
                16,
                __m512,
                __mmask16,
                _mm512_setzero_ps,
                _mm512_loadu_ps,
                first16,
                load_first16,
                _mm512_set1_ps,
                $parts,
                $multiply_add,
                _mm512_storeu_ps,
                store_half16,
                _mm512_mask_storeu_ps
            );
        };
    }

    macro_rules! half_lanes512 {
        ($name:ident, $parts:literal, $multiply_add:ident) => {
            lanes!(
                $name,
                32,
                8,
                __m256,
                __mmask8,
                _mm256_setzero_ps,
                _mm256_loadu_ps,
                first8,
                load_first8,
                _mm256_set1_ps,
                $parts,
                $multiply_add,
                _mm256_storeu_ps,
                store_half8,
                _mm256_mask_storeu_ps
            );
        };
    }

    macro_rules! lanes_avx2 {
        ($name:ident, $parts:literal, $multiply_add:ident) => {
            lanes!(
                $name,
                16,
                8,
                __m256,
                __m256i,
                _mm256_setzero_ps,
                _mm256_loadu_ps,
                lane_mask,
                _mm256_maskload_ps,
                _mm256_set1_ps,
                $parts,
                $multiply_add,
                _mm256_storeu_ps,
                store_half8,
                _mm256_maskstore_ps
            );
        };
    }

    lanes512!(Avx512, 1, _mm512_fmadd_ps);
    lanes512!(Avx512Pairs, 1, add_products);
    lanes512!(Avx512Split, 2, add_split);
    half_lanes512!(Avx512Half, 1, _mm256_fmadd_ps);
    half_lanes512!(Avx512HalfPairs, 1, add_products_half);
    half_lanes512!(Avx512HalfSplit, 2, add_split_half);
    lanes_avx2!(Avx2, 1, _mm256_fmadd_ps);
    lanes_avx2!(Avx2Pairs, 2, add_split_half);

    impl Halves for Avx2 {
        #[inline(always)]
        unsafe fn join(first: __m256, last: __m256) -> __m256 {
            unsafe { _mm256_blend_ps::<0b1111_0000>(first, last) }
        }

        #[inline(always)]
        unsafe fn load_twice(from: *const f32) -> __m256 {
            unsafe { _mm256_set_m128(_mm_loadu_ps(from), _mm_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn load_halves(first: *const f32, last: *const f32) -> __m256 {
            unsafe { _mm256_set_m128(_mm_loadu_ps(last), _mm_loadu_ps(first)) }
        }

        #[inline(always)]
        unsafe fn store_last_half(to: *mut f32, vector: __m256) {
            unsafe { _mm_storeu_ps(to, _mm256_extractf128_ps::<1>(vector)) }
        }
    }

    #[inline(always)]
    unsafe fn add_products(factor: __m512, other: __m512, sum: __m512) -> __m512 {
        // SAFETY: as above; the bits are those of pairs of bf16.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                transmute::<__m512, __m512bh>(factor),
                transmute::<__m512, __m512bh>(other),
            )
        }
    }

    #[inline(always)]
    unsafe fn add_products_half(factor: __m256, other: __m256, sum: __m256) -> __m256 {
        // SAFETY: as above; the bits are those of pairs of bf16.
        unsafe {
            _mm256_dpbf16_ps(
                sum,
                transmute::<__m256, __m256bh>(factor),
                transmute::<__m256, __m256bh>(other),
            )
        }
    }

    // The second of a pair is added first, as `vdpbf16ps` does. A product of two bf16 is exact in f32
    // (but for denormals), so it doesn't matter that it isn't rounded before it is added.

    #[inline(always)]
    unsafe fn add_split(factor: __m512, other: __m512, sum: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let upper = _mm512_castsi512_ps(_mm512_set1_epi32(UPPER));
            let (x1, y1) = (_mm512_and_ps(factor, upper), _mm512_and_ps(other, upper));
            let (x, y) = (_mm512_castps_si512(factor), _mm512_castps_si512(other));
            let (x0, y0) = (_mm512_slli_epi32::<16>(x), _mm512_slli_epi32::<16>(y));
            let sum = _mm512_fmadd_ps(x1, y1, sum);
            _mm512_fmadd_ps(_mm512_castsi512_ps(x0), _mm512_castsi512_ps(y0), sum)
        }
    }

    #[inline(always)]
    unsafe fn add_split_half(factor: __m256, other: __m256, sum: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let upper = _mm256_castsi256_ps(_mm256_set1_epi32(UPPER));
            let (x1, y1) = (_mm256_and_ps(factor, upper), _mm256_and_ps(other, upper));
            let (x, y) = (_mm256_castps_si256(factor), _mm256_castps_si256(other));
            let (x0, y0) = (_mm256_slli_epi32::<16>(x), _mm256_slli_epi32::<16>(y));
            let sum = _mm256_fmadd_ps(x1, y1, sum);
            _mm256_fmadd_ps(_mm256_castsi256_ps(x0), _mm256_castsi256_ps(y0), sum)
        }
    }

    /// The bits of the second of a pair.
    const UPPER: i32 = 0xffff_0000_u32 as i32;

    #[inline(always)]
    unsafe fn first16(count: usize) -> __mmask16 {
        ((1u32 << count) - 1) as __mmask16
    }

    #[inline(always)]
    unsafe fn first8(count: usize) -> __mmask8 {
        ((1u32 << count) - 1) as __mmask8
    }

    #[inline(always)]
    unsafe fn load_first16(from: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }

    #[inline(always)]
    unsafe fn load_first8(from: *const f32, mask: __mmask8) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_maskz_loadu_ps(mask, from) }
    }

    #[inline(always)]
    unsafe fn store_half16(to: *mut f32, vector: __m512) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, _mm512_castps512_ps256(vector)) }
    }

    #[inline(always)]
    unsafe fn store_half8(to: *mut f32, vector: __m256) {
        // SAFETY: as above.
        unsafe { _mm_storeu_ps(to, _mm256_castps256_ps128(vector)) }
    }

    /// All bits in the first `count` lanes.
    #[inline(always)]
    unsafe fn lane_mask(count: usize) -> __m256i {
        const EDGE: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the caller promises eight at most, so the vector lies within the array.
        unsafe { _mm256_loadu_si256(EDGE.as_ptr().add(8 - count).cast()) }
    }
}
