//! The products against plain loops, for every instruction set that this machine has.

use eas_ir::Rng;

use super::{Columns, Isa, Rows, Run};

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<Isa> {
    match Isa::detect() {
        Isa::Avx512 => vec![Isa::Avx512, Isa::Avx2, Isa::Portable],
        Isa::Avx2 => vec![Isa::Avx2, Isa::Portable],
        Isa::Portable => vec![Isa::Portable],
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> Vec<Isa> {
    vec![Isa::Portable]
}

fn numbers(count: usize, rng: &mut Rng) -> Vec<f32> {
    (0..count).map(|_| rng.normal() as f32).collect()
}

/// Every shape of a product: its width, its rows, and the seed of what is in it.
fn for_shapes(mut check: impl FnMut(Isa, usize, usize, &mut Rng)) {
    for isa in instruction_sets() {
        for width in (1usize..=24).chain([31, 32, 33, 47, 48]) {
            if width.div_ceil(isa.lanes(width)) > super::WIDEST {
                continue;
            }
            for rows in [1, 2, 3, 5, 7, 8, 9, 17] {
                let mut rng = Rng::new((width * 100 + rows) as u64);
                check(isa, width, rows, &mut rng);
            }
        }
    }
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let gap = (found - expected).abs();
        assert!(gap < 1e-4, "{what}, place {place}: expected {expected}, found {found}");
    }
}

#[test]
fn rows_are_the_products_of_windows() {
    for_shapes(|isa, width, rows, rng| {
        let lanes = isa.lanes(width);
        let vectors = width.div_ceil(lanes);
        let runs = [Run { start: 0, length: 3 }, Run { start: 7, length: 5 }];
        let a = numbers(60, rng);
        let places: Vec<u32> = (0..rows).map(|_| rng.below(40) as u32).collect();
        let mut b = numbers(8 * vectors * lanes, rng);
        b.chunks_mut(vectors * lanes).for_each(|row| row[width..].fill(0.0));
        let stride = width + 3;
        for accumulate in [false, true] {
            let mut found = numbers(rows * stride, rng);
            let mut expected = found.clone();
            for (row, place) in places.iter().enumerate() {
                for column in 0..width {
                    let window = runs.iter().flat_map(|run| run.start..run.start + run.length);
                    let sum: f32 = window
                        .enumerate()
                        .map(|(k, at)| a[*place as usize + at] * b[k * vectors * lanes + column])
                        .sum();
                    let to = &mut expected[row * stride + column];
                    *to = if accumulate { *to + sum } else { sum };
                }
            }
            isa.rows(Rows {
                a: &a,
                places: &places,
                runs: &runs,
                b: &b,
                lanes,
                vectors,
                c: &mut found,
                c_stride: stride,
                width,
                accumulate,
            });
            assert_close(&found, &expected, &format!("{isa:?}, {rows}x{width}, {accumulate}"));
        }
    });
}

#[test]
fn columns_are_the_transposed_products() {
    for_shapes(|isa, width, rows, rng| {
        let lanes = isa.lanes(width);
        let vectors = width.div_ceil(lanes);
        let a = numbers(60, rng);
        let places: Vec<u32> = (0..11).map(|_| rng.below(30) as u32).collect();
        let (b_stride, c_stride) = (width + 2, width + 3);
        let b = numbers(places.len() * b_stride, rng);
        let mut found = numbers(rows * c_stride, rng);
        let mut expected = found.clone();
        for row in 0..rows {
            for column in 0..width {
                for (pixel, place) in places.iter().enumerate() {
                    let x = a[*place as usize + 4 + row];
                    expected[row * c_stride + column] += x * b[pixel * b_stride + column];
                }
            }
        }
        isa.columns(Columns {
            a: &a,
            places: &places,
            start: 4,
            rows,
            b: &b,
            b_stride,
            lanes,
            vectors,
            c: &mut found,
            c_stride,
            width,
        });
        assert_close(&found, &expected, &format!("{isa:?}, {rows}x{width}"));
    });
}

#[test]
#[should_panic(expected = "windows lie within A")]
fn a_window_beyond_the_image_is_refused() {
    Isa::detect().rows(Rows {
        a: &[0.0; 10],
        places: &[8],
        runs: &[Run { start: 0, length: 3 }],
        b: &[0.0; 100],
        lanes: 8,
        vectors: 1,
        c: &mut [0.0; 8],
        c_stride: 8,
        width: 8,
        accumulate: false,
    });
}
