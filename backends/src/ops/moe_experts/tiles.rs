//! Products of experts with many tokens each: tiles in shared memory, for tensor cores where the
//! device multiplies matrices of the dtype.
#![expect(clippy::collapsible_if, reason = "what is constant decides first, when it compiles")]

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::group::ITEM;
use crate::cube::{RowLayout, decode_word};

/// Places of an item and rows of the weight in a tile.
pub(super) const TILE: usize = 64;
/// Columns in shared memory at a time.
const DEPTH: usize = 32;
/// Elements from row to row there: a multiple of 16 bytes that does not meet the same bank.
const PITCH: usize = DEPTH + 8;
/// Units of a cube in a row and in a column, for plain sums.
const SIDE: usize = 16;
/// Values of a unit in each direction.
const EACH: usize = TILE / SIDE;
/// Sides of the matrices that a plane multiplies.
const MATRIX: usize = 16;

/// What a product in tiles is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tiles {
    pub(super) layout: RowLayout,
    /// Rows of the weight of an expert.
    pub(super) rows: usize,
    /// Experts of a token where a row of `x` is a token's, 1 where it is a place's.
    pub(super) choices: usize,
    pub(super) first_expert: usize,
    pub(super) end_expert: usize,
    pub(super) scales_rows: bool,
    /// Whether planes multiply matrices.
    pub(super) matrices: bool,
    pub(super) plane: usize,
    pub(super) units: usize,
}

impl Tiles {
    /// Units of a cube: four planes, or one for each `EACH`² values.
    pub(super) fn units(matrices: bool, plane: usize) -> usize {
        if matrices { 4 * plane } else { SIDE * SIDE }
    }
}

/// `out[place] = weight[expert] · x[row of the place]`. Axis y goes over items, x over tiles of rows.
/// `S` is what shared memory holds.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn tiles_kernel<F: Float, W: Numeric, S: Float, NX: Size, NW: Size>(
    x: &[Vector<F, NX>],
    weight: &[Vector<W, NW>],
    scales: &[f32],
    x_scales: &[f32],
    order: &[i32],
    items: &[i32],
    out: &mut [F],
    #[comptime] tiles: Tiles,
    #[define(F, W, S)] _dtypes: [ElemType; 3],
) {
    let unit = UNIT_POS as usize;
    let item = CUBE_POS_Y as usize * ITEM;
    let count = items[item + 2] as usize;
    if count == 0 {
        terminate!();
    }
    let expert = items[item] as usize;
    if expert < tiles.first_expert || expert >= tiles.end_expert {
        terminate!();
    }
    let first = items[item + 1] as usize;
    let first_row = CUBE_POS_X as usize * TILE;
    let weight_row = (expert - tiles.first_expert) * tiles.rows + first_row;
    let rows = tiles.rows - first_row;

    let mut left = Shared::<[S]>::new_aligned_slice(comptime![TILE * PITCH], 16usize);
    let mut right = Shared::<[S]>::new_aligned_slice(comptime![TILE * PITCH], 16usize);

    if comptime![tiles.matrices] {
        let plane = unit / tiles.plane;
        let half = comptime![TILE / 2];
        let (top, side) = (plane / 2 * half, plane % 2 * half);
        let a = zero_matrix();
        let b = zero_matrix();
        let c = zero_matrix();
        let d = zero_matrix();
        for step in 0..comptime![tiles.layout.width.div_ceil(DEPTH)] {
            load_left::<F, S, NX>(x, order, &mut left, first, count, step, unit, tiles);
            load_right::<W, S, NW>(weight, scales, &mut right, weight_row, rows, step, unit, tiles);
            sync_cube();
            #[unroll]
            for part in 0..comptime![DEPTH / MATRIX] {
                let column = part * MATRIX;
                let upper = left_matrix::<S>(&left, top * PITCH + column);
                let lower = left_matrix::<S>(&left, (top + MATRIX) * PITCH + column);
                let near = right_matrix::<S>(&right, side * PITCH + column);
                let far = right_matrix::<S>(&right, (side + MATRIX) * PITCH + column);
                cmma::execute(&upper, &near, &a, &a);
                cmma::execute(&upper, &far, &b, &b);
                cmma::execute(&lower, &near, &c, &c);
                cmma::execute(&lower, &far, &d, &d);
            }
            sync_cube();
        }
        let mut sums = Shared::<[f32]>::new_aligned_slice(comptime![TILE * TILE], 16usize);
        store_matrix(&mut sums, &a, top * TILE + side);
        store_matrix(&mut sums, &b, top * TILE + side + MATRIX);
        store_matrix(&mut sums, &c, (top + MATRIX) * TILE + side);
        store_matrix(&mut sums, &d, (top + MATRIX) * TILE + side + MATRIX);
        sync_cube();
        for step in 0..comptime![TILE * TILE / tiles.units] {
            let at = step * tiles.units + unit;
            let (index, row) = (at / TILE, at % TILE);
            if index < count && row < rows {
                let place = order[first + index] as usize;
                let sum = scaled(sums[at], scales, x_scales, weight_row + row, place, tiles);
                out[place * tiles.rows + first_row + row] = F::cast_from(sum);
            }
        }
    } else {
        let (row, column) = (unit / SIDE, unit % SIDE);
        let mut values = Array::<f32>::new(comptime![EACH * EACH]);
        #[unroll]
        for index in 0..comptime![EACH * EACH] {
            values[index] = 0.0f32;
        }
        for step in 0..comptime![tiles.layout.width.div_ceil(DEPTH)] {
            load_left::<F, S, NX>(x, order, &mut left, first, count, step, unit, tiles);
            load_right::<W, S, NW>(weight, scales, &mut right, weight_row, rows, step, unit, tiles);
            sync_cube();
            for depth in 0..DEPTH {
                let mut across = Array::<f32>::new(EACH);
                #[unroll]
                for index in 0..EACH {
                    across[index] = f32::cast_from(right[(index * SIDE + column) * PITCH + depth]);
                }
                #[unroll]
                for down in 0..EACH {
                    let value = f32::cast_from(left[(down * SIDE + row) * PITCH + depth]);
                    #[unroll]
                    for index in 0..EACH {
                        values[comptime![down * EACH + index]] += value * across[index];
                    }
                }
            }
            sync_cube();
        }
        #[unroll]
        for down in 0..EACH {
            #[unroll]
            for across in 0..EACH {
                let (index, row) = (down * SIDE + row, across * SIDE + column);
                if index < count && row < rows {
                    let sum = values[comptime![down * EACH + across]];
                    let place = order[first + index] as usize;
                    let sum = scaled(sum, scales, x_scales, weight_row + row, place, tiles);
                    out[place * tiles.rows + first_row + row] = F::cast_from(sum);
                }
            }
        }
    }
}

