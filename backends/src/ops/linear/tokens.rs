//! Products of tokens with the rows of a matrix, as the kernels for the CPU have them: for few
//! tokens, so that the matrix is read once and in place.

use std::borrow::Cow;

use pulp::{Simd, WithSimd};

use super::cpu::prefetch;
use crate::ops::flex::ARCH;

/// Weights, and multiply-adds, from which a second thread pays: it takes some 20 µs to wake.
const PARALLEL: (usize, usize) = (1 << 19, 1 << 21);
/// Tokens from which they lie side by side in a vector.
const SIDE_BY_SIDE: usize = 4;
/// Most tokens side by side.
const MOST: usize = 16;
/// Values of a line of the cache.
const LINE: usize = 16;

/// Tokens `[tokens, width]`, laid out for [`Tokens::times`].
#[derive(Debug)]
pub(in crate::ops) struct Tokens<'a> {
    width: usize,
    count: usize,
    layout: Layout<'a>,
}

#[derive(Debug)]
enum Layout<'a> {
    /// `[tokens, width]`: a vector holds values of one token, which are summed at the end.
    Rows(Cow<'a, [f32]>),
    /// A vector holds the same value of several tokens, and of each row of the matrix one value at a
    /// time is multiplied with it.
    SideBySide(Vec<Group>),
}

/// Some tokens side by side.
#[derive(Debug)]
struct Group {
    first: usize,
    count: usize,
    /// Tokens with padding: 8 or 16.
    padded: usize,
    /// `[width, padded]`
    values: Vec<f32>,
}

impl<'a> Tokens<'a> {
    /// Lays out `x [tokens, width]`.
    pub(in crate::ops) fn new(x: impl Into<Cow<'a, [f32]>>, width: usize) -> Self {
        let x = x.into();
        let count = x.len() / width;
        if count < SIDE_BY_SIDE {
            return Tokens { width, count, layout: Layout::Rows(x) };
        }
        let group = |first: usize| {
            let tokens = MOST.min(count - first);
            let padded = if tokens > MOST / 2 { MOST } else { MOST / 2 };
            let mut values = vec![0.0; width * padded];
            for token in 0..tokens {
                let x = &x[(first + token) * width..][..width];
                for (place, value) in values[token..].iter_mut().step_by(padded).zip(x) {
                    *place = *value;
                }
            }
            Group { first, count: tokens, padded, values }
        };
        let groups = (0..count).step_by(MOST).map(group).collect();
        Tokens { width, count, layout: Layout::SideBySide(groups) }
    }

    /// How many they are.
    pub(in crate::ops) fn count(&self) -> usize {
        self.count
    }

    /// Whether several threads are faster at multiplying them with so many weights.
    pub(in crate::ops) fn want_threads(&self, weights: usize) -> bool {
        weights >= PARALLEL.0 || weights * self.count >= PARALLEL.1
    }

    /// `x · matrixᵀ`: `matrix [rows, width]` → `[tokens, rows]`. Each product is summed by itself,
    /// in an order that depends on `width` and on whether there are few tokens.
    pub(in crate::ops) fn times(&self, matrix: &[f32]) -> Vec<f32> {
        ARCH.dispatch(Times { tokens: self, matrix })
    }
}

struct Times<'a> {
    tokens: &'a Tokens<'a>,
    matrix: &'a [f32],
}

impl WithSimd for Times<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Times { tokens: Tokens { width, count, layout }, matrix } = self;
        let rows = matrix.len() / width;
        let mut out = vec![0.0; count * rows];
        match layout {
            Layout::Rows(x) => {
                for (x, out) in x.chunks_exact(*width).zip(out.chunks_exact_mut(rows)) {
                    let (eights, rest) = out.as_chunks_mut::<8>();
                    let (first, last) = matrix.split_at(eights.len() * 8 * width);
                    for (out, rows) in eights.iter_mut().zip(first.chunks_exact(8 * width)) {
                        *out = sums(simd, x, rows);
                    }
                    for (out, row) in rest.iter_mut().zip(last.chunks_exact(*width)) {
                        [*out] = sums(simd, x, row);
                    }
                }
            }
            Layout::SideBySide(groups) => {
                for group in groups {
                    let out = &mut out[group.first * rows..][..group.count * rows];
                    match group.padded / S::F32_LANES {
                        1 => group.times::<S, 8, 1>(simd, matrix, rows, out),
                        2 => group.times::<S, 6, 2>(simd, matrix, rows, out),
                        4 => group.times::<S, 3, 4>(simd, matrix, rows, out),
                        _ => group.one_by_one(matrix, rows, out),
                    }
                }
            }
        }
        out
    }
}

