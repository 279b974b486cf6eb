use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::{PageLayout, RowLayout, Turn, decode_word, norm_in_place, rotate, store_part};

/// Units of a cube side by side over columns of the matrix; the others take other rows.
pub(super) const ACROSS: usize = 32;

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Absorbed {
    pub(super) heads: usize,
    pub(super) nope: usize,
    pub(super) rope: usize,
    pub(super) value: usize,
    pub(super) latent: usize,
    /// Values from token to token of what is cached.
    pub(super) stride: usize,
    pub(super) turn: Turn,
    pub(super) pages: PageLayout,
    /// Of the matrix.
    pub(super) rows: RowLayout,
    /// Whether the device converts codes itself.
    pub(super) native: bool,
    /// Tokens of a cube.
    pub(super) tokens: usize,
    /// Units of a cube.
    pub(super) units: usize,
    /// Units of a plane that sums, or 0.
    pub(super) plane: usize,
}

impl Absorbed {
    /// Values of a head's query.
    fn query(&self) -> usize {
        self.nope + self.rope
    }

    /// Values of a cached row.
    fn row(&self) -> usize {
        self.latent + self.rope
    }

    /// Columns that a unit sums.
    fn columns(&self, size: usize) -> usize {
        if self.rows.is_fp8() { 4 * size } else { size }
    }

    /// Blocks of columns that cubes take.
    pub(super) fn blocks(&self, size: usize) -> usize {
        self.rows.vectors(size).div_ceil(ACROSS)
    }
}

