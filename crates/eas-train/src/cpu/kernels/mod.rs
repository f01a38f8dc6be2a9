//! The inner loops: three matrix products with rows at arbitrary places, chosen at run time among
//! AVX-512, AVX2 and a portable path; one for matrix units ([`matrix`]); what makes pixels of bytes
//! ([`pixels`]) and columns of rows ([`transpose`]); and vectors for loops elsewhere ([`simd`]). All of the engine's
//! `unsafe` is here.
//!
//! In [`Rows`] the rows of A are windows of an image: a row is a place in it and a few runs of
//! numbers behind the place, so a convolution needs no copy of its windows. [`Columns`] is the
//! transposed product, which gives the gradient of a weight. In [`Planes`] the lanes are pixels.

#![expect(unsafe_code, reason = "intrinsics, and pointers whose bounds are checked once a panel")]

#[cfg(target_arch = "x86_64")]
mod joined;
mod lanes;
pub(super) mod matrix;
pub(super) mod pairs;
pub(super) mod pixels;
pub(super) mod planes;
pub(super) mod simd;
#[cfg(test)]
mod tests;
mod tiles;
pub(super) mod transpose;

#[cfg(target_arch = "x86_64")]
use lanes::{
    Avx2, Avx2Pairs, Avx512, Avx512Half, Avx512HalfPairs, Avx512HalfSplit, Avx512Pairs, Avx512Split,
};
use lanes::{Lanes, Portable, PortablePairs};
use matrix::Tiles;
use pixels::Pixels;
use planes::Planes;

/// Vectors that a tile is wide at most.
pub(super) const WIDEST: usize = 3;

/// Which instructions the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    /// AVX-512 with BF16, and matrix units.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    /// Plain loops for all, matrix units' work too.
    #[cfg(test)]
    PortableMatrix,
    /// AVX-512 with BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// What the factors of a product are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Factors {
    Single,
    /// Each f32 of A and B holds the bits of two bf16, whose products are both added to the sum.
    Pairs,
}

/// Consecutive numbers of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where they start, behind the window's place.
    pub(super) start: usize,
    /// How many they are.
    pub(super) length: usize,
}

/// C = A · B, or C += A · B. Row r of A has the numbers of `runs` behind `places[r]` in `a`.
pub(super) struct Rows<'a> {
    pub(super) factors: Factors,
    pub(super) a: &'a [f32],
    pub(super) places: &'a [u32],
    pub(super) runs: &'a [Run],
    /// `[numbers of a row of A][vectors · lanes]`, anything beyond `width`.
    pub(super) b: &'a [f32],
    pub(super) lanes: usize,
    /// Vectors of a row of B, 1 to [`WIDEST`].
    pub(super) vectors: usize,
    /// Row r of C starts at `r · c_stride`.
    pub(super) c: &'a mut [f32],
    pub(super) c_stride: usize,
    /// Numbers of a row of C; the last vector holds at least one.
    pub(super) width: usize,
    pub(super) accumulate: bool,
}

/// C = Aᵀ · B, or C += Aᵀ · B. Row r of C takes, for each place p, number `start + r` behind `places[p]` in `a`
/// times row p of B.
pub(super) struct Columns<'a> {
    pub(super) factors: Factors,
    pub(super) a: &'a [f32],
    pub(super) places: &'a [u32],
    pub(super) start: usize,
    /// Rows of C.
    pub(super) rows: usize,
    /// Row p of B starts at `p · b_stride`.
    pub(super) b: &'a [f32],
    pub(super) b_stride: usize,
    pub(super) lanes: usize,
    /// Vectors of a row of B, 1 to [`WIDEST`].
    pub(super) vectors: usize,
    pub(super) c: &'a mut [f32],
    pub(super) c_stride: usize,
    /// Numbers of a row of B and C; the last vector holds at least one.
    pub(super) width: usize,
    pub(super) accumulate: bool,
}

