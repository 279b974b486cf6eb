use cubecl::prelude::*;

use super::{FLOOR, NEVER};
use crate::cube::{max_of_lanes, sum_of_lanes};

/// Halvings of `-128..0`, as in the reference.
const HALVINGS: usize = 32;
/// Below every logit.
const LOWEST: f32 = -3.4e38;

/// What the choice is compiled for: which parts there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Parts {
    /// Whether something is drawn, or the best token taken.
    pub(super) draws: bool,
    pub(super) greedy: bool,
    pub(super) top_k: bool,
    pub(super) top_p: bool,
    pub(super) min_p: bool,
    pub(super) units: usize,
    pub(super) plane: usize,
}

/// A cube for each row: the best token, or one that is drawn.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn choose_kernel(
    logits: &[f32],
    temperature: &[f32],
    greedy: &[f32],
    top_k: &[f32],
    top_p: &[f32],
    min_p: &[f32],
    uniform: &[f32],
    ids: &mut [i32],
    rows: u32,
    vocab_size: u32,
    tokens: u32,
    #[comptime] parts: Parts,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let tokens = tokens as usize;
    let first = row * vocab_size as usize;
    let mut shared = Shared::<[f32]>::new_slice(parts.units);
    let steps = tokens.div_ceil(parts.units);

    let mut best = f32::new(LOWEST);
    let mut place = 0usize;
    let mut strange = 0.0f32;
    for step in 0..steps {
        let index = step * parts.units + unit;
        if index < tokens {
            let value = logits[first + index];
            if (u32::reinterpret(value) & 0x7FFF_FFFFu32) >= 0x7F80_0000u32 {
                strange = 1.0f32;
            } else if value > best {
                best = value;
                place = index;
            }
        }
    }
    let strange = max_of_lanes(strange, &mut shared, parts.units, parts.plane);
    let most = max_of_lanes(best, &mut shared, parts.units, parts.plane);
    // Places up to 2²⁴ are exact as floats.
    let candidate = select(best == most, -f32::cast_from(place), f32::new(LOWEST));
    let first_best = -max_of_lanes(candidate, &mut shared, parts.units, parts.plane);
    let mut chosen = u32::cast_from(first_best) as i32;

    if comptime![parts.draws] {
        let mut takes_best = false;
        if comptime![parts.greedy] {
            takes_best = greedy[row] > 0.5f32;
        }
        if !takes_best && strange == 0.0f32 {
            let divisor = temperature[row];
            let highest = most / divisor;
            let mut floor = f32::new(FLOOR);
            if comptime![parts.min_p] {
                let share = min_p[row];
                let share = max(share, f32::new(1.1754944e-38f32));
                floor = max(floor, f32::ln(share));
            }
            if comptime![parts.top_k] {
                let wanted = top_k[row];
                if wanted < f32::cast_from(tokens) {
                    let mut low = f32::new(-128.0);
                    let mut width = 64.0f32;
                    for _halving in 0..HALVINGS {
                        let threshold = low + width;
                        let mut kept = 0.0f32;
                        for step in 0..steps {
                            let index = step * parts.units + unit;
                            if index < tokens {
                                let value = logits[first + index] / divisor - highest;
                                kept += select(value >= threshold, 1.0f32, 0.0f32);
                            }
                        }
                        let kept = sum_of_lanes(kept, &mut shared, parts.units, parts.plane);
                        low = select(kept >= wanted, threshold, low);
                        width *= 0.5f32;
                    }
                    floor = max(floor, low);
                }
            }
            if comptime![parts.top_p] {
                let share = top_p[row];
                if share < 1.0f32 {
                    let mut total = 0.0f32;
                    for step in 0..steps {
                        let index = step * parts.units + unit;
                        if index < tokens {
                            total += weight(logits[first + index] / divisor - highest, floor);
                        }
                    }
                    let total = sum_of_lanes(total, &mut shared, parts.units, parts.plane);
                    let wanted = share * total;
                    let mut low = f32::new(-128.0);
                    let mut width = 64.0f32;
                    for _halving in 0..HALVINGS {
                        let threshold = low + width;
                        let least = max(threshold, floor);
                        let mut kept = 0.0f32;
                        for step in 0..steps {
                            let index = step * parts.units + unit;
                            if index < tokens {
                                kept += weight(logits[first + index] / divisor - highest, least);
                            }
                        }
                        let kept = sum_of_lanes(kept, &mut shared, parts.units, parts.plane);
                        low = select(kept >= wanted, threshold, low);
                        width *= 0.5f32;
                    }
                    floor = max(floor, low);
                }
            }
            // Each unit sums neighbours, so that the sums before a unit are those of lower ids.
            let start = unit * steps;
            let mut mine = 0.0f32;
            for step in 0..steps {
                let index = start + step;
                if index < tokens {
                    mine += weight(logits[first + index] / divisor - highest, floor);
                }
            }
            shared[unit] = mine;
            sync_cube();
            let mut before = 0.0f32;
            let mut total = 0.0f32;
            for other in 0..parts.units {
                let sum = shared[other];
                before += select(other < unit, sum, 0.0f32);
                total += sum;
            }
            sync_cube();
            let target = uniform[row] * total;
            let mut found = f32::new(LOWEST);
            if mine > 0.0f32 && before + mine > target {
                let mut reached = before;
                for step in 0..steps {
                    let index = start + step;
                    if index < tokens {
                        let added = weight(logits[first + index] / divisor - highest, floor);
                        reached += added;
                        let here = added > 0.0f32 && reached > target && found < -2e7f32;
                        found = select(here, -f32::cast_from(index), found);
                    }
                }
            }
            let drawn = max_of_lanes(found, &mut shared, parts.units, parts.plane);
            // Rounding may leave no token past the target; the best one then stands for the last.
            if drawn > -2e7f32 {
                chosen = u32::cast_from(-drawn) as i32;
            }
        }
    }
    if unit == 0 {
        ids[row] = select(strange > 0.0f32, vocab_size as i32, chosen);
    }
}

