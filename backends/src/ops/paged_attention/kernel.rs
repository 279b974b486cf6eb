//! Attention over pages with its softmax online, in units that a cube shares out twice: for scores a
//! unit takes some cached rows and a part of their columns, for sums some columns and every so many
//! rows. Queries are held in fours, so that one load from shared memory serves four of them.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::attend::{Attend, BLOCK, Four, TEAM};
use super::block::{add_values, load_queries, score_rows, weigh_rows};
use crate::cube::sum_of_lanes;
use crate::ops::pages::HIDDEN;

/// Constants of a step's shape.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) tokens: u32,
    pub(crate) sequences: u32,
    /// Elements from one block table to the next.
    pub(crate) table_stride: u32,
    /// Tokens of a tile.
    pub(crate) tile: u32,
    /// Elements from one tile's tokens to the next ones'.
    pub(crate) tile_stride: u32,
    /// Blocks of queries of a tile.
    pub(crate) blocks: u32,
    /// Parts that the rows of a sequence are split into, and rows of each.
    pub(crate) splits: u32,
    pub(crate) split_rows: u32,
    /// Cubes that have work.
    pub(crate) cubes: u32,
}

/// Where the tokens of a tile are.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Tile {
    /// Place of the first one.
    first: usize,
    /// Tokens, padding included.
    size: usize,
}

/// What a cube does.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Work {
    pub(super) tile: Tile,
    /// Number of the tile, as a place among all tokens' where tiles lie side by side.
    place: usize,
    /// The first of its queries, which are the tile's tokens times the heads of a group.
    pub(super) first_query: usize,
    pub(super) kv_head: usize,
    pub(super) split: usize,
    /// Rows of the sequence, from the first to before the last; none where they are equal.
    pub(super) first: usize,
    pub(super) stop: usize,
    /// Where the sequence's block table begins.
    pub(super) table: usize,
}

/// The part of a cube that takes `queries` at once.
#[cube]
pub(super) fn work_of(
    shape: &Shape,
    positions: &[i32],
    tile_sequences: &[i32],
    tile_tokens: &[i32],
    #[comptime] attend: Attend,
    #[comptime] queries: usize,
) -> Work {
    let cube = CUBE_POS;
    let splits = shape.splits as usize;
    let (split, cube) = (cube % splits, cube / splits);
    let (kv_head, cube) = (cube % attend.kv_heads, cube / attend.kv_heads);
    let (block, number) = (cube % shape.blocks as usize, cube / shape.blocks as usize);
    let size = shape.tile as usize;
    let table = tile_sequences[number] as usize * shape.table_stride as usize;
    let first_query = block * queries;
    let tile = Tile { first: number * shape.tile_stride as usize, size };
    // Rows that any of the tokens sees.
    let mut end = 0usize;
    let first_offset = first_query / attend.group;
    for offset in 0..comptime![queries.div_ceil(attend.group) + 1] {
        let seen = seen_by(positions, tile_tokens, &tile, first_offset + offset);
        end = select(seen > end, seen, end);
    }
    let first = split * shape.split_rows as usize;
    let limit = first + shape.split_rows as usize;
    let stop = select(end < limit, end, limit);
    Work {
        tile,
        place: number * size,
        first_query,
        kv_head,
        split,
        first: select(first < stop, first, stop),
        stop,
        table,
    }
}

/// Zeros for what has a place but no token.
#[cube]
pub(super) fn clear_padding<O: Float>(
    out: &mut [O],
    shape: &Shape,
    work: &Work,
    query_starts: &[i32],
    #[comptime] attend: Attend,
    #[comptime] queries: usize,
    #[comptime] units: usize,
) {
    let group = comptime![attend.group];
    let heads = comptime![attend.group * attend.kv_heads];
    let live = query_starts[shape.sequences as usize] as usize;
    for query in 0..queries {
        let offset = (work.first_query + query) / group;
        let place = work.place + offset;
        if offset < shape.tile as usize && place >= live && place < shape.tokens as usize {
            let head = work.kv_head * group + (work.first_query + query) % group;
            for step in 0..comptime![attend.value_width.div_ceil(units)] {
                let column = step * units + UNIT_POS as usize;
                if column < attend.value_width {
                    out[(place * heads + head) * attend.value_width + column] =
                        O::cast_from(0.0f32);
                }
            }
        }
    }
}