/// The products of a token with some rows.
#[inline(always)]
fn sums<S: Simd, const ROWS: usize>(simd: S, x: &[f32], matrix: &[f32]) -> [f32; ROWS] {
    let width = x.len();
    let (x, x_rest) = S::as_simd_f32s(x);
    let row = |row: usize| S::as_simd_f32s(&matrix[row * width..][..width]);
    let rows: [&[S::f32s]; ROWS] = std::array::from_fn(|index| &row(index).0[..x.len()]);
    let mut sums = [simd.splat_f32s(0.0); ROWS];
    for (index, x) in x.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum = simd.mul_add_e_f32s(*x, row[index], *sum);
        }
    }
    std::array::from_fn(|index| {
        let rest: f32 = x_rest.iter().zip(row(index).1).map(|(x, weight)| x * weight).sum();
        simd.reduce_sum_f32s(sums[index]) + rest
    })
}

impl Group {
    /// `[tokens, rows]`, `ROWS` rows of the matrix at a time with `VECTORS` vectors of tokens.
    #[inline(always)]
    fn times<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        simd: S,
        matrix: &[f32],
        rows: usize,
        out: &mut [f32],
    ) {
        let width = self.values.len() / self.padded;
        let (values, _) = S::as_simd_f32s(&self.values);
        let (values, _) = values.as_chunks::<VECTORS>();
        // [rows, padded]
        let mut sums = vec![0.0; rows * self.padded];
        let (vectors, _) = S::as_mut_simd_f32s(&mut sums);
        let (vectors, _) = vectors.as_chunks_mut::<VECTORS>();
        let (tiles, rest) = vectors.as_chunks_mut::<ROWS>();
        let (first, last) = matrix.split_at(tiles.len() * ROWS * width);
        for (sums, rows) in tiles.iter_mut().zip(first.chunks_exact(ROWS * width)) {
            *sums = sums_side_by_side(simd, values, rows);
        }
        for (sums, row) in rest.iter_mut().zip(last.chunks_exact(width)) {
            [*sums] = sums_side_by_side(simd, values, row);
        }
        for (row, sums) in sums.chunks_exact(self.padded).enumerate() {
            for (token, sum) in sums[..self.count].iter().enumerate() {
                out[token * rows + row] = *sum;
            }
        }
    }

    /// The same without vectors.
    fn one_by_one(&self, matrix: &[f32], rows: usize, out: &mut [f32]) {
        let width = self.values.len() / self.padded;
        for (row, weights) in matrix.chunks_exact(width).enumerate() {
            for token in 0..self.count {
                let values = self.values[token..].iter().step_by(self.padded);
                out[token * rows + row] = values.zip(weights).map(|(x, weight)| x * weight).sum();
            }
        }
    }
}

/// The products of some rows with tokens that lie side by side.
#[inline(always)]
fn sums_side_by_side<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    values: &[[S::f32s; VECTORS]],
    matrix: &[f32],
) -> [[S::f32s; VECTORS]; ROWS] {
    let width = values.len();
    let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &matrix[row * width..][..width]);
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for (line, values) in values.chunks(LINE).enumerate() {
        let start = line * LINE;
        // The processor does not see where the rows after these begin.
        rows.iter().for_each(|row| prefetch(row, ROWS * row.len() + start));
        for (index, values) in values.iter().enumerate() {
            for (sums, row) in sums.iter_mut().zip(rows) {
                let weight = simd.splat_f32s(row[start + index]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = simd.mul_add_e_f32s(weight, *value, *sum);
                }
            }
        }
    }
    sums
}
