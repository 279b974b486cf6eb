//! Products with few tokens: codes of a row are widened once and summed along it.

use super::*;

/// Tokens in rows.
#[derive(Debug)]
pub(in crate::cpu) struct Rows {
    count: usize,
    chunks: usize,
    /// `[count, chunks, 32]`
    values: Vec<i16>,
    /// `[count, chunks]`, rows filled up to whole vectors.
    scales: Vec<f32>,
    /// What products with unsigned codes have too much, with the other sign: `[count, chunks, 8]`, for
    /// 4-bit codes.
    excess: Vec<[i32; LANES]>,
}

impl Rows {
    pub(in crate::cpu) fn new<'a>(
        count: usize,
        row: &impl Fn(usize) -> Cow<'a, [f32]>,
        matrix: &Matrix<'_>,
    ) -> Self {
        let (width, chunks) = (matrix.width(), chunks(matrix.width()));
        let held = chunks.next_multiple_of(LANES);
        let mut wide = vec![0.0; chunks * CHUNK];
        let mut values = vec![0; count * chunks * CHUNK];
        let mut scales = vec![0.0; count * held];
        let mut excess = Vec::new();
        for token in 0..count {
            wide[..width].copy_from_slice(&row(token));
            let values = &mut values[token * chunks * CHUNK..][..chunks * CHUNK];
            let scales = &mut scales[token * held..][..chunks];
            // SAFETY: these rows are only made where the CPU has the instructions.
            unsafe { quantise_row(&wide, values, scales) };
            if matrix.kind() == Kind::Q4 {
                // Each lane of a product has two values of each half of the chunk.
                excess.extend(values.as_chunks::<CHUNK>().0.iter().map(|values| {
                    std::array::from_fn(|lane| {
                        let [a, b] = [2 * lane, CHUNK / 2 + 2 * lane];
                        let held = [values[a], values[a + 1], values[b], values[b + 1]];
                        -8 * held.map(i32::from).iter().sum::<i32>()
                    })
                }));
            }
        }
        Rows { count, chunks, values, scales, excess }
    }

    /// # Safety
    /// As [`super::super::Tokens::times`], and the CPU has AVX2, FMA and F16C.
    pub(in crate::cpu) unsafe fn times(&self, matrix: &Matrix<'_>, sink: Sink<'_>) {
        // SAFETY: the caller's.
        unsafe {
            match matrix.kind() {
                Kind::Q8 => all::<Bytes>(self, matrix, sink),
                _ => all::<Halves>(self, matrix, sink),
            }
        }
    }
}

/// A way to read a chunk of codes.
trait Format {
    const BYTES: usize;
    /// Whether [`Rows::excess`] has to be added.
    const UNSIGNED: bool;

    /// Codes as integers of 16 bits: those of the first half of a chunk, and of the second one.
    unsafe fn widened(chunk: *const u8) -> [__m256i; 2];
}

/// Signed bytes.
struct Bytes;

impl Format for Bytes {
    const BYTES: usize = CHUNK;
    const UNSIGNED: bool = false;

    #[inline(always)]
    unsafe fn widened(chunk: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's.
        unsafe {
            [
                _mm256_cvtepi8_epi16(_mm_loadu_si128(chunk.cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(chunk.add(16).cast())),
            ]
        }
    }
}

/// Two codes a byte, each with 8 added.
struct Halves;

impl Format for Halves {
    const BYTES: usize = CHUNK / 2;
    const UNSIGNED: bool = true;

