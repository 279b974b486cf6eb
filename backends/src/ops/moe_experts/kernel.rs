#![expect(clippy::collapsible_if, reason = "what is constant decides first, when it compiles")]
#![expect(clippy::needless_range_loop, reason = "kernels have no iterators over buffers")]

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::{OnTheWay, RowLayout, add_normed_row_products, add_row_products, sum_of_lanes};

/// Integers of an item: its expert, its first place in the order, and how many places it has.
pub(super) const ITEM: usize = 3;

/// What the grouping of places is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Grouping {
    pub(super) experts: usize,
    /// `experts`, rounded up to a power of two.
    pub(super) padded: usize,
    /// Most places of an item.
    pub(super) tile: usize,
    pub(super) units: usize,
}

/// One cube sorts all places by expert and cuts them into items of one expert each. A unit counts
/// for an expert in a part of the places; the order within an expert is that of the places.
#[cube(launch_unchecked)]
pub(super) fn group_kernel(
    experts: &[i32],
    order: &mut [i32],
    items: &mut [i32],
    places: u32,
    most_items: u32,
    #[comptime] grouping: Grouping,
) {
    let unit = UNIT_POS as usize;
    let places = places as usize;
    let parts = comptime![grouping.units / grouping.padded];
    let (expert, part) = (unit % grouping.padded, unit / grouping.padded);
    let length = places.div_ceil(parts);
    let first = part * length;
    let last = min_of(first + length, places);

    let mut counts = Shared::<[u32]>::new_slice(grouping.units);
    let mut totals = Shared::<[u32]>::new_slice(grouping.padded);
    let mut count = 0u32;
    for place in first..last {
        if experts[place] == expert as i32 {
            count += 1u32;
        }
    }
    counts[unit] = count;
    sync_cube();
    if part == 0 {
        let mut total = 0u32;
        #[unroll]
        for other in 0..parts {
            total += counts[other * grouping.padded + expert];
        }
        totals[expert] = select(expert < grouping.experts, total, 0u32);
    }
    sync_cube();

    let tile = comptime![grouping.tile as u32];
    let mut before = 0u32;
    let mut items_before = 0u32;
    let mut all_items = 0u32;
    for other in 0..grouping.experts {
        let total = totals[other];
        let its_items = (total + comptime![tile - 1]) / tile;
        if other < expert {
            before += total;
            items_before += its_items;
        }
        all_items += its_items;
    }
    if expert < grouping.experts {
        let total = totals[expert];
        let mut next = before;
        for other in 0..part {
            next += counts[other * grouping.padded + expert];
        }
        for place in first..last {
            if experts[place] == expert as i32 {
                order[next as usize] = place as i32;
                next += 1u32;
            }
        }
        if part == 0 {
            for index in 0..(total + comptime![tile - 1]) / tile {
                let at = (items_before + index) as usize * ITEM;
                let rest = total - index * tile;
                items[at] = expert as i32;
                items[at + 1] = (before + index * tile) as i32;
                items[at + 2] = select(rest < tile, rest, tile) as i32;
            }
        }
    }
    // Items that nobody needs have no places.
    let unused = (most_items - all_items) as usize;
    for step in 0..unused.div_ceil(grouping.units) {
        let index = step * grouping.units + unit;
        if index < unused {
            items[(all_items as usize + index) * ITEM + 2] = 0i32;
        }
    }
}

/// What a product of experts with few tokens each is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Few {
    pub(super) layout: RowLayout,
    /// Inner width of an expert.
    pub(super) width: usize,
    /// Values of a token.
    pub(super) hidden: usize,
    /// Experts of a token.
    pub(super) choices: usize,
    /// Most places of an item.
    pub(super) tile: usize,
    /// First expert of the buffer and the one after the last.
    pub(super) first_expert: usize,
    pub(super) end_expert: usize,
    pub(super) lanes: usize,
    pub(super) units: usize,
    pub(super) plane: usize,
    /// Whether the buffer's experts are added to what is there.
    pub(super) adds: bool,
    /// Whether each row of the activations has a scale.
    pub(super) scales_rows: bool,
    /// Whether tokens are normed on the way.
    pub(super) on_the_way: OnTheWay,
}

