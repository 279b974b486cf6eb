//! Sums of splits of the rows to results.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::attend::MOST_SPLITS;
use crate::ops::pages::HIDDEN;

/// Adds up what cubes with different rows of a token found: a cube for each token and head.
/// `sums [tokens, heads, splits, width]`, `statistics [tokens, heads, splits, 2]` →
/// `out [tokens, heads, width]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn combine_kernel<F: Float>(
    sums: &[f32],
    statistics: &[f32],
    positions: &[i32],
    query_starts: &[i32],
    out: &mut [F],
    tokens: u32,
    sequences: u32,
    splits: u32,
    split_rows: u32,
    #[comptime] heads: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let item = CUBE_POS;
    let token = item / heads;
    if token >= tokens as usize {
        terminate!();
    }
    let splits = splits as usize;
    let mut used = 0usize;
    if token < query_starts[sequences as usize] as usize {
        used = (positions[token] as usize + 1).div_ceil(split_rows as usize);
    }
    let first = item * splits;
    let mut factors = Shared::<[f32]>::new_slice(MOST_SPLITS);
    split_factors(statistics, first, used, &mut factors, 0usize);
    sync_cube();
    for step in 0..comptime![width.div_ceil(units)] {
        let column = step * units + UNIT_POS as usize;
        if column < width {
            let sum = combined(sums, &factors, first, used, 0usize, column, width);
            out[item * width + column] = F::cast_from(sum);
        }
    }
}

/// Shares of the splits from `first` on in a result, in `factors` from `at` on. The cube has at least
/// [`MOST_SPLITS`] units.
#[cube]
pub(crate) fn split_factors(
    statistics: &[f32],
    first: usize,
    used: usize,
    factors: &mut Shared<[f32]>,
    at: usize,
) {
    let unit = UNIT_POS as usize;
    if unit < used {
        let mut largest = f32::new(HIDDEN);
        for split in 0..used {
            let other = statistics[2 * (first + split)];
            largest = max(largest, other);
        }
        let mut total = 0.0f32;
        for split in 0..used {
            let factor = f32::exp(statistics[2 * (first + split)] - largest);
            total += factor * statistics[2 * (first + split) + 1];
        }
        factors[at + unit] = f32::exp(statistics[2 * (first + unit)] - largest) / total;
    }
}

/// A column of a result out of that of its splits; 0 where there are none, as for padded tokens.
#[cube]
pub(crate) fn combined(
    sums: &[f32],
    factors: &Shared<[f32]>,
    first: usize,
    used: usize,
    at: usize,
    column: usize,
    #[comptime] width: usize,
) -> f32 {
    let mut sum = 0.0f32;
    for split in 0..used {
        sum += factors[at + split] * sums[(first + split) * width + column];
    }
    sum
}
