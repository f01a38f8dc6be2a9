//! The products against plain loops, for every instruction set that this machine has.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use eas_ir::Rng;

use super::matrix::{SIDE, Tiles};
use super::pairs::{pair, pair_channels, pair_with_later, parts};
use super::pixels::{Pixels, Scales};
use super::planes::Planes;
use super::simd::{Arithmetic, Simd, Widest, by_widest};
use super::transpose::transpose;
use super::{Columns, Factors, Isa, Rows, Run};

fn numbers(count: usize, rng: &mut Rng) -> Vec<f32> {
    (0..count).map(|_| rng.normal() as f32).collect()
}

/// Rows of products; Miri is some thousand times slower, and gets fewer.
const HEIGHTS: &[usize] = if cfg!(miri) { &[1, 5, 9] } else { &[1, 2, 3, 5, 7, 8, 9, 17] };

/// Widths of products; for Miri those at which vectors end.
fn widths() -> Vec<usize> {
    match cfg!(miri) {
        true => vec![1, 7, 8, 9, 16, 17, 24],
        false => (1..=24).chain([31, 32, 33, 47, 48]).collect(),
    }
}

/// Every shape of a product: its width, its rows, and the seed of what is in it.
fn for_shapes(mut check: impl FnMut(Isa, usize, usize, &mut Rng)) {
    for isa in Isa::available() {
        for width in widths() {
            if width.div_ceil(isa.lanes(width)) > super::WIDEST {
                continue;
            }
            for rows in HEIGHTS.iter().copied() {
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
fn arithmetic_on_vectors_is_that_of_their_numbers() {
    fn check<L: Arithmetic>(isa: Isa, simd: Simd<L>) {
        let lanes = Simd::<L>::LANES;
        let (one, other) = (numbers(lanes + 3, &mut Rng::new(1)), numbers(lanes, &mut Rng::new(2)));
        let mut found = vec![0.0; lanes + 2];
        simd.run(|| {
            let (x, y) = (simd.load(&one, 3), simd.load(&other, 0));
            ((x + y * 3.1) - (x - simd.zero()) * y).store(&mut found, 1);
        });
        let expected = one[3..].iter().zip(&other).map(|(x, y)| (x + y * 3.1) - x * y);
        let expected: Vec<f32> = [0.0].into_iter().chain(expected).chain([0.0]).collect();
        assert_eq!(found, expected, "{isa:?}");
        let edges = [f32::NAN, -1.0, -0.0, 0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY];
        for (edge, number) in edges.into_iter().flat_map(|edge| edges.map(|other| (edge, other))) {
            let (mut greater, mut kept) = (vec![7.0; lanes], vec![7.0; lanes]);
            simd.run(|| {
                let (edge, number) = (simd.splat(edge), simd.splat(number));
                edge.greater(number).store(&mut greater, 0);
                number.kept_above_zero(edge).store(&mut kept, 0);
            });
            let expected =
                [if edge > number { edge } else { number }, if edge <= 0.0 { 0.0 } else { number }];
            for (found, expected) in [greater, kept].iter().zip(expected) {
                let same = found.iter().all(|found| found.to_bits() == expected.to_bits());
                assert!(same, "{isa:?}, {edge}, {number}: {found:?}, expected {expected}");
            }
        }
        for count in 0..3 * lanes {
            let mut vectors = Vec::new();
            simd.for_vectors(count, |at, some| vectors.push((at, some)));
            let places = vectors.iter().flat_map(|(at, some)| *at..at + some);
            assert!(places.eq(0..count), "{isa:?}, {count}: {vectors:?}");
            assert!(vectors.len() == count.div_ceil(lanes), "{isa:?}, {count}: {vectors:?}");
        }
        for count in 1..=lanes + 1 {
            let mut found = [vec![7.0; lanes + 2], vec![7.0; lanes + 2]];
            simd.run(|| {
                let part = simd.load_up_to(count, &one, 3);
                part.store(&mut found[0], 1);
                simd.load(&one, 3).store_up_to(count, &mut found[1], 1);
            });
            for (mut found, rest) in found.into_iter().zip([0.0, 7.0]) {
                let rest = found
                    .split_off(1 + count.min(lanes))
                    .into_iter()
                    .zip(std::iter::repeat_n(rest, lanes - count.min(lanes)).chain([7.0]));
                assert!(
                    rest.clone().all(|(found, rest)| found == rest),
                    "{isa:?}, {count}: {rest:?}"
                );
                assert_eq!(found[0], 7.0, "{isa:?}, {count}");
                assert_eq!(found[1..], one[3..3 + count.min(lanes)], "{isa:?}, {count}");
            }
        }
    }
    for isa in Isa::available() {
        by_widest!(isa, |simd| check(isa, simd));
    }
}

#[test]
fn vectors_lie_within_their_slices() {
    let simd = match Isa::Portable.widest() {
        Widest::Portable(simd) => simd,
        #[cfg(target_arch = "x86_64")]
        _ => panic!("plain loops have no other vectors"),
    };
    for at in [1, usize::MAX] {
        let load = || simd.load(&[0.0; 8], at);
        assert!(catch_unwind(AssertUnwindSafe(load)).is_err(), "load at {at}");
        let store = || simd.zero().store(&mut [0.0; 8], at);
        assert!(catch_unwind(AssertUnwindSafe(store)).is_err(), "store at {at}");
        let load = || simd.load_up_to(5, &[0.0; 5], at);
        assert!(catch_unwind(AssertUnwindSafe(load)).is_err(), "load a part at {at}");
        let store = || simd.zero().store_up_to(5, &mut [0.0; 5], at);
        assert!(catch_unwind(AssertUnwindSafe(store)).is_err(), "store a part at {at}");
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
                factors: Factors::Single,
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
fn rows_of_planes_are_products_of_weights_with_pixels() {
    for (isa, rows) in
        Isa::available().into_iter().flat_map(|isa| HEIGHTS.iter().map(move |rows| (isa, *rows)))
    {
        let (lanes, numbers_of_a_window) = (isa.lanes(usize::MAX), 7);
        for vectors in [1, 2, 3, 5, 7] {
            let rng = &mut Rng::new((10 * rows + vectors) as u64);
            let width = vectors * lanes;
            let a = numbers(40 + width, rng);
            let places: Vec<u32> = (0..numbers_of_a_window).map(|_| rng.below(41) as u32).collect();
            let (b_stride, c_stride) = (rows + 2, width + 3);
            let b = numbers(numbers_of_a_window * b_stride, rng);
            for accumulate in [false, true] {
                let mut found = numbers(rows * c_stride, rng);
                let mut expected = found.clone();
                for (row, pixel) in
                    (0..rows).flat_map(|row| (0..width).map(move |pixel| (row, pixel)))
                {
                    let products = places.iter().enumerate();
                    let sum: f32 = products
                        .map(|(k, place)| b[k * b_stride + row] * a[*place as usize + pixel])
                        .sum();
                    let to = &mut expected[row * c_stride + pixel];
                    *to = if accumulate { *to + sum } else { sum };
                }
                isa.planes(Planes {
                    factors: Factors::Single,
                    a: &a,
                    places: &places,
                    b: &b,
                    b_stride,
                    rows,
                    lanes,
                    vectors,
                    c: &mut found,
                    c_stride,
                    accumulate,
                });
                assert_close(
                    &found,
                    &expected,
                    &format!("{isa:?}, {rows}x{vectors}, {accumulate}"),
                );
            }
        }
    }
}

#[test]
fn planes_beyond_their_factors_are_refused() {
    let lanes = Isa::Portable.lanes(usize::MAX);
    let refused = |a: usize, b: usize, c: usize| {
        let (a, b, mut c) = (vec![0.0; a], vec![0.0; b], vec![0.0; c]);
        let job = Planes {
            factors: Factors::Single,
            a: &a,
            places: &[3, 1],
            b: &b,
            b_stride: 4,
            rows: 2,
            lanes,
            vectors: 2,
            c: &mut c,
            c_stride: 20,
            accumulate: false,
        };
        catch_unwind(AssertUnwindSafe(|| Isa::Portable.planes(job))).is_err()
    };
    let (a, b, c) = (3 + 2 * lanes, 4 + 2, 20 + 2 * lanes);
    assert!(!refused(a, b, c));
    assert!(refused(a - 1, b, c) && refused(a, b - 1, c) && refused(a, b, c - 1));
}

#[test]
fn columns_are_made_of_rows_of_any_number() {
    let most: usize = if cfg!(miri) { 5 } else { 17 };
    for (rows, columns) in (0..most).flat_map(|rows| (0..most).map(move |columns| (rows, columns)))
    {
        let (from_stride, to_stride) = (columns + 2, rows + 1);
        let from = numbers((rows * from_stride).saturating_sub(2), &mut Rng::new(1));
        let mut found = vec![9.0; (columns * to_stride).saturating_sub(1)];
        let mut expected = found.clone();
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)))
        {
            expected[column * to_stride + row] = from[row * from_stride + column];
        }
        transpose([rows, columns], (&from, from_stride), (&mut found, to_stride));
        assert_eq!(found, expected, "{rows} rows of {columns}");
    }
    for (from, to) in [(11, 12), (12, 11)] {
        let turned = || transpose([3, 4], (&vec![0.0; from], 4), (&mut vec![0.0; to], 3));
        assert!(catch_unwind(turned).is_err(), "{from} numbers, room for {to}");
    }
}

#[test]
fn columns_are_the_transposed_products() {
    for_shapes(|isa, width, rows, rng| {
        let lanes = isa.lanes(width);
        let vectors = width.div_ceil(lanes);
        let a = numbers(60, rng);
        let (b_stride, c_stride) = (width + 2, width + 3);
        for (count, accumulate) in [(11, false), (11, true), (0, false), (0, true)] {
            let places: Vec<u32> = (0..count).map(|_| rng.below(30) as u32).collect();
            let b = numbers(places.len() * b_stride, rng);
            let mut found = numbers(rows * c_stride, rng);
            let mut expected = found.clone();
            for row in 0..rows {
                for column in 0..width {
                    let to = &mut expected[row * c_stride + column];
                    *to = if accumulate { *to } else { 0.0 };
                    for (pixel, place) in places.iter().enumerate() {
                        *to += a[*place as usize + 4 + row] * b[pixel * b_stride + column];
                    }
                }
            }
            isa.columns(Columns {
                factors: Factors::Single,
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
                accumulate,
            });
            let what = format!("{isa:?}, {rows}x{width}, {count} places, {accumulate}");
            assert_close(&found, &expected, &what);
        }
    });
}

#[test]
#[should_panic(expected = "windows lie within A")]
fn a_window_beyond_the_image_is_refused() {
    Isa::detect().rows(Rows {
        factors: Factors::Single,
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

#[test]
fn vectors_of_another_width_than_the_instructions_are_refused() {
    let refused = |product: &dyn Fn(Factors)| {
        for factors in [Factors::Single, Factors::Pairs] {
            let panic = catch_unwind(AssertUnwindSafe(|| product(factors))).unwrap_err();
            let said = panic.downcast_ref::<String>().unwrap();
            assert!(
                said.starts_with("expected vectors of 8 numbers, found "),
                "{factors:?}: {said}"
            );
        }
    };
    // Wider ones would be more than a vector holds, narrower ones less than it reads.
    let isas = Isa::available().into_iter().filter(|isa| isa.lanes(1) == 8 && isa.lanes(16) == 8);
    let cases = [(16, 16, 1), (4, 4, 1), (6, 12, 2)];
    for (isa, (lanes, width, vectors)) in isas.flat_map(|isa| cases.map(|case| (isa, case))) {
        refused(&|factors| {
            isa.rows(Rows {
                factors,
                a: &[0.5; 1],
                places: &[0],
                runs: &[Run { start: 0, length: 1 }],
                b: &vec![0.5; lanes * vectors],
                lanes,
                vectors,
                c: &mut vec![0.0; width],
                c_stride: width,
                width,
                accumulate: true,
            });
        });
        refused(&|factors| {
            isa.columns(Columns {
                factors,
                a: &[0.5; 1],
                places: &[0],
                start: 0,
                rows: 1,
                b: &vec![0.5; width],
                b_stride: width,
                lanes,
                vectors,
                c: &mut vec![0.0; width],
                c_stride: width,
                width,
                accumulate: true,
            });
        });
    }
}

#[test]
fn products_of_pairs_are_the_same_for_all_instructions() {
    for_shapes(|isa, width, rows, rng| {
        let pairs = |count: usize, rng: &mut Rng| -> Vec<f32> {
            (0..count).map(|_| pair(rng.normal() as f32, rng.normal() as f32)).collect()
        };
        let a = pairs(60, rng);
        let places: Vec<u32> = (0..rows).map(|_| rng.below(40) as u32).collect();
        let runs = [Run { start: 0, length: 3 }, Run { start: 7, length: 5 }];
        let lanes = isa.lanes(width);
        let vectors = width.div_ceil(lanes);
        let mut b = pairs(8 * vectors * lanes, rng);
        b.chunks_mut(vectors * lanes).for_each(|row| row[width..].fill(0.0));
        let mut found = vec![0.0; rows * width];
        isa.rows(Rows {
            factors: Factors::Pairs,
            a: &a,
            places: &places,
            runs: &runs,
            b: &b,
            lanes,
            vectors,
            c: &mut found,
            c_stride: width,
            width,
            accumulate: false,
        });
        let mut columns = vec![f32::NAN; rows * width];
        let slopes = pairs(places.len() * width, rng);
        isa.columns(Columns {
            factors: Factors::Pairs,
            a: &a,
            places: &places,
            start: 2,
            rows,
            b: &slopes,
            b_stride: width,
            lanes,
            vectors,
            c: &mut columns,
            c_stride: width,
            width,
            accumulate: false,
        });
        for row in 0..rows {
            for column in 0..width {
                let (mut sum, mut transposed) = (0.0, 0.0);
                let add = |sum: &mut f32, x: f32, y: f32| {
                    let [(x0, x1), (y0, y1)] = [parts(x), parts(y)];
                    *sum += x1 * y1;
                    *sum += x0 * y0;
                };
                let window = runs.iter().flat_map(|run| run.start..run.start + run.length);
                for (k, at) in window.enumerate() {
                    add(&mut sum, a[places[row] as usize + at], b[k * vectors * lanes + column]);
                }
                for (place, slopes) in places.iter().zip(slopes.chunks_exact(width)) {
                    add(&mut transposed, a[*place as usize + 2 + row], slopes[column]);
                }
                let at = row * width + column;
                assert_eq!(found[at].to_bits(), sum.to_bits(), "{isa:?}, {rows}x{width}, {at}");
                let same = columns[at].to_bits() == transposed.to_bits();
                assert!(same, "{isa:?}, {rows}x{width}, {at}: transposed");
            }
        }
    });
}

#[test]
fn numbers_round_to_the_nearest_bf16() {
    // Bf16 keeps seven bits behind the point: 1 + 1/256 is halfway and goes to the even one.
    let inputs = [1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -1.006, f32::INFINITY, f32::MAX];
    let outputs = [1.0, 1.0, 1.0 + 4.0 / 256.0, -1.007_812_5, f32::INFINITY, f32::INFINITY];
    for (input, output) in inputs.into_iter().zip(outputs) {
        assert_eq!(parts(pair(input, 2.0)), (output, 2.0), "{input}");
        assert_eq!(parts(pair(2.0, input)), (2.0, output), "{input}");
    }
    let (first, second) = parts(pair(f32::from_bits(0x7fff_ffff), 1.0));
    assert!(first.is_nan() && second == 1.0, "{first}, {second}");
}

#[test]
fn numbers_are_paired_in_place() {
    for channels in 1..=70 {
        let pixels = 3;
        let values: Vec<f32> = (0..pixels * channels).map(|value| (value % 200) as f32).collect();
        let mut paired = values.clone();
        pair_channels(&mut paired, channels);
        let mut later = values.clone();
        pair_with_later(&mut later, channels);
        for pixel in 0..pixels {
            let value = |pixel: usize, channel: usize| {
                let within = pixel < pixels && channel < channels;
                if within { values[pixel * channels + channel] } else { 0.0 }
            };
            for channel in (0..channels).step_by(2) {
                let found = parts(paired[pixel * channels.div_ceil(2) + channel / 2]);
                let expected = (value(pixel, channel), value(pixel, channel + 1));
                assert_eq!(found, expected, "{channels} channels, {pixel}, {channel}");
            }
            for channel in 0..channels {
                let found = parts(later[pixel * channels + channel]);
                let expected = (value(pixel, channel), value(pixel + 1, channel));
                assert_eq!(found, expected, "{channels} channels, {pixel}, {channel}");
            }
        }
    }
}

#[test]
fn products_of_tiles_are_those_of_matrix_units_to_the_bit() {
    // By many tiles of rows up to two of columns, and three by one.
    let heights = (1..=5).map(|height| (height, 32)).chain([(1, 48)]);
    let shapes =
        heights.flat_map(|(height, widest)| (1..=widest).map(move |width| (height, width)));
    for (isa, (height, width)) in
        Isa::available().into_iter().flat_map(|isa| shapes.clone().map(move |shape| (isa, shape)))
    {
        if cfg!(miri) && width % 15 != 1 {
            continue;
        }
        let mut rng = Rng::new((100 * height + width) as u64);
        let rows = 1 + rng.below(SIDE);
        let (a_stride, b_stride, c_stride) = (50 + rng.below(3), width + 3, width + 2);
        let pairs = |count: usize, rng: &mut Rng| -> Vec<f32> {
            (0..count).map(|_| pair(rng.normal() as f32, rng.normal() as f32)).collect()
        };
        let a = pairs(height * SIDE * a_stride, &mut rng);
        let b = pairs(64 * b_stride, &mut rng);
        let a_tiles: Vec<u32> = (0..height).map(|tile| (tile * SIDE * a_stride) as u32).collect();
        let c_tiles: Vec<u32> = (0..height).map(|tile| (height - 1 - tile) as u32).collect();
        let steps: Vec<[u32; 2]> = (0..rng.below(4))
            .map(|_| [rng.below(a_stride - SIDE) as u32, (rng.below(48) * b_stride) as u32])
            .collect();
        let before = numbers(height * SIDE * c_stride, &mut rng);
        for accumulate in [false, true] {
            let mut found = before.clone();
            let job = |c| Tiles {
                a: &a,
                a_tiles: &a_tiles,
                a_stride,
                b: &b,
                b_stride,
                steps: &steps,
                c,
                c_tiles: &c_tiles,
                c_pixel: SIDE * c_stride,
                c_stride,
                rows,
                width,
                accumulate,
            };
            isa.tiles(job(&mut found));
            let mut plain = before.clone();
            job(&mut plain).multiply();
            let case = format!("{isa:?}, {height} tiles of {rows}x{width}, {accumulate}");
            assert!(found == plain, "{case}");
            let mut expected = before.clone();
            for (tile, row) in (0..height).flat_map(|tile| (0..rows).map(move |row| (tile, row))) {
                for column in 0..width {
                    let sum: f32 = steps
                        .iter()
                        .flat_map(|[a_step, b_step]| {
                            (0..SIDE).map(move |k| {
                                (*a_step as usize + k, *b_step as usize + k * b_stride)
                            })
                        })
                        .map(|(a_place, b_place)| {
                            let x = parts(a[(tile * SIDE + row) * a_stride + a_place]);
                            let y = parts(b[b_place + column]);
                            x.0 * y.0 + x.1 * y.1
                        })
                        .sum();
                    let place = ((height - 1 - tile) * SIDE + row) * c_stride + column;
                    expected[place] = sum + if accumulate { before[place] } else { 0.0 };
                }
            }
            assert_close(&found, &expected, &case);
        }
    }
}

#[test]
#[should_panic(expected = "rows lie within A")]
fn tiles_beyond_their_factors_are_refused() {
    Isa::detect().tiles(Tiles {
        a: &[0.0; 31],
        a_tiles: &[0],
        a_stride: 16,
        b: &[0.0; 256],
        b_stride: 16,
        steps: &[[0, 0]],
        c: &mut [0.0; 32],
        c_tiles: &[0],
        c_pixel: 1,
        c_stride: 16,
        rows: 2,
        width: 16,
        accumulate: false,
    });
}

/// Rows of one and a half vectors share vectors two by two, where there are instructions for it.
#[test]
fn products_of_twelve_columns_are_those_of_eight_and_of_four_to_the_bit() {
    let (width, stride) = (12, 15);
    let parts = [0..8, 8..12];
    for isa in Isa::available() {
        for rows in HEIGHTS.iter().copied().chain([6, 10, 12]) {
            let mut rng = Rng::new(rows as u64);
            let a = numbers(90, &mut rng);
            let places: Vec<u32> = (0..rows).map(|_| rng.below(40) as u32).collect();
            let runs = [Run { start: 0, length: 5 }, Run { start: 9, length: 12 }];
            let b = numbers(17 * width, &mut rng);
            // The columns of B from one on, in vectors of these lanes.
            let packed = |columns: &Range<usize>, row: usize| -> Vec<f32> {
                let rows = b.chunks_exact(width).flat_map(|numbers| {
                    let mut packed = vec![0.0; row];
                    packed[..columns.len()].copy_from_slice(&numbers[columns.clone()]);
                    packed
                });
                rows.collect()
            };
            let before = numbers(rows.max(17) * stride, &mut rng);
            for accumulate in [false, true] {
                let product = |columns: Range<usize>, c: &mut [f32]| {
                    let lanes = isa.lanes(columns.len());
                    let vectors = columns.len().div_ceil(lanes);
                    isa.rows(Rows {
                        factors: Factors::Single,
                        a: &a,
                        places: &places,
                        runs: &runs,
                        b: &packed(&columns, vectors * lanes),
                        lanes,
                        vectors,
                        c: &mut c[columns.start..],
                        c_stride: stride,
                        width: columns.len(),
                        accumulate,
                    });
                };
                let (mut whole, mut apart) = (before.clone(), before.clone());
                product(0..width, &mut whole);
                parts.iter().for_each(|columns| product(columns.clone(), &mut apart));
                assert_eq!(bits(&whole), bits(&apart), "{isa:?}, {rows} rows, {accumulate}");
                assert_ne!(bits(&whole), bits(&before), "{isa:?}, {rows} rows, {accumulate}");
            }
            let rows = rows.min(17);
            for accumulate in [false, true] {
                let transposed = |columns: Range<usize>, c: &mut [f32]| {
                    let lanes = isa.lanes(columns.len());
                    isa.columns(Columns {
                        factors: Factors::Single,
                        a: &a,
                        places: &places[..rows],
                        start: 3,
                        rows,
                        b: &b[columns.start..],
                        b_stride: width,
                        lanes,
                        vectors: columns.len().div_ceil(lanes),
                        c: &mut c[columns.start..],
                        c_stride: stride,
                        width: columns.len(),
                        accumulate,
                    });
                };
                let (mut whole, mut apart) = (before.clone(), before.clone());
                transposed(0..width, &mut whole);
                parts.iter().for_each(|columns| transposed(columns.clone(), &mut apart));
                let what = format!("{isa:?}, {rows} rows and places, {accumulate}");
                assert_eq!(bits(&whole), bits(&apart), "{what}");
                assert_ne!(bits(&whole), bits(&before), "{what}");
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn pixels_are_the_bytes_of_their_planes_scaled() {
    let channels = [(0.016, 1.9), (0.017, 2.1), (0.015, 1.7)];
    let scales = Scales::new(channels);
    let widths = (1..=40).chain([48, 61, 64]).filter(|width| !cfg!(miri) || width % 8 == 0);
    for (width, isa) in
        widths.flat_map(|width| Isa::available().into_iter().map(move |isa| (width, isa)))
    {
        for case in 0..16 {
            let mut rng = Rng::new((16 * width + case) as u64);
            let (rows, above) = (rng.below(3) + usize::from(case > 0), rng.below(2));
            let (reversed, is_left, has_margin) =
                (case % 2 == 0, case / 2 % 2 == 0, case / 4 % 2 == 0);
            let margin = if has_margin { rng.below(width + 1) } else { 0 };
            let columns = if is_left { margin..width } else { 0..width - margin };
            // Planes begin or end with the first or the last byte that is made a pixel.
            let start = above * width + if case < 8 { 0 } else { margin };
            let size = (rows + above) * width;
            let mut plane = || (0..size).map(|_| rng.next_u32() as u8).collect::<Vec<u8>>();
            let bytes = [plane(), plane(), plane()];
            let planes = [&bytes[0][..], &bytes[1], &bytes[2]];
            let mut found = vec![f32::NAN; 3 * width * rows];
            let (scales, to) = (&scales, &mut found[..]);
            let of = columns.clone();
            isa.pixels(Pixels { planes, width, start, columns, reversed, scales, to });
            for (place, found) in found.iter().enumerate() {
                let (pixel, channel) = (place / 3, place % 3);
                let (row, column) = (pixel / width, pixel % width);
                let (factor, shift) = channels[channel];
                let expected = if of.contains(&column) {
                    let from = if reversed { of.end - 1 - column } else { column - of.start };
                    let byte = bytes[channel][start + row * width + from];
                    f32::from(byte) * factor - shift
                } else {
                    0.0
                };
                let what = format!(
                    "{isa:?}, {rows} rows of {width}, {of:?}, reversed: {reversed}, place {place}"
                );
                assert_eq!(found.to_bits(), expected.to_bits(), "{what}");
            }
        }
    }
    let (short, long) = (&[0; 31][..], &[0; 32][..]);
    for isa in Isa::available() {
        let wrapping = usize::MAX / 3 + 1;
        let cases = [
            ([long, short, long], 16, 0, 0..16, 96),
            ([long; 3], 16, 0, 0..16, 95),
            ([long; 3], 16, 0, 0..17, 96),
            ([long; 3], 16, 0, Range { start: 9, end: 8 }, 96),
            ([long; 3], 16, 1, 0..16, 96),
            ([long; 3], 16, usize::MAX, 1..16, 96),
            ([long; 3], wrapping, 0, 0..8, wrapping.wrapping_mul(3)),
            ([long; 3], 0, 0, 0..0, 0),
        ];
        for (planes, width, start, columns, count) in cases {
            let to = &mut [0.0; 96][..count];
            let what =
                format!("{isa:?}, rows of {width} from {start}, {columns:?}, {count} values");
            let scales = &scales;
            let job = Pixels { planes, width, start, columns, reversed: false, scales, to };
            assert!(catch_unwind(AssertUnwindSafe(|| isa.pixels(job))).is_err(), "{what}");
        }
    }
}
