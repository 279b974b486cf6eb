//! Whole products with a matrix, on all threads.

use super::isa::{Isa, dispatch};
use super::matrix::Matrix;
use super::threads::{Shared, in_pieces};
use super::tokens::{Sink, Tokens};
use super::vector::Vector;

/// Rows that are mixed at a time: what stays in the first cache.
const DEPTH: usize = 16;

/// `x · matrixᵀ`: `x [tokens, width]` → `[tokens, rows]`.
pub(crate) fn product(isa: Isa, x: &[f32], matrix: &Matrix<'_>) -> Vec<f32> {
    let (rows, tokens) = (matrix.rows(), Tokens::new(isa, x, matrix));
    let mut out = vec![0.0; tokens.count() * rows];
    let shared = Shared::new(&mut out);
    let piece = tokens.rows_of_piece();
    in_pieces(rows.div_ceil(piece), tokens.want_threads(rows), |index| {
        let part = index * piece..rows.min((index + 1) * piece);
        let sink = Sink { out: shared, first: part.start, stride: rows };
        // SAFETY: each piece has rows of its own.
        unsafe { tokens.times(&matrix.part(part), sink) };
    });
    out
}

/// The transposed product, on this thread: for each token the sum of the rows of a matrix times the
/// token's values. `x` gives the values of a token, one for each row, and `into` the place of its sum.
pub(crate) fn mix<'a, 'b>(
    isa: Isa,
    matrix: &Matrix<'_>,
    tokens: usize,
    x: impl Fn(usize) -> &'a [f32],
    into: impl Fn(usize) -> &'b mut [f32],
) {
    let width = matrix.width();
    let mut wide = vec![0.0; DEPTH.min(matrix.rows()) * width];
    for token in 0..tokens {
        into(token).fill(0.0);
    }
    for first in (0..matrix.rows()).step_by(DEPTH) {
        let some = DEPTH.min(matrix.rows() - first);
        for (row, wide) in wide.chunks_exact_mut(width).take(some).enumerate() {
            matrix.expand(isa, first + row, wide);
        }
        let rows = &wide[..some * width];
        for token in 0..tokens {
            let (sums, factors) = (into(token), &x(token)[first..first + some]);
            // SAFETY: `Isa::current` gives what there is.
            unsafe { dispatch!(isa, add_rows(sums: &mut [f32], rows: &[f32], factors: &[f32])) };
        }
    }
}

/// Adds rows as long as the sums, each times its factor.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn add_rows<V: Vector>(sums: &mut [f32], rows: &[f32], factors: &[f32]) {
    /// Vectors whose sums are in registers.
    const VECTORS: usize = 4;
    let width = sums.len();
    assert!(rows.len() >= factors.len() * width);
    let step = VECTORS * V::LANES;
    let whole = width - width % step;
    // SAFETY: rows and sums are as long as was asserted.
    unsafe {
        for column in (0..whole).step_by(step) {
            let place = sums.as_mut_ptr().add(column);
            let mut held = [V::zero(); VECTORS];
            for (vector, held) in held.iter_mut().enumerate() {
                *held = V::load(place.add(vector * V::LANES));
            }
            for (row, factor) in factors.iter().enumerate() {
                let from = rows.as_ptr().add(row * width + column);
                let factor = V::splat(*factor);
                for (vector, held) in held.iter_mut().enumerate() {
                    *held = V::load(from.add(vector * V::LANES)).mul_add(factor, *held);
                }
            }
            for (vector, held) in held.into_iter().enumerate() {
                held.store(place.add(vector * V::LANES));
            }
        }
    }
    for (row, factor) in rows.chunks_exact(width).zip(factors) {
        for (sum, value) in sums[whole..].iter_mut().zip(&row[whole..]) {
            *sum += value * factor;
        }
    }
}
