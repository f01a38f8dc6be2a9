//! Matrix products whose rows are one and a half vectors wide, as of twelve filters with eight lanes: two rows
//! share a vector for their last halves, so that three vectors do the work of four. Each number's sum is
//! taken in the same order as in [`super::tiles`].

#![expect(clippy::needless_range_loop, reason = "constant indices keep sums in registers")]

use super::lanes::Lanes;
use super::tiles::end_of_tile;
use super::{Columns, Rows};

/// Vectors whose halves can hold numbers of two rows.
pub(super) trait Halves: Lanes {
    /// The first half of one vector and the last half of another.
    ///
    /// # Safety
    /// All functions as those of [`Lanes`]; pointers are to half a vector's numbers.
    unsafe fn join(first: Self::Vector, last: Self::Vector) -> Self::Vector;
    /// The same numbers in both halves.
    unsafe fn load_twice(from: *const f32) -> Self::Vector;
    /// The numbers of each half.
    unsafe fn load_halves(first: *const f32, last: *const f32) -> Self::Vector;
    unsafe fn store_last_half(to: *mut f32, vector: Self::Vector);
}

/// Numbers of a row of one and a half vectors of eight.
pub(super) const WIDTH: usize = 12;

/// Rows of a tile.
const TALLEST: usize = 6;

/// Calls a tile function for the number of rows that a constant can have, and for half of them, rounded up.
macro_rules! by_height {
    ($height:expr, $tile:ident::<$lanes:ident>($($argument:expr),*)) => {{
        debug_assert!((1..=TALLEST).contains(&$height));
        match $height {
            6 => $tile::<$lanes, 6, 3>($($argument),*),
            5 => $tile::<$lanes, 5, 3>($($argument),*),
            4 => $tile::<$lanes, 4, 2>($($argument),*),
            3 => $tile::<$lanes, 3, 2>($($argument),*),
            2 => $tile::<$lanes, 2, 1>($($argument),*),
            _ => $tile::<$lanes, 1, 1>($($argument),*),
        }
    }};
}

/// [`tiles::rows`](super::tiles::rows), of rows of [`WIDTH`].
///
/// # Safety
/// The instruction set of `L`, of eight lanes, and a job of that width, so of two vectors a row of B, whose bounds
/// were checked.
#[inline(always)]
pub(super) unsafe fn rows<L: Halves>(job: &mut Rows<'_>) {
    let rows = job.places.len();
    let tiles = rows.div_ceil(TALLEST);
    let mut row = 0;
    for tile in 0..tiles {
        let end = end_of_tile(tile, tiles, rows);
        // SAFETY: the caller's promise; the tile's rows are rows of the job.
        unsafe { by_height!(end - row, rows_tile::<L>(job, row)) };
        row = end;
    }
}

/// [`tiles::columns`](super::tiles::columns), of rows of [`WIDTH`].
///
/// # Safety
/// As of [`rows`].
#[inline(always)]
pub(super) unsafe fn columns<L: Halves>(job: &mut Columns<'_>) {
    let tiles = job.rows.div_ceil(TALLEST);
    let mut row = 0;
    for tile in 0..tiles {
        let end = end_of_tile(tile, tiles, job.rows);
        // SAFETY: the caller's promise; the tile's rows are rows of the job.
        unsafe { by_height!(end - row, columns_tile::<L>(job, row)) };
        row = end;
    }
}

#[inline(always)]
unsafe fn rows_tile<L: Halves, const P: usize, const Q: usize>(job: &mut Rows<'_>, row: usize) {
    const { assert!(Q == P.div_ceil(2) && WIDTH == L::COUNT + L::COUNT / 2) };
    // SAFETY: the job's bounds were checked for all its rows, runs and columns.
    unsafe {
        let places = job.places.as_ptr().add(row);
        let mut rows = [job.a.as_ptr(); P];
        for (index, place) in rows.iter_mut().enumerate() {
            *place = place.add(*places.add(index) as usize);
        }
        let c = job.c.as_mut_ptr().add(row * job.c_stride);
        let mut sums = load::<L, P, Q>(c, job.c_stride, job.accumulate);
        let mut b = job.b.as_ptr();
        for run in job.runs {
            for k in run.start..run.start + run.length {
                let (first, last) = (L::load(b), L::load_twice(b.add(L::COUNT)));
                for q in 0..Q {
                    let (one, other) = (2 * q, (2 * q + 1).min(P - 1));
                    let x = [L::splat(rows[one].add(k)), L::splat(rows[other].add(k))];
                    add::<L, P, Q>(&mut sums, q, x, first, last);
                }
                b = b.add(2 * L::COUNT);
            }
        }
        store::<L, P, Q>(sums, c, job.c_stride);
    }
}

