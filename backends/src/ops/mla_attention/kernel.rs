use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::{RowLayout, add_row_products, sum_of_lanes};
use crate::ops::paged_attention::attend::MOST_SPLITS;
use crate::ops::paged_attention::combine::{combined, split_factors};

/// What the products of few tokens with `W_UV` are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Expand {
    pub(super) heads: usize,
    pub(super) nope: usize,
    pub(super) value: usize,
    /// Of the matrix.
    pub(super) layout: RowLayout,
    /// Tokens of a cube.
    pub(super) tokens: usize,
    /// Rows of a group of lanes.
    pub(super) rows: usize,
    /// Units that share rows.
    pub(super) lanes: usize,
    /// Units of a cube.
    pub(super) units: usize,
    /// Units of a plane that sums, or 0.
    pub(super) plane: usize,
}

impl Expand {
    pub(super) fn rows_of_cube(&self) -> usize {
        self.rows * self.units / self.lanes
    }

    pub(super) fn blocks(&self) -> usize {
        self.value.div_ceil(self.rows_of_cube())
    }

    /// Vectors of a row of sums.
    fn vectors(&self, size: usize) -> usize {
        self.layout.width.div_ceil(size)
    }
}

/// Adds up what cubes with different rows of a token found and multiplies it with `W_UV`: a cube for
/// some tokens, a head and a block of rows of the matrix.
///
/// `sums [tokens, heads, splits, latent]`, `statistics [tokens, heads, splits, 2]` →
/// `out [tokens, heads, value]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn expand_kernel<F: Float, W: Numeric, NX: Size, NW: Size>(
    sums: &[f32],
    statistics: &[f32],
    positions: &[i32],
    query_starts: &[i32],
    matrix: &[Vector<W, NW>],
    scales: &[f32],
    out: &mut [F],
    tokens: u32,
    sequences: u32,
    splits: u32,
    split_rows: u32,
    #[comptime] expand: Expand,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let cube = CUBE_POS;
    let (tokens, splits) = (tokens as usize, splits as usize);
    let blocks = comptime![expand.blocks()];
    let (block, cube) = (cube % blocks, cube / blocks);
    let (head, cube) = (cube % expand.heads, cube / expand.heads);
    let first_token = cube * expand.tokens;
    if first_token >= tokens {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let live = query_starts[sequences as usize] as usize;
    let size = NX::value().comptime();
    let vectors = comptime![expand.vectors(size)];
    let latent = comptime![expand.layout.width];

    let mut factors = Shared::<[f32]>::new_slice(comptime![expand.tokens * MOST_SPLITS]);
    let mut x = Shared::<[Vector<f32, NX>]>::new_slice(comptime![expand.tokens * vectors]);
    let mut used = Array::<usize>::new(expand.tokens);
    let mut firsts = Array::<usize>::new(expand.tokens);
    #[unroll]
    for index in 0..expand.tokens {
        let token = first_token + index;
        firsts[index] = comptime![index * vectors];
        used[index] = 0usize;
        if token < live {
            used[index] = (positions[token] as usize + 1).div_ceil(split_rows as usize);
        }
        let first = (token * expand.heads + head) * splits;
        let at = comptime![index * MOST_SPLITS];
        split_factors(statistics, first, used[index], &mut factors, at);
    }
    sync_cube();
    #[unroll]
    for index in 0..expand.tokens {
        let first = ((first_token + index) * expand.heads + head) * splits;
        let at = comptime![index * MOST_SPLITS];
        for step in 0..comptime![vectors.div_ceil(expand.units)] {
            let vector = step * expand.units + unit;
            if vector < vectors {
                let mut values = Vector::<f32, NX>::new(0.0f32);
                #[unroll]
                for part in 0..size {
                    let column = vector * size + part;
                    if column < latent {
                        let sum = combined(sums, &factors, first, used[index], at, column, latent);
                        values.insert(part, sum);
                    }
                }
                x[comptime![index * vectors] + vector] = values;
            }
        }
    }
    sync_cube();

    let row = block * comptime![expand.rows_of_cube()] + unit / expand.lanes * expand.rows;
    let before = head * comptime![expand.nope + expand.value] + expand.nope;
    let mut products = Array::<f32>::new(comptime![expand.rows * expand.tokens]);
    #[unroll]
    for index in 0..comptime![expand.rows * expand.tokens] {
        products[index] = 0.0f32;
    }
    if row < expand.value {
        add_row_products::<f32, W, NX, NW>(
            &mut products,
            x.inner_ref(),
            &firsts,
            matrix,
            scales,
            before + row,
            before + comptime![expand.value - 1],
            unit % expand.lanes,
            expand.rows,
            1usize,
            expand.tokens,
            expand.lanes,
            expand.layout,
        );
    }
    let mut shared = Shared::<[f32]>::new_slice(expand.units);
    #[unroll]
    for offset in 0..expand.rows {
        #[unroll]
        for index in 0..expand.tokens {
            let at = comptime![offset * expand.tokens + index];
            let mut sum = sum_of_lanes(products[at], &mut shared, expand.lanes, expand.plane);
            let mine = unit % expand.lanes == comptime![at % expand.lanes];
            let token = first_token + index;
            if mine && row + offset < expand.value && token < tokens {
                if comptime![expand.layout.has_row_scales()] {
                    sum *=
                        scales[(before + row + offset) * comptime![expand.layout.scale_stride()]];
                }
                out[(token * expand.heads + head) * expand.value + row + offset] =
                    F::cast_from(sum);
            }
        }
    }
}
