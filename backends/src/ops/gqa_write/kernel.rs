use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::{PageLayout, Turn, norm_in_place, rotate, store_part};

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Heads {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) head_dim: usize,
    pub(super) turn: Turn,
    pub(super) has_norms: bool,
    pub(super) key_layout: PageLayout,
    pub(super) value_layout: PageLayout,
    /// Units of a cube.
    pub(super) units: usize,
    /// Units of a plane that sums, or 0.
    pub(super) plane: usize,
}

impl Heads {
    fn all(&self) -> usize {
        self.queries + 2 * self.keys
    }
}

/// A cube for each head of each token.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn gqa_write_kernel<F: Float, E: Numeric>(
    qkv: &[F],
    query_norm: &[F],
    key_norm: &[F],
    cos: &[f32],
    sin: &[f32],
    positions: &[i32],
    slots: &[i32],
    keys: &mut [E],
    values: &mut [E],
    key_scales: &mut [f32],
    value_scales: &mut [f32],
    q: &mut [F],
    tokens: u32,
    query_eps: f32,
    key_eps: f32,
    #[comptime] heads: Heads,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    let cube = CUBE_POS;
    let token = cube / comptime![heads.all()];
    let head = cube % comptime![heads.all()];
    if token >= tokens as usize {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let units = comptime![heads.units];
    let width = comptime![heads.head_dim];
    let plane = comptime![heads.plane];
    let mut row = Shared::<[f32]>::new_slice(width);
    let mut shared = Shared::<[f32]>::new_slice(units);
    for step in 0..comptime![width.div_ceil(units)] {
        let index = step * units + unit;
        if index < width {
            row[index] = f32::cast_from(qkv[cube * width + index]);
        }
    }
    sync_cube();
    if head < comptime![heads.queries + heads.keys] {
        if comptime![heads.has_norms] {
            if head < heads.queries {
                norm_in_place(&mut row, query_norm, query_eps, &mut shared, width, units, plane);
            } else {
                norm_in_place(&mut row, key_norm, key_eps, &mut shared, width, units, plane);
            }
            sync_cube();
        }
        let position = positions[token] as usize;
        rotate::<F>(&mut row, 0usize, cos, sin, position, unit, units, heads.turn);
        sync_cube();
    }
    if head < heads.queries {
        for step in 0..comptime![width.div_ceil(units)] {
            let index = step * units + unit;
            if index < width {
                q[(token * heads.queries + head) * width + index] = F::cast_from(row[index]);
            }
        }
    } else if head < comptime![heads.queries + heads.keys] {
        let head = head - heads.queries;
        let first = head * comptime![heads.key_layout.elements(heads.head_dim)];
        let slot = slots[token] as usize;
        let layout = comptime![heads.key_layout];
        store_part(
            &row,
            0usize,
            keys,
            key_scales,
            slot,
            first,
            head,
            &mut shared,
            width,
            layout,
            units,
            plane,
        );
    } else {
        let head = head - comptime![heads.queries + heads.keys];
        let first = head * comptime![heads.value_layout.elements(heads.head_dim)];
        let slot = slots[token] as usize;
        let layout = comptime![heads.value_layout];
        store_part(
            &row,
            0usize,
            values,
            value_scales,
            slot,
            first,
            head,
            &mut shared,
            width,
            layout,
            units,
            plane,
        );
    }
}
