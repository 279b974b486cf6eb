//! Products with many tokens in tiles of bf16 (AMX): 16 rows of weights times 16 tokens in one
//! instruction for 32 columns.
//!
//! Of tokens 16 bits of significand are kept: each value is the sum of two bf16 values, its rounding and
//! the rest, as in the split products of [Henry, Tang & Heinecke
//! 2019](https://arxiv.org/abs/1904.06376). bf16 weights and E4M3 codes are bf16 values as they are;
//! what has a scale in the row, and f16, is split too, and the product of both rests is left out.

use std::arch::x86_64::*;
use std::borrow::Cow;
use std::ops::Range;

use half::bf16;

use super::isa::{Isa, dispatch};
use super::matrix::{CHUNK, Kind, Matrix, Scales};
use super::threads::{Shared, in_pieces};
use super::tokens::{Sink, chunks};
use super::vector::Vector;

/// Rows, and tokens, of a tile, and its lines.
const SIDE: usize = 16;
/// Columns that the panels of a piece are packed for at a time, in chunks: what keeps 32 tokens in the
/// first cache.
const DEPTH: usize = 8;
/// Values of tokens from which a second thread pays for their packing.
const PARALLEL: usize = 1 << 17;
/// Tokens of a block, and rows of a panel.
const BLOCK: usize = 2 * SIDE;

/// A line of a tile, where a line of the cache begins: 16 rows of 32 columns, or 16 pairs of columns of
/// 16 tokens.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([bf16; CHUNK]);

/// Sums of a row with 16 tokens.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Sums([f32; SIDE]);

const ZEROS: Line = Line([bf16::ZERO; CHUNK]);

/// Whether the CPU has tiles of bf16 and the system lets this process use them.
#[cfg(target_os = "linux")]
pub(super) fn is_available() -> bool {
    use std::sync::LazyLock;

    /// `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)` of Linux.
    const REQUEST: [libc::c_long; 2] = [0x1023, 18];
    const TILES_OF_BF16: u32 = 1 << 22 | 1 << 24;
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        __get_cpuid_max(0).0 >= 7
            && __cpuid_count(7, 0).edx & TILES_OF_BF16 == TILES_OF_BF16
            // SAFETY: the request reads no memory; a kernel that does not know it says so.
            && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST[0], REQUEST[1]) } == 0
    });
    *AVAILABLE
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_available() -> bool {
    false
}

/// Tokens in tiles.
#[derive(Debug)]
pub(super) struct Tiles {
    count: usize,
    chunks: usize,
    /// Blocks of 32 tokens, the last one of 16 where that is enough; in each, for each chunk of
    /// columns, the tiles of 16 tokens: their roundings, then the rests. A line has two columns of all
    /// tokens.
    lines: Vec<Line>,
}

impl Tiles {
    pub(super) fn new<'a>(
        isa: Isa,
        count: usize,
        width: usize,
        row: &(impl Fn(usize) -> Cow<'a, [f32]> + Sync),
    ) -> Self {
        let chunks = chunks(width);
        let of_block = 2 * chunks * 2 * SIDE;
        let mut lines = vec![ZEROS; count.div_ceil(SIDE) * chunks * 2 * SIDE];
        let shared = Shared::new(&mut lines);
        in_pieces(count.div_ceil(BLOCK), count * width > PARALLEL, |block| {
            let parts = parts_of(count, block);
            let mut wide = vec![0.0; chunks * CHUNK];
            // SAFETY: each block is one piece's.
            let lines = unsafe { shared.part(block * of_block, chunks * parts * 2 * SIDE) };
            for within in 0..(parts * SIDE).min(count - block * BLOCK) {
                wide[..width].copy_from_slice(&row(block * BLOCK + within));
                let place = 2 * (within % SIDE);
                for (chunk, x) in wide.as_chunks::<CHUNK>().0.iter().enumerate() {
                    let (high, low) = split(isa, x);
                    let tile = (chunk * 2 * parts + within / SIDE) * SIDE;
                    for pair in 0..SIDE {
                        let columns = 2 * pair..2 * pair + 2;
                        lines[tile + pair].0[place..place + 2]
                            .copy_from_slice(&high[columns.clone()]);
                        lines[tile + parts * SIDE + pair].0[place..place + 2]
                            .copy_from_slice(&low[columns]);
                    }
                }
            }
        });
        Tiles { count, chunks, lines }
    }

