#![expect(clippy::collapsible_if, reason = "what is constant decides first, when it compiles")]

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::{OnTheWay, RowLayout, add_normed_row_products, decode_word, sum_of_lanes};

/// What a product of few tokens is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Few {
    pub(super) layout: RowLayout,
    /// Values from token to token.
    pub(super) stride: usize,
    pub(super) on_the_way: OnTheWay,
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
    pub(super) has_bias: bool,
    /// Whether each token has a scale.
    pub(super) scales_tokens: bool,
}

/// `out[t, r] = (x[t] · weight[r]) * scale[r] * x_scale[t] + bias[r]`. Axis z of the cubes goes over
/// blocks of tokens.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn few_tokens_kernel<F: Float, W: Numeric, O: Float, NX: Size, NW: Size>(
    x: &[Vector<F, NX>],
    added: &[Vector<F, NX>],
    gain: &[Vector<F, NX>],
    weight: &[Vector<W, NW>],
    scales: &[f32],
    x_scales: &[f32],
    bias: &[O],
    total: &mut [Vector<F, NX>],
    out: &mut [O],
    tokens: u32,
    rows: u32,
    eps: f32,
    #[comptime] few: Few,
    #[define(F, W, O)] _dtypes: [ElemType; 3],
) {
    let unit = UNIT_POS as usize;
    let cube = CUBE_POS_X as usize + CUBE_POS_Y as usize * CUBE_COUNT_X as usize;
    let group = cube * comptime![few.units / few.lanes] + unit / few.lanes;
    let (rows, tokens) = (rows as usize, tokens as usize);
    let row = group * few.rows;
    let token = CUBE_POS_Z as usize * few.tokens;
    let size = NX::value().comptime();
    let vectors = comptime![few.stride / size];

    let mut firsts = Array::<usize>::new(few.tokens);
    let mut sums = Array::<f32>::new(comptime![few.rows * few.tokens]);
    let mut squares = Array::<f32>::new(few.tokens);
    #[unroll]
    for index in 0..few.tokens {
        let place = select(token + index < tokens, token + index, token);
        firsts[index] = place * vectors;
        squares[index] = 0.0f32;
    }
    #[unroll]
    for index in 0..comptime![few.rows * few.tokens] {
        sums[index] = 0.0f32;
    }
    if row < rows {
        if comptime![few.on_the_way.adds()] {
            if row == 0 {
                store_sums(x, added, total, &firsts, unit % few.lanes, few);
            }
        }
        add_normed_row_products::<F, W, NX, NW>(
            &mut sums,
            x,
            added,
            gain,
            &mut squares,
            &firsts,
            weight,
            scales,
            row,
            rows - 1,
            unit % few.lanes,
            few.rows,
            1usize,
            few.tokens,
            few.lanes,
            few.layout,
            few.on_the_way,
        );
    }
    let mut shared = Shared::<[f32]>::new_slice(few.units);
    if comptime![few.on_the_way.norms()] {
        #[unroll]
        for index in 0..few.tokens {
            let square = sum_of_lanes(squares[index], &mut shared, few.lanes, few.plane);
            squares[index] = 1.0f32 / f32::sqrt(square / comptime![few.layout.width as f32] + eps);
        }
    }
    #[unroll]
    for offset in 0..few.rows {
        #[unroll]
        for index in 0..few.tokens {
            let at = comptime![offset * few.tokens + index];
            let mut sum = sum_of_lanes(sums[at], &mut shared, few.lanes, few.plane);
            let mine = unit % few.lanes == comptime![at % few.lanes];
            if mine && row + offset < rows && token + index < tokens {
                let (row, token) = (row + offset, token + index);
                if comptime![few.on_the_way.norms()] {
                    sum *= squares[index];
                }
                if comptime![few.layout.has_row_scales()] {
                    sum *= scales[row * comptime![few.layout.scale_stride()]];
                }
                if comptime![few.scales_tokens] {
                    sum *= x_scales[token];
                }
                if comptime![few.has_bias] {
                    sum = f32::cast_from(O::cast_from(sum)) + f32::cast_from(bias[row]);
                }
                out[token * rows + row] = O::cast_from(sum);
            }
        }
    }
}

/// What is normed, by the lanes of one group.
#[cube]
fn store_sums<F: Float, N: Size>(
    x: &[Vector<F, N>],
    added: &[Vector<F, N>],
    total: &mut [Vector<F, N>],
    firsts: &Array<usize>,
    lane: usize,
    #[comptime] few: Few,
) {
    let size = N::value().comptime();
    let vectors = comptime![few.layout.width / size];
    #[unroll]
    for token in 0..few.tokens {
        for step in 0..comptime![vectors.div_ceil(few.lanes)] {
            let index = step * few.lanes + lane;
            if index < vectors {
                let place = firsts[token] + index;
                let left = Vector::<f32, N>::cast_from(x[place]);
                let right = Vector::<f32, N>::cast_from(added[place]);
                total[place] = Vector::<F, N>::cast_from(left + right);
            }
        }
    }
}

/// `out = code * scale`, a unit for each word.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn expand_kernel<O: Float>(
    words: &[u32],
    scales: &[f32],
    out: &mut [O],
    rows: u32,
    #[comptime] layout: RowLayout,
    #[comptime] scaled: bool,
    #[comptime] native: bool,
    #[define(O)] _dtype: ElemType,
) {
    let words_of_row = comptime![layout.width.div_ceil(4)];
    let row = ABSOLUTE_POS / words_of_row;
    let word = ABSOLUTE_POS % words_of_row;
    if row < rows as usize {
        let values = decode_word(words[row * layout.stride + word], native);
        #[unroll]
        for index in 0..4usize {
            let column = word * 4 + index;
            if column < layout.width {
                let mut value = values.extract(index);
                if comptime![scaled] {
                    value *= scales[row * comptime![layout.scale_stride()]
                        + column / comptime![layout.group()]];
                }
                out[row * layout.width + column] = O::cast_from(value);
            }
        }
    }
}
