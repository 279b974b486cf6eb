//! Products with few tokens by VNNI (Ice Lake, Zen 4 and later): tokens have 16 bits there too, in two
//! bytes.

use super::*;

/// Tokens in rows.
#[derive(Debug)]
pub(in crate::cpu) struct ByteRows {
    count: usize,
    /// Blocks of a row.
    blocks: usize,
    values: Values,
}

#[derive(Debug)]
enum Values {
    OfBytes(Vec<Block<1>>),
    OfHalves(Vec<Block<2>>),
}

/// 64 values of a token (two chunks, for 8-bit weights) or 128 (four, for 4-bit ones) as integers.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Block<const H: usize> {
    /// Upper bytes, and lower ones, of the values that the first and (of 4-bit weights) the second
    /// half of the codes are multiplied with.
    upper: [[i8; 64]; H],
    lower: [[i8; 64]; H],
    /// What the products have too much, because codes are unsigned.
    excess: [i32; 16],
    /// Scale of the chunk that a lane belongs to.
    scales: [f32; 16],
}

impl ByteRows {
    pub(in crate::cpu) fn new<'a>(
        count: usize,
        row: &impl Fn(usize) -> Cow<'a, [f32]>,
        matrix: &Matrix<'_>,
    ) -> Self {
        let four_bits = matrix.kind() == Kind::Q4;
        let block = if four_bits { 128 } else { 64 };
        let blocks = matrix.width().div_ceil(block);
        let mut wide = vec![0.0; blocks * block];
        let (mut of_bytes, mut of_halves) = (Vec::new(), Vec::new());
        for token in 0..count {
            wide[..matrix.width()].copy_from_slice(&row(token));
            // SAFETY: these rows are only made where the CPU has the instructions.
            unsafe {
                match four_bits {
                    false => append::<Bytes, 1>(&wide, &mut of_bytes),
                    true => append::<Halves, 2>(&wide, &mut of_halves),
                }
            }
        }
        let values =
            if four_bits { Values::OfHalves(of_halves) } else { Values::OfBytes(of_bytes) };
        ByteRows { count, blocks, values }
    }

    /// # Safety
    /// As [`super::super::Tokens::times`], and the CPU has VNNI.
    pub(in crate::cpu) unsafe fn times(&self, matrix: &Matrix<'_>, sink: Sink<'_>) {
        // SAFETY: the caller's.
        unsafe {
            match &self.values {
                Values::OfBytes(values) => all::<Bytes, 1>(self, values, matrix, sink),
                Values::OfHalves(values) => all::<Halves, 2>(self, values, matrix, sink),
            }
        }
    }
}

/// A token as integers, appended block by block.
///
/// # Safety
/// The CPU has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn append<F: Format<H>, const H: usize>(x: &[f32], into: &mut Vec<Block<H>>) {
    /// Largest integer: 127 in the upper byte.
    const LARGEST: f32 = 127.0 * 256.0;
    for block in x.chunks_exact(F::CHUNKS * CHUNK) {
        let mut made =
            Block { upper: [[0; 64]; H], lower: [[0; 64]; H], excess: [0; 16], scales: [0.0; 16] };
        let lanes = 16 / F::CHUNKS;
        for (chunk, x) in block.as_chunks::<CHUNK>().0.iter().enumerate() {
            let largest = largest(x);
            let (scale, inverse) = match largest > 0.0 {
                true => (largest / LARGEST, LARGEST / largest),
                false => (0.0, 0.0),
            };
            let scale = if largest.is_finite() { scale } else { f32::NAN };
            made.scales[chunk * lanes..][..lanes].fill(scale);
            for (index, x) in x.iter().enumerate() {
                let integer = (x * inverse).round_ties_even() as i32;
                // A half of a chunk's codes for 4-bit weights.
                let (half, place) = match H {
                    2 => (index / 16, chunk * 16 + index % 16),
                    _ => (0, chunk * CHUNK + index),
                };
                let upper = (integer + 128) >> 8;
                made.upper[half][place] = upper as i8;
                made.lower[half][place] = (integer - (upper << 8)) as i8;
                made.excess[place / 4] -= F::OFFSET * integer;
            }
        }
        into.push(made);
    }
}

/// A way to read 64 bytes of quantised weights.
trait Format<const H: usize> {
    /// What is added to codes to make them unsigned.
    const OFFSET: i32;
    /// Chunks of 64 bytes.
    const CHUNKS: usize;

    /// The codes as unsigned bytes: those for the first, and the second, half of a block.
    unsafe fn unsigned(bytes: __m512i) -> [__m512i; H];
}

/// Signed bytes.
struct Bytes;

impl Format<1> for Bytes {
    const OFFSET: i32 = 128;
    const CHUNKS: usize = 2;

    #[inline(always)]
    unsafe fn unsigned(bytes: __m512i) -> [__m512i; 1] {
        // SAFETY: the caller's.
        unsafe { [_mm512_xor_si512(bytes, _mm512_set1_epi8(-0x80))] }
    }
}

/// Two codes a byte.
struct Halves;

impl Format<2> for Halves {
    const OFFSET: i32 = 8;
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
/// As [`ByteRows::times`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn all<F: Format<H>, const H: usize>(
    rows: &ByteRows,
    values: &[Block<H>],
    matrix: &Matrix<'_>,
    sink: Sink<'_>,
) {
    let all = matrix.rows();
    // Memory is read fastest in the order in which it lies.
    let whole = if rows.count == 1 { 0 } else { all - all % 4 };
    // SAFETY: the caller's.
    unsafe {
        for first in (0..whole).step_by(4) {
            let mut token = 0;
            while token + 2 <= rows.count {
                some::<F, H, 4, 2>(rows, values, matrix, [first, token], sink);
                token += 2;
            }
            if token < rows.count {
                some::<F, H, 4, 1>(rows, values, matrix, [first, token], sink);
            }
        }
        for row in whole..all {
            for token in 0..rows.count {
                some::<F, H, 1, 1>(rows, values, matrix, [row, token], sink);
            }
        }
    }
}

/// # Safety
/// As [`ByteRows::times`].
#[inline(always)]
unsafe fn some<F: Format<H>, const H: usize, const R: usize, const T: usize>(
    rows: &ByteRows,
    values: &[Block<H>],
    matrix: &Matrix<'_>,
    [first, token]: [usize; 2],
    sink: Sink<'_>,
) {
    let bytes: [&[u8]; R] = std::array::from_fn(|row| matrix.bytes(first + row));
    let scales: [&[half::f16]; R] = std::array::from_fn(|row| matrix.scales_of_chunks(first + row));
    let x: [&[Block<H>]; T] =
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
                add_block::<F, H, T>(sums, bytes, scales, &x, block);
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
                add_block::<F, H, T>(sums, bytes, scales, &x, whole);
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
unsafe fn add_block<F: Format<H>, const H: usize, const T: usize>(
    sums: &mut [__m512; T],
    bytes: *const u8,
    scales: *const half::f16,
    x: &[&[Block<H>]; T],
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
            for (half, codes) in codes.into_iter().enumerate() {
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