impl Isa {
    /// The best that this machine has.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            if has_avx2 && has_avx512 {
                let has_bf16 = is_x86_feature_detected!("avx512bf16");
                #[cfg(target_os = "linux")]
                if has_bf16 && matrix::is_available() {
                    return Isa::Amx;
                }
                return if has_bf16 { Isa::Avx512Bf16 } else { Isa::Avx512 };
            }
            if has_avx2 {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// All that this machine has, the best first.
    #[cfg(test)]
    pub(super) fn available() -> Vec<Self> {
        let all = [
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2,
            Isa::Portable,
            Isa::PortableMatrix,
        ];
        all.into_iter().skip_while(|isa| *isa != Isa::detect()).collect()
    }

    /// The names of the instructions that the kernels use.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => &["avx2", "avx512", "avx512_bf16", "amx_bf16"],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => &["avx2", "avx512", "avx512_bf16"],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &["avx2", "avx512"],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &["avx2"],
            _ => &[],
        }
    }

    /// Whether convolutions in bf16 are cut for matrix units.
    pub(super) fn has_matrix_units(self) -> bool {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => true,
            #[cfg(test)]
            Isa::PortableMatrix => true,
            _ => false,
        }
    }

    /// The instructions beside matrix units.
    fn vectors(self) -> Self {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Isa::Avx512Bf16,
            #[cfg(test)]
            Isa::PortableMatrix => Isa::Portable,
            vectors => vectors,
        }
    }

    /// Computes a product of tiles: by matrix units where there are some.
    ///
    /// # Panics
    /// Where the job reaches beyond its slices.
    pub(super) fn tiles(self, mut job: Tiles<'_>) {
        job.check();
        match self {
            // SAFETY: the bounds were checked, and the instruction set was detected.
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => unsafe { matrix::multiply(&mut job) },
            _ => self.run(
                #[inline(always)]
                || job.multiply(),
            ),
        }
    }

    /// Makes pixels of planes.
    ///
    /// # Panics
    /// Where rows aren't whole, or a plane hasn't a byte for each pixel that is made of one.
    pub(super) fn pixels(self, job: Pixels<'_>) {
        assert!(
            job.fits(),
            "rows are whole, and planes have a byte for each pixel that is made of one"
        );
        match self.vectors() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 if job.width.is_multiple_of(pixels::WIDE_GROUP) => {
                // SAFETY: the bounds were checked, and the instruction set was detected.
                unsafe { pixels::by_wide_groups(job) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 if job.columns.len() >= pixels::GROUP => {
                // SAFETY: the bounds were checked, and the instruction set was detected.
                unsafe { pixels::by_groups(job) }
            }
            _ => job.make(),
        }
    }

    /// The width of vectors for rows of `width` numbers.
    pub(super) fn lanes(self, width: usize) -> usize {
        match self.vectors() {
            // Eight lanes where sixteen would leave half a vector empty.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 if width.div_ceil(8).is_multiple_of(2) || width > 64 => {
                16
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => 8,
            _ => Portable::COUNT,
        }
    }

    /// Runs plain loops compiled for these instructions: those that are inlined into `work`, so it and
    /// what it calls say `#[inline(always)]`.
    pub(super) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        match self.vectors() {
            // SAFETY: the instruction set was detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => unsafe { x86::run_avx512(work) },
            // SAFETY: the instruction set was detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::run_avx2(work) },
            _ => work(),
        }
    }

    /// Computes a product.
    ///
    /// # Panics
    /// Where the job reaches beyond its slices.
    pub(super) fn rows(self, mut job: Rows<'_>) {
        let Some(furthest) = job.places.iter().max() else { return };
        let reach = job.runs.iter().map(|run| run.start + run.length).max().unwrap_or(0);
        let depth: usize = job.runs.iter().map(|run| run.length).sum();
        assert!(*furthest as usize + reach <= job.a.len(), "windows lie within A");
        assert!(depth * job.vectors * job.lanes <= job.b.len(), "B has a row a number of A's rows");
        assert!((job.places.len() - 1) * job.c_stride + job.width <= job.c.len(), "C has the rows");
        check_width(job.width, job.vectors, job.lanes);
        #[cfg(target_arch = "x86_64")]
        if self.joins(job.kind(), job.width) {
            // SAFETY: the bounds were checked, and the instruction set was detected.
            unsafe { x86::rows_joined(&mut job) };
            return;
        }
        // SAFETY: the bounds were checked, and the instruction set was detected.
        unsafe { self.dispatch(&mut job) }
    }

    /// Computes a transposed product.
    ///
    /// # Panics
    /// Where the job reaches beyond its slices.
    pub(super) fn columns(self, mut job: Columns<'_>) {
        let furthest = job.places.iter().max().map_or(0, |place| *place as usize);
        assert!(furthest + job.start + job.rows <= job.a.len(), "rows lie within A");
        if let Some(last) = job.places.len().checked_sub(1) {
            assert!(last * job.b_stride + job.width <= job.b.len(), "B has the rows");
        }
        let rows = job.rows.max(1) - 1;
        assert!(rows * job.c_stride + job.width <= job.c.len(), "C has the rows");
        check_width(job.width, job.vectors, job.lanes);
        #[cfg(target_arch = "x86_64")]
        if self.joins(job.kind(), job.width) {
            // SAFETY: the bounds were checked, and the instruction set was detected.
            unsafe { x86::columns_joined(&mut job) };
            return;
        }
        // SAFETY: the bounds were checked, and the instruction set was detected.
        unsafe { self.dispatch(&mut job) }
    }

    /// Computes a product whose lanes are pixels.
    ///
    /// # Panics
    /// Where the job reaches beyond its slices.
    pub(super) fn planes(self, mut job: Planes<'_>) {
        job.check();
        // SAFETY: the bounds were checked, and the instruction set was detected.
        unsafe { self.dispatch(&mut job) }
    }

    /// Whether two rows of such a product share a vector.
    #[cfg(target_arch = "x86_64")]
    fn joins(self, kind: (Factors, usize), width: usize) -> bool {
        self == Isa::Avx2 && kind == (Factors::Single, 8) && width == joined::WIDTH
    }

    /// Computes a job by the vectors that it is cut for.
    ///
    /// # Safety
    /// The instruction set was detected, and the job's bounds were checked.
    unsafe fn dispatch(self, job: &mut impl Job) {
        let (factors, lanes) = job.kind();
        // SAFETY: the caller's promise.
        unsafe {
            match (factors, self.vectors(), lanes) {
                #[cfg(target_arch = "x86_64")]
                (Factors::Single, Isa::Avx512Bf16 | Isa::Avx512, 16) => {
                    x86::by_avx512::<Avx512>(job);
                }
                #[cfg(target_arch = "x86_64")]
                (Factors::Single, Isa::Avx512Bf16 | Isa::Avx512, _) => {
                    x86::by_avx512::<Avx512Half>(job);
                }
                #[cfg(target_arch = "x86_64")]
                (Factors::Single, Isa::Avx2, _) => x86::by_avx2::<Avx2>(job),
                (Factors::Single, _, _) => job.compute::<Portable>(),
                #[cfg(target_arch = "x86_64")]
                (Factors::Pairs, Isa::Avx512Bf16, 16) => x86::by_avx512_bf16::<Avx512Pairs>(job),
                #[cfg(target_arch = "x86_64")]
                (Factors::Pairs, Isa::Avx512Bf16, _) => x86::by_avx512_bf16::<Avx512HalfPairs>(job),
                #[cfg(target_arch = "x86_64")]
                (Factors::Pairs, Isa::Avx512, 16) => x86::by_avx512::<Avx512Split>(job),
                #[cfg(target_arch = "x86_64")]
                (Factors::Pairs, Isa::Avx512, _) => x86::by_avx512::<Avx512HalfSplit>(job),
                #[cfg(target_arch = "x86_64")]
                (Factors::Pairs, Isa::Avx2, _) => x86::by_avx2::<Avx2Pairs>(job),
                (Factors::Pairs, _, _) => job.compute::<PortablePairs>(),
            }
        }
    }
}

