//! The arithmetic of attention over one tile of cached rows, in vectors of the CPU's width. All sums
//! have a fixed order.

use pulp::Simd;

/// Rows of a tile.
pub(super) const TILE: usize = 32;

/// `q · kᵀ * scale` of the first rows of a tile; -∞ for the others.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    simd: S,
    q: &[f32],
    keys: &[f32],
    rows: usize,
    scale: f32,
) -> [f32; TILE] {
    let mut scores = [f32::NEG_INFINITY; TILE];
    let (q, _) = S::as_simd_f32s(q);
    let (keys, _) = S::as_simd_f32s(keys);
    let vectors = q.len();
    for (index, four) in keys.chunks_exact(4 * vectors).enumerate().take(rows.div_ceil(4)) {
        let (a, rest) = four.split_at(vectors);
        let (b, rest) = rest.split_at(vectors);
        let (c, d) = rest.split_at(vectors);
        let mut sums = [simd.splat_f32s(0.0); 4];
        for ((((q, a), b), c), d) in q.iter().zip(a).zip(b).zip(c).zip(d) {
            sums[0] = simd.mul_add_e_f32s(*q, *a, sums[0]);
            sums[1] = simd.mul_add_e_f32s(*q, *b, sums[1]);
            sums[2] = simd.mul_add_e_f32s(*q, *c, sums[2]);
            sums[3] = simd.mul_add_e_f32s(*q, *d, sums[3]);
        }
        for (offset, sum) in sums.into_iter().enumerate() {
            if 4 * index + offset < rows {
                scores[4 * index + offset] = simd.reduce_sum_f32s(sum) * scale;
            }
        }
    }
    scores
}

/// Value rows of a tile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) rows: &'a [f32],
    pub(super) stride: usize,
}

impl Tile<'_> {
    /// Adds the first rows times their weights, four rows at a time.
    #[inline(always)]
    pub(super) fn add_weighted<S: Simd>(self, simd: S, weights: &[f32], sum: &mut [f32]) {
        let (sum, _) = S::as_mut_simd_f32s(sum);
        let row = |index: usize| S::as_simd_f32s(&self.rows[index * self.stride..]).0;
        let (fours, rest) = weights.as_chunks::<4>();
        for (index, four) in fours.iter().enumerate() {
            let [a, b, c, d] = four.map(|weight| simd.splat_f32s(weight));
            let first = 4 * index;
            let rows =
                row(first).iter().zip(row(first + 1)).zip(row(first + 2)).zip(row(first + 3));
            for (sum, (((v, w), x), y)) in sum.iter_mut().zip(rows) {
                let low = simd.mul_add_e_f32s(b, *w, simd.mul_add_e_f32s(a, *v, *sum));
                *sum = simd.mul_add_e_f32s(d, *y, simd.mul_add_e_f32s(c, *x, low));
            }
        }
        for (index, weight) in rest.iter().enumerate() {
            let weight = simd.splat_f32s(*weight);
            for (sum, value) in sum.iter_mut().zip(row(4 * fours.len() + index)) {
                *sum = simd.mul_add_e_f32s(weight, *value, *sum);
            }
        }
    }
}

#[inline(always)]
pub(super) fn maximum(values: &[f32; TILE]) -> f32 {
    let mut best = [f32::NEG_INFINITY; 8];
    for eight in values.as_chunks::<8>().0 {
        for (best, value) in best.iter_mut().zip(eight) {
            *best = if *value > *best { *value } else { *best };
        }
    }
    best.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
pub(super) fn total(values: &[f32; TILE]) -> f32 {
    let mut sums = [0.0; 8];
    for eight in values.as_chunks::<8>().0 {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// `exp(score - largest)` for the first scores, 0 for the others.
#[inline(always)]
pub(super) fn exponentials(scores: &mut [f32; TILE], largest: f32, seen: usize) {
    for score in scores.iter_mut() {
        *score = exponential(*score - largest);
    }
    scores[seen..].fill(0.0);
}

/// `exp(x)` for `x` up to 0, within 2 units in the last place, and about 1e-38 below -87: the
/// exponential of the rest after whole powers of two, as a Taylor polynomial of degree 7.
#[inline(always)]
pub(super) fn exponential(x: f32) -> f32 {
    /// Adding it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Written so that NaN stays NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let rest = x - power * LN_2_HIGH - power * LN_2_LOW;
    let tail = 1.0 / 120.0 + rest * (1.0 / 720.0 + rest * (1.0 / 5040.0));
    let tail = 0.5 + rest * (1.0 / 6.0 + rest * (1.0 / 24.0 + rest * tail));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    (1.0 + rest * (1.0 + rest * tail)) * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library() {
        for step in 0..87_000 {
            let x = step as f32 * -1e-3;
            let (got, want) = (exponential(x), x.exp());
            assert!((got - want).abs() <= 2.5e-7 * want, "{x}: {got} {want}");
        }
        assert_eq!(exponential(0.0), 1.0);
        assert!(exponential(f32::NEG_INFINITY) < 1e-37);
        assert!(exponential(f32::NAN).is_nan());
    }
}
