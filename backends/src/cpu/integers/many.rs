//! Products with many tokens: codes of some rows are widened once and multiplied with vectors of tokens
//! that lie side by side, two values of each in a lane.

use super::*;

/// Rows of codes that are wide at a time.
const PANEL: usize = 24;
/// Pairs of values of a chunk.
const PAIRS: usize = CHUNK / 2;

/// Tokens side by side.
#[derive(Debug)]
pub(in crate::cpu) struct Groups {
    groups: Vec<Group>,
    width: usize,
}

#[derive(Debug)]
struct Group {
    first: usize,
    count: usize,
    vectors: usize,
    /// `[chunks, 16, vectors * 8, 2]`
    values: Vec<i16>,
    /// `[chunks, vectors * 8]`
    scales: Vec<f32>,
}

/// Codes and scales of some rows.
struct Panel<'a> {
    rows: usize,
    chunks: usize,
    /// `[rows, chunks, 16, 2]`
    codes: &'a [i16],
    /// `[rows, chunks]`
    scales: &'a [f32],
}

impl Groups {
    pub(in crate::cpu) fn new<'a>(
        count: usize,
        width: usize,
        row: &impl Fn(usize) -> Cow<'a, [f32]>,
    ) -> Self {
        let chunks = chunks(width);
        let (mut wide, mut codes) = (vec![0.0; chunks * CHUNK], vec![0; chunks * CHUNK]);
        let mut scales = vec![0.0; chunks];
        let group = |first: usize| {
            let tokens = (2 * LANES).min(count - first);
            let vectors = tokens.div_ceil(LANES);
            let padded = vectors * LANES;
            let mut group = Group {
                first,
                count: tokens,
                vectors,
                values: vec![0; chunks * CHUNK * padded],
                scales: vec![0.0; chunks * padded],
            };
            for token in 0..tokens {
                wide[..width].copy_from_slice(&row(first + token));
                // SAFETY: these groups are only made where the CPU has the instructions.
                unsafe { quantise_row(&wide, &mut codes, &mut scales) };
                let places = group.values[2 * token..].chunks_mut(2 * padded);
                for (place, pair) in places.zip(codes.as_chunks::<2>().0) {
                    place[..2].copy_from_slice(pair);
                }
                let places = group.scales[token..].iter_mut().step_by(padded);
                places.zip(&scales).for_each(|(place, scale)| *place = *scale);
            }
            group
        };
        Groups { groups: (0..count).step_by(2 * LANES).map(group).collect(), width }
    }

    /// # Safety
    /// As [`super::super::Tokens::times`], and the CPU has AVX2, FMA and F16C.
    pub(in crate::cpu) unsafe fn times(&self, matrix: &Matrix<'_>, sink: Sink<'_>) {
        let chunks = chunks(self.width);
        let most = PANEL.min(matrix.rows());
        let (mut codes, mut scales) = (vec![0; most * chunks * CHUNK], vec![0.0; most * chunks]);
        for start in (0..matrix.rows()).step_by(PANEL) {
            let rows = PANEL.min(matrix.rows() - start);
            let places =
                codes.chunks_exact_mut(chunks * CHUNK).zip(scales.chunks_exact_mut(chunks));
            for (row, (codes, scales)) in places.take(rows).enumerate() {
                // SAFETY: the caller's.
                unsafe { widen(matrix, start + row, codes, scales) };
            }
            let panel = Panel { rows, chunks, codes: &codes, scales: &scales };
            for group in &self.groups {
                let first = sink.first + group.first * sink.stride + start;
                // SAFETY: the caller's.
                unsafe { run(group, &panel, Sink { first, ..sink }) };
            }
        }
    }
}

