//! Attention over pages on the matrix units of NVIDIA's GPUs: 16, 32 or 64 queries of a KV head
//! against blocks of cached rows, with the softmax online.
//!
//! `mma.sync.m16n8k16` of the [PTX ISA](https://docs.nvidia.com/cuda/parallel-thread-execution/): lane
//! `4 * row + part` of a plane holds of each operand the words `part` and `part + 4` of a row's eight,
//! and of the result the columns `2 * part` and `2 * part + 1` of its row and of the eighth below it.
//! A block is in shared memory as it is in the cache, in words of two values whose rows are four words
//! longer than a multiple of 32: no two lanes meet in a bank. For sums over rows, a pair of columns is
//! taken for two products, one of the even and one of the odd ones.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::attend::Attend;
use super::kernel::{Shape, Work, clear_padding, seen_by, token_of, work_of};
use crate::cube::{PageLayout, decode_word};
use crate::ops::pages::HIDDEN;

/// Units of a cube, in planes of 32.
pub(super) const UNITS: usize = 256;
const PLANES: usize = 8;
/// Queries and cached rows of a product, and values that are multiplied.
const DOWN: usize = 16;
const ACROSS: usize = 8;
const DEPTH: usize = 16;
/// Words of that.
const WORDS: usize = DEPTH / 2;

/// What attention in tiles is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tiled {
    pub(crate) attend: Attend,
    /// Queries of a cube: 16, 32 or 64.
    pub(crate) queries: usize,
    /// Cached rows of a block: 32 or 64.
    pub(crate) rows: usize,
    /// Whether a value is the first part of its key.
    pub(crate) values_in_keys: bool,
    /// Whether words hold bf16, and not f16.
    pub(crate) bf16: bool,
}

impl Tiled {
    /// Whether shapes are multiples of those of the products.
    pub(super) fn fits(attend: &Attend) -> bool {
        let [first, second] = attend.key_parts;
        first.is_multiple_of(DEPTH)
            && second.is_multiple_of(DEPTH)
            && attend.value_width.is_multiple_of(PLANES * 2 * ACROSS)
    }

    fn pitch(width: usize) -> usize {
        (width / 2).next_multiple_of(32) + 4
    }

    fn key_pitch(&self) -> usize {
        Self::pitch(self.attend.key_width())
    }

    fn value_pitch(&self) -> usize {
        match self.values_in_keys {
            true => self.key_pitch(),
            false => Self::pitch(self.attend.value_width),
        }
    }

    /// Words of a block of values; one where they are those of the keys.
    fn value_words(&self) -> usize {
        if self.values_in_keys { 1 } else { self.rows * self.value_pitch() }
    }

    fn score_pitch(&self) -> usize {
        self.rows + 8
    }

    fn weight_pitch(&self) -> usize {
        self.rows / 2 + 4
    }

    /// Bytes of shared memory of a cube.
    pub(super) fn shared_bytes(&self) -> usize {
        let keys = (self.queries + self.rows) * self.key_pitch();
        let weights = self.queries * (self.score_pitch() + self.weight_pitch() + 1);
        4 * (keys + self.value_words() + weights + self.rows)
    }

    /// Planes side by side over the rows of a block, for scores.
    fn wide(&self) -> usize {
        PLANES / self.queries.div_ceil(DOWN).min(2)
    }

    /// Products of a plane along the queries and along the rows, for scores.
    fn of_plane(&self) -> (usize, usize) {
        let down = self.queries / DOWN / (PLANES / self.wide());
        (down, (self.rows / ACROSS / self.wide()).max(1))
    }

    /// Pairs of products of a plane along the columns of a value.
    fn pairs(&self) -> usize {
        self.attend.value_width / PLANES / (2 * ACROSS)
    }

    /// Units that share a query's scores.
    fn share(&self) -> usize {
        UNITS / self.queries
    }
}

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

/// A block of rows as words of two values, with the scales of codes multiplied in.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
fn load_rows<F: Float, W: Numeric, N: Size>(
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
fn score_rows(
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
                        comptime![tiled.bf16],
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
fn add_values(
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
                        comptime![tiled.bf16],
                    );
                }
            }
        }
    }
}

/// The even or odd column of two rows, in a word.
#[cube]
fn column_of(upper: u32, lower: u32, #[comptime] odd: usize) -> u32 {
    if comptime![odd == 1] {
        (upper >> 16u32) | (lower & 0xffff_0000u32)
    } else {
        (upper & 0xffffu32) | (lower << 16u32)
    }
}

/// Two values in a word.
#[cube]
fn pack<F: Float>(low: F, high: F) -> u32 {
    let mut both = Vector::<F, Const<2>>::empty();
    both.insert(0usize, low);
    both.insert(1usize, high);
    u32::reinterpret(both)
}

/// `a · b + c` for a plane: 16 rows of `a` and 8 of `b`, of 16 values each.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the operands of an instruction")]
fn multiply(
    a0: u32,
    a1: u32,
    a2: u32,
    a3: u32,
    b0: u32,
    b1: u32,
    c: Vector<f32, Const<4>>,
    #[comptime] bf16: bool,
) -> Vector<f32, Const<4>> {
    let (c0, c1) = (c.extract(0usize), c.extract(1usize));
    let (c2, c3) = (c.extract(2usize), c.extract(3usize));
    let out: Vector<f32, Const<4>>;
    if comptime![bf16] {
        gpu_asm!(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 ",
            "{d}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{c0}, {c1}, {c2}, {c3}}};",
            a0 = in(_) a0,
            a1 = in(_) a1,
            a2 = in(_) a2,
            a3 = in(_) a3,
            b0 = in(_) b0,
            b1 = in(_) b1,
            c0 = in(_) c0,
            c1 = in(_) c1,
            c2 = in(_) c2,
            c3 = in(_) c3,
            d = out(_) out,
            options(nomem),
        );
    } else {
        gpu_asm!(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 ",
            "{d}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{c0}, {c1}, {c2}, {c3}}};",
            a0 = in(_) a0,
            a1 = in(_) a1,
            a2 = in(_) a2,
            a3 = in(_) a3,
            b0 = in(_) b0,
            b1 = in(_) b1,
            c0 = in(_) c0,
            c1 = in(_) c1,
            c2 = in(_) c2,
            c3 = in(_) c3,
            d = out(_) out,
            options(nomem),
        );
    }
    out
}
