//! Sums and maxima over the units of a cube.

use cubecl::prelude::*;

/// The sum of `value` over each group of `lanes` neighbouring units; every unit of a group gets it.
///
/// All units of the cube have to come here. `shared` has a place for each unit of the cube and is
/// free again afterwards. `lanes` is a power of two; `plane` is the size of planes, or 0 where the
/// device has none that sum.
#[cube]
pub(crate) fn sum_of_lanes(
    value: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] lanes: usize,
    #[comptime] plane: usize,
) -> f32 {
    if comptime![plane == lanes] {
        plane_sum(value)
    } else if comptime![plane > 0 && lanes > plane] {
        let partial = plane_sum(value);
        let unit = UNIT_POS as usize;
        if UNIT_POS_PLANE == 0 {
            shared[unit / plane] = partial;
        }
        sync_cube();
        let planes = comptime![lanes / plane];
        let first = unit / lanes * planes;
        let mut sum = 0.0f32;
        #[unroll]
        for index in 0..planes {
            sum += shared[first + index];
        }
        sync_cube();
        sum
    } else {
        let unit = UNIT_POS as usize;
        shared[unit] = value;
        sync_cube();
        let levels = comptime![lanes.ilog2() as usize];
        #[unroll]
        for level in 0..levels {
            let stride = comptime![lanes >> (level + 1)];
            if unit % lanes < stride {
                let other = shared[unit + stride];
                shared[unit] += other;
            }
            sync_cube();
        }
        let sum = shared[unit / lanes * lanes];
        sync_cube();
        sum
    }
}

/// The largest `value` over each group of `lanes` neighbouring units, as [`sum_of_lanes`].
#[cube]
pub(crate) fn max_of_lanes(
    value: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] lanes: usize,
    #[comptime] plane: usize,
) -> f32 {
    if comptime![plane == lanes] {
        plane_max(value)
    } else if comptime![plane > 0 && lanes > plane] {
        let partial = plane_max(value);
        let unit = UNIT_POS as usize;
        if UNIT_POS_PLANE == 0 {
            shared[unit / plane] = partial;
        }
        sync_cube();
        let planes = comptime![lanes / plane];
        let first = unit / lanes * planes;
        let mut most = shared[first];
        #[unroll]
        for index in 1..planes {
            let other = shared[first + index];
            most = max(most, other);
        }
        sync_cube();
        most
    } else {
        let unit = UNIT_POS as usize;
        shared[unit] = value;
        sync_cube();
        let levels = comptime![lanes.ilog2() as usize];
        #[unroll]
        for level in 0..levels {
            let stride = comptime![lanes >> (level + 1)];
            if unit % lanes < stride {
                let other = shared[unit + stride];
                let mine = shared[unit];
                shared[unit] = max(mine, other);
            }
            sync_cube();
        }
        let most = shared[unit / lanes * lanes];
        sync_cube();
        most
    }
}
