//! Products of pairs of bf16 by a processor's matrix units (Intel's AMX): registers hold tiles of 16 rows of 64 bytes,
//! and one instruction adds a product of two tiles to a third.
//!
//! The instructions are written as assembly, as Rust has no stable names for them.

use super::pairs::parts;

/// Rows of a tile, columns of a tile of sums, and pairs of a row of factors.
pub(in super::super) const SIDE: usize = 16;

/// Columns of C at most: three tiles, where A is one tile high.
pub(in super::super) const MOST_COLUMNS: usize = 3 * SIDE;

/// Numbers behind A and B that are read, and multiplied by 0 or not used: as many as a tile's row has.
pub(in super::super) const SLACK: usize = SIDE;

/// C = A · B, or C += A · B, where C is tiles of up to 16 rows. Row r of tile t of C starts at
/// `c_tiles[t] · c_pixel + r · c_stride`; the same row of A is the 16 pairs at `a_tiles[t] + r · a_stride + step[0]` of
/// each step, and row k of B stands at `k · b_stride + step[1]`.
pub(in super::super) struct Tiles<'a> {
    /// Pairs of neighbours in a row of A, each in the place of an f32.
    pub(in super::super) a: &'a [f32],
    pub(in super::super) a_tiles: &'a [u32],
    pub(in super::super) a_stride: usize,
    /// Pairs of neighbours in a column of B.
    pub(in super::super) b: &'a [f32],
    pub(in super::super) b_stride: usize,
    /// Where the factors of 16 pairs stand in A and in B.
    pub(in super::super) steps: &'a [[u32; 2]],
    pub(in super::super) c: &'a mut [f32],
    pub(in super::super) c_tiles: &'a [u32],
    pub(in super::super) c_pixel: usize,
    pub(in super::super) c_stride: usize,
    /// Rows of each tile, 1 to 16.
    pub(in super::super) rows: usize,
    /// Columns of C: up to two tiles of them, or up to three where there is one tile of rows.
    pub(in super::super) width: usize,
    pub(in super::super) accumulate: bool,
}

