//! Products with many tokens: codes of some rows are widened once and multiplied with vectors of tokens
//! that lie side by side, two values of each in a lane.

use super::*;
use crate::cpu::blocks::{Blocks, Group, PANEL, in_panels};
use crate::cpu::isa::Isa;
use crate::cpu::threads::Shared;
use crate::cpu::vector::Avx512;

/// Chunks of a pass: a panel of codes and a group of tokens stay in the second cache.
const DEPTH: usize = 16;
/// Pairs of values of a chunk.
const PAIRS: usize = CHUNK / 2;

/// Tokens side by side.
#[derive(Debug)]
pub(in crate::cpu) struct Groups {
    blocks: Blocks,
    chunks: usize,
    /// Of each group pairs of values `[chunks, 16, padded]`.
    values: Vec<[i16; 2]>,
    /// Of each group `[chunks, padded]`.
    scales: Vec<f32>,
}

/// Codes and scales of some chunks of some rows.
struct Panel<'a> {
    rows: usize,
    chunks: usize,
    /// `[rows, chunks, 16, 2]`
    codes: &'a [i16],
    /// `[rows, chunks]`
    scales: &'a [f32],
}

/// The same chunks of a group of tokens.
struct Side<'a> {
    padded: usize,
    values: &'a [[i16; 2]],
    scales: &'a [f32],
}

impl Groups {
    pub(in crate::cpu) fn new<'a>(
        isa: Isa,
        count: usize,
        width: usize,
        row: &(impl Fn(usize) -> Cow<'a, [f32]> + Sync),
    ) -> Self {
        let chunks = chunks(width);
        let blocks =
            Blocks { count, lanes: isa.lanes(), vectors: if isa >= Isa::Vnni { 4 } else { 2 } };
        let mut values = vec![[0; 2]; blocks.padded() * chunks * PAIRS];
        let mut scales = vec![0.0; blocks.padded() * chunks];
        let (shared, shared_scales) = (Shared::new(&mut values), Shared::new(&mut scales));
        blocks.each(width, |Group { first, count, padded }| {
            // SAFETY: each group has places of its own.
            let (values, scales) = unsafe {
                (
                    shared.part(first * chunks * PAIRS, padded * chunks * PAIRS),
                    shared_scales.part(first * chunks, padded * chunks),
                )
            };
            let tokens: Vec<_> = (first..first + count).map(row).collect();
            let places = values.chunks_exact_mut(padded * PAIRS);
            for (chunk, (values, scales)) in places.zip(scales.chunks_exact_mut(padded)).enumerate()
            {
                for (token, x) in tokens.iter().enumerate() {
                    let x = &x[chunk * CHUNK..width.min((chunk + 1) * CHUNK)];
                    let (mut wide, mut codes) = ([0.0; CHUNK], [0; CHUNK]);
                    wide[..x.len()].copy_from_slice(x);
                    // SAFETY: these groups are only made where the CPU has the instructions.
                    scales[token] = unsafe { quantise_chunk(&wide, &mut codes) };
                    let places = values[token..].iter_mut().step_by(padded);
                    places.zip(codes.as_chunks().0).for_each(|(place, pair)| *place = *pair);
                }
            }
        });
        Groups { blocks, chunks, values, scales }
    }

    /// # Safety
    /// As [`super::super::Tokens::times`], and the CPU has AVX2, FMA and F16C, or VNNI where they were
    /// made for it.
    pub(in crate::cpu) unsafe fn times(&self, matrix: &Matrix<'_>, sink: Sink<'_>) {
        let rows = PANEL.min(matrix.rows());
        let (mut codes, mut scales) = (vec![0; rows * DEPTH * CHUNK], vec![0.0; rows * DEPTH]);
        let kernel = if self.blocks.lanes == 16 { run_of_16 } else { run_of_8 };
        let turns = self.blocks.count_of_groups();
        // SAFETY: the caller's.
        unsafe {
            in_panels(self.blocks, matrix, sink, |panel, sums| {
                for start in (0..self.chunks).step_by(DEPTH) {
                    let chunks = DEPTH.min(self.chunks - start);
                    let places =
                        codes.chunks_exact_mut(chunks * CHUNK).zip(scales.chunks_exact_mut(chunks));
                    for (row, (codes, scales)) in places.take(panel.rows()).enumerate() {
                        widen(panel, row, start, codes, scales);
                    }
                    let held = Panel { rows: panel.rows(), chunks, codes: &codes, scales: &scales };
                    for (turn, group) in self.blocks.groups().enumerate() {
                        let Group { first, padded, .. } = group;
                        // What comes next, a little at a time.
                        let some = panel.rows() * turn / turns..panel.rows() * (turn + 1) / turns;
                        panel.prefetch(some, start + chunks..start + chunks + DEPTH);
                        let from = first * self.chunks + start * padded;
                        let side = Side {
                            padded,
                            values: &self.values[from * PAIRS..],
                            scales: &self.scales[from..],
                        };
                        kernel(&held, &side, &mut sums[first * panel.rows()..]);
                    }
                }
            });
        }
    }
}