#[inline(always)]
unsafe fn columns_tile<L: Halves, const P: usize, const Q: usize>(
    job: &mut Columns<'_>,
    row: usize,
) {
    const { assert!(Q == P.div_ceil(2) && WIDTH == L::COUNT + L::COUNT / 2) };
    // SAFETY: the job's bounds were checked for all its places, rows and columns.
    unsafe {
        let a = job.a.as_ptr().add(job.start + row);
        let c = job.c.as_mut_ptr().add(row * job.c_stride);
        let mut sums = load::<L, P, Q>(c, job.c_stride, job.accumulate);
        let mut b = job.b.as_ptr();
        for place in job.places {
            let numbers = a.add(*place as usize);
            let (first, last) = (L::load(b), L::load_twice(b.add(L::COUNT)));
            for q in 0..Q {
                let (one, other) = (2 * q, (2 * q + 1).min(P - 1));
                let x = [L::splat(numbers.add(one)), L::splat(numbers.add(other))];
                add::<L, P, Q>(&mut sums, q, x, first, last);
            }
            b = b.wrapping_add(job.b_stride);
        }
        store::<L, P, Q>(sums, c, job.c_stride);
    }
}

/// The sums of rows' first vectors, and of the halves behind them, two rows' in a vector.
type Joined<L, const P: usize, const Q: usize> =
    ([<L as Lanes>::Vector; P], [<L as Lanes>::Vector; Q]);

/// Adds the products of two rows' numbers with a row of B.
#[inline(always)]
unsafe fn add<L: Halves, const P: usize, const Q: usize>(
    (firsts, lasts): &mut Joined<L, P, Q>,
    q: usize,
    [one, other]: [L::Vector; 2],
    first: L::Vector,
    last: L::Vector,
) {
    // SAFETY: the caller's promise.
    unsafe {
        firsts[2 * q] = L::multiply_add(one, first, firsts[2 * q]);
        if 2 * q + 1 < P {
            firsts[2 * q + 1] = L::multiply_add(other, first, firsts[2 * q + 1]);
        }
        lasts[q] = L::multiply_add(L::join(one, other), last, lasts[q]);
    }
}

/// The tile of C that sums start from, or zeros; the second half of the last vector isn't used where rows are odd.
#[inline(always)]
unsafe fn load<L: Halves, const P: usize, const Q: usize>(
    c: *const f32,
    stride: usize,
    accumulate: bool,
) -> Joined<L, P, Q> {
    // SAFETY: the caller promises P rows of one and a half vectors.
    unsafe {
        let (mut firsts, mut lasts) = ([L::zero(); P], [L::zero(); Q]);
        if accumulate {
            for p in 0..P {
                firsts[p] = L::load(c.add(p * stride));
            }
            for q in 0..Q {
                let half = |p: usize| c.add(p.min(P - 1) * stride + L::COUNT);
                lasts[q] = L::load_halves(half(2 * q), half(2 * q + 1));
            }
        }
        (firsts, lasts)
    }
}

/// Writes a tile.
#[inline(always)]
unsafe fn store<L: Halves, const P: usize, const Q: usize>(
    (firsts, lasts): Joined<L, P, Q>,
    c: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller promises P rows of one and a half vectors.
    unsafe {
        for p in 0..P {
            L::store(c.add(p * stride), firsts[p]);
        }
        for q in 0..Q {
            L::store_half(c.add(2 * q * stride + L::COUNT), lasts[q]);
            if 2 * q + 1 < P {
                L::store_last_half(c.add((2 * q + 1) * stride + L::COUNT), lasts[q]);
            }
        }
    }
}
