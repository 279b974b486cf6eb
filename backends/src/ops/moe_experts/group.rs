//! Places of tokens, sorted by the experts that they chose.
#![expect(clippy::needless_range_loop, reason = "kernels have no iterators over buffers")]

use cubecl::prelude::*;

/// Integers of an item: its expert, its first place in the order, and how many places it has.
pub(crate) const ITEM: usize = 3;

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

#[cube]
fn min_of(a: usize, b: usize) -> usize {
    select(a < b, a, b)
}
