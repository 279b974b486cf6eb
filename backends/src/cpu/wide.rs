//! Products with few tokens by instructions of Ice Lake, Zen 4 and later: E4M3 codes become bf16 by a
//! table in registers (VBMI), and quantised weights are multiplied as integers (VNNI).
//!
//! Tokens are integers of 16 bits there, with a scale for each chunk: as exact as the two bf16 values
//! of [`amx`](super::amx). A product of integers is exact.

use std::arch::x86_64::*;
use std::borrow::Cow;

use super::matrix::{CHUNK, Kind, Matrix, Scales};
use super::memory::{ahead, prefetch};
use super::tokens::Sink;

/// Tokens from which other layouts are faster.
pub(super) const MOST: usize = 9;
/// Columns at a time.
const BLOCK: usize = 64;

/// Whether these kernels take such a matrix.
pub(super) fn takes(matrix: &Matrix<'_>) -> bool {
    match matrix.kind() {
        Kind::E4m3 => match matrix.scales(0) {
            Scales::Wide(_, chunks) => chunks.is_multiple_of(BLOCK / CHUNK),
            _ => true,
        },
        Kind::Q8 | Kind::Q4 => true,
        Kind::F32 | Kind::F16 | Kind::Bf16 => false,
    }
}

/// Tokens for a kind of matrix.
#[derive(Debug)]
pub(super) struct Rows {
    count: usize,
    /// Blocks of a row.
    blocks: usize,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// `[count, blocks, 64]`, in the order that [`codes`] gives.
    Floats(Vec<f32>),
    Integers(Vec<Integers>),
}

/// 64 values of a token (two chunks, for 8-bit weights) or 128 (four, for 4-bit ones) as integers.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Integers {
    /// Upper bytes, and lower ones, of the values that the first and (of 4-bit weights) the second
    /// half of the codes are multiplied with.
    upper: [[i8; 64]; 2],
    lower: [[i8; 64]; 2],
    /// What the products have too much, because codes are unsigned.
    excess: [i32; 16],
    /// Scale of the chunk that a lane belongs to.
    scales: [f32; 16],
}

impl Rows {
    pub(super) fn new<'a>(
        count: usize,
        row: &impl Fn(usize) -> Cow<'a, [f32]>,
        matrix: &Matrix<'_>,
    ) -> Self {
        let kind = matrix.kind();
        let block = if kind == Kind::Q4 { 2 * BLOCK } else { BLOCK };
        let blocks = matrix.width().div_ceil(block);
        let mut wide = vec![0.0; blocks * block];
        let mut floats = Vec::new();
        let mut integers = Vec::new();
        for token in 0..count {
            wide[..matrix.width()].copy_from_slice(&row(token));
            if kind == Kind::E4m3 {
                for block in wide.as_chunks::<BLOCK>().0 {
                    floats.extend(ORDER.map(|place| block[place]));
                }
                continue;
            }
            // SAFETY: these rows are only made where the CPU has the instructions.
            unsafe { integers_of(&wide, kind, &mut integers) };
        }
        let values = match kind {
            Kind::E4m3 => Values::Floats(floats),
            _ => Values::Integers(integers),
        };
        Rows { count, blocks, values }
    }

    /// # Safety
    /// As [`super::Tokens::times`], and the CPU has VBMI and VNNI.
    pub(super) unsafe fn times(&self, matrix: &Matrix<'_>, sink: Sink<'_>) {
        // SAFETY: the caller's.
        unsafe {
            match &self.values {
                Values::Floats(values) => of_codes(self, values, matrix, sink),
                Values::Integers(values) if matrix.kind() == Kind::Q8 => {
                    of_integers::<Bytes>(self, values, matrix, sink);
                }
                Values::Integers(values) => of_integers::<Halves>(self, values, matrix, sink),
            }
        }
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
unsafe fn of_codes(rows: &Rows, values: &[f32], matrix: &Matrix<'_>, sink: Sink<'_>) {
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
            some_codes::<4>(rows, values, matrix, first, sink, &tables);
        }
        for row in whole..all {
            some_codes::<1>(rows, values, matrix, row, sink, &tables);
        }
    }
}