    /// Rows that are worth a piece of work of its own.
    pub(super) fn rows_of_piece(&self) -> usize {
        if self.count > 2 * BLOCK { 4 * BLOCK } else { 2 * BLOCK }
    }

    /// # Safety
    /// As [`super::Tokens::times`].
    pub(super) unsafe fn times(&self, isa: Isa, matrix: &Matrix<'_>, sink: Sink<'_>) {
        let panels = matrix.rows().div_ceil(BLOCK);
        let (groups, blocks) = (self.count.div_ceil(SIDE), self.count.div_ceil(BLOCK));
        let mut packed = Panels::new(isa, matrix);
        // [panels, groups, 2 tiles]
        let mut sums = vec![Sums([0.0; SIDE]); panels * groups * 2 * SIDE];
        let place = |panel: usize, block: usize| (panel * groups + 2 * block) * 2 * SIDE;
        // SAFETY: the CPU has tiles, or there were no `Tiles`; the pointers are to as many tiles as
        // the products read.
        unsafe {
            Config::new().load();
            for depth in (0..self.chunks).step_by(DEPTH) {
                let chunks = depth..self.chunks.min(depth + DEPTH);
                packed.pack(matrix, chunks.clone());
                for block in 0..blocks {
                    let parts = parts_of(self.count, block);
                    let first = (block * 2 * self.chunks + chunks.start * parts) * 2 * SIDE;
                    let tokens = &self.lines[first..][..chunks.len() * parts * 2 * SIDE];
                    for panel in 0..panels {
                        // What the next depth packs, a little at a time.
                        let (turn, turns) = (block * panels + panel, blocks * panels);
                        let some = matrix.rows() * turn / turns..matrix.rows() * (turn + 1) / turns;
                        matrix.prefetch(some, depth + DEPTH..depth + 2 * DEPTH);
                        let sums = &mut sums[place(panel, block)..][..parts * 2 * SIDE];
                        let weights = packed.panel(panel, chunks.len());
                        let product = Product { chunks: chunks.len(), parts, split: packed.split };
                        multiply(weights.as_ptr(), tokens.as_ptr(), sums.as_mut_ptr(), product);
                    }
                }
            }
            Config::release();
        }
        for panel in 0..panels {
            for half in 0..2 {
                let first_row = panel * BLOCK + half * SIDE;
                let rows = SIDE.min(matrix.rows().saturating_sub(first_row));
                let scales: [f32; SIDE] = std::array::from_fn(|row| match row < rows {
                    true => match matrix.scales(first_row + row) {
                        Scales::One(scale) => scale,
                        _ => 1.0,
                    },
                    false => 0.0,
                });
                for group in 0..if rows > 0 { groups } else { 0 } {
                    let (block, part) = (group / 2, group % 2);
                    // Of the first rows with all tokens of a block, then of the others.
                    let tile =
                        place(panel, block) + (half * parts_of(self.count, block) + part) * SIDE;
                    let tile = &sums[tile..][..SIDE];
                    let tokens = SIDE.min(self.count - group * SIDE);
                    let first = sink.first + group * SIDE * sink.stride + first_row;
                    // SAFETY: the CPU has AVX-512; the places are the caller's.
                    unsafe { transpose(tile, &scales, [rows, tokens], Sink { first, ..sink }) };
                }
            }
        }
    }
}

/// Tiles of a block beside each other.
fn parts_of(count: usize, block: usize) -> usize {
    (count - block * BLOCK).min(BLOCK).div_ceil(SIDE)
}

