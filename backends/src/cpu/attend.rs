//! Attention of some queries to a tile of rows, with the largest score so far taken out of the exponent
//! and the sums corrected when a larger one comes
//! ([Milakov & Gimelshein 2018](https://arxiv.org/abs/1805.02867)).
//!
//! Each query is computed by itself, in an order that depends on the rows only.

use super::isa::{Isa, dispatch};
use super::math::exponential;
use super::memory::prefetch_far;
use super::vector::Vector;

/// Rows of a tile.
pub(crate) const TILE: usize = 32;
/// Values that rows are filled up to, which all vectors divide.
pub(crate) const LANES: usize = 16;

/// Queries of one head, or of heads that share their keys.
#[derive(Debug)]
pub(crate) struct Queries {
    /// `[count, wide]`, rows filled up with zeros.
    values: Vec<f32>,
    count: usize,
    wide: usize,
    scale: f32,
}

/// Some rows, at most [`TILE`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) rows: usize,
    /// Each as long as a query with what fills it up, `key_stride` from the next one.
    pub(crate) keys: &'a [f32],
    pub(crate) key_stride: usize,
    /// Each as long as a result with what fills it up.
    pub(crate) values: &'a [f32],
    pub(crate) value_stride: usize,
    /// Rows that are attended to next.
    pub(crate) next: Option<Next<'a>>,
}

/// Rows as far apart as those of the tile before them, which are asked for while that one is worked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next<'a> {
    pub(crate) rows: usize,
    pub(crate) keys: &'a [f32],
    /// None where they are the same rows.
    pub(crate) values: Option<&'a [f32]>,
}

/// The share of the next rows that some queries ask for.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    keys: *const f32,
    values: *const f32,
    rows: usize,
    value_rows: usize,
}

impl Tile<'_> {
    /// For block `index` of `blocks`.
    #[inline(always)]
    fn ahead(&self, index: usize, blocks: usize) -> Ahead {
        let none =
            Ahead { keys: std::ptr::null(), values: std::ptr::null(), rows: 0, value_rows: 0 };
        self.next.map_or(none, |next| {
            let (first, end) = (next.rows * index / blocks, next.rows * (index + 1) / blocks);
            let values = next.values.unwrap_or_default();
            Ahead {
                keys: next.keys.as_ptr().wrapping_add(first * self.key_stride),
                values: values.as_ptr().wrapping_add(first * self.value_stride),
                rows: end - first,
                value_rows: if next.values.is_some() { end - first } else { 0 },
            }
        })
    }
}

/// How many rows of a tile a query sees: those up to its position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Of the token of each query.
    pub(crate) positions: &'a [usize],
    /// Queries of a token.
    pub(crate) heads: usize,
    /// Position of the first row.
    pub(crate) first: usize,
}

impl Seen<'_> {
    #[inline(always)]
    fn of(&self, query: usize, rows: usize) -> usize {
        (self.positions[query / self.heads] + 1).saturating_sub(self.first).min(rows)
    }
}

/// What queries have seen so far.
#[derive(Debug, Clone)]
pub(crate) struct State {
    largest: Vec<f32>,
    totals: Vec<f32>,
    /// `[queries, wide]`
    sums: Vec<f32>,
    wide: usize,
}

impl Queries {
    /// `count` queries of `width` values, each fetched by `write`.
    pub(crate) fn new(
        count: usize,
        width: usize,
        scale: f32,
        write: impl Fn(usize, &mut [f32]),
    ) -> Self {
        let wide = width.next_multiple_of(LANES);
        let mut values = vec![0.0; count * wide];
        for (query, values) in values.chunks_exact_mut(wide).enumerate() {
            write(query, &mut values[..width]);
        }
        Queries { values, count, wide, scale }
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds the rows of a tile.
    ///
    /// # Panics
    /// When the tile has fewer values than it says.
    pub(crate) fn attend(&self, isa: Isa, tile: Tile<'_>, seen: Seen<'_>, state: &mut State) {
        let last = tile.rows - 1;
        assert!(tile.rows <= TILE && tile.keys.len() >= last * tile.key_stride + self.wide);
        assert!(tile.values.len() >= last * tile.value_stride + state.wide);
        assert!(
            state.largest.len() == self.count && seen.positions.len() * seen.heads == self.count
        );
        let queries = self;
        // SAFETY: `Isa::current` gives what there is; lengths are looked at here.
        unsafe {
            dispatch!(isa, attend(queries: &Queries, tile: Tile<'_>, seen: Seen<'_>, state: &mut State));
        }
    }
}

impl State {
    /// Of `queries` queries whose results have `width` values.
    pub(crate) fn new(queries: usize, width: usize) -> Self {
        let wide = width.next_multiple_of(LANES);
        State {
            largest: vec![f32::NEG_INFINITY; queries],
            totals: vec![0.0; queries],
            sums: vec![0.0; queries * wide],
            wide,
        }
    }