/// The weight of a token that is `relative` nats from the best one.
#[cube]
fn weight(relative: f32, floor: f32) -> f32 {
    select(relative >= floor, f32::exp(relative), 0.0f32)
}

/// Which penalties there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kinds {
    pub(super) repetition: bool,
    pub(super) presence: bool,
    pub(super) frequency: bool,
    /// Drafts of a sequence.
    pub(super) depth: usize,
}

/// A unit for each logit.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn penalise_kernel(
    logits: &[f32],
    seen: &[f32],
    slots: &[i32],
    repetition: &[f32],
    presence: &[f32],
    frequency: &[f32],
    drafts: &[i32],
    out: &mut [f32],
    rows: u32,
    vocab_size: u32,
    seen_stride: u32,
    #[comptime] kinds: Kinds,
) {
    let vocab_size = vocab_size as usize;
    let row = ABSOLUTE_POS / vocab_size;
    let id = ABSOLUTE_POS % vocab_size;
    if row < rows as usize {
        let mut count = seen[slots[row] as usize * seen_stride as usize + id];
        if comptime![kinds.depth > 0] {
            let (sequence, place) = (row / (kinds.depth + 1), row % (kinds.depth + 1));
            #[unroll]
            for draft in 0..kinds.depth {
                let same = drafts[sequence * kinds.depth + draft] == id as i32;
                count += select(same && draft < place, 1.0f32, 0.0f32);
            }
        }
        let mut logit = logits[ABSOLUTE_POS];
        if comptime![kinds.repetition] {
            let factor = repetition[row];
            let repeated = select(logit > 0.0f32, logit / factor, logit * factor);
            logit = select(count > 0.0f32, repeated, logit);
        }
        if comptime![kinds.presence] {
            logit -= select(count >= 1.0f32, presence[row], 0.0f32);
        }
        if comptime![kinds.frequency] {
            logit -= f32::floor(count) * frequency[row];
        }
        out[ABSOLUTE_POS] = logit;
    }
}

/// A unit for each logit: those whose bit is 0 are never chosen.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn allow_kernel(
    logits: &[f32],
    words: &[u32],
    out: &mut [f32],
    rows: u32,
    vocab_size: u32,
) {
    let vocab_size = vocab_size as usize;
    let row = ABSOLUTE_POS / vocab_size;
    let id = ABSOLUTE_POS % vocab_size;
    if row < rows as usize {
        let word = words[row * vocab_size.div_ceil(32) + id / 32];
        let is_allowed = (word >> (id as u32 % 32u32)) & 1u32;
        let added = select(is_allowed == 1u32, 0.0f32, f32::new(NEVER));
        out[ABSOLUTE_POS] = logits[ABSOLUTE_POS] + added;
    }
}

/// A unit for each sequence.
#[cube(launch_unchecked)]
pub(super) fn verify_kernel(
    chosen: &[i32],
    drafts: &[i32],
    counts: &[i32],
    accepted: &mut [i32],
    sequences: u32,
    vocab_size: u32,
    #[comptime] depth: usize,
) {
    let sequence = ABSOLUTE_POS;
    if sequence < sequences as usize {
        let most = counts[sequence];
        let mut count = 0i32;
        #[unroll]
        for draft in 0..depth {
            let id = chosen[sequence * comptime![depth + 1] + draft];
            let right = id == drafts[sequence * depth + draft] && id < vocab_size as i32;
            // Only as long as all before were right.
            let next = right && count == comptime![draft as i32];
            count += select(next, 1i32, 0i32);
        }
        accepted[sequence] = select(count < most, count, most);
    }
}