/// The first cubes store a token's row each; all others take a block of tokens, a head and a block of
/// columns of the absorbed queries `q [tokens, heads, latent + rope]`, the columns fastest.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn mla_write_kernel<F: Float, W: Numeric, E: Numeric, NW: Size>(
    queries: &[F],
    down: &[F],
    norm: &[F],
    cos: &[f32],
    sin: &[f32],
    positions: &[i32],
    slots: &[i32],
    matrix: &[Vector<W, NW>],
    matrix_scales: &[f32],
    pages: &mut [E],
    page_scales: &mut [f32],
    q: &mut [F],
    tokens: u32,
    cubes: u32,
    eps: f32,
    #[comptime] absorbed: Absorbed,
    #[define(F, W, E)] _dtypes: [ElemType; 3],
) {
    let cube = CUBE_POS;
    let tokens = tokens as usize;
    if cube >= cubes as usize {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(absorbed.units);
    if cube < tokens {
        let position = positions[cube] as usize;
        let slot = slots[cube] as usize;
        store_row::<F, E>(
            down,
            norm,
            cos,
            sin,
            pages,
            page_scales,
            &mut shared,
            cube,
            position,
            slot,
            eps,
            absorbed,
        );
    } else {
        absorb::<F, W, NW>(
            queries,
            cos,
            sin,
            positions,
            matrix,
            matrix_scales,
            q,
            cube - tokens,
            tokens,
            absorbed,
        );
    }
}

#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
fn store_row<F: Float, E: Numeric>(
    down: &[F],
    norm: &[F],
    cos: &[f32],
    sin: &[f32],
    pages: &mut [E],
    scales: &mut [f32],
    shared: &mut Shared<[f32]>,
    token: usize,
    position: usize,
    slot: usize,
    eps: f32,
    #[comptime] absorbed: Absorbed,
) {
    let unit = UNIT_POS as usize;
    let units = comptime![absorbed.units];
    let plane = comptime![absorbed.plane];
    let width = comptime![absorbed.row()];
    let latent = comptime![absorbed.latent];
    let layout = comptime![absorbed.pages];
    let mut row = Shared::<[f32]>::new_slice(width);
    for step in 0..comptime![width.div_ceil(units)] {
        let index = step * units + unit;
        if index < width {
            row[index] = f32::cast_from(down[token * comptime![absorbed.stride] + index]);
        }
    }
    sync_cube();
    norm_in_place(&mut row, norm, eps, shared, latent, units, plane);
    rotate::<F>(&mut row, latent, cos, sin, position, unit, units, absorbed.turn);
    sync_cube();
    if comptime![layout.is_fp8()] {
        let rope = comptime![absorbed.rope];
        let second = comptime![layout.elements(absorbed.latent)];
        store_part(
            &row, 0usize, pages, scales, slot, 0usize, 0usize, shared, latent, layout, units, plane,
        );
        store_part(
            &row, latent, pages, scales, slot, second, 1usize, shared, rope, layout, units, plane,
        );
    } else {
        store_part(
            &row, 0usize, pages, scales, slot, 0usize, 0usize, shared, width, layout, units, plane,
        );
    }
}

/// `q_nope · W_UK` for some tokens, a head and a block of columns; rows of the matrix are read once
/// for all tokens. The first block also rotates the rest of the queries.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
fn absorb<F: Float, W: Numeric, N: Size>(
    queries: &[F],
    cos: &[f32],
    sin: &[f32],
    positions: &[i32],
    matrix: &[Vector<W, N>],
    scales: &[f32],
    q: &mut [F],
    cube: usize,
    tokens: usize,
    #[comptime] absorbed: Absorbed,
) {
    let size = N::value().comptime();
    let unit = UNIT_POS as usize;
    let units = comptime![absorbed.units];
    let blocks = comptime![absorbed.blocks(size)];
    let (block, cube) = (cube % blocks, cube / blocks);
    let (head, cube) = (cube % absorbed.heads, cube / absorbed.heads);
    let first_token = cube * absorbed.tokens;
    let width = comptime![absorbed.query()];
    let nope = comptime![absorbed.nope];
    let row = comptime![absorbed.row()];

    let mut held = Shared::<[f32]>::new_slice(comptime![absorbed.tokens * width]);
    let count = comptime![absorbed.tokens * absorbed.query()];
    for step in 0..comptime![count.div_ceil(units)] {
        let index = step * units + unit;
        if index < count {
            let token = first_token + index / width;
            let mut value = 0.0f32;
            if token < tokens {
                let at = (token * absorbed.heads + head) * width + index % width;
                value = f32::cast_from(queries[at]);
            }
            held[index] = value;
        }
    }
    sync_cube();
    if block == 0 {
        // The others do not read these values.
        #[unroll]
        for index in 0..absorbed.tokens {
            let token = first_token + index;
            let known = select(token < tokens, token, first_token);
            let position = positions[known] as usize;
            let first = comptime![index * width + nope];
            rotate::<F>(&mut held, first, cos, sin, position, unit, units, absorbed.turn);
        }
    }

    let columns = comptime![absorbed.columns(size)];
    let groups = comptime![units / ACROSS];
    let group = unit / ACROSS;
    let vectors = comptime![absorbed.rows.vectors(size)];
    let vector = block * ACROSS + unit % ACROSS;
    let read = select(vector < vectors, vector, comptime![vectors - 1]);
    let mut sums = Array::<f32>::new(comptime![absorbed.tokens * columns]);
    #[unroll]
    for index in 0..comptime![absorbed.tokens * columns] {
        sums[index] = 0.0f32;
    }
    for step in 0..comptime![absorbed.nope.div_ceil(groups)] {
        let index = step * groups + group;
        if index < nope {
            let place = head * comptime![absorbed.nope + absorbed.value] + index;
            let elements = matrix[place * comptime![absorbed.rows.stride / size] + read];
            let mut weights = Array::<f32>::new(columns);
            if comptime![absorbed.rows.is_fp8()] {
                let scale = place * comptime![absorbed.rows.scale_stride()]
                    + read * columns / comptime![absorbed.rows.group()];
                let scale = scales[scale];
                #[unroll]
                for word in 0..size {
                    let codes = decode_word(
                        u32::cast_from(elements.extract(word)),
                        comptime![absorbed.native],
                    );
                    #[unroll]
                    for part in 0..4usize {
                        weights[comptime![4 * word + part]] = codes.extract(part) * scale;
                    }
                }
            } else {
                #[unroll]
                for part in 0..size {
                    weights[part] = f32::cast_from(elements.extract(part));
                }
            }
            #[unroll]
            for token in 0..absorbed.tokens {
                let value = held[comptime![token * width] + index];
                #[unroll]
                for column in 0..columns {
                    sums[comptime![token * columns + column]] += value * weights[column];
                }
            }
        }
    }

    let mut partial = Shared::<[f32]>::new_slice(comptime![units * columns]);
    let across = comptime![ACROSS * columns];
    #[unroll]
    for index in 0..absorbed.tokens {
        #[unroll]
        for column in 0..columns {
            partial[unit * columns + column] = sums[comptime![index * columns + column]];
        }
        sync_cube();
        let column = block * across + unit;
        let token = first_token + index;
        if unit < across && column < absorbed.latent && token < tokens {
            let mut sum = 0.0f32;
            #[unroll]
            for group in 0..groups {
                sum += partial[comptime![group * across] + unit];
            }
            q[(token * absorbed.heads + head) * row + column] = F::cast_from(sum);
        }
        sync_cube();
    }
    if block == 0 {
        let rotated = comptime![absorbed.tokens * absorbed.rope];
        for step in 0..comptime![rotated.div_ceil(units)] {
            let index = step * units + unit;
            let (place, column) = (index / absorbed.rope, index % absorbed.rope);
            let token = first_token + place;
            if index < rotated && token < tokens {
                q[(token * absorbed.heads + head) * row + comptime![absorbed.latent] + column] =
                    F::cast_from(held[place * width + nope + column]);
            }
        }
    }
}
