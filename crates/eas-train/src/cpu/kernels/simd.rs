//! Vectors for loops outside the kernels where the compiler's own are slower: it splits arrays of lanes up, gathers the
//! numbers of several, and leaves sums over rows in memory.

use std::marker::PhantomData;
use std::ops::{Add, Mul, Sub};

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Portable};

/// Numbers of the widest vectors there are.
pub(in super::super) const MOST_LANES: usize = 16;

/// Lanes whose numbers are added, subtracted and multiplied.
pub(in super::super) trait Arithmetic:
    Lanes + Copy + std::fmt::Debug + Send + Sync + 'static
{
    /// # Safety
    /// All functions need the instruction set of the type.
    unsafe fn add(one: Self::Vector, other: Self::Vector) -> Self::Vector;
    unsafe fn subtract(from: Self::Vector, other: Self::Vector) -> Self::Vector;
    unsafe fn multiply(one: Self::Vector, other: Self::Vector) -> Self::Vector;
    /// The greater of each two numbers, and the other one where neither is.
    unsafe fn greater(one: Self::Vector, other: Self::Vector) -> Self::Vector;
    /// The numbers of a vector, but 0 where those of `of` are at most 0.
    unsafe fn kept_above_zero(vector: Self::Vector, of: Self::Vector) -> Self::Vector;
    /// Runs loops compiled for the instruction set.
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R;
}

/// Evaluates an expression with the [`Simd`] of an instruction set's widest vectors. It is compiled for them, with what
/// is inlined into it, as a function of its own: what it returns stays within.
macro_rules! by_widest {
    ($isa:expr, |$simd:ident| $work:expr) => {{
        use $crate::cpu::kernels::simd::Widest;
        match $isa.widest() {
            #[cfg(target_arch = "x86_64")]
            Widest::Avx512($simd) => $simd.run(
                #[inline(always)]
                || $work,
            ),
            #[cfg(target_arch = "x86_64")]
            Widest::Avx2($simd) => $simd.run(
                #[inline(always)]
                || $work,
            ),
            Widest::Portable($simd) => $simd.run(
                #[inline(always)]
                || $work,
            ),
        }
    }};
}
pub(in super::super) use by_widest;

/// Says that this machine has the instruction set of `L`.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Simd<L>(PhantomData<L>);

/// The widest vectors of an instruction set.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Widest {
    #[cfg(target_arch = "x86_64")]
    Avx512(Simd<Avx512>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Simd<Avx2>),
    Portable(Simd<Portable>),
}

impl Isa {
    /// The widest vectors that it has.
    pub(in super::super) fn widest(self) -> Widest {
        match self.vectors() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => Widest::Avx512(Simd(PhantomData)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Widest::Avx2(Simd(PhantomData)),
            _ => Widest::Portable(Simd(PhantomData)),
        }
    }
}

impl<L: Arithmetic> Simd<L> {
    /// Numbers of a vector.
    pub(in super::super) const LANES: usize = L::COUNT;

    /// As [`Isa::run`].
    #[inline(always)]
    pub(in super::super) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        // SAFETY: `self` says that the instruction set is there.
        unsafe { L::run(work) }
    }

    /// Calls `work` with the place of each vector of a row of so many numbers, and how many of them it has.
    #[inline(always)]
    pub(in super::super) fn for_vectors(self, numbers: usize, mut work: impl FnMut(usize, usize)) {
        let whole = numbers / L::COUNT * L::COUNT;
        for at in (0..whole).step_by(L::COUNT) {
            work(at, L::COUNT);
        }
        if whole < numbers {
            work(whole, numbers - whole);
        }
    }

    /// A vector of zeros.
    #[inline(always)]
    pub(in super::super) fn zero(self) -> Vector<L> {
        // SAFETY: `self` says that the instruction set is there.
        Vector(unsafe { L::zero() })
    }

    /// A vector of one number.
    #[inline(always)]
    pub(in super::super) fn splat(self, number: f32) -> Vector<L> {
        // SAFETY: the pointer is of a number, and `self` says that the instruction set is there.
        Vector(unsafe { L::splat(&number) })
    }

    /// The numbers at a place.
    ///
    /// # Panics
    /// Where there are fewer than a vector's.
    #[inline(always)]
    pub(in super::super) fn load(self, from: &[f32], at: usize) -> Vector<L> {
        let from = &from[at..at + L::COUNT];
        // SAFETY: the slice has the numbers, and `self` says that the instruction set is there.
        Vector(unsafe { L::load(from.as_ptr()) })
    }

    /// As [`Simd::load`], of so many numbers where these are fewer than a vector's, and zeros.
    #[inline(always)]
    pub(in super::super) fn load_up_to(self, count: usize, from: &[f32], at: usize) -> Vector<L> {
        if count >= L::COUNT {
            return self.load(from, at);
        }
        let from = &from[at..at + count];
        // SAFETY: the slice has the numbers, and `self` says that the instruction set is there.
        Vector(unsafe { L::load_part(from.as_ptr(), L::mask(count)) })
    }
}

/// Numbers that are computed with at once. There is one only where there is the [`Simd`] of its kind, so what is
/// done with it has the instruction set.
#[derive(Clone, Copy)]
pub(in super::super) struct Vector<L: Arithmetic>(L::Vector);

impl<L: Arithmetic> Vector<L> {
    /// The greater of each two numbers, and the other one where neither is.
    #[inline(always)]
    pub(in super::super) fn greater(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Vector(unsafe { L::greater(self.0, other.0) })
    }

