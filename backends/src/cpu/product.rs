//! Whole products with a matrix, on all threads.

use super::isa::Isa;
use super::math::add_scaled;
use super::matrix::Matrix;
use super::threads::{Shared, in_pieces};
use super::tokens::{Sink, Tokens};

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
    let mut wide = vec![0.0; matrix.width()];
    for token in 0..tokens {
        into(token).fill(0.0);
    }
    for row in 0..matrix.rows() {
        matrix.expand(isa, row, &mut wide);
        for token in 0..tokens {
            add_scaled(isa, into(token), &wide, x(token)[row]);
        }
    }
}
