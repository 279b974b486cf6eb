use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::reference::LEAST_SCALE;
use crate::cube::{encode_code, max_of_lanes};
use crate::fp8::MAX;

/// A cube for each row and group of columns. `packs` where codes are wanted, four in a word, and a
/// group is a row.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn quantise_kernel<F: Float, O: Numeric>(
    x: &[F],
    values: &mut [O],
    scales: &mut [f32],
    rows: u32,
    #[comptime] width: usize,
    #[comptime] group: usize,
    #[comptime] units: usize,
    #[comptime] plane: usize,
    #[comptime] packs: bool,
    #[define(F, O)] _dtypes: [ElemType; 2],
) {
    let groups = comptime![width.div_ceil(group)];
    let place = CUBE_POS;
    let unit = UNIT_POS as usize;
    let row = place / groups;
    if row >= rows as usize {
        terminate!();
    }
    let first = place % groups * group;
    let start = row * width + first;
    let mut most = 0.0f32;
    for step in 0..comptime![group.div_ceil(units)] {
        let index = step * units + unit;
        if index < group && first + index < width {
            let value = f32::cast_from(x[start + index]);
            most = max(most, f32::abs(value));
        }
    }
    let mut shared = Shared::<[f32]>::new_slice(units);
    let largest = max_of_lanes(most, &mut shared, units, plane);
    let scale = max(largest / comptime![MAX], f32::new(LEAST_SCALE));
    if unit == 0 {
        scales[place] = scale;
    }
    if comptime![packs] {
        let words = comptime![width.div_ceil(4)];
        for step in 0..comptime![words.div_ceil(units)] {
            let index = step * units + unit;
            if index < words {
                let mut word = 0u32;
                #[unroll]
                for part in 0..4usize {
                    let column = index * 4 + part;
                    if column < width {
                        let value = f32::cast_from(x[start + column]) / scale;
                        word |= encode_code(value) << comptime![8 * part as u32];
                    }
                }
                values[row * words + index] = O::cast_from(word);
            }
        }
    } else {
        for step in 0..comptime![group.div_ceil(units)] {
            let index = step * units + unit;
            if index < group && first + index < width {
                let value = f32::cast_from(x[start + index]) / scale;
                values[start + index] = O::cast_from(nearest(value));
            }
        }
    }
}

/// The nearest E4M3 value, ties to even; past ±448 that.
#[cube]
pub(crate) fn nearest(value: f32) -> f32 {
    let magnitude = min(f32::abs(value), comptime![MAX]);
    // From 2⁻⁶ on three bits of the mantissa stay.
    let bits = u32::reinterpret(magnitude);
    let odd = (bits >> 20u32) & 1u32;
    let normal = f32::reinterpret((bits + 0x7_FFFFu32 + odd) & 0xFFF0_0000u32);
    // Below, neighbours are 2⁻⁹ apart.
    let steps = magnitude * 512.0f32;
    let below = f32::floor(steps);
    let rest = steps - below;
    let is_odd = below - 2.0f32 * f32::floor(below * 0.5f32) > 0.5f32;
    let up = rest > 0.5f32 || (rest == 0.5f32 && is_odd);
    let subnormal = select(up, below + 1.0f32, below) * 0.001953125f32;
    let rounded = select(magnitude < 0.015625f32, subnormal, normal);
    select(value < 0.0f32, -rounded, rounded)
}
