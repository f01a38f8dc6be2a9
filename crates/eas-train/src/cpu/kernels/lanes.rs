//! Vectors of f32 as the kernels see them, one type an instruction set; and vectors of pairs of bf16,
//! of which a lane holds two in the place of an f32.

use super::pairs::parts;

/// A vector of `COUNT` numbers and what the kernels do with it.
pub(super) trait Lanes {
    /// Numbers of a vector.
    const COUNT: usize;
    /// Whether there are 32 registers; else 16.
    const MANY_REGISTERS: bool;
    /// The vector.
    type Vector: Copy;

    /// # Safety
    /// All functions need the instruction set of the type; those with a pointer read or write the
    /// first `count` (or all) numbers behind it.
    unsafe fn zero() -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// The first `count` numbers, at most `COUNT`, then zeros.
    unsafe fn load_part(from: *const f32, count: usize) -> Self::Vector;
    unsafe fn splat(from: *const f32) -> Self::Vector;
    unsafe fn multiply_add(
        factor: Self::Vector,
        other: Self::Vector,
        sum: Self::Vector,
    ) -> Self::Vector;
    unsafe fn store(to: *mut f32, vector: Self::Vector);
    unsafe fn store_part(to: *mut f32, vector: Self::Vector, count: usize);
}

/// Eight numbers without intrinsics.
pub(super) struct Portable;

impl Lanes for Portable {
    const COUNT: usize = 8;
    const MANY_REGISTERS: bool = false;
    type Vector = [f32; 8];

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
    unsafe fn multiply_add(factor: [f32; 8], other: [f32; 8], mut sum: [f32; 8]) -> [f32; 8] {
        for lane in 0..8 {
            sum[lane] += factor[lane] * other[lane];
        }
        sum
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: [f32; 8]) {
        // SAFETY: the caller promises eight places.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(vector) };
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, vector: [f32; 8], count: usize) {
        // SAFETY: the caller promises `count` places, at most eight.
        unsafe { vector.as_ptr().copy_to_nonoverlapping(to, count) };
    }
}

/// Pairs of bf16 without the instructions for them. A product of two is exact in f32, and the second
/// of a pair is added first, so sums are those of AVX512-BF16 but for denormals, which it takes for 0.
pub(super) struct EmulatedPairs<const COUNT: usize>;

impl<const COUNT: usize> Lanes for EmulatedPairs<COUNT> {
    const COUNT: usize = COUNT;
    const MANY_REGISTERS: bool = false;
    type Vector = [f32; COUNT];

