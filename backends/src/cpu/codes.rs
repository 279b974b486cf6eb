//! Products of E4M3 codes with few tokens by instructions of Ice Lake, Zen 4 and later: codes become bf16
//! by a table in registers (VBMI).

use std::arch::x86_64::*;
use std::borrow::Cow;

use super::isa::Isa;
use super::matrix::{CHUNK, Kind, Matrix, Scales};
use super::memory::{ahead, prefetch};
use super::tokens::Sink;

/// Columns at a time.
const BLOCK: usize = 64;

/// Tokens from which other layouts are faster.
pub(super) fn most(isa: Isa) -> usize {
    if isa == Isa::Amx { 9 } else { 17 }
}

/// Whether these kernels take such a matrix.
pub(super) fn takes(matrix: &Matrix<'_>) -> bool {
    let whole_blocks = match matrix.scales(0) {
        Scales::Wide(_, chunks) => chunks.is_multiple_of(BLOCK / CHUNK),
        _ => true,
    };
    matrix.kind() == Kind::E4m3 && whole_blocks
}

/// Tokens in rows.
#[derive(Debug)]
pub(super) struct Rows {
    count: usize,
    /// Blocks of a row.
    blocks: usize,
    /// `[count, blocks, 64]`, in the order that [`codes`] gives.
    values: Vec<f32>,
}

impl Rows {
    pub(super) fn new<'a>(
        count: usize,
        row: &impl Fn(usize) -> Cow<'a, [f32]>,
        matrix: &Matrix<'_>,
    ) -> Self {
        let blocks = matrix.width().div_ceil(BLOCK);
        let mut wide = vec![0.0; blocks * BLOCK];
        let mut values = Vec::with_capacity(count * blocks * BLOCK);
        for token in 0..count {
            wide[..matrix.width()].copy_from_slice(&row(token));
            for block in wide.as_chunks::<BLOCK>().0 {
                values.extend(ORDER.map(|place| block[place]));
            }
        }
        Rows { count, blocks, values }
    }

    /// # Safety
    /// As [`super::Tokens::times`], and the CPU has VBMI.
    pub(super) unsafe fn times(&self, matrix: &Matrix<'_>, sink: Sink<'_>) {
        // SAFETY: the caller's.
        unsafe { of_codes(self, matrix, sink) }
    }
}

/// Where the values of a block go that belong to [`codes`].
const ORDER: [usize; BLOCK] = {
    let mut order = [0; BLOCK];
    let mut place = 0;
    while place < BLOCK {
        let (vector, lane) = (place / 16, place % 16);
        order[place] = 16 * (lane / 4) + 8 * (vector / 2) + 2 * (lane % 4) + vector % 2;
        place += 1;
    }
    order
};

/// The upper and lower bytes of the bf16 values of all E4M3 codes without a sign; of NaN, 480.
const BYTES: [[u8; 128]; 2] = {
    let mut bytes = [[0; 128]; 2];
    let mut code = 1;
    while code < 128 {
        // Subnormal ones have their first bit as exponent.
        let (exponent, mantissa) = if code >= 8 {
            (code / 8 + 120, code % 8)
        } else {
            let shift = (code as u32).leading_zeros() as usize - 28;
            (121 - shift, (code << shift) & 7)
        };
        let bits = exponent << 7 | mantissa << 4;
        bytes[0][code] = (bits >> 8) as u8;
        bytes[1][code] = bits as u8;
        code += 1;
    }
    bytes
};

/// Four vectors of the values of 64 codes, in [`ORDER`].
///
/// # Safety
/// The CPU has VBMI, and the codes can be read.
#[inline(always)]
unsafe fn codes(from: *const u8, tables: &[[__m512i; 2]; 2]) -> [__m512; 4] {
    // SAFETY: the caller's.
    unsafe {
        let codes = _mm512_loadu_si512(from.cast());
        let [upper, lower] = tables;
        let upper = _mm512_permutex2var_epi8(upper[0], codes, upper[1]);
        let lower = _mm512_permutex2var_epi8(lower[0], codes, lower[1]);
        // upper | codes & 0x80
        let sign = _mm512_set1_epi8(-0x80);
        let upper = _mm512_ternarylogic_epi32::<0b1111_1000>(upper, codes, sign);
        let (a, b) = (_mm512_unpacklo_epi8(lower, upper), _mm512_unpackhi_epi8(lower, upper));
        let odd = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
        [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)),
            _mm512_castsi512_ps(_mm512_and_si512(a, odd)),
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b)),
            _mm512_castsi512_ps(_mm512_and_si512(b, odd)),
        ]
    }
}

/// # Safety
/// As [`Rows::times`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,fma")]
unsafe fn of_codes(rows: &Rows, matrix: &Matrix<'_>, sink: Sink<'_>) {
    let all = matrix.rows();
    let whole = all - all % 4;
    // SAFETY: the caller's.
    unsafe {
        let load = |bytes: &[u8; 128]| {
            [
                _mm512_loadu_si512(bytes.as_ptr().cast()),
                _mm512_loadu_si512(bytes[64..].as_ptr().cast()),
            ]
        };
        let tables = [load(&BYTES[0]), load(&BYTES[1])];
        for first in (0..whole).step_by(4) {
            some_rows::<4>(rows, matrix, first, sink, &tables);
        }
        for row in whole..all {
            some_rows::<1>(rows, matrix, row, sink, &tables);
        }
    }
}

