//! Products with many tokens: rows of weights are widened to f32 once and multiplied with vectors of
//! tokens that lie side by side.

use std::borrow::Cow;

use super::isa::{Isa, dispatch};
use super::matrix::Matrix;
use super::tokens::Sink;
use super::vector::Vector;

/// Rows of weights that are wide at a time.
const PANEL: usize = 24;

/// Tokens side by side.
#[derive(Debug)]
pub(super) struct Groups {
    groups: Vec<Group>,
    width: usize,
}

#[derive(Debug)]
struct Group {
    first: usize,
    count: usize,
    vectors: usize,
    /// `[width, vectors * lanes]`
    values: Vec<f32>,
}

/// Most vectors of a group: what leaves registers for the sums of some rows.
fn most_vectors(isa: Isa) -> usize {
    match isa {
        Isa::Portable => 2,
        Isa::Neon | Isa::Avx2 => 3,
        Isa::Avx512 | Isa::Vnni | Isa::Amx => 4,
    }
}

impl Groups {
    pub(super) fn new<'a>(
        isa: Isa,
        count: usize,
        width: usize,
        row: impl Fn(usize) -> Cow<'a, [f32]>,
    ) -> Self {
        let lanes = isa.lanes();
        let most = lanes * most_vectors(isa);
        let group = |first: usize| {
            let tokens = most.min(count - first);
            let vectors = tokens.div_ceil(lanes);
            let padded = vectors * lanes;
            let mut values = vec![0.0; width * padded];
            for token in 0..tokens {
                let x = row(first + token);
                for (place, value) in values[token..].iter_mut().step_by(padded).zip(x.iter()) {
                    *place = *value;
                }
            }
            Group { first, count: tokens, vectors, values }
        };
        Groups { groups: (0..count).step_by(most).map(group).collect(), width }
    }

    /// # Safety
    /// As [`super::Tokens::times`].
    pub(super) unsafe fn times(&self, isa: Isa, matrix: &Matrix<'_>, sink: Sink<'_>) {
        let width = self.width;
        let mut wide = vec![0.0; PANEL.min(matrix.rows()) * width];
        for start in (0..matrix.rows()).step_by(PANEL) {
            let count = PANEL.min(matrix.rows() - start);
            for (row, wide) in wide.chunks_exact_mut(width).take(count).enumerate() {
                matrix.expand(isa, start + row, wide);
            }
            let panel = &wide[..count * width];
            for group in &self.groups {
                let first = sink.first + group.first * sink.stride + start;
                let sink = Sink { first, ..sink };
                // SAFETY: `Isa::current` gives what there is; else the caller's.
                unsafe {
                    dispatch!(isa, run(group: &Group, panel: &[f32], width: usize, sink: Sink<'_>));
                }
            }
        }
    }
}

/// # Safety
/// The CPU has the instructions, and the sink is the caller's.
#[inline(always)]
unsafe fn run<V: Vector>(group: &Group, panel: &[f32], width: usize, sink: Sink<'_>) {
    // SAFETY: the caller's.
    unsafe {
        match (V::LANES, group.vectors) {
            (16, 1) => rows::<V, 8, 1>(group, panel, width, sink),
            (16, 2) => rows::<V, 8, 2>(group, panel, width, sink),
            (16, 3) => rows::<V, 6, 3>(group, panel, width, sink),
            (16, _) => rows::<V, 6, 4>(group, panel, width, sink),
            (_, 1) => rows::<V, 8, 1>(group, panel, width, sink),
            (_, 2) => rows::<V, 6, 2>(group, panel, width, sink),
            (_, 3) => rows::<V, 4, 3>(group, panel, width, sink),
            (..) => rows::<V, 3, 4>(group, panel, width, sink),
        }
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn rows<V: Vector, const R: usize, const N: usize>(
    group: &Group,
    panel: &[f32],
    width: usize,
    sink: Sink<'_>,
) {
    let count = panel.len() / width;
    let whole = count - count % R;
    // SAFETY: the caller's.
    unsafe {
        for first in (0..whole).step_by(R) {
            some::<V, R, N>(group, &panel[first * width..], width, sink, first);
        }
        for first in whole..count {
            some::<V, 1, N>(group, &panel[first * width..], width, sink, first);
        }
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn some<V: Vector, const R: usize, const N: usize>(
    group: &Group,
    panel: &[f32],
    width: usize,
    sink: Sink<'_>,
    first: usize,
) {
    assert!(panel.len() >= R * width && group.values.len() >= width * N * V::LANES);
    let (panel, values) = (panel.as_ptr(), group.values.as_ptr());
    // SAFETY: rows and values are as long as was asserted; the sink is the caller's.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        for index in 0..width {
            let mut x = [V::zero(); N];
            for (vector, x) in x.iter_mut().enumerate() {
                *x = V::load(values.add((index * N + vector) * V::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*panel.add(row * width + index));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = weight.mul_add(x, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                let mut values = [0.0; 16];
                sum.store(values.as_mut_ptr());
                let tokens = vector * V::LANES..group.count.min((vector + 1) * V::LANES);
                for (token, value) in tokens.zip(values) {
                    sink.out.write(sink.first + token * sink.stride + first + row, value);
                }
            }
        }
    }
}
