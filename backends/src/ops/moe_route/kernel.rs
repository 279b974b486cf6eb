use cubecl::prelude::*;

use super::Routing;
use crate::cube::{max_of_lanes, sum_of_lanes};

/// Score of an expert that is not, or no longer, to be chosen.
const EXCLUDED: f32 = -1e30;

/// What the choice is compiled for. Floats by their bits, because kernels are told apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Choice {
    pub(super) experts: usize,
    pub(super) groups: usize,
    pub(super) chosen_groups: usize,
    pub(super) chosen: usize,
    pub(super) shared: usize,
    pub(super) normalised: bool,
    scale: u32,
    /// Units that choose for a token.
    pub(super) lanes: usize,
    /// Units of a cube.
    pub(super) units: usize,
    pub(super) plane: usize,
    /// Most places of an item where the cube, which is the only one, sorts the places too; 0
    /// otherwise.
    pub(super) tile: usize,
}

impl Choice {
    pub(super) fn new(
        routing: &Routing,
        experts: usize,
        [lanes, units, plane, tile]: [usize; 4],
    ) -> Self {
        Choice {
            experts,
            groups: routing.n_group,
            chosen_groups: routing.topk_group,
            chosen: routing.num_experts_per_tok,
            shared: routing.shared_experts,
            normalised: routing.norm_topk_prob,
            scale: routing.routed_scaling_factor.to_bits(),
            lanes,
            units,
            plane,
            tile,
        }
    }

    fn scale(&self) -> f32 {
        f32::from_bits(self.scale)
    }

    fn per_group(&self) -> usize {
        self.experts / self.groups
    }
}

/// Some lanes for each token; a lane holds every `lanes`-th expert.
#[cube(launch_unchecked)]
pub(super) fn route_kernel(
    logits: &[f32],
    bias: &[f32],
    live: &[i32],
    experts: &mut [i32],
    weights: &mut [f32],
    order: &mut [i32],
    items: &mut [i32],
    tokens: u32,
    #[comptime] most_places: usize,
    #[comptime] choice: Choice,
) {
    let unit = UNIT_POS as usize;
    let lane = unit % choice.lanes;
    let place = CUBE_POS * comptime![choice.units / choice.lanes] + unit / choice.lanes;
    let is_token = place < tokens as usize;
    let token = select(is_token, place, 0usize);
    let mut shared = Shared::<[f32]>::new_slice(choice.units);

    let held = comptime![choice.experts.div_ceil(choice.lanes)];
    let mut scores = Array::<f32>::new(held);
    let mut choices = Array::<f32>::new(held);
    #[unroll]
    for index in 0..held {
        let expert = index * choice.lanes + lane;
        let mut score = 0.0f32;
        let mut value = f32::new(EXCLUDED);
        if expert < choice.experts {
            let logit = logits[token * choice.experts + expert];
            score = 1.0f32 / (1.0f32 + f32::exp(-logit));
            value = score + bias[expert];
        }
        scores[index] = score;
        choices[index] = value;
    }
    if comptime![choice.groups > 1] {
        limit_groups(&mut choices, &mut shared, lane, choice);
    }

    let width = comptime![choice.chosen + choice.shared];
    let first = token * width;
    let is_live = is_token && live[token] > 0;
    let nobody = comptime![(choice.experts + choice.shared) as i32];
    let mut taken_by = Shared::<[i32]>::new_slice(most_places);
    let mut total = 0.0f32;
    let mut taken = Array::<f32>::new(choice.chosen);
    #[unroll]
    for round in 0..choice.chosen {
        let mut best = f32::new(2.0 * EXCLUDED);
        let mut place = 0usize;
        #[unroll]
        for index in 0..held {
            if choices[index] > best {
                best = choices[index];
                place = index * choice.lanes + lane;
            }
        }
        let most = max_of_lanes(best, &mut shared, choice.lanes, choice.plane);
        // Among equals the first expert.
        let candidate = select(best == most, -f32::cast_from(place), f32::new(EXCLUDED));
        let first_place = max_of_lanes(candidate, &mut shared, choice.lanes, choice.plane);
        let expert = u32::cast_from(-first_place) as usize;
        let mut mine = 0.0f32;
        #[unroll]
        for index in 0..held {
            if index * choice.lanes + lane == expert {
                mine = scores[index];
                choices[index] = f32::new(2.0 * EXCLUDED);
            }
        }
        let score = sum_of_lanes(mine, &mut shared, choice.lanes, choice.plane);
        taken[round] = score;
        total += score;
        if is_token && lane == 0 {
            let id = select(is_live, expert as i32, nobody);
            experts[first + round] = id;
            if comptime![choice.tile > 0] {
                taken_by[first + round] = id;
            }
        }
    }
    if is_token && lane == 0 {
        let scale = comptime![choice.scale()];
        let mut divisor = 1.0f32;
        if comptime![choice.normalised] {
            divisor = total + 1e-20f32;
        }
        #[unroll]
        for round in 0..choice.chosen {
            weights[first + round] = taken[round] / divisor * scale;
        }
        #[unroll]
        for index in 0..choice.shared {
            let expert = comptime![(choice.experts + index) as i32];
            let id = select(is_live, expert, nobody);
            experts[first + choice.chosen + index] = id;
            weights[first + choice.chosen + index] = 1.0f32;
            if comptime![choice.tile > 0] {
                taken_by[first + choice.chosen + index] = id;
            }
        }
    }
    if comptime![choice.tile > 0] {
        sync_cube();
        sort_places(&taken_by, order, items, tokens as usize * width, unit, most_places, choice);
    }
}