/// A cube for each tile of tokens, block of its queries, KV head and split of the rows, the last one
/// fastest.
///
/// Where a cube meets all rows, `out [tokens, heads, value]` are results; else they are sums
/// `[tokens, heads, splits, value]` of the exponentials, and `statistics [tokens, heads, splits, 2]`
/// hold the largest score, which is taken out of the exponent, and the sum of the weights.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn attend_kernel<F: Float, O: Float, W: Numeric, NK: Size, NV: Size>(
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
    #[comptime] attend: Attend,
    #[define(F, O, W)] _dtypes: [ElemType; 3],
) {
    if CUBE_POS >= shape.cubes as usize {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let work = work_of(
        &shape,
        positions,
        tile_sequences,
        tile_tokens,
        attend,
        comptime![attend.queries()],
    );
    if comptime![attend.whole] {
        let (queries, units) = comptime![(attend.queries(), attend.units())];
        clear_padding::<O>(out, &shape, &work, query_starts, attend, queries, units);
    }
    if work.first >= work.stop {
        terminate!();
    }
    let group = comptime![attend.group];
    let heads = comptime![attend.group * attend.kv_heads];
    let splits = shape.splits as usize;
    let (split, kv_head, first_query) = (work.split, work.kv_head, work.first_query);
    let (first, stop, table) = (work.first, work.stop, work.table);
    let tile = work.tile;

    let fours = comptime![attend.fours];
    let all_fours = comptime![attend.all_fours()];
    let team = unit / TEAM;
    let slice = unit % TEAM / attend.lanes;
    let lane = unit % attend.lanes;
    let mut queries = Shared::<[Four]>::new_slice(comptime![attend.padded() * all_fours]);
    let mut scores = Shared::<[Four]>::new_slice(comptime![attend.slices() * all_fours * BLOCK]);
    let mut corrections = Shared::<[Four]>::new_slice(all_fours);
    let mut slots = Shared::<[u32]>::new_slice(comptime![2 * BLOCK]);
    let mut shared = Shared::<[f32]>::new_slice(comptime![if attend.plane == attend.lanes {
        1
    } else {
        attend.units()
    }]);

    load_queries::<F>(q, tile_tokens, &mut queries, &tile, first_query, kv_head, attend);

    let held = comptime![attend.fours_of_lanes()];
    let mut seen = Array::<usize>::new(comptime![4 * held]);
    let mut largest = Array::<Four>::new(held);
    let mut totals = Array::<Four>::new(held);
    #[unroll]
    for index in 0..held {
        let four = team * fours + index * comptime![attend.slices()] + slice;
        largest[index] = Four::new(f32::new(HIDDEN));
        totals[index] = Four::new(0.0f32);
        #[unroll]
        for part in 0..4usize {
            let offset = (first_query + four * 4 + part) / group;
            seen[comptime![4 * index + part]] = seen_by(positions, tile_tokens, &tile, offset);
        }
    }
    let value_size = NV::value().comptime();
    let columns =
        comptime![attend.vectors_of_unit(value_size) * value_size * attend.values.values()];
    let mut sums = Array::<Four>::new(comptime![columns * fours]);
    #[unroll]
    for index in 0..comptime![columns * fours] {
        sums[index] = Four::new(0.0f32);
    }

    let blocks = (stop - first).div_ceil(BLOCK);
    for block in 0..blocks {
        let base = first + block * BLOCK;
        let places = block % 2 * BLOCK;
        if unit < BLOCK {
            // What is past the last row repeats it.
            let row = select(base + unit < stop, base + unit, stop - 1);
            let page = block_tables[table + row / attend.page_size] as u32;
            slots[places + unit] =
                page * comptime![attend.page_size as u32] + (row % attend.page_size) as u32;
        }
        sync_cube();
        score_rows::<W, NK>(
            keys,
            key_scales,
            &queries,
            &slots,
            &mut scores,
            places,
            kv_head,
            team,
            slice,
            lane,
            attend,
        );
        sync_cube();
        weigh_rows(
            &mut scores,
            &mut corrections,
            &mut largest,
            &mut totals,
            &seen,
            value_scales,
            &slots,
            &mut shared,
            base,
            places,
            kv_head,
            team,
            slice,
            lane,
            attend,
        );
        sync_cube();
        add_values::<W, NV>(
            values,
            &mut sums,
            &scores,
            &corrections,
            &slots,
            places,
            stop - base,
            kv_head,
            team,
            attend,
        );
    }

    // The groups of a team that took different rows add up, in place of the queries.
    let across = comptime![attend.columns(value_size)];
    let column = unit % TEAM % across;
    let turn = unit % TEAM / across;
    let per_vector = comptime![value_size * attend.values.values()];
    for other in 0..comptime![TEAM / across] {
        if turn == other {
            #[unroll]
            for step in 0..comptime![attend.vectors_of_unit(value_size)] {
                let vector = step * across + column;
                if vector < comptime![attend.value_vectors(value_size)] {
                    #[unroll]
                    for part in 0..per_vector {
                        #[unroll]
                        for four in 0..fours {
                            let mine = sums[comptime![(step * per_vector + part) * fours + four]];
                            let at = (vector * per_vector + part) * all_fours + team * fours + four;
                            if other == 0 {
                                queries[at] = mine;
                            } else {
                                queries[at] += mine;
                            }
                        }
                    }
                }
            }
        }
        sync_cube();
    }
    #[unroll]
    for index in 0..held {
        let four = index * comptime![attend.slices()] + slice;
        let mut total = Four::new(0.0f32);
        #[unroll]
        for part in 0..4usize {
            let sum =
                sum_of_lanes(totals[index].extract(part), &mut shared, attend.lanes, attend.plane);
            total.insert(part, sum);
        }
        if lane == 0 && four < fours {
            corrections[team * fours + four] = total;
            if comptime![!attend.whole] {
                #[unroll]
                for part in 0..4usize {
                    let query = first_query + (team * fours + four) * 4 + part;
                    let token = token_of(tile_tokens, &tile, query / group);
                    if token >= 0 {
                        let head = kv_head * group + query % group;
                        let at = (token as usize * heads + head) * splits + split;
                        statistics[2 * at] = largest[index].extract(part);
                        statistics[2 * at + 1] = total.extract(part);
                    }
                }
            }
        }
    }
    sync_cube();

    let width = comptime![attend.value_width];
    let count = comptime![attend.value_width * all_fours];
    for step in 0..comptime![count.div_ceil(attend.units())] {
        let index = step * comptime![attend.units()] + unit;
        if index < count {
            let (four, column) = (index / width, index % width);
            let result = queries[column * all_fours + four];
            let total = corrections[four];
            #[unroll]
            for part in 0..4usize {
                let query = first_query + four * 4 + part;
                let token = token_of(tile_tokens, &tile, query / group);
                if token >= 0 {
                    let at = token as usize * heads + kv_head * group + query % group;
                    if comptime![attend.whole] {
                        let result = result.extract(part) / total.extract(part);
                        out[at * width + column] = O::cast_from(result);
                    } else {
                        let at = at * splits + split;
                        out[at * width + column] = O::cast_from(result.extract(part));
                    }
                }
            }
        }
    }
}

/// The token at an offset of a tile, or -1.
#[cube]
pub(super) fn token_of(tile_tokens: &[i32], tile: &Tile, offset: usize) -> i32 {
    let mut token = i32::new(-1);
    if offset < tile.size {
        let held = tile_tokens[tile.first + offset];
        // Tiles are filled up with token 0, which is the first of the first tile.
        if held != 0 || tile.first + offset == 0 {
            token = held;
        }
    }
    token
}

/// Rows that the token at an offset of a tile sees.
#[cube]
pub(super) fn seen_by(positions: &[i32], tile_tokens: &[i32], tile: &Tile, offset: usize) -> usize {
    let token = token_of(tile_tokens, tile, offset);
    let mut seen = 0usize;
    if token >= 0 {
        seen = positions[token as usize] as usize + 1;
    }
    seen
}