/// `act[place] = silu(gate · x[token]) * (up · x[token])`. Axis y goes over items, x over rows.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn gate_up_kernel<F: Float, W: Numeric, NX: Size, NW: Size>(
    x: &[Vector<F, NX>],
    gain: &[Vector<F, NX>],
    weight: &[Vector<W, NW>],
    scales: &[f32],
    x_scales: &[f32],
    order: &[i32],
    items: &[i32],
    act: &mut [F],
    eps: f32,
    #[comptime] few: Few,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let unit = UNIT_POS as usize;
    let row = CUBE_POS_X as usize * comptime![few.units / few.lanes] + unit / few.lanes;
    let item = CUBE_POS_Y as usize * ITEM;
    let count = items[item + 2] as usize;
    if count == 0 {
        terminate!();
    }
    let expert = items[item] as usize;
    if expert < few.first_expert || expert >= few.end_expert {
        terminate!();
    }
    let first = items[item + 1] as usize;
    let size = NX::value().comptime();

    let mut firsts = Array::<usize>::new(few.tile);
    let mut places = Array::<usize>::new(few.tile);
    let mut sums = Array::<f32>::new(comptime![2 * few.tile]);
    let mut squares = Array::<f32>::new(few.tile);
    #[unroll]
    for index in 0..few.tile {
        let place = order[first + select(index < count, index, 0usize)] as usize;
        places[index] = place;
        firsts[index] = place / few.choices * comptime![few.hidden / size];
        sums[index] = 0.0f32;
        sums[comptime![few.tile + index]] = 0.0f32;
        squares[index] = 0.0f32;
    }
    if row < few.width {
        let first_row = (expert - few.first_expert) * comptime![2 * few.width];
        let row = first_row + row;
        let last = first_row + comptime![2 * few.width - 1];
        let lane = unit % few.lanes;
        // Most items have one place, or two, whatever fits one.
        if comptime![few.tile > 2] {
            if count == 1 {
                add_gate_up::<F, W, NX, NW>(
                    &mut sums,
                    &mut squares,
                    x,
                    gain,
                    &firsts,
                    weight,
                    scales,
                    row,
                    last,
                    lane,
                    1usize,
                    few,
                );
            } else if count == 2 {
                add_gate_up::<F, W, NX, NW>(
                    &mut sums,
                    &mut squares,
                    x,
                    gain,
                    &firsts,
                    weight,
                    scales,
                    row,
                    last,
                    lane,
                    2usize,
                    few,
                );
            } else {
                add_gate_up::<F, W, NX, NW>(
                    &mut sums,
                    &mut squares,
                    x,
                    gain,
                    &firsts,
                    weight,
                    scales,
                    row,
                    last,
                    lane,
                    few.tile,
                    few,
                );
            }
        } else {
            add_gate_up::<F, W, NX, NW>(
                &mut sums,
                &mut squares,
                x,
                gain,
                &firsts,
                weight,
                scales,
                row,
                last,
                lane,
                few.tile,
                few,
            );
        }
    }
    let mut shared = Shared::<[f32]>::new_slice(few.units);
    if comptime![few.on_the_way.norms()] {
        #[unroll]
        for index in 0..few.tile {
            let square = sum_of_lanes(squares[index], &mut shared, few.lanes, few.plane);
            squares[index] = 1.0f32 / f32::sqrt(square / comptime![few.hidden as f32] + eps);
        }
    }
    #[unroll]
    for index in 0..few.tile {
        let mut gate = sum_of_lanes(sums[index], &mut shared, few.lanes, few.plane);
        let at = comptime![few.tile + index];
        let mut up = sum_of_lanes(sums[at], &mut shared, few.lanes, few.plane);
        let mine = unit % few.lanes == comptime![index % few.lanes];
        if mine && row < few.width && index < count {
            if comptime![few.layout.has_row_scales()] {
                let first_row = (expert - few.first_expert) * comptime![2 * few.width];
                gate *= scales[(first_row + row) * comptime![few.layout.scale_stride()]];
                up *= scales[(first_row + few.width + row) * comptime![few.layout.scale_stride()]];
            }
            if comptime![few.on_the_way.norms()] {
                gate *= squares[index];
                up *= squares[index];
            }
            if comptime![few.scales_rows] {
                gate *= x_scales[places[index] / few.choices];
                up *= x_scales[places[index] / few.choices];
            }
            // Rounded where the reference rounds.
            let gate = f32::cast_from(F::cast_from(gate));
            let up = f32::cast_from(F::cast_from(up));
            let value = gate / (1.0f32 + f32::exp(-gate)) * up;
            act[places[index] * few.width + row] = F::cast_from(value);
        }
    }
}

/// The products of a row of gates and of the row of `up` with the first `places` of an item.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the state of a kernel")]
fn add_gate_up<F: Float, W: Numeric, NX: Size, NW: Size>(
    sums: &mut Array<f32>,
    squares: &mut Array<f32>,
    x: &[Vector<F, NX>],
    gain: &[Vector<F, NX>],
    firsts: &Array<usize>,
    weight: &[Vector<W, NW>],
    scales: &[f32],
    row: usize,
    last: usize,
    lane: usize,
    #[comptime] places: usize,
    #[comptime] few: Few,
) {
    let mut both = Array::<f32>::new(comptime![2 * places]);
    #[unroll]
    for index in 0..comptime![2 * places] {
        both[index] = 0.0f32;
    }
    add_normed_row_products::<F, W, NX, NW>(
        &mut both,
        x,
        x,
        gain,
        squares,
        firsts,
        weight,
        scales,
        row,
        last,
        lane,
        2usize,
        few.width,
        places,
        few.lanes,
        few.layout,
        few.on_the_way,
    );
    #[unroll]
    for index in 0..places {
        sums[index] = both[index];
        sums[comptime![few.tile + index]] = both[comptime![places + index]];
    }
}

