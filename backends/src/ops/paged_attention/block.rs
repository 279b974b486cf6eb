//! What a cube does with a block of cached rows.

use cubecl::prelude::*;

use super::attend::{Attend, BLOCK, Four, TEAM};
use super::kernel::{Tile, token_of};
use crate::cube::{decode_word, max_of_lanes};
use crate::ops::pages::HIDDEN;

/// Queries times the scale, in fours side by side for each column; zeros where there is no token.
#[cube]
pub(super) fn load_queries<F: Float>(
    q: &[F],
    tile_tokens: &[i32],
    queries: &mut Shared<[Four]>,
    tile: &Tile,
    first_query: usize,
    kv_head: usize,
    #[comptime] attend: Attend,
) {
    let group = comptime![attend.group];
    let all_fours = comptime![attend.all_fours()];
    let padded = comptime![attend.padded()];
    let count = comptime![padded * all_fours];
    for step in 0..comptime![count.div_ceil(attend.units())] {
        let index = step * comptime![attend.units()] + UNIT_POS as usize;
        if index < count {
            let (four, place) = (index / padded, index % padded);
            // Parts of words of codes are padded, each by itself.
            let in_first = place < comptime![attend.first_padded()];
            let column = select(
                in_first,
                place,
                place - comptime![attend.first_padded()] + comptime![attend.key_parts[0]],
            );
            let end =
                select(in_first, comptime![attend.key_parts[0]], comptime![attend.key_width()]);
            let mut values = Four::new(0.0f32);
            #[unroll]
            for part in 0..4usize {
                let query = first_query + four * 4 + part;
                let token = token_of(tile_tokens, tile, query / group);
                if token >= 0 && column < end {
                    let head = (token as usize * attend.kv_heads + kv_head) * group + query % group;
                    let value = f32::cast_from(q[head * comptime![attend.key_width()] + column]);
                    values.insert(part, value * comptime![attend.scale()]);
                }
            }
            queries[place * all_fours + four] = values;
        }
    }
}

/// Products of a slice of the columns of this unit's rows with the queries of its team:
/// `scores [fours, slices, rows]`.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
pub(super) fn score_rows<W: Numeric, N: Size>(
    keys: &[Vector<W, N>],
    scales: &[f32],
    queries: &Shared<[Four]>,
    slots: &Shared<[u32]>,
    scores: &mut Shared<[Four]>,
    places: usize,
    kv_head: usize,
    team: usize,
    slice: usize,
    lane: usize,
    #[comptime] attend: Attend,
) {
    let size = N::value().comptime();
    let fours = comptime![attend.fours];
    let all_fours = comptime![attend.all_fours()];
    let rows = comptime![attend.rows()];
    let vectors = comptime![attend.key_elements() / size];
    let first_vectors = comptime![attend.keys.elements(attend.key_parts[0]) / size];
    let per_vector = comptime![size * attend.keys.values()];

    let mut firsts = Array::<usize>::new(rows);
    let mut first_scales = Array::<f32>::new(rows);
    let mut second_scales = Array::<f32>::new(rows);
    let mut sums = Array::<Four>::new(comptime![rows * fours]);
    #[unroll]
    for row in 0..rows {
        let slot = slots[places + comptime![row * attend.lanes] + lane] as usize;
        firsts[row] = slot * comptime![attend.keys.stride / size] + kv_head * vectors;
        if comptime![attend.keys.is_fp8()] {
            let at = slot * comptime![attend.keys.scale_stride()]
                + kv_head * comptime![attend.key_scales()];
            first_scales[row] = scales[at];
            if comptime![attend.key_scales() > 1] {
                second_scales[row] = scales[at + 1];
            }
        }
    }
    #[unroll]
    for index in 0..comptime![rows * fours] {
        sums[index] = Four::new(0.0f32);
    }

    let steps = comptime![vectors.div_ceil(attend.slices())];
    for step in 0..steps {
        let vector = slice * steps + step;
        if vector < vectors {
            let mut loaded = Array::<f32>::new(comptime![rows * per_vector]);
            #[unroll]
            for row in 0..rows {
                let elements = keys[firsts[row] + vector];
                if comptime![attend.keys.is_fp8()] {
                    let mut scale = first_scales[row];
                    if comptime![attend.key_scales() > 1] {
                        scale = select(vector < first_vectors, scale, second_scales[row]);
                    }
                    #[unroll]
                    for word in 0..size {
                        let codes = decode_word(
                            u32::cast_from(elements.extract(word)),
                            comptime![attend.keys.native],
                        );
                        #[unroll]
                        for index in 0..4usize {
                            loaded[comptime![row * per_vector + 4 * word + index]] =
                                codes.extract(index) * scale;
                        }
                    }
                } else {
                    #[unroll]
                    for index in 0..size {
                        loaded[comptime![row * per_vector + index]] =
                            f32::cast_from(elements.extract(index));
                    }
                }
            }
            #[unroll]
            for index in 0..per_vector {
                #[unroll]
                for four in 0..fours {
                    let query =
                        queries[(vector * per_vector + index) * all_fours + team * fours + four];
                    #[unroll]
                    for row in 0..rows {
                        let value = Four::new(loaded[comptime![row * per_vector + index]]);
                        sums[comptime![row * fours + four]] += query * value;
                    }
                }
            }
        }
    }
    #[unroll]
    for row in 0..rows {
        #[unroll]
        for four in 0..fours {
            let at = ((team * fours + four) * comptime![attend.slices()] + slice) * BLOCK;
            scores[at + comptime![row * attend.lanes] + lane] = sums[comptime![row * fours + four]];
        }
    }
}

