//! What a cube of attention in tiles does with a block of cached rows.
//!
//! For sums over rows, a pair of columns is taken for two products, one of the even and one of the odd
//! ones.

use cubecl::prelude::*;

use super::tiled::{ACROSS, DEPTH, DOWN, Tiled, UNITS, WORDS};
use crate::cube::{PageLayout, decode_word, multiply};

/// A block of rows as words of two values, with the scales of codes multiplied in.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
pub(super) fn load_rows<F: Float, W: Numeric, N: Size>(
    elements: &[Vector<W, N>],
    scales: &[f32],
    slots: &Shared<[u32]>,
    block: &mut Shared<[u32]>,
    kv_head: usize,
    #[comptime] layout: PageLayout,
    #[comptime] parts: [usize; 2],
    #[comptime] pitch: usize,
    #[comptime] rows: usize,
) {
    let size = N::value().comptime();
    let vectors = comptime![(layout.elements(parts[0]) + layout.elements(parts[1])) / size];
    let first_vectors = comptime![layout.elements(parts[0]) / size];
    let count = comptime![rows * vectors];
    for step in 0..comptime![count.div_ceil(UNITS)] {
        let index = step * UNITS + UNIT_POS as usize;
        if index < count {
            let (row, vector) = (index / vectors, index % vectors);
            let slot = slots[row] as usize;
            let read =
                elements[slot * comptime![layout.stride / size] + kv_head * vectors + vector];
            if comptime![layout.is_fp8()] {
                let mut at = slot * comptime![layout.scale_stride()];
                if comptime![parts[1] > 0] {
                    at += 2 * kv_head + select(vector < first_vectors, 0usize, 1usize);
                } else {
                    at += kv_head;
                }
                let scale = scales[at];
                #[unroll]
                for word in 0..size {
                    let codes =
                        decode_word(u32::cast_from(read.extract(word)), comptime![layout.native]);
                    #[unroll]
                    for half in 0..2usize {
                        let low = F::cast_from(codes.extract(comptime![2 * half]) * scale);
                        let high = F::cast_from(codes.extract(comptime![2 * half + 1]) * scale);
                        block[row * pitch + (vector * size + word) * 2 + half] =
                            pack::<F>(low, high);
                    }
                }
            } else {
                #[unroll]
                for pair in 0..comptime![size / 2] {
                    let low = F::cast_from(read.extract(comptime![2 * pair]));
                    let high = F::cast_from(read.extract(comptime![2 * pair + 1]));
                    block[row * pitch + vector * comptime![size / 2] + pair] = pack::<F>(low, high);
                }
            }
        }
    }
}

/// Products of the queries with the rows of a block, not scaled.
#[cube]
pub(super) fn score_rows(
    queries: &Shared<[u32]>,
    block: &Shared<[u32]>,
    scores: &mut Shared<[f32]>,
    #[comptime] tiled: Tiled,
) {
    let pitch = comptime![tiled.key_pitch()];
    let (down, across) = comptime![tiled.of_plane()];
    let (plane, lane) = (UNIT_POS as usize / 32, UNIT_POS as usize % 32);
    let (group, part) = (lane / 4, lane % 4);
    let wide = comptime![tiled.wide()];
    let top = plane / wide * comptime![down * DOWN] + group;
    let side = plane % wide * comptime![across * ACROSS];
    // Where rows are fewer than planes, some have none.
    if side < tiled.rows {
        let mut sums = Array::<Vector<f32, Const<4>>>::new(comptime![down * across]);
        #[unroll]
        for index in 0..comptime![down * across] {
            sums[index] = Vector::<f32, Const<4>>::new(0.0f32);
        }
        for step in 0..comptime![tiled.attend.key_width() / DEPTH] {
            let word = step * WORDS + part;
            let mut left = Array::<u32>::new(comptime![4 * down]);
            #[unroll]
            for index in 0..down {
                let at = (top + comptime![index * DOWN]) * pitch + word;
                left[comptime![4 * index]] = queries[at];
                left[comptime![4 * index + 1]] = queries[at + comptime![DOWN / 2 * pitch]];
                left[comptime![4 * index + 2]] = queries[at + 4];
                left[comptime![4 * index + 3]] = queries[at + comptime![DOWN / 2 * pitch + 4]];
            }
            #[unroll]
            for column in 0..across {
                let at = (side + comptime![column * ACROSS] + group) * pitch + word;
                let (near, far) = (block[at], block[at + 4]);
                #[unroll]
                for index in 0..down {
                    let product = comptime![index * across + column];
                    let sum = sums[product];
                    sums[product] = multiply(
                        left[comptime![4 * index]],
                        left[comptime![4 * index + 1]],
                        left[comptime![4 * index + 2]],
                        left[comptime![4 * index + 3]],
                        near,
                        far,
                        sum,
                        16usize,
                        comptime![tiled.kind()],
                    );
                }
            }
        }
        #[unroll]
        for index in 0..down {
            #[unroll]
            for column in 0..across {
                let sum = sums[comptime![index * across + column]];
                #[unroll]
                for place in 0..4usize {
                    let row = top + comptime![index * DOWN + place / 2 * DOWN / 2];
                    let at = side + comptime![column * ACROSS + place % 2] + 2 * part;
                    scores[row * comptime![tiled.score_pitch()] + at] = sum.extract(place);
                }
            }
        }
    }
}