/// Writes a tile of sums times the scales of its rows, token by token.
///
/// # Safety
/// The CPU has AVX-512, and nobody else reads or writes the places of the sink.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(
    tile: &[Sums],
    scales: &[f32; SIDE],
    [rows, tokens]: [usize; 2],
    sink: Sink<'_>,
) {
    // SAFETY: the tile has 16 lines; places are the caller's.
    unsafe {
        let mut lines = [_mm512_setzero_ps(); SIDE];
        for (line, (sums, scale)) in lines.iter_mut().zip(tile.iter().zip(scales)) {
            *line = _mm512_mul_ps(_mm512_load_ps(sums.0.as_ptr()), _mm512_set1_ps(*scale));
        }
        // Values of 2, 4, 8 and 16 lines beside each other.
        let mut pairs = lines;
        for index in 0..SIDE / 2 {
            let (a, b) = (lines[2 * index], lines[2 * index + 1]);
            pairs[2 * index] = _mm512_unpacklo_ps(a, b);
            pairs[2 * index + 1] = _mm512_unpackhi_ps(a, b);
        }
        let mut fours = pairs;
        for index in 0..SIDE / 4 {
            for half in 0..2 {
                let a = _mm512_castps_pd(pairs[4 * index + half]);
                let b = _mm512_castps_pd(pairs[4 * index + 2 + half]);
                fours[4 * index + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                fours[4 * index + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        let mut eights = fours;
        for index in 0..2 {
            for column in 0..4 {
                let (a, b) = (fours[8 * index + column], fours[8 * index + 4 + column]);
                eights[8 * index + column] = _mm512_shuffle_f32x4::<0b1000_1000>(a, b);
                eights[8 * index + 4 + column] = _mm512_shuffle_f32x4::<0b1101_1101>(a, b);
            }
        }
        let mask = (1u32 << rows).wrapping_sub(1) as __mmask16;
        for column in 0..8 {
            let (a, b) = (eights[column], eights[8 + column]);
            for (token, values) in [
                (column, _mm512_shuffle_f32x4::<0b1000_1000>(a, b)),
                (8 + column, _mm512_shuffle_f32x4::<0b1101_1101>(a, b)),
            ] {
                if token < tokens {
                    let out = sink.out.part(sink.first + token * sink.stride, rows);
                    _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, values);
                }
            }
        }
    }
}

/// The roundings of values to bf16, and those of the rests.
#[inline(always)]
fn split(isa: Isa, values: &[f32; CHUNK]) -> ([bf16; CHUNK], [bf16; CHUNK]) {
    let (mut high, mut low) = ([bf16::ZERO; CHUNK], [bf16::ZERO; CHUNK]);
    let (from, to_high, to_low) = (values.as_ptr(), high.as_mut_ptr(), low.as_mut_ptr());
    // SAFETY: `Isa::current` gives what there is, and all are one chunk.
    unsafe {
        dispatch!(isa, split_chunk(from: *const f32, to_high: *mut bf16, to_low: *mut bf16));
    }
    (high, low)
}

/// # Safety
/// The CPU has the instructions, and all are one chunk.
#[inline(always)]
unsafe fn split_chunk<V: Vector>(from: *const f32, high: *mut bf16, low: *mut bf16) {
    for place in (0..CHUNK).step_by(V::LANES) {
        // SAFETY: the caller's.
        unsafe { V::load(from.add(place)).split(high.add(place).cast(), low.add(place).cast()) }
    }
}

/// Splits the chunks of a row, each to its panel's lines; the rests only where they are asked for.
///
/// # Safety
/// The CPU has the instructions, and there are as many chunks.
#[inline(always)]
unsafe fn split_row<V: Vector>(from: *const f32, count: usize, to: &mut [Line], both: bool) {
    let mut nowhere = ZEROS;
    let each = if both { 2 * BLOCK } else { BLOCK };
    for chunk in 0..count {
        let high = to[chunk * each].0.as_mut_ptr();
        let low = if both { &mut to[chunk * each + BLOCK] } else { &mut nowhere };
        // SAFETY: the caller's.
        unsafe { split_chunk::<V>(from.add(chunk * CHUNK), high, low.0.as_mut_ptr()) };
    }
}

/// Rows of weights in tiles.
struct Panels {
    isa: Isa,
    /// Whether there are tiles for the rests.
    split: bool,
    /// For each 32 rows and chunk: two tiles of roundings, and two of rests.
    lines: Vec<Line>,
    wide: Vec<f32>,
}

impl Panels {
    fn new(isa: Isa, matrix: &Matrix<'_>) -> Self {
        let split = match matrix.kind() {
            Kind::Bf16 => false,
            Kind::E4m3 => !matches!(matrix.scales(0), Scales::One(_)),
            Kind::F32 | Kind::F16 | Kind::Q8 | Kind::Q4 => true,
        };
        let wide = if matrix.kind() == Kind::Bf16 { 0 } else { DEPTH * CHUNK };
        let panels = matrix.rows().div_ceil(BLOCK);
        let each = if split { 2 * BLOCK } else { BLOCK };
        // Lines of rows that there are not stay zeros.
        let lines = vec![ZEROS; panels * DEPTH.min(chunks(matrix.width())) * each];
        Panels { isa, split, lines, wide: vec![0.0; wide] }
    }

    fn lines_of_chunk(&self) -> usize {
        if self.split { 2 * BLOCK } else { BLOCK }
    }

    fn panel(&self, panel: usize, chunks: usize) -> &[Line] {
        let length = chunks * self.lines_of_chunk();
        &self.lines[panel * length..][..length]
    }

    /// Packs some chunks of all rows.
    fn pack(&mut self, matrix: &Matrix<'_>, chunks: Range<usize>) {
        let each = self.lines_of_chunk();
        let columns = chunks.start * CHUNK..matrix.width().min(chunks.end * CHUNK);
        let count = chunks.len();
        if !matrix.rows().is_multiple_of(BLOCK) && count < DEPTH {
            // The last chunks lie otherwise, and rows that there are not among others.
            self.lines.fill(ZEROS);
        }
        for row in 0..matrix.rows() {
            let first = row / BLOCK * count * each + row % BLOCK;
            if matrix.kind() == Kind::Bf16 {
                let bytes = &matrix.bytes(row)[2 * columns.start..2 * columns.end];
                let (whole, rest) = bytes.as_chunks::<{ 2 * CHUNK }>();
                for (chunk, bytes) in whole.iter().enumerate() {
                    // SAFETY: as many bytes as a line has, in the order of x86.
                    let line = unsafe { bytes.as_ptr().cast::<[bf16; CHUNK]>().read_unaligned() };
                    self.lines[first + chunk * each].0 = line;
                }
                if !rest.is_empty() {
                    let to = &mut self.lines[first + whole.len() * each];
                    *to = ZEROS;
                    for (to, bytes) in to.0.iter_mut().zip(rest.as_chunks::<2>().0) {
                        *to = bf16::from_le_bytes(*bytes);
                    }
                }
                continue;
            }
            let wide = &mut self.wide[..columns.len()];
            matrix.expand_columns(self.isa, row, columns.clone(), !self.split, wide);
            self.wide[columns.len()..].fill(0.0);
            let wide = &self.wide[..columns.len().next_multiple_of(CHUNK)];
            let Panels { isa, split: both, lines, .. } = self;
            let (from, count, both) = (wide.as_ptr(), wide.len() / CHUNK, *both);
            let to = &mut lines[first..];
            // SAFETY: `Isa::current` gives what there is; the last line is looked at when it is written.
            unsafe {
                dispatch!(*isa, split_row(from: *const f32, count: usize, to: &mut [Line], both: bool));
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Product {
    chunks: usize,
    /// Tiles of tokens: one or two.
    parts: usize,
    split: bool,
}

/// Shapes of the tile registers.
#[repr(C, align(64))]
struct Config([u8; 64]);

impl Config {
    /// Eight tiles of 16 rows of 64 bytes.
    fn new() -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for tile in 0..8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
        }
        Config(bytes)
    }

    /// # Safety
    /// The CPU has tiles, and the process may use them.
    #[inline(always)]
    unsafe fn load(&self) {
        // SAFETY: reads the 64 bytes.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) self.0.as_ptr(), options(nostack)) };
    }

    /// # Safety
    /// As [`Config::load`].
    #[inline(always)]
    unsafe fn release() {
        // SAFETY: no tile is in use.
        unsafe { std::arch::asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Adds the products of a panel of 32 rows with 16 or 32 tokens to `sums`.
///
/// # Safety
/// The tiles are configured; `weights`, `tokens` and `sums` have as many tiles as `product` says.
#[inline(always)]
unsafe fn multiply(weights: *const Line, tokens: *const Line, sums: *mut Sums, product: Product) {
    use std::arch::asm;
    /// A pass over the registers for two tiles of tokens, with the weights in tmm4 and tmm5.
    macro_rules! wide {
        ($first:literal, $second:literal) => {
            concat!(
                "tileloadd tmm6, [{x} + {line} + ",
                $first,
                "]\n",
                "tdpbf16ps tmm0, tmm4, tmm6\n",
                "tdpbf16ps tmm2, tmm5, tmm6\n",
                "tileloadd tmm7, [{x} + {line} + ",
                $second,
                "]\n",
                "tdpbf16ps tmm1, tmm4, tmm7\n",
                "tdpbf16ps tmm3, tmm5, tmm7\n",
            )
        };
    }
    /// The same for one tile of tokens.
    macro_rules! narrow {
        ($place:literal) => {
            concat!(
                "tileloadd tmm6, [{x} + {line} + ",
                $place,
                "]\n",
                "tdpbf16ps tmm0, tmm4, tmm6\n",
                "tdpbf16ps tmm1, tmm5, tmm6\n",
            )
        };
    }
    macro_rules! run {
        ($begin:expr, $body:expr, $end:expr, $weights:literal, $tokens:literal) => {
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    $begin,
                    "2:",
                    "tileloadd tmm4, [{w} + {line}]",
                    "tileloadd tmm5, [{w} + {line} + 1024]",
                    $body,
                    concat!("add {w}, ", $weights),
                    concat!("add {x}, ", $tokens),
                    "dec {chunks}",
                    "jnz 2b",
                    $end,
                    w = inout(reg) weights => _,
                    x = inout(reg) tokens => _,
                    c = in(reg) sums,
                    line = in(reg) 64usize,
                    chunks = inout(reg) product.chunks => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            }
        };
    }
    macro_rules! load_four {
        () => {
            concat!(
                "tileloadd tmm0, [{c} + {line}]\n",
                "tileloadd tmm1, [{c} + {line} + 1024]\n",
                "tileloadd tmm2, [{c} + {line} + 2048]\n",
                "tileloadd tmm3, [{c} + {line} + 3072]\n"
            )
        };
    }
    macro_rules! store_four {
        () => {
            concat!(
                "tilestored [{c} + {line}], tmm0\n",
                "tilestored [{c} + {line} + 1024], tmm1\n",
                "tilestored [{c} + {line} + 2048], tmm2\n",
                "tilestored [{c} + {line} + 3072], tmm3\n"
            )
        };
    }
    macro_rules! load_two {
        () => {
            concat!("tileloadd tmm0, [{c} + {line}]\n", "tileloadd tmm1, [{c} + {line} + 1024]\n")
        };
    }
    macro_rules! store_two {
        () => {
            concat!("tilestored [{c} + {line}], tmm0\n", "tilestored [{c} + {line} + 1024], tmm1\n")
        };
    }
    macro_rules! rests {
        () => {
            concat!(
                "tileloadd tmm4, [{w} + {line} + 2048]\n",
                "tileloadd tmm5, [{w} + {line} + 3072]\n"
            )
        };
    }
    match (product.parts, product.split) {
        (2, false) => run!(
            load_four!(),
            concat!(wide!("0", "1024"), wide!("2048", "3072")),
            store_four!(),
            "2048",
            "4096"
        ),
        (2, true) => run!(
            load_four!(),
            concat!(wide!("0", "1024"), wide!("2048", "3072"), rests!(), wide!("0", "1024")),
            store_four!(),
            "4096",
            "4096"
        ),
        (_, false) => {
            run!(load_two!(), concat!(narrow!("0"), narrow!("1024")), store_two!(), "2048", "2048")
        }
        (_, true) => run!(
            load_two!(),
            concat!(narrow!("0"), narrow!("1024"), rests!(), narrow!("0")),
            store_two!(),
            "4096",
            "2048"
        ),
    }
}
