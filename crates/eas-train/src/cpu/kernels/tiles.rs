//! Matrix products held in registers, generic in the vector: a tile is up to eight rows by up to
//! three vectors.

#![expect(clippy::needless_range_loop, reason = "constant indices keep sums in registers")]

use super::lanes::Lanes;
use super::planes::Planes;
use super::{Columns, Rows};

/// Rows of a tile.
const TALLEST: usize = 8;

/// Calls a tile function for the number of rows that a constant can have.
macro_rules! by_height {
    ($height:expr, $tile:ident::<$lanes:ident, $vectors:ident>($($argument:expr),*)) => {
        by_height!(@ $height, [8 7 6 5 4 3 2], $tile, $lanes, $vectors, ($($argument),*))
    };
    (@ $height:expr, [$($rows:literal)*], $tile:ident, $lanes:ident, $vectors:ident, $arguments:tt) => {{
        debug_assert!((1..=tallest::<$lanes>($vectors)).contains(&$height));
        match $height {
            // Taller ones than there are registers for would only be compiled.
            $($rows if const { tallest::<$lanes>($vectors) >= $rows } => {
                $tile::<$lanes, $rows, $vectors> $arguments
            })*
            _ => $tile::<$lanes, 1, $vectors> $arguments,
        }
    }};
}

/// The most rows whose sums stay in registers beside a row of weights, the factor of a row and the mask
/// of the last vector; where factors are split, there are two of each, and a mask that splits them.
const fn tallest<L: Lanes>(vectors: usize) -> usize {
    let others = L::PARTS * (vectors + 1) + L::PARTS;
    let rows = (L::REGISTERS - others) / vectors;
    if rows < TALLEST { rows } else { TALLEST }
}

/// Cuts rows into tiles of nearly the same height, so that nine are five and four, not eight and one:
/// where tile `index` of `count` ends.
pub(super) const fn end_of_tile(index: usize, count: usize, rows: usize) -> usize {
    (index + 1) * rows / count
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
    let rows = job.places.len();
    let tiles = rows.div_ceil(tallest::<L>(V));
    let mut row = 0;
    for tile in 0..tiles {
        let end = end_of_tile(tile, tiles, rows);
        // SAFETY: the caller's promise; the tile's rows are rows of the job.
        unsafe { by_height!(end - row, rows_tile::<L, V>(job, row)) };
        row = end;
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
    let tiles = job.rows.div_ceil(tallest::<L>(V));
    let mut row = 0;
    for tile in 0..tiles {
        let end = end_of_tile(tile, tiles, job.rows);
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
        let mut sums = load::<L, P, V>(c, job.c_stride, job.width, job.accumulate);
        let mut b = job.b.as_ptr();
        let mask = L::mask(job.width - (V - 1) * L::COUNT);
        for place in job.places {
            let x = a.add(*place as usize);
            let mut slopes = [L::zero(); V];
            for v in 0..V - 1 {
                slopes[v] = L::load(b.add(v * L::COUNT));
            }
            slopes[V - 1] = L::load_part(b.add((V - 1) * L::COUNT), mask);
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

/// # Safety
/// The instruction set of `L`, and a job whose bounds were checked.
///
/// # Panics
/// Where the bounds were checked for vectors of another width.
#[inline(always)]
pub(super) unsafe fn planes<L: Lanes>(job: &mut Planes<'_>) {
    assert!(job.lanes == L::COUNT, "expected vectors of {} numbers, found {}", L::COUNT, job.lanes);
    // Three vectors of pixels need fewer loads, but would leave half of the registers sums of too few rows.
    let most = const { if L::REGISTERS < 32 { 2 } else { 3 } };
    for vector in (0..job.vectors).step_by(most) {
        // SAFETY: the caller's promise; so many vectors are left.
        unsafe {
            match most.min(job.vectors - vector) {
                1 => planes_of::<L, 1>(job, vector),
                2 => planes_of::<L, 2>(job, vector),
                _ => planes_of::<L, 3>(job, vector),
            }
        }
    }
}

#[inline(always)]
unsafe fn planes_of<L: Lanes, const V: usize>(job: &mut Planes<'_>, vector: usize) {
    let tiles = job.rows.div_ceil(tallest::<L>(V));
    let mut row = 0;
    for tile in 0..tiles {
        let end = end_of_tile(tile, tiles, job.rows);
        // SAFETY: the caller's promise; the tile's rows are rows of the job.
        unsafe { by_height!(end - row, planes_tile::<L, V>(job, row, vector)) };
        row = end;
    }
}

#[inline(always)]
unsafe fn planes_tile<L: Lanes, const P: usize, const V: usize>(
    job: &mut Planes<'_>,
    row: usize,
    vector: usize,
) {
    // SAFETY: the job's bounds were checked for all its places, rows and columns.
    unsafe {
        let pixel = vector * L::COUNT;
        let c = job.c.as_mut_ptr().add(row * job.c_stride + pixel);
        let width = V * L::COUNT;
        let mut sums = load::<L, P, V>(c, job.c_stride, width, job.accumulate);
        let mut b = job.b.as_ptr().add(row);
        for place in job.places {
            let a = job.a.as_ptr().add(*place as usize + pixel);
            let mut pixels = [L::zero(); V];
            for v in 0..V {
                pixels[v] = L::load(a.add(v * L::COUNT));
            }
            for p in 0..P {
                let weight = L::splat(b.add(p));
                for v in 0..V {
                    sums[p][v] = L::multiply_add(weight, pixels[v], sums[p][v]);
                }
            }
            b = b.wrapping_add(job.b_stride);
        }
        store::<L, P, V>(sums, c, job.c_stride, width);
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
        if !accumulate {
            return sums;
        }
        for p in 0..P {
            for v in 0..V - 1 {
                sums[p][v] = L::load(c.add(p * stride + v * L::COUNT));
            }
        }
        let last = c.add((V - 1) * L::COUNT);
        let mask = L::mask(width - (V - 1) * L::COUNT);
        for p in 0..P {
            sums[p][V - 1] = L::load_part(last.add(p * stride), mask);
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
        for p in 0..P {
            for v in 0..V - 1 {
                L::store(c.add(p * stride + v * L::COUNT), sums[p][v]);
            }
        }
        let last = c.add((V - 1) * L::COUNT);
        let count = width - (V - 1) * L::COUNT;
        // With AVX2, AMD's processors take as long for a store under a mask as for dozens of others.
        if count == L::COUNT {
            for p in 0..P {
                L::store(last.add(p * stride), sums[p][V - 1]);
            }
        } else if count == L::COUNT / 2 {
            for p in 0..P {
                L::store_half(last.add(p * stride), sums[p][V - 1]);
            }
        } else {
            let mask = L::mask(count);
            for p in 0..P {
                L::store_part(last.add(p * stride), sums[p][V - 1], mask);
            }
        }
    }
}