    /// Adds what the same queries have seen of rows after these.
    pub(crate) fn merge(&mut self, later: &State) {
        for query in 0..self.largest.len() {
            let (a, b) = (self.largest[query], later.largest[query]);
            if b == f32::NEG_INFINITY {
                continue;
            }
            let largest = if b > a { b } else { a };
            let [keep, add] = [a, b].map(|score| match score == largest {
                true => 1.0,
                false => exponential(score - largest),
            });
            self.largest[query] = largest;
            self.totals[query] = self.totals[query] * keep + later.totals[query] * add;
            let range = query * self.wide..(query + 1) * self.wide;
            for (sum, later) in self.sums[range.clone()].iter_mut().zip(&later.sums[range]) {
                *sum = *sum * keep + later * add;
            }
        }
    }

    /// The result of a query: weighted means of the values.
    pub(crate) fn write(&self, query: usize, out: &mut [f32]) {
        let total = self.totals[query];
        for (out, sum) in out.iter_mut().zip(&self.sums[query * self.wide..]) {
            *out = sum / total;
        }
    }
}

/// # Safety
/// The CPU has the instructions, and the tile is as long as it says.
#[inline(always)]
unsafe fn attend<V: Vector>(queries: &Queries, tile: Tile<'_>, seen: Seen<'_>, state: &mut State) {
    // SAFETY: the caller's.
    unsafe {
        if V::LANES == 16 {
            blocks::<V, 4>(queries, tile, seen, state);
        } else {
            blocks::<V, 2>(queries, tile, seen, state);
        }
    }
}

/// Some queries at a time.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn blocks<V: Vector, const Q: usize>(
    queries: &Queries,
    tile: Tile<'_>,
    seen: Seen<'_>,
    state: &mut State,
) {
    let whole = queries.count - queries.count % Q;
    let blocks = whole / Q + queries.count % Q;
    // SAFETY: the caller's.
    unsafe {
        for (index, first) in (0..whole).step_by(Q).enumerate() {
            let ahead = tile.ahead(index, blocks);
            block::<V, Q>(queries, tile, ahead, seen, state, first);
        }
        for (index, first) in (whole..queries.count).enumerate() {
            let ahead = tile.ahead(whole / Q + index, blocks);
            block::<V, 1>(queries, tile, ahead, seen, state, first);
        }
    }
}

/// # Safety
/// As [`attend`], for queries that there are.
#[inline(always)]
unsafe fn block<V: Vector, const Q: usize>(
    queries: &Queries,
    tile: Tile<'_>,
    ahead: Ahead,
    seen: Seen<'_>,
    state: &mut State,
    first: usize,
) {
    let mut counts = [0; Q];
    let mut most = 0;
    for (query, count) in counts.iter_mut().enumerate() {
        *count = seen.of(first + query, tile.rows);
        most = most.max(*count);
    }
    if most == 0 {
        return;
    }
    let mut weights = [[f32::NEG_INFINITY; TILE]; Q];
    // SAFETY: the caller's.
    unsafe {
        let q = queries.values.as_ptr().add(first * queries.wide);
        scores::<V, Q>(q, queries.wide, tile, ahead, most, queries.scale, &mut weights);
        let mut corrections = [1.0; Q];
        for (query, weights) in weights.iter_mut().enumerate() {
            weights[counts[query]..].fill(f32::NEG_INFINITY);
            let before = state.largest[first + query];
            let largest = maximum(weights);
            let largest = if largest > before { largest } else { before };
            state.largest[first + query] = largest;
            if largest == f32::NEG_INFINITY {
                weights.fill(0.0);
                continue;
            }
            if largest != before {
                corrections[query] = exponential(before - largest);
            }
            for weight in weights.iter_mut() {
                *weight = exponential(*weight - largest);
            }
            weights[counts[query]..].fill(0.0);
            let total = &mut state.totals[first + query];
            *total = *total * corrections[query] + sum(weights);
        }
        let sums = state.sums.as_mut_ptr().add(first * state.wide);
        let vectors = state.wide / V::LANES;
        let fours = vectors - vectors % 4;
        for vector in (0..fours).step_by(4) {
            add::<V, Q, 4>(
                sums,
                state.wide,
                tile,
                ahead,
                [most, vector * V::LANES],
                &weights,
                &corrections,
            );
        }
        for vector in fours..vectors {
            add::<V, Q, 1>(
                sums,
                state.wide,
                tile,
                ahead,
                [most, vector * V::LANES],
                &weights,
                &corrections,
            );
        }
    }
}

