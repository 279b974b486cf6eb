use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::{PageLayout, TwoParts, store_part};

/// What writing is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Written {
    pub(super) parts: TwoParts,
    pub(super) layout: PageLayout,
    /// Units of a cube.
    pub(super) units: usize,
    /// Units of a plane that finds a maximum, or 0.
    pub(super) plane: usize,
}

impl Written {
    /// Elements of a part of the first and of the second kind.
    fn elements(&self) -> [usize; 2] {
        let TwoParts { first, second } = self.parts;
        [self.layout.elements(first[1]), self.layout.elements(second[1])]
    }
}

/// A cube for each token and part of its row.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn write_kernel<F: Float, E: Numeric>(
    rows: &[F],
    slots: &[i32],
    pages: &mut [E],
    scales: &mut [f32],
    tokens: u32,
    #[comptime] written: Written,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    let cube = CUBE_POS;
    let parts = comptime![written.parts];
    let token = cube / comptime![parts.count()];
    let part = cube % comptime![parts.count()];
    if token >= tokens as usize {
        terminate!();
    }
    let slot = slots[token] as usize;
    let row = token * comptime![parts.width()];
    let units = comptime![written.units];
    if comptime![!written.layout.is_fp8()] {
        let width = comptime![parts.width()];
        for step in 0..comptime![width.div_ceil(units)] {
            let index = step * units + UNIT_POS as usize;
            if index < width {
                let value = f32::cast_from(rows[row + index]);
                pages[slot * comptime![written.layout.stride] + index] = E::cast_from(value);
            }
        }
        terminate!();
    }
    let mut values = Shared::<[f32]>::new_slice(comptime![parts.widest()]);
    let mut shared = Shared::<[f32]>::new_slice(units);
    if part < comptime![parts.first[0]] {
        let width = comptime![parts.first[1]];
        copy(&mut values, rows, row + part * width, width, units);
        sync_cube();
        store_part(
            &values,
            0usize,
            pages,
            scales,
            slot,
            part * comptime![written.elements()[0]],
            part,
            &mut shared,
            width,
            written.layout,
            units,
            written.plane,
        );
    } else {
        let width = comptime![parts.second[1]];
        let part = part - comptime![parts.first[0]];
        let before = comptime![parts.first[0] * parts.first[1]];
        copy(&mut values, rows, row + before + part * width, width, units);
        sync_cube();
        store_part(
            &values,
            0usize,
            pages,
            scales,
            slot,
            comptime![parts.first[0] * written.elements()[0]]
                + part * comptime![written.elements()[1]],
            part + comptime![parts.first[0]],
            &mut shared,
            width,
            written.layout,
            units,
            written.plane,
        );
    }
}

#[cube]
fn copy<F: Float>(
    values: &mut Shared<[f32]>,
    rows: &[F],
    first: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    for step in 0..comptime![width.div_ceil(units)] {
        let index = step * units + UNIT_POS as usize;
        if index < width {
            values[index] = f32::cast_from(rows[first + index]);
        }
    }
}
