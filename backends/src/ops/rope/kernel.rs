use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::{Turn, place_of_first};

/// A unit for each pair of a head, and for each value that passes through.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn rope_kernel<F: Float>(
    x: &[F],
    cos: &[f32],
    sin: &[f32],
    positions: &[i32],
    out: &mut [F],
    count: u32,
    heads: u32,
    #[comptime] head_dim: usize,
    #[comptime] turn: Turn,
    #[define(F)] _dtype: ElemType,
) {
    let index = ABSOLUTE_POS;
    if index >= count as usize {
        terminate!();
    }
    let items = comptime![head_dim - turn.pairs];
    let (head, item) = (index / items, index % items);
    let first = head * head_dim;
    if item < turn.pairs {
        let position = positions[head / heads as usize] as usize;
        let one = first + place_of_first(item, turn);
        let other = one + comptime![if turn.interleaved { 1 } else { turn.pairs }];
        let c = cos[position * turn.cos_stride + item];
        let s = sin[position * turn.sin_stride + item];
        let (a, b) = (f32::cast_from(x[one]), f32::cast_from(x[other]));
        out[one] = F::cast_from(a * c - b * s);
        out[other] = F::cast_from(b * c + a * s);
    } else {
        out[first + turn.pairs + item] = x[first + turn.pairs + item];
    }
}