/// # Safety
/// As [`Rows::times`].
#[inline(always)]
unsafe fn some_codes<const R: usize>(
    rows: &Rows,
    values: &[f32],
    matrix: &Matrix<'_>,
    first: usize,
    sink: Sink<'_>,
    tables: &[[__m512i; 2]; 2],
) {
    let bytes: [&[u8]; R] = std::array::from_fn(|row| matrix.bytes(first + row));
    let scales: [Scales<'_>; R] = std::array::from_fn(|row| matrix.scales(first + row));
    let whole = bytes[0].len() / BLOCK;
    let mut last = [[0; BLOCK]; R];
    for (last, bytes) in last.iter_mut().zip(bytes) {
        let rest = &bytes[whole * BLOCK..];
        last[..rest.len()].copy_from_slice(rest);
    }
    let group = match scales[0] {
        Scales::Wide(_, chunks) => chunks * CHUNK / BLOCK,
        _ => rows.blocks,
    };
    for (token, x) in values.chunks_exact(rows.blocks * BLOCK).enumerate() {
        // The first token has read the rows already.
        let far = if token == 0 { ahead(R, bytes[0].len()) } else { 0 };
        // SAFETY: blocks before `whole` are of the row, the last one is a copy; `x` has all of them.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); R];
            for (index, start) in (0..rows.blocks).step_by(group).enumerate() {
                let mut part = [_mm512_setzero_ps(); R];
                let end = rows.blocks.min(start + group);
                for block in start..end.min(whole) {
                    let x = x.as_ptr().add(block * BLOCK);
                    for (part, bytes) in part.iter_mut().zip(bytes) {
                        prefetch(bytes.as_ptr(), far + block * BLOCK);
                        *part = block_of_codes(bytes.as_ptr().add(block * BLOCK), x, *part, tables);
                    }
                }
                if whole < end {
                    let x = x.as_ptr().add(whole * BLOCK);
                    for (part, last) in part.iter_mut().zip(&last) {
                        *part = block_of_codes(last.as_ptr(), x, *part, tables);
                    }
                }
                for (row, (sum, part)) in sums.iter_mut().zip(part).enumerate() {
                    let scale = match scales[row] {
                        Scales::One(scale) => scale,
                        Scales::Wide(scales, _) => scales[index],
                        Scales::Chunk(_) => unreachable!("no scales of E4M3"),
                    };
                    *sum = _mm512_fmadd_ps(part, _mm512_set1_ps(scale), *sum);
                }
            }
            for (row, sum) in sums.into_iter().enumerate() {
                let place = sink.first + token * sink.stride + first + row;
                sink.out.write(place, _mm512_reduce_add_ps(sum));
            }
        }
    }
}

/// Adds the products of 64 codes.
///
/// # Safety
/// The CPU has VBMI, and codes and values can be read.
#[inline(always)]
unsafe fn block_of_codes(
    from: *const u8,
    x: *const f32,
    mut sum: __m512,
    tables: &[[__m512i; 2]; 2],
) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let weights = codes(from, tables);
        for (index, weights) in weights.iter().enumerate() {
            sum = _mm512_fmadd_ps(*weights, _mm512_loadu_ps(x.add(16 * index)), sum);
        }
        sum
    }
}

/// A token as integers, appended block by block.
///
/// # Safety
/// The CPU has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn integers_of(x: &[f32], kind: Kind, into: &mut Vec<Integers>) {
    /// Largest integer: 127 in the upper byte.
    const LARGEST: f32 = 127.0 * 256.0;
    let (chunks, offset) = if kind == Kind::Q4 { (4, 8) } else { (2, 128) };
    for block in x.chunks_exact(chunks * CHUNK) {
        let mut made = Integers {
            upper: [[0; 64]; 2],
            lower: [[0; 64]; 2],
            excess: [0; 16],
            scales: [0.0; 16],
        };
        let lanes = 16 / chunks;
        for (chunk, x) in block.as_chunks::<CHUNK>().0.iter().enumerate() {
            let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let (scale, inverse) = match largest > 0.0 {
                true => (largest / LARGEST, LARGEST / largest),
                false => (0.0, 0.0),
            };
            let scale = if largest.is_finite() { scale } else { f32::NAN };
            made.scales[chunk * lanes..][..lanes].fill(scale);
            for (index, x) in x.iter().enumerate() {
                let integer = (x * inverse).round_ties_even() as i32;
                // A half of a chunk's codes for 4-bit weights.
                let (half, place) = match kind {
                    Kind::Q4 => (index / 16, chunk * 16 + index % 16),
                    _ => (0, chunk * CHUNK + index),
                };
                let upper = (integer + 128) >> 8;
                made.upper[half][place] = upper as i8;
                made.lower[half][place] = (integer - (upper << 8)) as i8;
                made.excess[place / 4] -= offset * integer;
            }
        }
        into.push(made);
    }
}

/// A way to read 64 bytes of quantised weights.
trait Format {
    /// Codes that are multiplied with the first, and the second, half of a block.
    const HALVES: usize;
    /// Chunks of 64 bytes.
    const CHUNKS: usize;

    /// The codes as unsigned bytes.
    unsafe fn unsigned(bytes: __m512i) -> [__m512i; 2];
}

/// Signed bytes.
struct Bytes;

impl Format for Bytes {
    const HALVES: usize = 1;
    const CHUNKS: usize = 2;

    #[inline(always)]
    unsafe fn unsigned(bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller's.
        unsafe { [_mm512_xor_si512(bytes, _mm512_set1_epi8(-0x80)), bytes] }
    }
}

/// Two codes a byte.
struct Halves;

