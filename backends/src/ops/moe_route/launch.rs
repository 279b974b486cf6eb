#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernel::{Choice, route_kernel};
use super::{GroupedPlaces, Routed, Routing, places_of_item};
use crate::cube::{self, Abilities};

pub(super) fn moe_route(
    logits: Tensor<2>,
    bias: Tensor<1>,
    live: Tensor<1, Int>,
    routing: &Routing,
) -> Routed {
    let (logits, bias, live) = (cube::floats(logits), cube::floats(bias), cube::ints(live));
    let (experts, weights, grouped) = launch(&logits, &bias, &live, routing);
    let grouped = grouped.map(|(order, items)| GroupedPlaces {
        order: cube::int_tensor(order),
        items: cube::int_tensor(items),
    });
    Routed { experts: cube::int_tensor(experts), weights: cube::tensor(weights), grouped }
}

/// `logits [tokens, experts]`, `bias [experts]`, `live [tokens]` → experts and weights
/// `[tokens, chosen]`, and for few tokens the order and the items of [`GroupedPlaces`].
pub(super) fn launch(
    logits: &CubeTensor,
    bias: &CubeTensor,
    live: &CubeTensor,
    routing: &Routing,
) -> (CubeTensor, CubeTensor, Option<(CubeTensor, CubeTensor)>) {
    let abilities = Abilities::of(&logits.client);
    let [tokens, experts] = cube::dims(logits);
    let lanes = abilities.plane.unwrap_or(32);
    let in_one_cube =
        tokens <= cube::FEW_TOKENS && lanes * tokens.next_power_of_two() <= abilities.units;
    let most_tokens = if in_one_cube { cube::FEW_TOKENS } else { 4 };
    let units = lanes * tokens.next_power_of_two().min(most_tokens);
    let tile = if in_one_cube { places_of_item(tokens) } else { 0 };
    let choice = Choice::new(routing, experts, [lanes, units, abilities.plane_size(), tile]);
    let shape = [tokens, routing.num_experts_per_tok + routing.shared_experts];
    let chosen = cube::empty(logits, shape, DType::I32);
    let weights = cube::empty(logits, shape, DType::F32);
    let places = if in_one_cube { shape[0] * shape[1] } else { 1 };
    let order = cube::empty(logits, [places], DType::I32);
    let items = cube::empty(logits, [places, 3], DType::I32);
    // SAFETY: lanes of tokens past the last read the first one and write nothing.
    unsafe {
        route_kernel::launch_unchecked(
            cube::counted(&logits.client),
            cube::cubes(tokens.div_ceil(units / lanes)),
            CubeDim::new_1d(units as u32),
            logits.clone().into_buffer_arg(),
            bias.clone().into_buffer_arg(),
            live.clone().into_buffer_arg(),
            chosen.clone().into_buffer_arg(),
            weights.clone().into_buffer_arg(),
            order.clone().into_buffer_arg(),
            items.clone().into_buffer_arg(),
            tokens as u32,
            places,
            choice,
        );
    }
    (chosen, weights, in_one_cube.then_some((order, items)))
}
