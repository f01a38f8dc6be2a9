//! Matrix products held in registers, generic in the vector: a tile is up to eight rows by up to
//! three vectors.

#![expect(clippy::needless_range_loop, reason = "constant indices keep sums in registers")]

use super::lanes::Lanes;
use super::{Columns, Rows};

/// Rows of a tile.
const TALLEST: usize = 8;

/// Calls a tile function for the number of rows that a constant can have.
macro_rules! by_height {
    ($height:expr, $tile:ident::<$lanes:ident, $vectors:ident>($($argument:expr),*)) => {
        match $height {
            1 => $tile::<$lanes, 1, $vectors>($($argument),*),
            2 => $tile::<$lanes, 2, $vectors>($($argument),*),
            3 => $tile::<$lanes, 3, $vectors>($($argument),*),
            4 => $tile::<$lanes, 4, $vectors>($($argument),*),
            5 => $tile::<$lanes, 5, $vectors>($($argument),*),
            6 => $tile::<$lanes, 6, $vectors>($($argument),*),
            7 => $tile::<$lanes, 7, $vectors>($($argument),*),
            _ => $tile::<$lanes, 8, $vectors>($($argument),*),
        }
    };
}

/// The most rows whose sums stay in registers.
const fn tallest<L: Lanes>(vectors: usize) -> usize {
    if L::MANY_REGISTERS || vectors == 1 { TALLEST } else { 4 }
}

/// # Safety
/// The instruction set of `L`, and a job whose bounds were checked.
///
/// # Panics
/// Where the bounds were checked for vectors of another width.
#[inline(always)]
pub(super) unsafe fn rows<L: Lanes>(job: &mut Rows<'_>) {
    assert!(job.lanes == L::COUNT, "expected vectors of {} numbers, found {}", L::COUNT, job.lanes);
    // SAFETY: the caller's promise.
    unsafe {
        match job.vectors {
            1 => rows_of::<L, 1>(job),
            2 => rows_of::<L, 2>(job),
            _ => rows_of::<L, 3>(job),
        }
    }
}

#[inline(always)]
unsafe fn rows_of<L: Lanes, const V: usize>(job: &mut Rows<'_>) {
    let mut row = 0;
    while row < job.places.len() {
        let height = (job.places.len() - row).min(tallest::<L>(V));
        // SAFETY: the caller's promise; the tile's rows are rows of the job.
        unsafe { by_height!(height, rows_tile::<L, V>(job, row)) };
        row += height;
    }
}

#[inline(always)]
unsafe fn rows_tile<L: Lanes, const P: usize, const V: usize>(job: &mut Rows<'_>, row: usize) {
    // SAFETY: the job's bounds were checked for all its rows, runs and columns.
    unsafe {
        let places = job.places.as_ptr().add(row);
        let mut rows = [job.a.as_ptr(); P];
        for (index, place) in rows.iter_mut().enumerate() {
            *place = place.add(*places.add(index) as usize);
        }
        let c = job.c.as_mut_ptr().add(row * job.c_stride);
        let mut sums = load::<L, P, V>(c, job.c_stride, job.width, job.accumulate);
        let mut b = job.b.as_ptr();
        for run in job.runs {
            for k in run.start..run.start + run.length {
                let mut weights = [L::zero(); V];
                for v in 0..V {
                    weights[v] = L::load(b.add(v * L::COUNT));
                }
                for p in 0..P {
                    let x = L::splat(rows[p].add(k));
                    for v in 0..V {
                        sums[p][v] = L::multiply_add(x, weights[v], sums[p][v]);
                    }
                }
                b = b.add(V * L::COUNT);
            }
        }
        store::<L, P, V>(sums, c, job.c_stride, job.width);
    }
}

/// # Safety
/// The instruction set of `L`, and a job whose bounds were checked.
///
/// # Panics
/// Where the bounds were checked for vectors of another width.
#[inline(always)]
pub(super) unsafe fn columns<L: Lanes>(job: &mut Columns<'_>) {
    assert!(job.lanes == L::COUNT, "expected vectors of {} numbers, found {}", L::COUNT, job.lanes);
    // SAFETY: the caller's promise.
    unsafe {
        match job.vectors {
            1 => columns_of::<L, 1>(job),
            2 => columns_of::<L, 2>(job),
            _ => columns_of::<L, 3>(job),
        }
    }
}

#[inline(always)]
unsafe fn columns_of<L: Lanes, const V: usize>(job: &mut Columns<'_>) {
    // Tiles of nearly the same height: nine rows are five and four, not eight and one.
    let tiles = job.rows.div_ceil(tallest::<L>(V));
    let mut row = 0;
    for tile in 0..tiles {
        let end = (tile + 1) * job.rows / tiles;
        // SAFETY: the caller's promise; the tile's rows are rows of the job.
        unsafe { by_height!(end - row, columns_tile::<L, V>(job, row)) };
        row = end;
    }
}

#[inline(always)]
unsafe fn columns_tile<L: Lanes, const P: usize, const V: usize>(
    job: &mut Columns<'_>,
    row: usize,
) {
    // SAFETY: the job's bounds were checked for all its places, rows and columns.
    unsafe {
        let a = job.a.as_ptr().add(job.start + row);
        let c = job.c.as_mut_ptr().add(row * job.c_stride);
        let mut sums = load::<L, P, V>(c, job.c_stride, job.width, true);
        let mut b = job.b.as_ptr();
        let last = job.width - (V - 1) * L::COUNT;
        for place in job.places {
            let x = a.add(*place as usize);
            let mut slopes = [L::zero(); V];
            for v in 0..V - 1 {
                slopes[v] = L::load(b.add(v * L::COUNT));
            }
            slopes[V - 1] = L::load_part(b.add((V - 1) * L::COUNT), last);
            for p in 0..P {
                let x = L::splat(x.add(p));
                for v in 0..V {
                    sums[p][v] = L::multiply_add(x, slopes[v], sums[p][v]);
                }
            }
            b = b.wrapping_add(job.b_stride);
        }
        store::<L, P, V>(sums, c, job.c_stride, job.width);
    }
}

/// The tile of C that sums start from: as it stands, or zeros.
///
/// Constant indices throughout, here and in [`store`], are what keeps sums in registers.
#[inline(always)]
unsafe fn load<L: Lanes, const P: usize, const V: usize>(
    c: *const f32,
    stride: usize,
    width: usize,
    accumulate: bool,
) -> [[L::Vector; V]; P] {
    // SAFETY: the caller promises P rows of `width` numbers, more than V − 1 vectors.
    unsafe {
        let mut sums = [[L::zero(); V]; P];
        if accumulate {
            let last = (V - 1) * L::COUNT;
            for p in 0..P {
                for v in 0..V - 1 {
                    sums[p][v] = L::load(c.add(p * stride + v * L::COUNT));
                }
                sums[p][V - 1] = L::load_part(c.add(p * stride + last), width - last);
            }
        }
        sums
    }
}

/// Writes a tile.
#[inline(always)]
unsafe fn store<L: Lanes, const P: usize, const V: usize>(
    sums: [[L::Vector; V]; P],
    c: *mut f32,
    stride: usize,
    width: usize,
) {
    // SAFETY: the caller promises P rows of `width` numbers, more than V − 1 vectors.
    unsafe {
        let last = (V - 1) * L::COUNT;
        for p in 0..P {
            for v in 0..V - 1 {
                L::store(c.add(p * stride + v * L::COUNT), sums[p][v]);
            }
            L::store_part(c.add(p * stride + last), sums[p][V - 1], width - last);
        }
    }
}