/// Writes the codes of some chunks of a row, and their scales.
///
/// # Safety
/// The CPU has AVX2 and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen(
    matrix: &Matrix<'_>,
    row: usize,
    start: usize,
    codes: &mut [i16],
    scales: &mut [f32],
) {
    let bytes = &matrix.bytes(row)[start * matrix.kind().bytes()..];
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
    for (scale, held) in scales.iter_mut().zip(&matrix.scales_of_chunks(row)[start..]) {
        *scale = held.to_f32();
    }
}

/// Vectors that multiply integers.
trait Integers: Vector {
    /// As many integers of 32 bits.
    type Words: Copy;

    /// Zeros.
    unsafe fn none() -> Self::Words;

    /// A pair of integers in each lane.
    unsafe fn pairs(from: *const [i16; 2]) -> Self::Words;

    /// The same pair in each lane.
    unsafe fn pair(from: *const i16) -> Self::Words;

    /// Adds the products of pairs: exact while the sum is.
    unsafe fn add_products(sum: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words;

    /// As floats.
    unsafe fn floats(words: Self::Words) -> Self;
}

impl Integers for Avx2 {
    type Words = __m256i;

    #[inline(always)]
    unsafe fn none() -> __m256i {
        // SAFETY: the caller's, as for all below.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn pairs(from: *const [i16; 2]) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn pair(from: *const i16) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn add_products(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn floats(words: __m256i) -> Self {
        // SAFETY: see above.
        Avx2(unsafe { _mm256_cvtepi32_ps(words) })
    }
}

/// With VNNI.
impl Integers for Avx512 {
    type Words = __m512i;

    #[inline(always)]
    unsafe fn none() -> __m512i {
        // SAFETY: the caller's, as for all below.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn pairs(from: *const [i16; 2]) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn pair(from: *const i16) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn add_products(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn floats(words: __m512i) -> Self {
        // SAFETY: see above.
        Avx512(unsafe { _mm512_cvtepi32_ps(words) })
    }
}

/// Adds the products of rows with a group of tokens to `sums [rows, padded]`.
///
/// # Safety
/// As [`Groups::times`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_of_8(panel: &Panel<'_>, side: &Side<'_>, sums: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        match side.padded / LANES {
            1 => rows::<Avx2, 8, 1>(panel, side, sums),
            _ => rows::<Avx2, 6, 2>(panel, side, sums),
        }
    }
}

/// # Safety
/// As [`Groups::times`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn run_of_16(panel: &Panel<'_>, side: &Side<'_>, sums: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        match side.padded / 16 {
            1 => rows::<Avx512, 8, 1>(panel, side, sums),
            2 => rows::<Avx512, 8, 2>(panel, side, sums),
            3 => rows::<Avx512, 6, 3>(panel, side, sums),
            _ => rows::<Avx512, 6, 4>(panel, side, sums),
        }
    }
}

/// # Safety
/// As [`Groups::times`].
#[inline(always)]
unsafe fn rows<V: Integers, const R: usize, const N: usize>(
    panel: &Panel<'_>,
    side: &Side<'_>,
    sums: &mut [f32],
) {
    let whole = panel.rows - panel.rows % R;
    // SAFETY: the caller's.
    unsafe {
        for first in (0..whole).step_by(R) {
            some::<V, R, N>(panel, side, first, sums);
        }
        for first in whole..panel.rows {
            some::<V, 1, N>(panel, side, first, sums);
        }
    }
}

/// # Safety
/// As [`Groups::times`].
#[inline(always)]
unsafe fn some<V: Integers, const R: usize, const N: usize>(
    panel: &Panel<'_>,
    side: &Side<'_>,
    first: usize,
    sums: &mut [f32],
) {
    let (chunks, last) = (panel.chunks, first + R);
    assert!(panel.codes.len() >= last * chunks * CHUNK && panel.scales.len() >= last * chunks);
    let padded = N * V::LANES;
    assert!(side.values.len() >= chunks * PAIRS * padded && side.scales.len() >= chunks * padded);
    assert!(sums.len() >= last * padded);
    let (codes, values) = (panel.codes.as_ptr(), side.values.as_ptr());
    let sums = sums[first * padded..].as_mut_ptr();
    // SAFETY: rows, values and sums are as long as was asserted.
    unsafe {
        for chunk in 0..chunks {
            let mut totals = [[V::none(); N]; R];
            for pair in chunk * PAIRS..(chunk + 1) * PAIRS {
                let mut x = [V::none(); N];
                for (vector, x) in x.iter_mut().enumerate() {
                    *x = V::pairs(values.add((pair * N + vector) * V::LANES));
                }
                for (row, totals) in totals.iter_mut().enumerate() {
                    let both = V::pair(codes.add((first + row) * chunks * CHUNK + 2 * pair));
                    for (total, x) in totals.iter_mut().zip(x) {
                        *total = V::add_products(*total, both, x);
                    }
                }
            }
            for (row, totals) in totals.into_iter().enumerate() {
                let scale = V::splat(*panel.scales.as_ptr().add((first + row) * chunks + chunk));
                for (vector, total) in totals.into_iter().enumerate() {
                    let held = side.scales.as_ptr().add((chunk * N + vector) * V::LANES);
                    let place = sums.add((row * N + vector) * V::LANES);
                    let factor = scale.times(V::load(held));
                    V::floats(total).mul_add(factor, V::load(place)).store(place);
                }
            }
        }
    }
}
