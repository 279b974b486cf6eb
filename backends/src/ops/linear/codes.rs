//! Products of E4M3 codes with E4M3 codes for many tokens, on the FP8 units of NVIDIA's GPUs.
//!
//! Which codes of a row are multiplied at once does not matter as long as both operands agree: a lane
//! takes four words that lie together, for two products one after the other.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::multiply;
use crate::ops::moe_experts::group::ITEM;

/// Rows of the weight in a tile.
pub(crate) const ROWS: usize = 128;
/// Units of a cube: two planes along the tokens of a tile, four along its rows.
pub(crate) const UNITS: usize = 256;
const PLANE: usize = 32;
/// Words of a vector.
const WORDS: usize = 4;
/// Vectors of a row in shared memory.
const DEPTH: usize = 4;
/// Rows of `x` and rows of the weight that a product takes.
const DOWN: usize = 16;
const ACROSS: usize = 8;
/// Products of a plane along its 32 rows of the weight.
const PARTS: usize = ROWS / 4 / ACROSS;

/// What a product of codes is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CodeTiles {
    /// Words of a row of `x`, and from row to row of the weight.
    pub(crate) words: usize,
    pub(crate) stride: usize,
    /// Scales from row to row of the weight.
    pub(crate) scale_stride: usize,
    /// Rows of the weight, of each expert where there are some.
    pub(crate) rows: usize,
    /// Places in a tile, 64 or 128.
    pub(crate) places: usize,
    /// Whether places are in an order, with the experts of these.
    pub(crate) ordered: bool,
    pub(crate) first_expert: usize,
    pub(crate) end_expert: usize,
    /// Places of a row of `x`.
    pub(crate) choices: usize,
}