/// # Safety
/// As [`Rows::times`].
#[inline(always)]
unsafe fn some_rows<const R: usize>(
    rows: &Rows,
    matrix: &Matrix<'_>,
    first: usize,
    sink: Sink<'_>,
    tables: &[[__m512i; 2]; 2],
) {
    let mut some = [RowOfCodes::NONE; R];
    for (index, row) in some.iter_mut().enumerate() {
        row.read(matrix, first + index);
    }
    let mut token = 0;
    // SAFETY: the caller's.
    unsafe {
        while token + 4 <= rows.count {
            some_codes::<R, 4>(rows, &some, [first, token], sink, tables);
            token += 4;
        }
        while token + 2 <= rows.count {
            some_codes::<R, 2>(rows, &some, [first, token], sink, tables);
            token += 2;
        }
        if token < rows.count {
            some_codes::<R, 1>(rows, &some, [first, token], sink, tables);
        }
    }
}

/// A row of E4M3 codes.
#[derive(Clone, Copy)]
struct RowOfCodes<'a> {
    bytes: &'a [u8],
    scales: Scales<'a>,
    /// The last block, where it is no whole one.
    last: [u8; BLOCK],
}

impl<'a> RowOfCodes<'a> {
    const NONE: Self = RowOfCodes { bytes: &[], scales: Scales::One(0.0), last: [0; BLOCK] };

    #[inline(always)]
    fn read(&mut self, matrix: &Matrix<'a>, row: usize) {
        (self.bytes, self.scales) = (matrix.bytes(row), matrix.scales(row));
        let rest = self.bytes.len() % BLOCK;
        if rest > 0 {
            self.last[..rest].copy_from_slice(&self.bytes[self.bytes.len() - rest..]);
        }
    }
}

/// # Safety
/// As [`Rows::times`].
#[inline(always)]
unsafe fn some_codes<const R: usize, const T: usize>(
    rows: &Rows,
    some: &[RowOfCodes<'_>; R],
    [first, token]: [usize; 2],
    sink: Sink<'_>,
    tables: &[[__m512i; 2]; 2],
) {
    let length = rows.blocks * BLOCK;
    let x: [&[f32]; T] =
        std::array::from_fn(|index| &rows.values[(token + index) * length..][..length]);
    let whole = some[0].bytes.len() / BLOCK;
    let group = match some[0].scales {
        Scales::Wide(_, chunks) => chunks * CHUNK / BLOCK,
        _ => rows.blocks,
    };
    // The first tokens have read the rows already.
    let far = if token == 0 { ahead(R, some[0].bytes.len()) } else { 0 };
    // SAFETY: blocks before `whole` are of the row, the last one is a copy; `x` has all of them.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); T]; R];
        for (index, start) in (0..rows.blocks).step_by(group).enumerate() {
            let mut part = [[_mm512_setzero_ps(); T]; R];
            let end = rows.blocks.min(start + group);
            if T == 1 && group == 2 && start + 2 <= whole {
                // The usual group of 128 columns, without a loop.
                block_of_rows(some, &x, start, &mut part, far, tables);
                block_of_rows(some, &x, start + 1, &mut part, far, tables);
            } else {
                for block in start..end.min(whole) {
                    block_of_rows(some, &x, block, &mut part, far, tables);
                }
            }
            if whole < end {
                for (part, row) in part.iter_mut().zip(some) {
                    block_of_codes(row.last.as_ptr(), &x, whole, part, tables);
                }
            }
            for (sums, (part, row)) in sums.iter_mut().zip(part.iter().zip(some)) {
                let scale = match row.scales {
                    Scales::One(scale) => scale,
                    Scales::Wide(scales, _) => scales[index],
                    Scales::Chunk(_) => unreachable!("no scales of E4M3"),
                };
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = _mm512_fmadd_ps(*part, _mm512_set1_ps(scale), *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (index, sum) in sums.into_iter().enumerate() {
                let place = sink.first + (token + index) * sink.stride + first + row;
                sink.out.write(place, _mm512_reduce_add_ps(sum));
            }
        }
    }
}

/// Adds the products of a block of each row.
///
/// # Safety
/// As [`block_of_codes`].
#[inline(always)]
unsafe fn block_of_rows<const R: usize, const T: usize>(
    some: &[RowOfCodes<'_>; R],
    x: &[&[f32]; T],
    block: usize,
    sums: &mut [[__m512; T]; R],
    far: usize,
    tables: &[[__m512i; 2]; 2],
) {
    for (sums, row) in sums.iter_mut().zip(some) {
        let bytes = row.bytes.as_ptr();
        prefetch(bytes, far + block * BLOCK);
        // SAFETY: the caller's.
        unsafe { block_of_codes(bytes.add(block * BLOCK), x, block, sums, tables) };
    }
}

/// Adds the products of 64 codes with so many of each token.
///
/// # Safety
/// The CPU has VBMI, the codes can be read, and the tokens have such a block.
#[inline(always)]
unsafe fn block_of_codes<const T: usize>(
    from: *const u8,
    x: &[&[f32]; T],
    block: usize,
    sums: &mut [__m512; T],
    tables: &[[__m512i; 2]; 2],
) {
    // SAFETY: the caller's.
    unsafe {
        let weights = codes(from, tables);
        let at =
            |x: &[f32], index: usize| _mm512_loadu_ps(x.as_ptr().add(block * BLOCK + 16 * index));
        if let ([sum], [x]) = (&mut sums[..], &x[..]) {
            // By itself, a chain of sums takes longer than the codes.
            let [a, b, c, d] = std::array::from_fn(|index| at(x, index));
            let first = _mm512_fmadd_ps(weights[1], b, _mm512_mul_ps(weights[0], a));
            let second = _mm512_fmadd_ps(weights[3], d, _mm512_mul_ps(weights[2], c));
            *sum = _mm512_add_ps(*sum, _mm512_add_ps(first, second));
            return;
        }
        for (index, weights) in weights.into_iter().enumerate() {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm512_fmadd_ps(weights, at(x, index), *sum);
            }
        }
    }
}
