//! Rotation of pairs and norms of rows that lie in shared memory.

use cubecl::prelude::*;

use super::sum_of_lanes;

/// Which values are rotated, all of it constant for a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Turn {
    /// Pairs among the first values.
    pub(crate) pairs: usize,
    /// Whether the values of a pair are neighbours.
    pub(crate) interleaved: bool,
    /// Elements from one row of cosines to the next.
    pub(crate) cos_stride: usize,
    /// Elements from one row of sines to the next.
    pub(crate) sin_stride: usize,
}

/// Rotates pairs of `values`, from `first` on, by the angles of `position`: `pair`, and every
/// `units`-th after it. Results are rounded to `F`.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
pub(crate) fn rotate<F: Float>(
    values: &mut Shared<[f32]>,
    first: usize,
    cos: &[f32],
    sin: &[f32],
    position: usize,
    pair: usize,
    #[comptime] units: usize,
    #[comptime] turn: Turn,
) {
    for step in 0..comptime![turn.pairs.div_ceil(units)] {
        let pair = step * units + pair;
        if pair < turn.pairs {
            let one = first + place_of_first(pair, turn);
            let other = one + comptime![if turn.interleaved { 1 } else { turn.pairs }];
            let (c, s) =
                (cos[position * turn.cos_stride + pair], sin[position * turn.sin_stride + pair]);
            let (a, b) = (values[one], values[other]);
            values[one] = f32::cast_from(F::cast_from(a * c - b * s));
            values[other] = f32::cast_from(F::cast_from(b * c + a * s));
        }
    }
}

/// Where the first value of a pair is.
#[cube]
pub(crate) fn place_of_first(pair: usize, #[comptime] turn: Turn) -> usize {
    if comptime![turn.interleaved] { 2 * pair } else { pair }
}

/// Replaces the first `width` of `values` by their RMS norm, rounded to `F` before and after the
/// weight is multiplied. All units of the cube have to come here, after `values` were written and
/// synchronised; afterwards they are not.
#[cube]
pub(crate) fn norm_in_place<F: Float>(
    values: &mut Shared<[f32]>,
    weight: &[F],
    eps: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[comptime] plane: usize,
) {
    let unit = UNIT_POS as usize;
    let mut square = 0.0f32;
    for step in 0..comptime![width.div_ceil(units)] {
        let index = step * units + unit;
        if index < width {
            let value = values[index];
            square += value * value;
        }
    }
    let square = sum_of_lanes(square, shared, units, plane);
    let inverse = 1.0f32 / f32::sqrt(square / comptime![width as f32] + eps);
    for step in 0..comptime![width.div_ceil(units)] {
        let index = step * units + unit;
        if index < width {
            let normed = f32::cast_from(F::cast_from(values[index] * inverse));
            values[index] = f32::cast_from(F::cast_from(normed * f32::cast_from(weight[index])));
        }
    }
}