/// Sorts few places by expert and cuts them into items, each unit some of the places.
#[cube]
fn sort_places(
    taken_by: &Shared<[i32]>,
    order: &mut [i32],
    items: &mut [i32],
    places: usize,
    unit: usize,
    #[comptime] most_places: usize,
    #[comptime] choice: Choice,
) {
    let tile = choice.tile;
    let nobody = comptime![(choice.experts + choice.shared) as i32];
    // Whether an item begins with a place.
    let mut begins = Shared::<[u32]>::new_slice(most_places);
    let steps = comptime![most_places.div_ceil(choice.units)];
    for step in 0..steps {
        let place = step * choice.units + unit;
        if place < places {
            let expert = taken_by[place];
            let mut before = 0usize;
            for other in 0..place {
                before += select(taken_by[other] == expert, 1usize, 0usize);
            }
            begins[place] = u32::cast_from(before / tile * tile == before && expert < nobody);
        }
    }
    sync_cube();
    for step in 0..steps {
        let place = step * choice.units + unit;
        if place < places {
            let expert = taken_by[place];
            let mut rank = 0usize;
            let mut item = 0usize;
            let mut all_items = 0usize;
            let mut same = 0usize;
            let mut same_before = 0usize;
            for other in 0..places {
                let its = taken_by[other];
                let begin = begins[other] as usize;
                let earlier = its == expert && other < place;
                let ahead = its < expert || earlier;
                rank += select(ahead, 1usize, 0usize);
                item += select(ahead, begin, 0usize);
                all_items += begin;
                same += select(its == expert, 1usize, 0usize);
                same_before += select(earlier, 1usize, 0usize);
            }
            order[rank] = place as i32;
            if begins[place] == 1u32 {
                let rest = same - same_before;
                items[item * 3] = expert;
                items[item * 3 + 1] = rank as i32;
                items[item * 3 + 2] = select(rest < tile, rest, tile) as i32;
            }
            // There are as many items as places, and those that nobody needs have none.
            if place >= all_items {
                items[place * 3 + 2] = 0i32;
            }
        }
    }
}

/// Excludes what is not in the groups whose two best experts sum highest.
#[cube]
fn limit_groups(
    choices: &mut Array<f32>,
    shared: &mut Shared<[f32]>,
    lane: usize,
    #[comptime] choice: Choice,
) {
    let held = comptime![choice.experts.div_ceil(choice.lanes)];
    let mut sums = Array::<f32>::new(choice.groups);
    #[unroll]
    for group in 0..choice.groups {
        let mut best = f32::new(EXCLUDED);
        let mut place = 0usize;
        #[unroll]
        for index in 0..held {
            let expert = index * choice.lanes + lane;
            if expert / comptime![choice.per_group()] == group && choices[index] > best {
                best = choices[index];
                place = expert;
            }
        }
        let most = max_of_lanes(best, shared, choice.lanes, choice.plane);
        let candidate = select(best == most, -f32::cast_from(place), f32::new(EXCLUDED));
        let first_place = max_of_lanes(candidate, shared, choice.lanes, choice.plane);
        let first = u32::cast_from(-first_place) as usize;
        let mut second = f32::new(EXCLUDED);
        #[unroll]
        for index in 0..held {
            let expert = index * choice.lanes + lane;
            let other = expert / comptime![choice.per_group()] == group && expert != first;
            if other && choices[index] > second {
                second = choices[index];
            }
        }
        let second = max_of_lanes(second, shared, choice.lanes, choice.plane);
        // A group of one expert has no second.
        sums[group] = select(second > f32::new(0.5 * EXCLUDED), most + second, most);
    }
    #[unroll]
    for group in 0..choice.groups {
        // How many groups come before this one.
        let mut before = 0u32;
        #[unroll]
        for other in 0..choice.groups {
            let ahead = sums[other] > sums[group];
            let tie = sums[other] == sums[group] && comptime![other < group];
            before += u32::cast_from(ahead || tie);
        }
        if before >= comptime![choice.chosen_groups as u32] {
            #[unroll]
            for index in 0..held {
                let expert = index * choice.lanes + lane;
                if expert / comptime![choice.per_group()] == group {
                    choices[index] = f32::new(EXCLUDED);
                }
            }
        }
    }
}