/// `q · kᵀ * scale` of the first rows.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn scores<V: Vector, const Q: usize>(
    q: *const f32,
    wide: usize,
    tile: Tile<'_>,
    ahead: Ahead,
    rows: usize,
    scale: f32,
    into: &mut [[f32; TILE]; Q],
) {
    // SAFETY: the caller's; where there are no four rows left, the last one is read again.
    unsafe {
        let groups = rows.div_ceil(4);
        let of_group = ahead.rows.div_ceil(groups);
        for (group, first) in (0..rows).step_by(4).enumerate() {
            let soon = (group * of_group).min(ahead.rows)..ahead.rows.min((group + 1) * of_group);
            let key =
                |row: usize| tile.keys.as_ptr().add((first + row).min(rows - 1) * tile.key_stride);
            let keys = [key(0), key(1), key(2), key(3)];
            let mut sums = [[V::zero(); 4]; Q];
            for column in (0..wide).step_by(V::LANES) {
                for row in soon.clone() {
                    let row = ahead.keys.wrapping_add(row * tile.key_stride + column);
                    prefetch_far(row.cast(), 0);
                }
                let [a, b, c, d] = keys;
                let values = [
                    V::load(a.add(column)),
                    V::load(b.add(column)),
                    V::load(c.add(column)),
                    V::load(d.add(column)),
                ];
                for (query, sums) in sums.iter_mut().enumerate() {
                    let q = V::load(q.add(query * wide + column));
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = q.mul_add(value, *sum);
                    }
                }
            }
            for (into, sums) in into.iter_mut().zip(sums) {
                let sums = V::sums(sums);
                for (into, sum) in into[first..first + 4].iter_mut().zip(sums) {
                    *into = sum * scale;
                }
            }
        }
    }
}

/// Corrects some columns of the sums, and adds the first rows times their weights.
///
/// # Safety
/// As [`attend`], for columns that there are.
#[inline(always)]
unsafe fn add<V: Vector, const Q: usize, const N: usize>(
    sums: *mut f32,
    wide: usize,
    tile: Tile<'_>,
    ahead: Ahead,
    [rows, column]: [usize; 2],
    weights: &[[f32; TILE]; Q],
    corrections: &[f32; Q],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut held = [[V::zero(); N]; Q];
        for (query, held) in held.iter_mut().enumerate() {
            let correction = V::splat(corrections[query]);
            for (vector, held) in held.iter_mut().enumerate() {
                let place = query * wide + column + vector * V::LANES;
                *held = V::load(sums.add(place)).times(correction);
            }
        }
        for row in 0..rows {
            if row < ahead.value_rows {
                let soon = ahead.values.wrapping_add(row * tile.value_stride + column);
                for vector in 0..N {
                    prefetch_far(soon.cast(), vector * V::LANES * size_of::<f32>());
                }
            }
            let from = tile.values.as_ptr().add(row * tile.value_stride + column);
            let mut values = [V::zero(); N];
            for (vector, value) in values.iter_mut().enumerate() {
                *value = V::load(from.add(vector * V::LANES));
            }
            for (held, weights) in held.iter_mut().zip(weights) {
                let weight = V::splat(weights[row]);
                for (held, value) in held.iter_mut().zip(values) {
                    *held = weight.mul_add(value, *held);
                }
            }
        }
        for (query, held) in held.into_iter().enumerate() {
            for (vector, held) in held.into_iter().enumerate() {
                held.store(sums.add(query * wide + column + vector * V::LANES));
            }
        }
    }
}

#[inline(always)]
fn maximum(values: &[f32; TILE]) -> f32 {
    let mut best = [f32::NEG_INFINITY; 16];
    for some in values.as_chunks::<16>().0 {
        for (best, value) in best.iter_mut().zip(some) {
            *best = if *value > *best { *value } else { *best };
        }
    }
    best.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn sum(values: &[f32; TILE]) -> f32 {
    let mut sums = [0.0; 8];
    for eight in values.as_chunks::<8>().0 {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}