/// Writes the codes of a row, and its scales.
///
/// # Safety
/// The CPU has AVX2 and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen(matrix: &Matrix<'_>, row: usize, codes: &mut [i16], scales: &mut [f32]) {
    let bytes = matrix.bytes(row);
    if matrix.kind() == Kind::Q8 {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            *code = i16::from(byte.cast_signed());
        }
    } else {
        let codes = codes.as_chunks_mut::<CHUNK>().0;
        for (codes, bytes) in codes.iter_mut().zip(bytes.as_chunks::<{ CHUNK / 2 }>().0) {
            let (low, high) = codes.split_at_mut(CHUNK / 2);
            for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
                *low = i16::from(byte & 15) - 8;
                *high = i16::from(byte >> 4) - 8;
            }
        }
    }
    for (scale, held) in scales.iter_mut().zip(matrix.scales_of_chunks(row)) {
        *scale = held.to_f32();
    }
}

/// # Safety
/// As [`Groups::times`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(group: &Group, panel: &Panel<'_>, sink: Sink<'_>) {
    // SAFETY: the caller's.
    unsafe {
        match group.vectors {
            1 => rows::<8, 1>(group, panel, sink),
            _ => rows::<6, 2>(group, panel, sink),
        }
    }
}

/// # Safety
/// As [`Groups::times`].
#[inline(always)]
unsafe fn rows<const R: usize, const N: usize>(group: &Group, panel: &Panel<'_>, sink: Sink<'_>) {
    let whole = panel.rows - panel.rows % R;
    // SAFETY: the caller's.
    unsafe {
        for first in (0..whole).step_by(R) {
            some::<R, N>(group, panel, first, sink);
        }
        for first in whole..panel.rows {
            some::<1, N>(group, panel, first, sink);
        }
    }
}

/// # Safety
/// As [`Groups::times`].
#[inline(always)]
unsafe fn some<const R: usize, const N: usize>(
    group: &Group,
    panel: &Panel<'_>,
    first: usize,
    sink: Sink<'_>,
) {
    let chunks = panel.chunks;
    assert!(panel.codes.len() >= (first + R) * chunks * CHUNK);
    assert!(panel.scales.len() >= (first + R) * chunks);
    assert!(group.values.len() >= chunks * CHUNK * N * LANES);
    assert!(group.scales.len() >= chunks * N * LANES);
    let (codes, values) = (panel.codes.as_ptr(), group.values.as_ptr());
    // SAFETY: rows and values are as long as was asserted; the sink is the caller's.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); N]; R];
        for chunk in 0..chunks {
            let mut totals = [[_mm256_setzero_si256(); N]; R];
            for pair in chunk * PAIRS..(chunk + 1) * PAIRS {
                let x: [__m256i; N] = std::array::from_fn(|vector| {
                    _mm256_loadu_si256(values.add((pair * N + vector) * 2 * LANES).cast())
                });
                for (row, totals) in totals.iter_mut().enumerate() {
                    let both = codes.add((first + row) * chunks * CHUNK + 2 * pair);
                    let both = _mm256_set1_epi32(both.cast::<i32>().read_unaligned());
                    for (total, x) in totals.iter_mut().zip(x) {
                        *total = _mm256_add_epi32(*total, _mm256_madd_epi16(both, x));
                    }
                }
            }
            for (row, (sums, totals)) in sums.iter_mut().zip(totals).enumerate() {
                let scale =
                    _mm256_set1_ps(*panel.scales.as_ptr().add((first + row) * chunks + chunk));
                for (vector, (sum, total)) in sums.iter_mut().zip(totals).enumerate() {
                    let held = group.scales.as_ptr().add((chunk * N + vector) * LANES);
                    let factor = _mm256_mul_ps(scale, _mm256_loadu_ps(held));
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), factor, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                let mut values = [0.0; LANES];
                _mm256_storeu_ps(values.as_mut_ptr(), sum);
                let tokens = vector * LANES..group.count.min((vector + 1) * LANES);
                for (token, value) in tokens.zip(values) {
                    sink.out.write(sink.first + token * sink.stride + first + row, value);
                }
            }
        }
    }
}