    #[inline(always)]
    unsafe fn widened(chunk: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's.
        unsafe {
            let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(chunk.cast()));
            [_mm256_and_si256(bytes, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(bytes)]
        }
    }
}

/// # Safety
/// As [`Rows::times`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn all<F: Format>(tokens: &Rows, matrix: &Matrix<'_>, sink: Sink<'_>) {
    const ROWS: usize = 4;
    let rows = matrix.rows();
    // Memory is read fastest in the order in which it lies.
    let whole = if tokens.count == 1 { 0 } else { rows - rows % ROWS };
    // SAFETY: the caller's.
    unsafe {
        for first in (0..whole).step_by(ROWS) {
            let mut token = 0;
            while token + 2 <= tokens.count {
                some::<F, ROWS, 2>(tokens, matrix, [first, token], sink);
                token += 2;
            }
            if token < tokens.count {
                some::<F, ROWS, 1>(tokens, matrix, [first, token], sink);
            }
        }
        for row in whole..rows {
            for token in 0..tokens.count {
                some::<F, 1, 1>(tokens, matrix, [row, token], sink);
            }
        }
    }
}

/// # Safety
/// As [`Rows::times`], for rows and tokens that there are.
#[inline(always)]
unsafe fn some<F: Format, const R: usize, const T: usize>(
    tokens: &Rows,
    matrix: &Matrix<'_>,
    [first, token]: [usize; 2],
    sink: Sink<'_>,
) {
    let bytes: [&[u8]; R] = std::array::from_fn(|row| matrix.bytes(first + row));
    let scales: [&[half::f16]; R] = std::array::from_fn(|row| matrix.scales_of_chunks(first + row));
    let chunks = tokens.chunks;
    let held = chunks.next_multiple_of(LANES);
    let x: [&[i16]; T] = std::array::from_fn(|index| {
        &tokens.values[(token + index) * chunks * CHUNK..][..chunks * CHUNK]
    });
    let x_scales: [&[f32]; T] =
        std::array::from_fn(|index| &tokens.scales[(token + index) * held..][..held]);
    // The first tokens have read the rows already.
    let far = if token == 0 { ahead(R, bytes[0].len()) } else { 0 };
    // SAFETY: rows and tokens have as many chunks as that.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); T]; R];
        for start in (0..chunks).step_by(LANES) {
            let count = LANES.min(chunks - start);
            // Of the next chunks, of as many as a vector holds.
            let mut factors = [[[0.0; LANES]; T]; R];
            for (row, factors) in factors.iter_mut().enumerate() {
                let scales = &scales[row][start..start + count];
                let mut few = [half::f16::ZERO; LANES];
                let from = match count == LANES {
                    true => scales.as_ptr(),
                    false => {
                        few[..count].copy_from_slice(scales);
                        few.as_ptr()
                    }
                };
                let wide = _mm256_cvtph_ps(_mm_loadu_si128(from.cast()));
                for (factors, scales) in factors.iter_mut().zip(x_scales) {
                    let product = _mm256_mul_ps(wide, _mm256_loadu_ps(scales.as_ptr().add(start)));
                    _mm256_storeu_ps(factors.as_mut_ptr(), product);
                }
            }
            for chunk in start..start + count {
                let offset = chunk - start;
                for (row, sums) in sums.iter_mut().enumerate() {
                    let from = bytes[row].as_ptr().add(chunk * F::BYTES);
                    prefetch(from, far);
                    let codes = F::widened(from);
                    for (index, sum) in sums.iter_mut().enumerate() {
                        let x = x[index].as_ptr().add(chunk * CHUNK);
                        let mut total = _mm256_add_epi32(
                            _mm256_madd_epi16(codes[0], _mm256_loadu_si256(x.cast())),
                            _mm256_madd_epi16(codes[1], _mm256_loadu_si256(x.add(16).cast())),
                        );
                        if F::UNSIGNED {
                            let excess = &tokens.excess;
                            let excess = excess.get_unchecked((token + index) * chunks + chunk);
                            total =
                                _mm256_add_epi32(total, _mm256_loadu_si256(excess.as_ptr().cast()));
                        }
                        let factor = _mm256_set1_ps(factors[row][index][offset]);
                        *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), factor, *sum);
                    }
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (index, sum) in sums.into_iter().enumerate() {
                let place = sink.first + (token + index) * sink.stride + first + row;
                sink.out.write(place, Avx2(sum).sum());
            }
        }
    }
}