    /// These numbers, but 0 where those of `of` are at most 0.
    #[inline(always)]
    pub(in super::super) fn kept_above_zero(self, of: Self) -> Self {
        // SAFETY: see `Vector`.
        Vector(unsafe { L::kept_above_zero(self.0, of.0) })
    }

    /// Writes the numbers to a place.
    ///
    /// # Panics
    /// Where there isn't room for them.
    #[inline(always)]
    pub(in super::super) fn store(self, to: &mut [f32], at: usize) {
        let to = &mut to[at..at + L::COUNT];
        // SAFETY: the slice has the places; for the instruction set see `Vector`.
        unsafe { L::store(to.as_mut_ptr(), self.0) };
    }

    /// As [`Vector::store`], so many of the numbers where these are fewer than all.
    #[inline(always)]
    pub(in super::super) fn store_up_to(self, count: usize, to: &mut [f32], at: usize) {
        if count >= L::COUNT {
            return self.store(to, at);
        }
        let to = &mut to[at..at + count];
        // SAFETY: the slice has the places; for the instruction set see `Vector`.
        unsafe {
            // With AVX2, AMD's processors take as long for a store under a mask as for dozens of others.
            if count == L::COUNT / 2 {
                L::store_half(to.as_mut_ptr(), self.0);
            } else {
                L::store_part(to.as_mut_ptr(), self.0, L::mask(count));
            }
        }
    }
}

impl<L: Arithmetic> Add for Vector<L> {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Vector(unsafe { L::add(self.0, other.0) })
    }
}

impl<L: Arithmetic> Sub for Vector<L> {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Vector(unsafe { L::subtract(self.0, other.0) })
    }
}

impl<L: Arithmetic> Mul for Vector<L> {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Vector(unsafe { L::multiply(self.0, other.0) })
    }
}

impl<L: Arithmetic> Mul<f32> for Vector<L> {
    type Output = Self;

    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        // SAFETY: see `Vector`; the pointer is of a number.
        Vector(unsafe { L::multiply(self.0, L::splat(&factor)) })
    }
}

impl Arithmetic for Portable {
    #[inline(always)]
    unsafe fn add(mut one: [f32; 8], other: [f32; 8]) -> [f32; 8] {
        one.iter_mut().zip(other).for_each(|(one, other)| *one += other);
        one
    }

    #[inline(always)]
    unsafe fn subtract(mut from: [f32; 8], other: [f32; 8]) -> [f32; 8] {
        from.iter_mut().zip(other).for_each(|(from, other)| *from -= other);
        from
    }

    #[inline(always)]
    unsafe fn multiply(mut one: [f32; 8], other: [f32; 8]) -> [f32; 8] {
        one.iter_mut().zip(other).for_each(|(one, other)| *one *= other);
        one
    }

    #[inline(always)]
    unsafe fn greater(one: [f32; 8], mut other: [f32; 8]) -> [f32; 8] {
        let both = other.iter_mut().zip(one);
        both.for_each(|(other, one)| *other = if one > *other { one } else { *other });
        other
    }

    #[inline(always)]
    unsafe fn kept_above_zero(mut vector: [f32; 8], of: [f32; 8]) -> [f32; 8] {
        let both = vector.iter_mut().zip(of);
        both.for_each(|(number, of)| *number = if of <= 0.0 { 0.0 } else { *number });
        vector
    }

    #[inline(always)]
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::x86::{run_avx2, run_avx512};
    use super::{Arithmetic, Avx2, Avx512};

    macro_rules! arithmetic {
        ($lanes:ty, $vector:ty, $add:ident, $subtract:ident, $multiply:ident, $greater:ident,
         $kept_above_zero:ident, $run:ident) => {
            // SAFETY of all blocks: the caller promises the instruction set.
            impl Arithmetic for $lanes {
                #[inline(always)]
                unsafe fn add(one: $vector, other: $vector) -> $vector {
                    unsafe { $add(one, other) }
                }

                #[inline(always)]
                unsafe fn subtract(from: $vector, other: $vector) -> $vector {
                    unsafe { $subtract(from, other) }
                }

                #[inline(always)]
                unsafe fn multiply(one: $vector, other: $vector) -> $vector {
                    unsafe { $multiply(one, other) }
                }

                #[inline(always)]
                unsafe fn greater(one: $vector, other: $vector) -> $vector {
                    unsafe { $greater(one, other) }
                }

                #[inline(always)]
                unsafe fn kept_above_zero(vector: $vector, of: $vector) -> $vector {
                    unsafe { $kept_above_zero(vector, of) }
                }

                #[inline(always)]
                unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
                    unsafe { $run(work) }
                }
            }
        };
    }

    arithmetic!(
        Avx512,
        __m512,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_max_ps,
        kept_above_zero16,
        run_avx512
    );
    arithmetic!(
        Avx2,
        __m256,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_max_ps,
        kept_above_zero8,
        run_avx2
    );

    #[inline(always)]
    unsafe fn kept_above_zero16(vector: __m512, of: __m512) -> __m512 {
        // SAFETY: the caller promises AVX-512.
        unsafe {
            // Not at most 0: NaN is kept too.
            let kept = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(of, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(kept, vector)
        }
    }

    #[inline(always)]
    unsafe fn kept_above_zero8(vector: __m256, of: __m256) -> __m256 {
        // SAFETY: the caller promises AVX.
        unsafe {
            let kept = _mm256_cmp_ps::<_CMP_NLE_UQ>(of, _mm256_setzero_ps());
            _mm256_and_ps(vector, kept)
        }
    }
}
