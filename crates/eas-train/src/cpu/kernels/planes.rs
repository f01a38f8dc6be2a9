//! The product whose lanes are pixels, for outputs too few to fill vectors.

use super::Factors;

/// C = Bᵀ · A, or C += Bᵀ · A. Row r of C takes, for each number k of a window, number r of row k of B times the
/// `vectors · lanes` pixels behind `places[k]` in `a`.
pub(in super::super) struct Planes<'a> {
    pub(in super::super) factors: Factors,
    pub(in super::super) a: &'a [f32],
    pub(in super::super) places: &'a [u32],
    /// Row k of B starts at `k · b_stride`.
    pub(in super::super) b: &'a [f32],
    pub(in super::super) b_stride: usize,
    /// Rows of C, and numbers of a row of B.
    pub(in super::super) rows: usize,
    pub(in super::super) lanes: usize,
    /// Vectors of a row of C.
    pub(in super::super) vectors: usize,
    pub(in super::super) c: &'a mut [f32],
    pub(in super::super) c_stride: usize,
    pub(in super::super) accumulate: bool,
}

impl Planes<'_> {
    /// # Panics
    /// Where the job reaches beyond its slices.
    pub(super) fn check(&self) {
        let width = self.vectors * self.lanes;
        let furthest = self.places.iter().max().map_or(0, |place| *place as usize);
        assert!(furthest + width <= self.a.len(), "windows lie within A");
        let last = self.places.len().max(1) - 1;
        assert!(
            last * self.b_stride + self.rows <= self.b.len(),
            "B has a row for each number of a window"
        );
        let last = self.rows.max(1) - 1;
        assert!(last * self.c_stride + width <= self.c.len(), "C has the rows");
    }
}