/// Adds the block's values times their weights to this plane's columns.
#[cube]
pub(super) fn add_values(
    block: &Shared<[u32]>,
    weights: &Shared<[u32]>,
    factors: &Shared<[f32]>,
    sums: &mut Array<Vector<f32, Const<4>>>,
    #[comptime] tiled: Tiled,
) {
    let high = comptime![tiled.queries / DOWN];
    let pairs = comptime![tiled.pairs()];
    let pitch = comptime![tiled.value_pitch()];
    let weight_pitch = comptime![tiled.weight_pitch()];
    let (plane, lane) = (UNIT_POS as usize / 32, UNIT_POS as usize % 32);
    let (group, part) = (lane / 4, lane % 4);
    #[unroll]
    for down in 0..high {
        let upper = factors[comptime![down * DOWN] + group];
        let lower = factors[comptime![down * DOWN + DOWN / 2] + group];
        let mut factor = Vector::<f32, Const<4>>::new(upper);
        factor.insert(2usize, lower);
        factor.insert(3usize, lower);
        #[unroll]
        for index in 0..comptime![2 * pairs] {
            sums[comptime![down * pairs * 2 + index]] *= factor;
        }
    }
    #[unroll]
    for step in 0..comptime![tiled.rows / DEPTH] {
        let mut left = Array::<u32>::new(comptime![4 * high]);
        #[unroll]
        for down in 0..high {
            let at =
                (comptime![down * DOWN] + group) * weight_pitch + comptime![step * WORDS] + part;
            left[comptime![4 * down]] = weights[at];
            left[comptime![4 * down + 1]] = weights[at + comptime![DOWN / 2 * weight_pitch]];
            left[comptime![4 * down + 2]] = weights[at + 4];
            left[comptime![4 * down + 3]] = weights[at + comptime![DOWN / 2 * weight_pitch + 4]];
        }
        #[unroll]
        for pair in 0..pairs {
            let word = (plane * pairs + pair) * ACROSS + group;
            let at = (comptime![step * DEPTH] + 2 * part) * pitch + word;
            let (first, second) = (block[at], block[at + pitch]);
            let (third, fourth) =
                (block[at + comptime![8 * pitch]], block[at + comptime![9 * pitch]]);
            #[unroll]
            for odd in 0..2usize {
                let near = column_of(first, second, odd);
                let far = column_of(third, fourth, odd);
                #[unroll]
                for down in 0..high {
                    let product = comptime![(down * pairs + pair) * 2 + odd];
                    let sum = sums[product];
                    sums[product] = multiply(
                        left[comptime![4 * down]],
                        left[comptime![4 * down + 1]],
                        left[comptime![4 * down + 2]],
                        left[comptime![4 * down + 3]],
                        near,
                        far,
                        sum,
                        16usize,
                        comptime![tiled.kind()],
                    );
                }
            }
        }
    }
}

/// The even or odd column of two rows, in a word.
#[cube]
pub(super) fn column_of(upper: u32, lower: u32, #[comptime] odd: usize) -> u32 {
    if comptime![odd == 1] {
        (upper >> 16u32) | (lower & 0xffff_0000u32)
    } else {
        (upper & 0xffffu32) | (lower << 16u32)
    }
}

/// Two values in a word.
#[cube]
pub(super) fn pack<F: Float>(low: F, high: F) -> u32 {
    let mut both = Vector::<F, Const<2>>::empty();
    both.insert(0usize, low);
    both.insert(1usize, high);
    u32::reinterpret(both)
}