/// A sum with the scales of its row of the weight and of its row of `x`.
#[cube]
fn scaled(
    sum: f32,
    scales: &[f32],
    x_scales: &[f32],
    row: usize,
    place: usize,
    #[comptime] tiles: Tiles,
) -> f32 {
    let mut scaled = sum;
    if comptime![tiles.layout.has_row_scales()] {
        scaled *= scales[row * comptime![tiles.layout.scale_stride()]];
    }
    if comptime![tiles.scales_rows] {
        scaled *= x_scales[place / tiles.choices];
    }
    scaled
}

/// Rows of `x` of an item's places; zeros past the width.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the state of a kernel")]
fn load_left<F: Float, S: Float, NX: Size>(
    x: &[Vector<F, NX>],
    order: &[i32],
    left: &mut Shared<[S]>,
    first: usize,
    count: usize,
    step: usize,
    unit: usize,
    #[comptime] tiles: Tiles,
) {
    let size = NX::value().comptime();
    let vectors = comptime![DEPTH / size];
    let width = comptime![tiles.layout.width.div_ceil(size)];
    for load in 0..comptime![(TILE * vectors).div_ceil(tiles.units)] {
        let at = load * tiles.units + unit;
        let (index, vector) = (at / vectors, at % vectors);
        if index < TILE {
            let column = step * vectors + vector;
            let mut value = Vector::<F, NX>::zeroed();
            if index < count && column < width {
                let row = order[first + index] as usize / tiles.choices;
                value = x[row * width + column];
            }
            #[unroll]
            for part in 0..size {
                left[index * PITCH + vector * size + part] = S::cast_from(value.extract(part));
            }
        }
    }
}

