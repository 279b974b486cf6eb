//! Products with many tokens: rows of weights are widened to f32 once and multiplied with vectors of
//! tokens that lie side by side.

use std::borrow::Cow;

use super::blocks::{Blocks, Group, PANEL, in_panels};
use super::isa::{Isa, dispatch};
use super::matrix::{CHUNK, Matrix};
use super::threads::Shared;
use super::tokens::Sink;
use super::vector::Vector;

/// Columns of a pass: a panel of weights and a group of tokens stay in the second cache.
const DEPTH: usize = 512;
/// Columns of tokens that are written together.
const COLUMNS: usize = 32;

/// Tokens side by side.
#[derive(Debug)]
pub(super) struct Groups {
    blocks: Blocks,
    width: usize,
    /// Of each group `[width, padded]`.
    values: Vec<f32>,
}

/// Most vectors of a group: what leaves registers for the sums of some rows.
fn most_vectors(isa: Isa) -> usize {
    match isa {
        Isa::Portable | Isa::Neon | Isa::Avx2 => 2,
        Isa::Avx512 | Isa::Vnni | Isa::Amx => 4,
    }
}

impl Groups {
    pub(super) fn new<'a>(
        isa: Isa,
        count: usize,
        width: usize,
        row: &(impl Fn(usize) -> Cow<'a, [f32]> + Sync),
    ) -> Self {
        let blocks = Blocks { count, lanes: isa.lanes(), vectors: most_vectors(isa) };
        let mut values = vec![0.0; blocks.padded() * width];
        let shared = Shared::new(&mut values);
        blocks.each(width, |group| {
            // SAFETY: each group has values of its own.
            let values = unsafe { shared.part(group.first * width, group.padded * width) };
            let tokens: Vec<_> = (group.first..group.first + group.count).map(row).collect();
            for (some, values) in values.chunks_mut(COLUMNS * group.padded).enumerate() {
                for (token, x) in tokens.iter().enumerate() {
                    let places = values[token..].iter_mut().step_by(group.padded);
                    places.zip(&x[some * COLUMNS..]).for_each(|(place, value)| *place = *value);
                }
            }
        });
        Groups { blocks, width, values }
    }

    /// # Safety
    /// As [`super::Tokens::times`].
    pub(super) unsafe fn times(&self, isa: Isa, matrix: &Matrix<'_>, sink: Sink<'_>) {
        let width = self.width;
        let mut wide = vec![0.0; PANEL.min(matrix.rows()) * DEPTH.min(width)];
        let turns = self.blocks.count_of_groups();
        // SAFETY: the caller's, and `Isa::current` gives what there is.
        unsafe {
            in_panels(self.blocks, matrix, sink, |panel, sums| {
                for start in (0..width).step_by(DEPTH) {
                    let columns = start..width.min(start + DEPTH);
                    let depth = columns.len();
                    for (row, wide) in wide.chunks_exact_mut(depth).take(panel.rows()).enumerate() {
                        panel.expand_columns(isa, row, columns.clone(), false, wide);
                    }
                    let weights = &wide[..panel.rows() * depth];
                    for (turn, group) in self.blocks.groups().enumerate() {
                        // What comes next, a little at a time.
                        let some = panel.rows() * turn / turns..panel.rows() * (turn + 1) / turns;
                        panel.prefetch(some, columns.end / CHUNK..(columns.end + DEPTH) / CHUNK);
                        let values = &self.values[group.first * width + start * group.padded..];
                        let sums = &mut sums[group.first * panel.rows()..];
                        dispatch!(isa, run(
                            group: Group, weights: &[f32], values: &[f32], depth: usize, sums: &mut [f32],
                        ));
                    }
                }
            });
        }
    }
}

/// Adds the products of rows of weights with a group of tokens to `sums [rows, padded]`.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn run<V: Vector>(
    group: Group,
    weights: &[f32],
    values: &[f32],
    depth: usize,
    sums: &mut [f32],
) {
    // SAFETY: the caller's.
    unsafe {
        match (V::LANES, group.padded / V::LANES) {
            (_, 1) => rows::<V, 8, 1>(weights, values, depth, sums),
            (16, 2) => rows::<V, 8, 2>(weights, values, depth, sums),
            (16, 3) => rows::<V, 6, 3>(weights, values, depth, sums),
            (16, _) => rows::<V, 6, 4>(weights, values, depth, sums),
            // Three vectors for four rows, or more rows, are a register too many.
            (..) => rows::<V, 6, 2>(weights, values, depth, sums),
        }
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn rows<V: Vector, const R: usize, const N: usize>(
    weights: &[f32],
    values: &[f32],
    depth: usize,
    sums: &mut [f32],
) {
    let count = weights.len() / depth;
    let whole = count - count % R;
    // SAFETY: the caller's.
    unsafe {
        for first in (0..whole).step_by(R) {
            let sums = &mut sums[first * N * V::LANES..];
            some::<V, R, N>(&weights[first * depth..], values, depth, sums);
        }
        for first in whole..count {
            let sums = &mut sums[first * N * V::LANES..];
            some::<V, 1, N>(&weights[first * depth..], values, depth, sums);
        }
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn some<V: Vector, const R: usize, const N: usize>(
    weights: &[f32],
    values: &[f32],
    depth: usize,
    sums: &mut [f32],
) {
    assert!(weights.len() >= R * depth && values.len() >= depth * N * V::LANES);
    assert!(sums.len() >= R * N * V::LANES);
    let (weights, values, places) = (weights.as_ptr(), values.as_ptr(), sums.as_mut_ptr());
    // SAFETY: rows, values and sums are as long as was asserted.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(places.add((row * N + vector) * V::LANES));
            }
        }
        for index in 0..depth {
            let mut x = [V::zero(); N];
            for (vector, x) in x.iter_mut().enumerate() {
                *x = V::load(values.add((index * N + vector) * V::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*weights.add(row * depth + index));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = weight.mul_add(x, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                sum.store(places.add((row * N + vector) * V::LANES));
            }
        }
    }
}