    #[inline(always)]
    unsafe fn zero() -> [f32; COUNT] {
        [0.0; COUNT]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; COUNT] {
        // SAFETY: the caller promises so many numbers.
        unsafe { from.cast::<[f32; COUNT]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> [f32; COUNT] {
        let mut vector = [0.0; COUNT];
        // SAFETY: the caller promises `count` numbers, at most a vector's.
        unsafe { from.copy_to_nonoverlapping(vector.as_mut_ptr(), count) };
        vector
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> [f32; COUNT] {
        // SAFETY: the caller promises a number.
        [unsafe { *from }; COUNT]
    }

    #[inline(always)]
    unsafe fn multiply_add(
        factor: [f32; COUNT],
        other: [f32; COUNT],
        mut sum: [f32; COUNT],
    ) -> [f32; COUNT] {
        for lane in 0..COUNT {
            let [(x0, x1), (y0, y1)] = [parts(factor[lane]), parts(other[lane])];
            sum[lane] += x1 * y1;
            sum[lane] += x0 * y0;
        }
        sum
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: [f32; COUNT]) {
        // SAFETY: the caller promises so many places.
        unsafe { to.cast::<[f32; COUNT]>().write_unaligned(vector) };
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, vector: [f32; COUNT], count: usize) {
        // SAFETY: the caller promises `count` places, at most a vector's.
        unsafe { vector.as_ptr().copy_to_nonoverlapping(to, count) };
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, Avx512Half, Avx512HalfPairs, Avx512Pairs};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::Lanes;

    /// Sixteen pairs of bf16: AVX512-BF16.
    pub(crate) struct Avx512Pairs;
    /// Eight pairs of bf16.
    pub(crate) struct Avx512HalfPairs;
    /// Sixteen numbers: AVX-512.
    pub(crate) struct Avx512;
    /// Eight numbers with AVX-512's registers and masks, for outputs that would leave half of
    /// sixteen empty.
    pub(crate) struct Avx512Half;
    /// Eight numbers: AVX2 and FMA.
    pub(crate) struct Avx2;

    /// The mask of the first `count` lanes.
    #[inline(always)]
    fn first(count: usize) -> u32 {
        (1u32 << count) - 1
    }

    // SAFETY of all blocks below: the caller promises the instruction set and the numbers behind the
    // pointers, as the trait asks.
    macro_rules! lanes {
        ($name:ident, $vector:ty, $count:literal, $many:literal,
         $zero:ident, $load:ident, $set:ident, $fma:ident, $store:ident,
         |$from:ident, $to:ident, $part:ident, $value:ident| $load_part:expr, $store_part:expr) => {
            impl Lanes for $name {
                const COUNT: usize = $count;
                const MANY_REGISTERS: bool = $many;
                type Vector = $vector;

                #[inline(always)]
                unsafe fn zero() -> $vector {
                    unsafe { $zero() }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> $vector {
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn load_part($from: *const f32, $part: usize) -> $vector {
                    unsafe { $load_part }
                }

                #[inline(always)]
                unsafe fn splat(from: *const f32) -> $vector {
                    unsafe { $set(*from) }
                }

                #[inline(always)]
                unsafe fn multiply_add(factor: $vector, other: $vector, sum: $vector) -> $vector {
                    unsafe { $fma(factor, other, sum) }
                }

                #[inline(always)]
                unsafe fn store(to: *mut f32, vector: $vector) {
                    unsafe { $store(to, vector) }
                }

                #[inline(always)]
                unsafe fn store_part($to: *mut f32, $value: $vector, $part: usize) {
                    unsafe { $store_part }
                }
            }
        };
    }

    lanes!(
        Avx512,
        __m512,
        16,
        true,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_storeu_ps,
        |from, to, count, value| _mm512_maskz_loadu_ps(first(count) as __mmask16, from),
        _mm512_mask_storeu_ps(to, first(count) as __mmask16, value)
    );
    lanes!(
        Avx512Half,
        __m256,
        8,
        true,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps,
        |from, to, count, value| _mm256_maskz_loadu_ps(first(count) as __mmask8, from),
        _mm256_mask_storeu_ps(to, first(count) as __mmask8, value)
    );
    lanes!(
        Avx2,
        __m256,
        8,
        false,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps,
        |from, to, count, value| _mm256_maskload_ps(from, lane_mask(count)),
        _mm256_maskstore_ps(to, lane_mask(count), value)
    );

    lanes!(
        Avx512Pairs,
        __m512,
        16,
        true,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        add_products,
        _mm512_storeu_ps,
        |from, to, count, value| _mm512_maskz_loadu_ps(first(count) as __mmask16, from),
        _mm512_mask_storeu_ps(to, first(count) as __mmask16, value)
    );
    lanes!(
        Avx512HalfPairs,
        __m256,
        8,
        true,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        add_products_half,
        _mm256_storeu_ps,
        |from, to, count, value| _mm256_maskz_loadu_ps(first(count) as __mmask8, from),
        _mm256_mask_storeu_ps(to, first(count) as __mmask8, value)
    );

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

    /// All bits in the first `count` lanes.
    #[inline(always)]
    unsafe fn lane_mask(count: usize) -> __m256i {
        let lanes = [0, 1, 2, 3, 4, 5, 6, 7].map(|lane| if lane < count { -1i32 } else { 0 });
        // SAFETY: the array is as long as the vector.
        unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
    }
}