/// Rows of the weight; zeros past the last row and past the width.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the state of a kernel")]
fn load_right<W: Numeric, S: Float, NW: Size>(
    weight: &[Vector<W, NW>],
    scales: &[f32],
    right: &mut Shared<[S]>,
    weight_row: usize,
    rows: usize,
    step: usize,
    unit: usize,
    #[comptime] tiles: Tiles,
) {
    let size = NW::value().comptime();
    // Columns of a vector.
    let columns = comptime![if tiles.layout.is_fp8() { 4 * size } else { size }];
    let vectors = comptime![DEPTH / columns];
    let width = comptime![tiles.layout.vectors(size)];
    for load in 0..comptime![(TILE * vectors).div_ceil(tiles.units)] {
        let at = load * tiles.units + unit;
        let (index, vector) = (at / vectors, at % vectors);
        if index < TILE {
            let column = step * vectors + vector;
            let mut elements = Vector::<W, NW>::zeroed();
            if index < rows && column < width {
                elements =
                    weight[(weight_row + index) * comptime![tiles.layout.stride / size] + column];
            }
            let start = index * PITCH + vector * columns;
            if comptime![tiles.layout.is_fp8()] {
                #[unroll]
                for part in 0..size {
                    let word = u32::cast_from(elements.extract(part));
                    let values = decode_word(word, comptime![tiles.layout.native()]);
                    let mut scale = 1.0f32;
                    if comptime![tiles.layout.is_grouped()] {
                        if index < rows && column < width {
                            let group =
                                (column * columns + part * 4) / comptime![tiles.layout.group()];
                            let row = weight_row + index;
                            scale = scales[row * comptime![tiles.layout.scale_stride()] + group];
                        }
                    }
                    #[unroll]
                    for code in 0..4usize {
                        let value = values.extract(code) * scale;
                        right[start + part * 4 + code] = S::cast_from(value);
                    }
                }
            } else {
                #[unroll]
                for part in 0..size {
                    right[start + part] = S::cast_from(elements.extract(part));
                }
            }
        }
    }
}

#[cube]
fn zero_matrix() -> cmma::Matrix<f32> {
    cmma::Matrix::<f32>::from_value(
        cmma::MatrixIdent::Accumulator,
        MATRIX,
        MATRIX,
        MATRIX,
        cmma::MatrixLayout::Undefined,
        0.0f32,
    )
}

#[cube]
fn left_matrix<S: Float>(left: &Shared<[S]>, start: usize) -> cmma::Matrix<S> {
    cmma::Matrix::<S>::from_slice(
        cmma::MatrixIdent::A,
        MATRIX,
        MATRIX,
        MATRIX,
        cmma::MatrixLayout::RowMajor,
        &left[start..comptime![TILE * PITCH]],
        comptime![PITCH as u32],
    )
}

#[cube]
fn right_matrix<S: Float>(right: &Shared<[S]>, start: usize) -> cmma::Matrix<S> {
    cmma::Matrix::<S>::from_slice(
        cmma::MatrixIdent::B,
        MATRIX,
        MATRIX,
        MATRIX,
        cmma::MatrixLayout::ColMajor,
        &right[start..comptime![TILE * PITCH]],
        comptime![PITCH as u32],
    )
}

#[cube]
fn store_matrix(sums: &mut Shared<[f32]>, matrix: &cmma::Matrix<f32>, start: usize) {
    cmma::store(
        &mut sums[start..comptime![TILE * TILE]],
        matrix,
        comptime![TILE as u32],
        cmma::MatrixLayout::RowMajor,
    );
}

/// `out[token] = Σ factors[place] * y[place]` over the token's places that an expert took.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn combine_kernel<F: Float, N: Size>(
    y: &[Vector<F, N>],
    chosen: &[i32],
    factors: &[f32],
    out: &mut [Vector<F, N>],
    tokens: u32,
    #[comptime] choices: usize,
    #[comptime] experts: usize,
    #[comptime] vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let token = ABSOLUTE_POS / vectors;
    let vector = ABSOLUTE_POS % vectors;
    if token < tokens as usize {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for choice in 0..choices {
            let place = token * choices + choice;
            if chosen[place] < comptime![experts as i32] {
                let value = Vector::<f32, N>::cast_from(y[place * vectors + vector]);
                sum += value * Vector::<f32, N>::new(factors[place]);
            }
        }
        out[token * vectors + vector] = Vector::<F, N>::cast_from(sum);
    }
}