/// A product, for vectors of any kind.
trait Job {
    /// What its factors are, and the lanes of the vectors that it is cut for.
    fn kind(&self) -> (Factors, usize);

    /// Computes it. It is inlined, and so compiled for its caller's instructions.
    ///
    /// # Safety
    /// The instruction set of `L`, and bounds that were checked.
    unsafe fn compute<L: Lanes>(&mut self);
}

macro_rules! job {
    ($job:ident, $compute:path) => {
        impl Job for $job<'_> {
            fn kind(&self) -> (Factors, usize) {
                (self.factors, self.lanes)
            }

            #[inline(always)]
            unsafe fn compute<L: Lanes>(&mut self) {
                // SAFETY: the caller's promise.
                unsafe { $compute(self) }
            }
        }
    };
}

job!(Rows, tiles::rows::<L>);
job!(Columns, tiles::columns::<L>);
job!(Planes, tiles::planes::<L>);

fn check_width(width: usize, vectors: usize, lanes: usize) {
    assert!((1..=WIDEST).contains(&vectors), "a tile is 1 to {WIDEST} vectors wide");
    assert!(width.div_ceil(lanes) == vectors, "every vector holds a number");
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::lanes::{Avx2, Lanes};
    use super::{Columns, Job, Rows, joined};

    macro_rules! compiled_for {
        ($features:literal, $by:ident) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $by<L: Lanes>(job: &mut impl Job) {
                // SAFETY: the caller's promise.
                unsafe { job.compute::<L>() }
            }
        };
    }

    compiled_for!("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma", by_avx512);
    compiled_for!("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma", by_avx512_bf16);
    compiled_for!("avx2,fma", by_avx2);

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn rows_joined(job: &mut Rows<'_>) {
        // SAFETY: the caller's promise.
        unsafe { joined::rows::<Avx2>(job) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn columns_joined(job: &mut Columns<'_>) {
        // SAFETY: the caller's promise.
        unsafe { joined::columns::<Avx2>(job) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) unsafe fn run_avx512<R>(work: impl FnOnce() -> R) -> R {
        work()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
}
