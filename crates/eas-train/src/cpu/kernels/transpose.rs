//! Rows of numbers that become columns.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128, _mm_castps_si128, _mm_castsi128_ps, _mm_load_ss, _mm_loadl_epi64, _mm_loadu_ps,
    _mm_movehl_ps, _mm_movelh_ps, _mm_setzero_ps, _mm_store_ss, _mm_storel_epi64, _mm_storeu_ps,
    _mm_unpackhi_ps, _mm_unpacklo_ps,
};

/// Rows and columns of a square that is turned at once.
const SIDE: usize = 4;

/// Makes columns of rows: `to[column][row]` of `from[row][column]`, each with a stride. It is inlined, and so compiled
/// for its caller's instructions.
///
/// # Panics
/// Where a slice is too short.
#[inline(always)]
pub(in super::super) fn transpose(
    [rows, columns]: [usize; 2],
    (from, from_stride): (&[f32], usize),
    (to, to_stride): (&mut [f32], usize),
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * from_stride + columns <= from.len(), "rows lie within their slice");
    assert!((columns - 1) * to_stride + rows <= to.len(), "columns lie within their slice");
    let (mut from, mut to, mut row) = (from.as_ptr(), to.as_mut_ptr(), 0);
    // SAFETY: the bounds were checked for all rows and columns.
    unsafe {
        while row + SIDE <= rows {
            turn_rows::<SIDE>(columns, (from, from_stride), (to, to_stride));
            (from, to) = (from.wrapping_add(SIDE * from_stride), to.wrapping_add(SIDE));
            row += SIDE;
        }
        match rows - row {
            3 => turn_rows::<3>(columns, (from, from_stride), (to, to_stride)),
            2 => turn_rows::<2>(columns, (from, from_stride), (to, to_stride)),
            1 => turn_rows::<1>(columns, (from, from_stride), (to, to_stride)),
            _ => {}
        }
    }
}

/// Turns some rows, at most four.
///
/// # Safety
/// So many rows of so many numbers can be read, and as many columns be written.
#[inline(always)]
unsafe fn turn_rows<const ROWS: usize>(
    columns: usize,
    (mut from, from_stride): (*const f32, usize),
    (mut to, to_stride): (*mut f32, usize),
) {
    let mut column = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while column + SIDE <= columns {
            turn::<ROWS, SIDE>((from, from_stride), (to, to_stride));
            (from, to) = (from.wrapping_add(SIDE), to.wrapping_add(SIDE * to_stride));
            column += SIDE;
        }
        match columns - column {
            3 => turn::<ROWS, 3>((from, from_stride), (to, to_stride)),
            2 => turn::<ROWS, 2>((from, from_stride), (to, to_stride)),
            1 => turn::<ROWS, 1>((from, from_stride), (to, to_stride)),
            _ => {}
        }
    }
}

/// Turns a square of at most four rows and columns, by instructions that every such processor has.
///
/// # Safety
/// So many rows of so many numbers can be read, and as many columns be written.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn<const ROWS: usize, const COLUMNS: usize>(
    (from, from_stride): (*const f32, usize),
    (to, to_stride): (*mut f32, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let row = |index: usize| match index < ROWS {
            true => load::<COLUMNS>(from.add(index * from_stride)),
            false => _mm_setzero_ps(),
        };
        let [one, two, three, four] = [row(0), row(1), row(2), row(3)];
        let (low, high) = (_mm_unpacklo_ps(one, two), _mm_unpackhi_ps(one, two));
        let (next, last) = (_mm_unpacklo_ps(three, four), _mm_unpackhi_ps(three, four));
        store::<ROWS>(to, _mm_movelh_ps(low, next));
        if COLUMNS > 1 {
            store::<ROWS>(to.add(to_stride), _mm_movehl_ps(next, low));
        }
        if COLUMNS > 2 {
            store::<ROWS>(to.add(2 * to_stride), _mm_movelh_ps(high, last));
        }
        if COLUMNS > 3 {
            store::<ROWS>(to.add(3 * to_stride), _mm_movehl_ps(last, high));
        }
    }
}

/// Reads the first numbers of four.
///
/// # Safety
/// So many can be read.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load<const COUNT: usize>(from: *const f32) -> __m128 {
    // SAFETY: the caller promises so many numbers; two are read as one of 64 bits, from any place.
    unsafe {
        let two = || _mm_castsi128_ps(_mm_loadl_epi64(from.cast()));
        match COUNT {
            1 => _mm_load_ss(from),
            2 => two(),
            3 => _mm_movelh_ps(two(), _mm_load_ss(from.add(2))),
            _ => _mm_loadu_ps(from),
        }
    }
}

/// Writes the first numbers of four.
///
/// # Safety
/// So many can be written.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn store<const COUNT: usize>(to: *mut f32, numbers: __m128) {
    // SAFETY: the caller promises so many places; two are written as one of 64 bits, to any place.
    unsafe {
        let two = || _mm_storel_epi64(to.cast(), _mm_castps_si128(numbers));
        match COUNT {
            1 => _mm_store_ss(to, numbers),
            2 => two(),
            3 => {
                two();
                _mm_store_ss(to.add(2), _mm_movehl_ps(numbers, numbers));
            }
            _ => _mm_storeu_ps(to, numbers),
        }
    }
}

/// Turns a square of at most four rows and columns.
///
/// # Safety
/// So many rows of so many numbers can be read, and as many columns be written.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn turn<const ROWS: usize, const COLUMNS: usize>(
    (from, from_stride): (*const f32, usize),
    (to, to_stride): (*mut f32, usize),
) {
    for row in 0..ROWS {
        for column in 0..COLUMNS {
            // SAFETY: the caller's promise.
            unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
        }
    }
}
