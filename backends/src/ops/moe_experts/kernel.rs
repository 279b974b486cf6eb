#![expect(clippy::collapsible_if, reason = "what is constant decides first, when it compiles")]

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::group::ITEM;
use crate::cube::{OnTheWay, RowLayout, add_normed_row_products, add_row_products, sum_of_lanes};

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

impl Few {
    /// Sizes of items that are told apart: most have one place, or two, whatever fits one.
    fn sizes(&self) -> usize {
        self.tile.ilog2().min(2) as usize + 1
    }

    /// Most places of an item of such a size.
    fn places(&self, size: usize) -> usize {
        if size < 2 { 1 << size } else { self.tile }
    }
}

/// Whether an item of `count` places is of a size.
#[cube]
fn takes(count: usize, #[comptime] size: usize, #[comptime] few: Few) -> bool {
    let least = comptime![if size == 0 { 0 } else { few.places(size - 1) }];
    count > least && count <= comptime![few.places(size)]
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
        #[unroll]
        for size in 0..comptime![few.sizes()] {
            if takes(count, size, few) {
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
                    comptime![few.places(size)],
                    few,
                );
            }
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
            #[unroll]
            for size in 0..comptime![few.sizes()] {
                if takes(count, size, few) {
                    add_row_products::<F, W, NX, NW>(
                        &mut sums,
                        act,
                        &firsts,
                        weight,
                        scales,
                        weight_row,
                        weight_row,
                        lane,
                        1usize,
                        1usize,
                        comptime![few.places(size)],
                        few.lanes,
                        few.layout,
                    );
                }
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