/// Scores of a block to weights, in place of the first slice of them, with the largest score so far
/// taken out of the exponent ([Milakov and Gimelshein 2018](https://arxiv.org/abs/1805.02867)).
/// Each group of lanes takes some fours of queries.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
pub(super) fn weigh_rows(
    scores: &mut Shared<[Four]>,
    corrections: &mut Shared<[Four]>,
    largest: &mut Array<Four>,
    totals: &mut Array<Four>,
    seen: &Array<usize>,
    value_scales: &[f32],
    slots: &Shared<[u32]>,
    shared: &mut Shared<[f32]>,
    base: usize,
    places: usize,
    kv_head: usize,
    team: usize,
    slice: usize,
    lane: usize,
    #[comptime] attend: Attend,
) {
    let slices = comptime![attend.slices()];
    let rows = comptime![attend.rows()];
    #[unroll]
    for index in 0..comptime![attend.fours_of_lanes()] {
        let four = index * slices + slice;
        let is_four = four < attend.fours;
        let mut of_rows = Array::<Four>::new(rows);
        let mut most = Four::new(f32::new(HIDDEN));
        #[unroll]
        for row in 0..rows {
            let place = comptime![row * attend.lanes] + lane;
            let mut score = Four::new(0.0f32);
            if is_four {
                let at = (team * attend.fours + four) * slices * BLOCK + place;
                #[unroll]
                for part in 0..slices {
                    score += scores[at + comptime![part * BLOCK]];
                }
            }
            #[unroll]
            for part in 0..4usize {
                let visible = base + place < seen[comptime![4 * index + part]];
                let value = select(visible, score.extract(part), f32::new(HIDDEN));
                score.insert(part, value);
                let before = most.extract(part);
                most.insert(part, max(before, value));
            }
            of_rows[row] = score;
        }
        let mut correction = Four::new(1.0f32);
        #[unroll]
        for part in 0..4usize {
            let block = max_of_lanes(most.extract(part), shared, attend.lanes, attend.plane);
            let before = largest[index].extract(part);
            let now = max(before, block);
            most.insert(part, now);
            correction.insert(part, f32::exp(before - now));
        }
        largest[index] = most;
        totals[index] *= correction;
        #[unroll]
        for row in 0..rows {
            let place = comptime![row * attend.lanes] + lane;
            let mut weights = Four::new(0.0f32);
            #[unroll]
            for part in 0..4usize {
                let visible = base + place < seen[comptime![4 * index + part]];
                let weight = f32::exp(of_rows[row].extract(part) - most.extract(part));
                weights.insert(part, select(visible, weight, 0.0f32));
            }
            totals[index] += weights;
            if is_four {
                if comptime![attend.values.is_fp8()] {
                    let at = slots[places + place] as usize
                        * comptime![attend.values.scale_stride()]
                        + kv_head;
                    weights *= Four::new(value_scales[at]);
                }
                scores[(team * attend.fours + four) * slices * BLOCK + place] = weights;
            }
        }
        if is_four && lane == 0 {
            corrections[team * attend.fours + four] = correction;
        }
    }
}