/// `out[place] = (weight[expert] · x[place / choices]) * scale[row] * x_scale[place / choices]`. Axis
/// y goes over items, or over the tokens' tiles, x over tiles of rows.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn codes_kernel<O: Float, N: Size>(
    x: &[Vector<u32, N>],
    weight: &[Vector<u32, N>],
    scales: &[f32],
    x_scales: &[f32],
    order: &[i32],
    items: &[i32],
    out: &mut [O],
    places: u32,
    #[comptime] tiles: CodeTiles,
    #[define(O)] _dtype: ElemType,
) {
    let unit = UNIT_POS as usize;
    let first_row = CUBE_POS_X as usize * ROWS;
    let mut first = CUBE_POS_Y as usize * tiles.places;
    let mut weight_row = first_row;
    let mut end = places as usize;
    if comptime![tiles.ordered] {
        let item = CUBE_POS_Y as usize * ITEM;
        let expert = items[item] as usize;
        first = items[item + 1] as usize;
        end = first + items[item + 2] as usize;
        if first == end || expert < tiles.first_expert || expert >= tiles.end_expert {
            terminate!();
        }
        weight_row = (expert - tiles.first_expert) * tiles.rows + first_row;
    }
    let rows = tiles.rows - first_row;

    let mut left = Shared::<[Vector<u32, Const<4>>]>::new_slice(comptime![tiles.places * DEPTH]);
    let mut right = Shared::<[Vector<u32, Const<4>>]>::new_slice(comptime![ROWS * DEPTH]);
    let loads_left = comptime![tiles.places * DEPTH / UNITS];
    let loads_right = comptime![ROWS * DEPTH / UNITS];
    let mut next_left = Array::<Vector<u32, Const<4>>>::new(loads_left);
    let mut next_right = Array::<Vector<u32, Const<4>>>::new(loads_right);

    // Where this lane's rows of both operands begin, in its plane's part of the tile.
    let (plane, lane) = (unit / PLANE, unit % PLANE);
    let (group, part) = (lane / 4, lane % 4);
    let high = comptime![tiles.places / 2 / DOWN];
    let top = plane / 4 * comptime![tiles.places / 2] + group;
    let side = plane % 4 * comptime![ROWS / 4];

    let mut sums = Array::<Vector<f32, Const<4>>>::new(comptime![high * PARTS]);
    #[unroll]
    for index in 0..comptime![high * PARTS] {
        sums[index] = Vector::<f32, Const<4>>::new(0.0f32);
    }
    let vectors = comptime![tiles.words.div_ceil(WORDS)];
    let steps = comptime![vectors.div_ceil(DEPTH)];
    for step in 0..comptime![steps + 1] {
        // What was read while the tile before was multiplied.
        if step > 0 {
            sync_cube();
            #[unroll]
            for load in 0..loads_left {
                left[load * UNITS + unit] = next_left[load];
            }
            #[unroll]
            for load in 0..loads_right {
                right[load * UNITS + unit] = next_right[load];
            }
            sync_cube();
        }
        if step < steps {
            let vector = step * DEPTH + unit % DEPTH;
            #[unroll]
            for load in 0..loads_left {
                let place = first + load * comptime![UNITS / DEPTH] + unit / DEPTH;
                let mut words = Vector::<u32, Const<4>>::new(0u32);
                if place < end {
                    let mut row = place;
                    if comptime![tiles.ordered] {
                        row = order[place] as usize / tiles.choices;
                    }
                    words = read_words(x, row * tiles.words, vector, tiles);
                }
                next_left[load] = words;
            }
            #[unroll]
            for load in 0..loads_right {
                let row = load * comptime![UNITS / DEPTH] + unit / DEPTH;
                let mut words = Vector::<u32, Const<4>>::new(0u32);
                if row < rows {
                    words = read_words(weight, (weight_row + row) * tiles.stride, vector, tiles);
                }
                next_right[load] = words;
            }
        }
        if step > 0 {
            #[unroll]
            for down in 0..high {
                let row = top + down * DOWN;
                let upper = left[row * DEPTH + part];
                let lower = left[(row + DOWN / 2) * DEPTH + part];
                #[unroll]
                for across in 0..PARTS {
                    let codes = right[(side + across * ACROSS + group) * DEPTH + part];
                    let index = comptime![down * PARTS + across];
                    let near = multiply(
                        upper.extract(0usize),
                        lower.extract(0usize),
                        upper.extract(1usize),
                        lower.extract(1usize),
                        codes.extract(0usize),
                        codes.extract(1usize),
                        sums[index],
                        32usize,
                        "e4m3",
                    );
                    sums[index] = multiply(
                        upper.extract(2usize),
                        lower.extract(2usize),
                        upper.extract(3usize),
                        lower.extract(3usize),
                        codes.extract(2usize),
                        codes.extract(3usize),
                        near,
                        32usize,
                        "e4m3",
                    );
                }
            }
        }
    }
    #[unroll]
    for down in 0..high {
        #[unroll]
        for half in 0..2usize {
            let place = first + top + comptime![down * DOWN + half * DOWN / 2];
            if place < end {
                let mut to = place;
                if comptime![tiles.ordered] {
                    to = order[place] as usize;
                }
                let x_scale = x_scales[to / tiles.choices];
                #[unroll]
                for across in 0..PARTS {
                    #[unroll]
                    for offset in 0..2usize {
                        let row = side + across * ACROSS + part * 2 + offset;
                        if row < rows {
                            let sum = sums[comptime![down * PARTS + across]];
                            let scale = scales[(weight_row + row) * tiles.scale_stride];
                            let value = sum.extract(comptime![half * 2 + offset]);
                            out[to * tiles.rows + first_row + row] =
                                O::cast_from(value * scale * x_scale);
                        }
                    }
                }
            }
        }
    }
}

/// Four words of a row that begins at word `start`; zeros past its end.
#[cube]
fn read_words<N: Size>(
    matrix: &[Vector<u32, N>],
    start: usize,
    vector: usize,
    #[comptime] tiles: CodeTiles,
) -> Vector<u32, Const<4>> {
    let size = N::value().comptime();
    let mut words = Vector::<u32, Const<4>>::new(0u32);
    #[unroll]
    for load in 0..comptime![WORDS / size] {
        let word = vector * WORDS + load * size;
        if word < tiles.words {
            let read = matrix[(start + word) / size];
            #[unroll]
            for part in 0..size {
                words.insert(comptime![load * size + part], read.extract(part));
            }
        }
    }
    words
}