/// `out[token] = Σ weights[place] * (down · act[place])`, each group of lanes one row for all tokens,
/// item after item.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn down_kernel<F: Float, W: Numeric, O: Float, NX: Size, NW: Size>(
    act: &[Vector<F, NX>],
    weight: &[Vector<W, NW>],
    scales: &[f32],
    act_scales: &[f32],
    order: &[i32],
    items: &[i32],
    weights: &[f32],
    out: &mut [O],
    most_items: u32,
    #[comptime] tokens: usize,
    #[comptime] few: Few,
    #[define(F, W, O)] _dtypes: [ElemType; 3],
) {
    let unit = UNIT_POS as usize;
    let lane = unit % few.lanes;
    let group = unit / few.lanes;
    let row = CUBE_POS * comptime![few.units / few.lanes] + group;
    let size = NX::value().comptime();
    let mut shared = Shared::<[f32]>::new_slice(few.units);
    let mut totals = Shared::<[f32]>::new_slice(comptime![few.units / few.lanes * tokens]);
    for step in 0..comptime![tokens.div_ceil(few.lanes)] {
        let token = step * few.lanes + lane;
        if token < tokens {
            let mut start = 0.0f32;
            if comptime![few.adds] {
                if row < few.hidden {
                    start = f32::cast_from(out[token * few.hidden + row]);
                }
            }
            totals[group * tokens + token] = start;
        }
    }
    sync_cube();
    for item in 0..most_items as usize {
        let count = items[item * ITEM + 2] as usize;
        let mut expert = 0usize;
        let mut first = 0usize;
        if count > 0 {
            expert = items[item * ITEM] as usize;
            first = items[item * ITEM + 1] as usize;
        }
        let held = count > 0 && expert >= few.first_expert && expert < few.end_expert;
        let mut firsts = Array::<usize>::new(few.tile);
        let mut places = Array::<usize>::new(few.tile);
        let mut sums = Array::<f32>::new(few.tile);
        #[unroll]
        for index in 0..few.tile {
            sums[index] = 0.0f32;
        }
        let weight_row = (expert - select(held, few.first_expert, expert)) * few.hidden + row;
        if held && row < few.hidden {
            #[unroll]
            for index in 0..few.tile {
                let place = order[first + select(index < count, index, 0usize)] as usize;
                places[index] = place;
                firsts[index] = place * comptime![few.width / size];
            }
            if comptime![few.tile > 2] {
                if count == 1 {
                    add_row_products::<F, W, NX, NW>(
                        &mut sums, act, &firsts, weight, scales, weight_row, weight_row, lane,
                        1usize, 1usize, 1usize, few.lanes, few.layout,
                    );
                } else if count == 2 {
                    add_row_products::<F, W, NX, NW>(
                        &mut sums, act, &firsts, weight, scales, weight_row, weight_row, lane,
                        1usize, 1usize, 2usize, few.lanes, few.layout,
                    );
                } else {
                    add_row_products::<F, W, NX, NW>(
                        &mut sums, act, &firsts, weight, scales, weight_row, weight_row, lane,
                        1usize, 1usize, few.tile, few.lanes, few.layout,
                    );
                }
            } else {
                add_row_products::<F, W, NX, NW>(
                    &mut sums, act, &firsts, weight, scales, weight_row, weight_row, lane, 1usize,
                    1usize, few.tile, few.lanes, few.layout,
                );
            }
        }
        #[unroll]
        for index in 0..few.tile {
            let mut sum = sum_of_lanes(sums[index], &mut shared, few.lanes, few.plane);
            if lane == 0 && held && row < few.hidden && index < count {
                if comptime![few.layout.has_row_scales()] {
                    sum *= scales[weight_row * comptime![few.layout.scale_stride()]];
                }
                let place = places[index];
                if comptime![few.scales_rows] {
                    sum *= act_scales[place];
                }
                // Rounded where the reference rounds.
                let rounded = f32::cast_from(F::cast_from(sum));
                totals[group * tokens + place / few.choices] += rounded * weights[place];
            }
        }
    }
    sync_cube();
    for step in 0..comptime![tokens.div_ceil(few.lanes)] {
        let token = step * few.lanes + lane;
        if token < tokens && row < few.hidden {
            out[token * few.hidden + row] = O::cast_from(totals[group * tokens + token]);
        }
    }
}

#[cube]
fn min_of(a: usize, b: usize) -> usize {
    select(a < b, a, b)
}