impl Tiles<'_> {
    /// # Panics
    /// Where the job reaches beyond its slices.
    pub(super) fn check(&self) {
        let most = |places: &mut dyn Iterator<Item = u32>| places.max().unwrap_or(0) as usize;
        let widest = if self.a_tiles.len() == 1 { MOST_COLUMNS } else { 2 * SIDE };
        assert!((1..=SIDE).contains(&self.rows), "a tile has 1 to {SIDE} rows");
        assert!((1..=widest).contains(&self.width), "tiles are up to {widest} columns wide");
        assert!(self.a_tiles.len() == self.c_tiles.len(), "A and C have the same tiles");
        let last = self.rows - 1;
        let a = most(&mut self.a_tiles.iter().copied())
            + last * self.a_stride
            + most(&mut self.steps.iter().map(|step| step[0]));
        assert!(a + SIDE <= self.a.len(), "rows lie within A");
        let b = (SIDE - 1) * self.b_stride + most(&mut self.steps.iter().map(|step| step[1]));
        assert!(b + self.width <= self.b.len(), "B has a row a pair");
        let c = most(&mut self.c_tiles.iter().copied()) * self.c_pixel + last * self.c_stride;
        assert!(c + self.width <= self.c.len(), "C has the rows");
    }

    /// The product by plain loops, its sums in the order of the instruction's: the products of the first numbers of a
    /// step's pairs, and of the second ones, are added up each alone. The instruction takes denormals for 0.
    #[inline(always)]
    pub(super) fn multiply(&mut self) {
        for (a_tile, c_tile) in self.a_tiles.iter().zip(self.c_tiles) {
            for row in 0..self.rows {
                let a = *a_tile as usize + row * self.a_stride;
                let c = *c_tile as usize * self.c_pixel + row * self.c_stride;
                let to = &mut self.c[c..c + self.width];
                if !self.accumulate {
                    to.fill(0.0);
                }
                for [a_step, b_step] in self.steps {
                    let a = &self.a[a + *a_step as usize..][..SIDE];
                    let [mut first, mut second] = [[0.0; MOST_COLUMNS]; 2];
                    for (k, a) in a.iter().enumerate() {
                        let b = &self.b[*b_step as usize + k * self.b_stride..][..self.width];
                        let a = parts(*a);
                        for (column, b) in b.iter().enumerate() {
                            let b = parts(*b);
                            first[column] += a.0 * b.0;
                            second[column] += a.1 * b.1;
                        }
                    }
                    for (column, sum) in to.iter_mut().enumerate() {
                        *sum += first[column] + second[column];
                    }
                }
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use amx::{is_available, multiply};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::arch::asm;
    use std::mem::offset_of;
    use std::sync::OnceLock;

    use super::{SIDE, Tiles};

    /// Bytes of a number or a pair.
    const BYTES: usize = size_of::<f32>();

    /// Whether the processor multiplies tiles of bf16 and the kernel saves their registers for this process.
    pub(in super::super) fn is_available() -> bool {
        /// The permission to ask for, of `arch_prctl`, and what for: the registers of tiles.
        const REQUEST: (libc::c_long, libc::c_long) = (0x1023, 18);
        const FEATURES: u32 = 1 << 22 | 1 << 24;
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| {
            let has_leaf = std::arch::x86_64::__cpuid(0).eax >= 7;
            let has_units =
                has_leaf && std::arch::x86_64::__cpuid_count(7, 0).edx & FEATURES == FEATURES;
            // SAFETY: the call reads no memory of this process; a kernel that doesn't know it refuses.
            has_units && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST.0, REQUEST.1) } == 0
        })
    }

    /// The shapes of the registers, as `ldtilecfg` reads them.
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl Shapes {
        /// Registers with so many rows and columns.
        fn set(&mut self, registers: &[usize], rows: usize, columns: usize) {
            for register in registers {
                self.row_bytes[*register] = (columns * BYTES) as u16;
                self.rows[*register] = rows as u8;
            }
        }

        /// # Safety
        /// A processor that has tiles.
        unsafe fn load(&self) {
            // SAFETY: the caller's promise; 64 bytes are read.
            unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly)) }
        }
    }

    /// Computes a job.
    ///
    /// # Safety
    /// A processor that has tiles, and a job whose bounds were checked.
    pub(in super::super) unsafe fn multiply(job: &mut Tiles<'_>) {
        let wide = job.width.div_ceil(SIDE);
        let last = job.width - (wide - 1) * SIDE;
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let (sums, last_sums, a, b, last_b): (&[_], &[_], &[_], &[_], _) = match wide {
            1 => (&[], &[0, 1, 2], &[4, 5, 7], &[], 6),
            2 => (&[0, 2], &[1, 3], &[4, 5], &[6], 7),
            _ => (&[0, 1], &[2], &[4], &[5, 6], 7),
        };
        shapes.set(sums, job.rows, SIDE);
        shapes.set(last_sums, job.rows, last);
        shapes.set(a, job.rows, SIDE);
        shapes.set(b, SIDE, SIDE);
        shapes.set(&[last_b], SIDE, last);
        let (most, all, one): (_, Product, Product) = match wide {
            1 => (3, three_by_one, one_by_one),
            2 => (2, two_by_two, one_by_two),
            _ => (1, one_by_three, one_by_three),
        };
        let a_stride = job.a_stride * BYTES;
        let (a, c) = (job.a.as_ptr(), job.c.as_mut_ptr());
        // SAFETY: the caller's promise: places lie within the slices, by the job's bounds.
        unsafe {
            shapes.load();
            let b = (job.b.as_ptr(), job.b_stride * BYTES);
            let mut tile = 0;
            while tile < job.a_tiles.len() {
                let whole = job.a_tiles.len() - tile >= most;
                let mut call = Call {
                    a: [a; 3],
                    c: [c; 3],
                    c_stride: job.c_stride * BYTES,
                    accumulate: usize::from(job.accumulate),
                };
                let count = if whole { most } else { 1 };
                for index in 0..count {
                    let place = job.c_tiles[tile + index] as usize * job.c_pixel;
                    call.a[index] = a.add(job.a_tiles[tile + index] as usize);
                    call.c[index] = c.add(place);
                }
                (if whole { all } else { one })(&call, a_stride, b, job.steps);
                tile += count;
            }
            asm!("tilerelease", options(nomem, nostack));
        }
    }

    /// A product of registers.
    type Product = unsafe fn(&Call, usize, (*const f32, usize), &[[u32; 2]]);

    /// What a product of registers reads: places and distances in bytes.
    #[repr(C)]
    struct Call {
        a: [*const f32; 3],
        c: [*mut f32; 3],
        c_stride: usize,
        accumulate: usize,
    }

    /// Registers 0 to 3 hold C, the others A and B. Each tile of C is named by its register, the row of tiles that it is
    /// in and the bytes to its column.
    macro_rules! product {
        ($name:ident, [$($a:ident $index:literal),+], [$($tile:literal $row:literal $column:literal),+],
         [$($step:literal),+ $(,)?]) => {
            /// # Safety
            /// A processor that has tiles, whose shapes are set; the bounds of a checked job.
            unsafe fn $name(
                call: &Call,
                a_stride: usize,
                (b, b_stride): (*const f32, usize),
                steps: &[[u32; 2]],
            ) {
                let steps = steps.as_ptr_range();
                // SAFETY: the caller's promise: what is read and written lies within A, B and C.
                unsafe {
                    asm!(
                        "cmp qword ptr [{call} + {accumulate}], 0",
                        "mov {x}, [{call} + {c_stride}]",
                        "je 2f",
                        $(
                            concat!("mov {p}, [{call} + {c} + 8 * ", $row, "]"),
                            concat!("tileloadd tmm", $tile, ", [{p} + {x} + ", $column, "]"),
                        )+
                        "jmp 3f",
                        "2:",
                        $(concat!("tilezero tmm", $tile),)+
                        "3:",
                        "cmp {step}, {end}",
                        "je 5f",
                        "4:",
                        $($step,)+
                        "add {step}, 8",
                        "cmp {step}, {end}",
                        "jne 4b",
                        "5:",
                        "mov {x}, [{call} + {c_stride}]",
                        $(
                            concat!("mov {p}, [{call} + {c} + 8 * ", $row, "]"),
                            concat!("tilestored [{p} + {x} + ", $column, "], tmm", $tile),
                        )+
                        call = in(reg) call,
                        $($a = in(reg) call.a[$index],)+
                        a_stride = in(reg) a_stride,
                        b = in(reg) b,
                        b_stride = in(reg) b_stride,
                        step = inout(reg) steps.start => _,
                        end = in(reg) steps.end,
                        x = out(reg) _,
                        p = out(reg) _,
                        c = const offset_of!(Call, c),
                        c_stride = const offset_of!(Call, c_stride),
                        accumulate = const offset_of!(Call, accumulate),
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        };
    }

    // Factors are all loaded before they are multiplied: in between, a load would hold up the products that wait
    // for it and those behind them.

    product!(one_by_one, [a0 0], ["0" "0" "0"], [
        "mov {x:e}, [{step}]",
        "lea {p}, [{a0} + 4 * {x}]",
        "tileloadd tmm4, [{p} + {a_stride}]",
        "mov {x:e}, [{step} + 4]",
        "lea {p}, [{b} + 4 * {x}]",
        "tileloadd tmm6, [{p} + {b_stride}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
    ]);

    product!(one_by_two, [a0 0], ["0" "0" "0", "1" "0" "64"], [
        "mov {x:e}, [{step}]",
        "lea {p}, [{a0} + 4 * {x}]",
        "tileloadd tmm4, [{p} + {a_stride}]",
        "mov {x:e}, [{step} + 4]",
        "lea {p}, [{b} + 4 * {x}]",
        "tileloadd tmm6, [{p} + {b_stride}]",
        "tileloadd tmm7, [{p} + {b_stride} + 64]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7",
    ]);

    product!(one_by_three, [a0 0], ["0" "0" "0", "1" "0" "64", "2" "0" "128"], [
        "mov {x:e}, [{step}]",
        "lea {p}, [{a0} + 4 * {x}]",
        "tileloadd tmm4, [{p} + {a_stride}]",
        "mov {x:e}, [{step} + 4]",
        "lea {p}, [{b} + 4 * {x}]",
        "tileloadd tmm5, [{p} + {b_stride}]",
        "tileloadd tmm6, [{p} + {b_stride} + 64]",
        "tileloadd tmm7, [{p} + {b_stride} + 128]",
        "tdpbf16ps tmm0, tmm4, tmm5",
        "tdpbf16ps tmm1, tmm4, tmm6",
        "tdpbf16ps tmm2, tmm4, tmm7",
    ]);

    product!(two_by_two, [a0 0, a1 1], ["0" "0" "0", "1" "0" "64", "2" "1" "0", "3" "1" "64"], [
        "mov {x:e}, [{step}]",
        "lea {p}, [{a0} + 4 * {x}]",
        "tileloadd tmm4, [{p} + {a_stride}]",
        "lea {p}, [{a1} + 4 * {x}]",
        "tileloadd tmm5, [{p} + {a_stride}]",
        "mov {x:e}, [{step} + 4]",
        "lea {p}, [{b} + 4 * {x}]",
        "tileloadd tmm6, [{p} + {b_stride}]",
        "tileloadd tmm7, [{p} + {b_stride} + 64]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7",
    ]);

    product!(three_by_one, [a0 0, a1 1, a2 2], ["0" "0" "0", "1" "1" "0", "2" "2" "0"], [
        "mov {x:e}, [{step}]",
        "lea {p}, [{a0} + 4 * {x}]",
        "tileloadd tmm4, [{p} + {a_stride}]",
        "lea {p}, [{a1} + 4 * {x}]",
        "tileloadd tmm5, [{p} + {a_stride}]",
        "lea {p}, [{a2} + 4 * {x}]",
        "tileloadd tmm7, [{p} + {a_stride}]",
        "mov {x:e}, [{step} + 4]",
        "lea {p}, [{b} + 4 * {x}]",
        "tileloadd tmm6, [{p} + {b_stride}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm1, tmm5, tmm6",
        "tdpbf16ps tmm2, tmm7, tmm6",
    ]);
}