impl Format for Halves {
    const HALVES: usize = 2;
    const CHUNKS: usize = 4;

    #[inline(always)]
    unsafe fn unsigned(bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller's.
        unsafe {
            let mask = _mm512_set1_epi8(15);
            [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask)]
        }
    }
}

/// # Safety
/// As [`Rows::times`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn of_integers<F: Format>(
    rows: &Rows,
    values: &[Integers],
    matrix: &Matrix<'_>,
    sink: Sink<'_>,
) {
    let all = matrix.rows();
    let whole = all - all % 2;
    // SAFETY: the caller's.
    unsafe {
        for first in (0..whole).step_by(2) {
            let mut token = 0;
            while token + 2 <= rows.count {
                some_integers::<F, 2, 2>(rows, values, matrix, [first, token], sink);
                token += 2;
            }
            if token < rows.count {
                some_integers::<F, 2, 1>(rows, values, matrix, [first, token], sink);
            }
        }
        for row in whole..all {
            for token in 0..rows.count {
                some_integers::<F, 1, 1>(rows, values, matrix, [row, token], sink);
            }
        }
    }
}

/// # Safety
/// As [`Rows::times`].
#[inline(always)]
unsafe fn some_integers<F: Format, const R: usize, const T: usize>(
    rows: &Rows,
    values: &[Integers],
    matrix: &Matrix<'_>,
    [first, token]: [usize; 2],
    sink: Sink<'_>,
) {
    let bytes: [&[u8]; R] = std::array::from_fn(|row| matrix.bytes(first + row));
    let scales: [&[half::f16]; R] = std::array::from_fn(|row| matrix.scales_of_chunks(first + row));
    let x: [&[Integers]; T] =
        std::array::from_fn(|index| &values[(token + index) * rows.blocks..][..rows.blocks]);
    // The first tokens have read the rows already.
    let far = if token == 0 { ahead(R, bytes[0].len()) } else { 0 };
    // Blocks whose bytes and scales are all of the row.
    let whole = scales[0].len() / F::CHUNKS;
    // SAFETY: the CPU has the instructions; the last block is a copy.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); T]; R];
        for block in 0..whole {
            for (row, sums) in sums.iter_mut().enumerate() {
                let bytes = bytes[row].as_ptr().add(block * 64);
                prefetch(bytes, far);
                let scales = scales[row].as_ptr().add(block * F::CHUNKS);
                block_of_integers::<F, T>(sums, bytes, scales, &x, block);
            }
        }
        if whole < rows.blocks {
            for (row, sums) in sums.iter_mut().enumerate() {
                let mut last = [0u8; 64];
                let mut last_scales = [half::f16::ZERO; 4];
                let (bytes, scales) =
                    (&bytes[row][whole * 64..], &scales[row][whole * F::CHUNKS..]);
                last[..bytes.len()].copy_from_slice(bytes);
                last_scales[..scales.len()].copy_from_slice(scales);
                let (bytes, scales) = (last.as_ptr(), last_scales.as_ptr());
                block_of_integers::<F, T>(sums, bytes, scales, &x, whole);
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

/// Adds the products of 64 bytes of a row.
///
/// # Safety
/// The CPU has VNNI, bytes and scales can be read, and the tokens have such a block.
#[inline(always)]
unsafe fn block_of_integers<F: Format, const T: usize>(
    sums: &mut [__m512; T],
    bytes: *const u8,
    scales: *const half::f16,
    x: &[&[Integers]; T],
    block: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let codes = F::unsigned(_mm512_loadu_si512(bytes.cast()));
        let scales = match F::CHUNKS {
            2 => {
                let two = _mm_cvtsi32_si128(scales.cast::<i32>().read_unaligned());
                let places = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
                _mm512_permutexvar_ps(places, _mm512_castps128_ps512(_mm_cvtph_ps(two)))
            }
            _ => {
                let four = _mm_cvtsi64_si128(scales.cast::<i64>().read_unaligned());
                let places = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                _mm512_permutexvar_ps(places, _mm512_castps128_ps512(_mm_cvtph_ps(four)))
            }
        };
        for (sum, x) in sums.iter_mut().zip(x) {
            let x = x.get_unchecked(block);
            let mut upper = _mm512_setzero_si512();
            let mut lower = _mm512_load_si512(x.excess.as_ptr().cast());
            for (half, codes) in codes.into_iter().enumerate().take(F::HALVES) {
                let (high, low) = (x.upper[half].as_ptr(), x.lower[half].as_ptr());
                upper = _mm512_dpbusd_epi32(upper, codes, _mm512_load_si512(high.cast()));
                lower = _mm512_dpbusd_epi32(lower, codes, _mm512_load_si512(low.cast()));
            }
            let total = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower);
            let scale = _mm512_mul_ps(scales, _mm512_load_ps(x.scales.as_ptr()));
            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), scale, *sum);
        }
    }
}