/// Adds the block's values times their weights to the sums of this unit's columns.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
pub(super) fn add_values<W: Numeric, N: Size>(
    values: &[Vector<W, N>],
    sums: &mut Array<Four>,
    weights: &Shared<[Four]>,
    corrections: &Shared<[Four]>,
    slots: &Shared<[u32]>,
    places: usize,
    left: usize,
    kv_head: usize,
    team: usize,
    #[comptime] attend: Attend,
) {
    let size = N::value().comptime();
    let fours = comptime![attend.fours];
    let slices = comptime![attend.slices()];
    let vectors = comptime![attend.value_vectors(size)];
    let across = comptime![attend.columns(size)];
    let of_unit = comptime![attend.vectors_of_unit(size)];
    let per_vector = comptime![size * attend.values.values()];
    let groups = comptime![TEAM / across];
    // Rows whose loads are under way together.
    let together = comptime![(BLOCK / groups).min(4)];
    let column = UNIT_POS as usize % TEAM % across;
    let group = UNIT_POS as usize % TEAM / across;

    #[unroll]
    for four in 0..fours {
        let correction = corrections[team * fours + four];
        #[unroll]
        for index in 0..comptime![of_unit * per_vector] {
            sums[comptime![index * fours + four]] *= correction;
        }
    }
    let left = select(left < BLOCK, left, BLOCK);
    for step in 0..left.div_ceil(comptime![groups * together]) {
        let first = step * comptime![groups * together] + group;
        #[unroll]
        for vector in 0..of_unit {
            let place = vector * across + column;
            let place = select(place < vectors, place, comptime![vectors - 1]);
            let mut loaded = Array::<f32>::new(comptime![together * per_vector]);
            #[unroll]
            for row in 0..together {
                let slot = slots[places + first + comptime![row * groups]] as usize;
                let at = slot * comptime![attend.values.stride / size]
                    + kv_head * comptime![attend.values.elements(attend.value_width) / size];
                let elements = values[at + place];
                if comptime![attend.values.is_fp8()] {
                    #[unroll]
                    for word in 0..size {
                        let codes = decode_word(
                            u32::cast_from(elements.extract(word)),
                            comptime![attend.values.native],
                        );
                        #[unroll]
                        for index in 0..4usize {
                            loaded[comptime![row * per_vector + 4 * word + index]] =
                                codes.extract(index);
                        }
                    }
                } else {
                    #[unroll]
                    for index in 0..size {
                        loaded[comptime![row * per_vector + index]] =
                            f32::cast_from(elements.extract(index));
                    }
                }
            }
            #[unroll]
            for row in 0..together {
                #[unroll]
                for four in 0..fours {
                    let at = (team * fours + four) * slices * BLOCK;
                    let weight = weights[at + first + comptime![row * groups]];
                    #[unroll]
                    for index in 0..per_vector {
                        let value = Four::new(loaded[comptime![row * per_vector + index]]);
                        sums[comptime![(vector * per_vector + index) * fours + four]] +=
                            weight * value;
                    }
                }
            }
        }
    }
}
