//! Attention over pages on the matrix units of NVIDIA's GPUs: 16, 32 or 64 queries of a KV head
//! against blocks of cached rows, with the softmax online.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::kernel::{Shape, Work, clear_padding, seen_by, token_of, work_of};
use super::products::{add_values, load_rows, pack, score_rows};
use super::tiled::{ACROSS, DOWN, Tiled, UNITS};
use crate::ops::pages::HIDDEN;

/// As [`attend_kernel`](super::kernel::attend_kernel), with the dtype of queries for products.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn attend_tiles_kernel<F: Float, O: Float, W: Numeric, NK: Size, NV: Size>(
    q: &[F],
    keys: &[Vector<W, NK>],
    values: &[Vector<W, NV>],
    key_scales: &[f32],
    value_scales: &[f32],
    positions: &[i32],
    block_tables: &[i32],
    query_starts: &[i32],
    tile_sequences: &[i32],
    tile_tokens: &[i32],
    out: &mut [O],
    statistics: &mut [f32],
    shape: Shape,
    #[comptime] tiled: Tiled,
    #[define(F, O, W)] _dtypes: [ElemType; 3],
) {
    if CUBE_POS >= shape.cubes as usize {
        terminate!();
    }
    let attend = comptime![tiled.attend];
    let unit = UNIT_POS as usize;
    let work =
        work_of(&shape, positions, tile_sequences, tile_tokens, attend, comptime![tiled.queries]);
    if comptime![attend.whole] {
        let queries = comptime![tiled.queries];
        clear_padding::<O>(out, &shape, &work, query_starts, attend, queries, UNITS);
    }
    if work.first >= work.stop {
        terminate!();
    }

    let key_pitch = comptime![tiled.key_pitch()];
    let mut queries = Shared::<[u32]>::new_slice(comptime![tiled.queries * key_pitch]);
    let mut block = Shared::<[u32]>::new_slice(comptime![tiled.rows * key_pitch]);
    let mut value_block = Shared::<[u32]>::new_slice(comptime![tiled.value_words()]);
    let mut scores = Shared::<[f32]>::new_slice(comptime![tiled.queries * tiled.score_pitch()]);
    let mut weights = Shared::<[u32]>::new_slice(comptime![tiled.queries * tiled.weight_pitch()]);
    let mut factors = Shared::<[f32]>::new_slice(tiled.queries);
    let mut slots = Shared::<[u32]>::new_slice(tiled.rows);

    load_queries::<F>(q, tile_tokens, &mut queries, &work, tiled);

    // The query whose scores this unit weighs with its neighbours.
    let share = comptime![tiled.share()];
    let (mine, part) = (unit / share, unit % share);
    let offset = (work.first_query + mine) / attend.group;
    let seen = seen_by(positions, tile_tokens, &work.tile, offset);
    let mut largest = f32::new(HIDDEN);
    let mut total = 0.0f32;

    let high = comptime![tiled.queries / DOWN];
    let pairs = comptime![tiled.pairs()];
    let mut sums = Array::<Vector<f32, Const<4>>>::new(comptime![high * pairs * 2]);
    #[unroll]
    for index in 0..comptime![high * pairs * 2] {
        sums[index] = Vector::<f32, Const<4>>::new(0.0f32);
    }

    for step in 0..(work.stop - work.first).div_ceil(tiled.rows) {
        let base = work.first + step * tiled.rows;
        sync_cube();
        if unit < tiled.rows {
            // What is past the last row repeats it.
            let row = select(base + unit < work.stop, base + unit, work.stop - 1);
            let page = block_tables[work.table + row / attend.page_size] as u32;
            slots[unit] =
                page * comptime![attend.page_size as u32] + (row % attend.page_size) as u32;
        }
        sync_cube();
        load_rows::<F, W, NK>(
            keys,
            key_scales,
            &slots,
            &mut block,
            work.kv_head,
            comptime![attend.keys],
            comptime![attend.key_parts],
            key_pitch,
            comptime![tiled.rows],
        );
        if comptime![!tiled.values_in_keys] {
            load_rows::<F, W, NV>(
                values,
                value_scales,
                &slots,
                &mut value_block,
                work.kv_head,
                comptime![attend.values],
                comptime![[attend.value_width, 0]],
                comptime![tiled.value_pitch()],
                comptime![tiled.rows],
            );
        }
        sync_cube();
        score_rows(&queries, &block, &mut scores, tiled);
        sync_cube();

        // Scores to weights, with the largest so far taken out of the exponent.
        let columns = comptime![tiled.rows / share];
        let mut held = Array::<f32>::new(columns);
        let mut most = f32::new(HIDDEN);
        #[unroll]
        for index in 0..columns {
            let column = comptime![index / 2 * 2] * share + 2 * part + comptime![index % 2];
            let score = scores[mine * comptime![tiled.score_pitch()] + column];
            let score =
                select(base + column < seen, score * comptime![attend.scale()], f32::new(HIDDEN));
            held[index] = score;
            most = max(most, score);
        }
        #[unroll]
        for bit in 0..comptime![share.ilog2()] {
            let other = plane_shuffle_xor(most, comptime![1u32 << bit]);
            most = max(most, other);
        }
        let now = max(largest, most);
        let factor = f32::exp(largest - now);
        largest = now;
        total *= factor;
        #[unroll]
        for pair in 0..comptime![columns / 2] {
            let column = pair * 2 * share + 2 * part;
            let low = f32::exp(held[comptime![2 * pair]] - now);
            let low = select(base + column < seen, low, 0.0f32);
            let high = f32::exp(held[comptime![2 * pair + 1]] - now);
            let high = select(base + column + 1 < seen, high, 0.0f32);
            total += low + high;
            weights[mine * comptime![tiled.weight_pitch()] + column / 2] =
                pack::<F>(F::cast_from(low), F::cast_from(high));
        }
        if part == 0 {
            factors[mine] = factor;
        }
        sync_cube();
        if comptime![tiled.values_in_keys] {
            add_values(&block, &weights, &factors, &mut sums, tiled);
        } else {
            add_values(&value_block, &weights, &factors, &mut sums, tiled);
        }
    }

    #[unroll]
    for bit in 0..comptime![share.ilog2()] {
        total += plane_shuffle_xor(total, comptime![1u32 << bit]);
    }
    let heads = comptime![attend.group * attend.kv_heads];
    let splits = shape.splits as usize;
    sync_cube();
    if part == 0 {
        factors[mine] = total;
        if comptime![!attend.whole] {
            let query = work.first_query + mine;
            let token = token_of(tile_tokens, &work.tile, query / attend.group);
            if token >= 0 {
                let head = work.kv_head * attend.group + query % attend.group;
                let at = (token as usize * heads + head) * splits + work.split;
                statistics[2 * at] = largest;
                statistics[2 * at + 1] = total;
            }
        }
    }
    sync_cube();

    let (plane, lane) = (unit / 32, unit % 32);
    let (group, part) = (lane / 4, lane % 4);
    #[unroll]
    for down in 0..high {
        #[unroll]
        for half in 0..2usize {
            let row = comptime![down * DOWN + half * DOWN / 2] + group;
            let query = work.first_query + row;
            let token = token_of(tile_tokens, &work.tile, query / attend.group);
            if token >= 0 {
                let mut at =
                    token as usize * heads + work.kv_head * attend.group + query % attend.group;
                let mut scale = 1.0f32;
                if comptime![attend.whole] {
                    scale = 1.0f32 / factors[row];
                } else {
                    at = at * splits + work.split;
                }
                #[unroll]
                for pair in 0..pairs {
                    let column = (plane * pairs + pair) * comptime![2 * ACROSS] + 4 * part;
                    #[unroll]
                    for index in 0..4usize {
                        let product = comptime![(down * pairs + pair) * 2 + index % 2];
                        let sum = sums[product].extract(comptime![half * 2 + index / 2]);
                        out[at * comptime![attend.value_width] + column + index] =
                            O::cast_from(sum * scale);
                    }
                }
            }
        }
    }
}

/// The queries of a cube; zeros where there is no token.
#[cube]
fn load_queries<F: Float>(
    q: &[F],
    tile_tokens: &[i32],
    queries: &mut Shared<[u32]>,
    work: &Work,
    #[comptime] tiled: Tiled,
) {
    let attend = comptime![tiled.attend];
    let width = comptime![attend.key_width()];
    let words = comptime![width / 2];
    for step in 0..comptime![(tiled.queries * words).div_ceil(UNITS)] {
        let index = step * UNITS + UNIT_POS as usize;
        let (row, word) = (index / words, index % words);
        if row < tiled.queries {
            let query = work.first_query + row;
            let token = token_of(tile_tokens, &work.tile, query / attend.group);
            let mut both = 0u32;
            if token >= 0 {
                let head = (token as usize * attend.kv_heads + work.kv_head) * attend.group
                    + query % attend.group;
                both = pack::<F>(q[head * width + 2 * word], q[head * width + 2 * word + 1]);
            }
            queries[row * comptime![tiled.key_pitch()] + word] = both;
        }
    }
}
