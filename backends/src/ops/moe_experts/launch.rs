#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::ExpertWeights;
use super::group::{Grouping, ITEM, group_kernel};
use super::kernel::{Few, down_kernel, gate_up_kernel};
use super::tiles::{TILE, Tiles, combine_kernel, tiles_kernel};
use crate::cube::{self, Abilities, MatrixBuffers, OnTheWay, RowLayout};
use crate::fp8::{Activations, CODES_PER_WORD};
use crate::ops::linear::launch::{NormBuffers, OrderedPlaces, codes, multiplies_codes};
use crate::ops::moe_route::places_of_item;
use crate::ops::quantise_fp8::launch::{self as quantise, quantised};
use crate::ops::{Routed, rms_norm, swiglu};
use crate::weight::Weight;

pub(super) fn moe_experts(
    x: &Tensor<2>,
    norm: Option<&NormBuffers>,
    routed: &Routed,
    weights: &ExpertWeights,
) -> Tensor<2> {
    let dtype = x.dtype();
    let [tokens, _] = x.dims();
    let x = cube::floats(x.clone());
    let abilities = Abilities::of(&x.client);
    let chosen = cube::ints(routed.experts.clone());
    let factors = cube::floats(routed.weights.clone());
    let groups: Vec<_> = weights
        .groups
        .iter()
        .map(|group| Buffers {
            experts: group.experts,
            gate_up: MatrixBuffers::new(&group.gate_up, abilities),
            down: MatrixBuffers::new(&group.down, abilities),
        })
        .collect();
    let activations = match &weights.groups[0].gate_up {
        Weight::Fp8(matrix) => matrix.activations(),
        Weight::Dense(_) | Weight::Groups(_) => Activations::Float,
    };
    for group in &groups {
        for RowLayout { width, codes, .. } in [group.gate_up.layout, group.down.layout] {
            let whole = width.is_multiple_of(CODES_PER_WORD);
            assert!(codes.is_none() || whole, "{width} columns of an expert in FP8");
        }
    }
    let sorted = routed.grouped.as_ref().map(|grouped| {
        let items = cube::ints(grouped.items.clone());
        let most = cube::dims::<2>(&items)[0];
        Grouped { order: cube::ints(grouped.order.clone()), items, most }
    });
    let out = match tokens <= cube::FEW_TOKENS {
        true => few(&x, norm, &chosen, &factors, sorted, &groups, activations),
        false => many(&x, &chosen, &factors, &groups, activations),
    };
    cube::tensor::<2>(out).cast(dtype)
}

/// The matrices of consecutive experts.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) experts: usize,
    pub(super) gate_up: MatrixBuffers,
    pub(super) down: MatrixBuffers,
}

/// The places of a step, sorted by expert.
#[derive(Debug)]
pub(super) struct Grouped {
    /// Places in the flattened table of choices, `[tokens * choices]`.
    pub(super) order: CubeTensor,
    /// Items, `[most, 3]`.
    pub(super) items: CubeTensor,
    pub(super) most: usize,
}

/// `chosen [tokens, choices]` of `experts` → items of at most `tile` places.
pub(super) fn group(chosen: &CubeTensor, experts: usize, tile: usize) -> Grouped {
    let abilities = Abilities::of(&chosen.client);
    let [tokens, choices] = cube::dims(chosen);
    let places = tokens * choices;
    // Each expert leaves at most one item that is not full.
    let most = places.min(places / tile + experts.min(places));
    let order = cube::empty(chosen, [places], DType::I32);
    let items = cube::empty(chosen, [most, ITEM], DType::I32);
    let padded = experts.next_power_of_two();
    let units = 1024.min(abilities.units).max(padded);
    let parts = (units / padded).min(places.div_ceil(8).next_power_of_two());
    let units = padded * parts;
    // SAFETY: every place belongs to at most one expert, so `order` holds all; there are at most
    // `most` items.
    unsafe {
        group_kernel::launch_unchecked(
            cube::counted(&chosen.client),
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(units as u32),
            chosen.clone().into_buffer_arg(),
            order.clone().into_buffer_arg(),
            items.clone().into_buffer_arg(),
            places as u32,
            most as u32,
            Grouping { experts, padded, tile, units },
        );
    }
    Grouped { order, items, most }
}

/// `x [tokens, hidden]`, `chosen` and `factors` `[tokens, choices]` → `[tokens, hidden]`, in f32 where
/// the experts are in several buffers.
pub(super) fn few(
    x: &CubeTensor,
    norm: Option<&NormBuffers>,
    chosen: &CubeTensor,
    factors: &CubeTensor,
    sorted: Option<Grouped>,
    groups: &[Buffers],
    activations: Activations,
) -> CubeTensor {
    let abilities = Abilities::of(&x.client);
    let (norm, (x, x_scales)) = match (norm, activations) {
        (Some(NormBuffers { gain, eps, .. }), Activations::PerToken) => {
            let (_, (values, scales)) = rms_norm::launch::quantised(x, None, gain, f64::from(*eps));
            (None, (values, Some(scales)))
        }
        _ => (norm, quantised(x, activations)),
    };
    let x = &x;
    let [tokens, hidden] = cube::dims(x);
    let [_, choices] = cube::dims(chosen);
    let experts = groups.iter().map(|group| group.experts).sum();
    let width = groups[0].down.layout.width;
    let tile = places_of_item(tokens);
    let grouped = sorted.unwrap_or_else(|| group(chosen, experts, tile));
    let act = cube::empty(x, [tokens * choices, width], x.dtype);
    let dtype = if groups.len() == 1 { x.dtype } else { DType::F32 };
    let out = cube::empty(x, [tokens, hidden], dtype);
    let none = cube::empty(x, [1], DType::F32);

    let lanes = abilities.plane.unwrap_or(32);
    let units = lanes * if abilities.plane.is_some() { 8 } else { 2 };
    let mut first_expert = 0;
    let shapes: Vec<Few> = groups
        .iter()
        .map(|group| {
            let end_expert = first_expert + group.experts;
            let few = Few {
                layout: group.gate_up.layout,
                width,
                hidden,
                choices,
                tile,
                first_expert,
                end_expert,
                lanes,
                units,
                plane: abilities.plane_size(),
                adds: first_expert > 0,
                scales_rows: x_scales.is_some(),
                on_the_way: match norm {
                    None => OnTheWay::Nothing,
                    Some(_) => OnTheWay::Norm,
                },
            };
            first_expert = end_expert;
            few
        })
        .collect();
    for (group, few) in groups.iter().zip(&shapes) {
        let (x_size, size) = group.gate_up.vector_sizes(x.dtype, tile);
        // SAFETY: rows past the width are not computed, places past an item's repeat its first one
        // and are not written.
        unsafe {
            gate_up_kernel::launch_unchecked(
                cube::counted(&x.client),
                CubeCount::Static(width.div_ceil(units / lanes) as u32, grouped.most as u32, 1),
                CubeDim::new_1d(units as u32),
                group.gate_up.address_type(),
                x_size,
                size,
                x.clone().into_buffer_arg(),
                norm.map_or_else(|| x.clone(), |norm| norm.gain.clone()).into_buffer_arg(),
                group.gate_up.elements.clone().into_buffer_arg(),
                group.gate_up.scales.clone().unwrap_or_else(|| none.clone()).into_buffer_arg(),
                x_scales.clone().unwrap_or_else(|| none.clone()).into_buffer_arg(),
                grouped.order.clone().into_buffer_arg(),
                grouped.items.clone().into_buffer_arg(),
                act.clone().into_buffer_arg(),
                norm.map_or(0.0, |norm| norm.eps),
                *few,
                [cube::elem(x.dtype), group.gate_up.elem()],
            );
        }
    }
    let (act, act_scales) = quantised(&act, activations);
    for (group, few) in groups.iter().zip(shapes) {
        let (x_size, size) = group.down.vector_sizes(x.dtype, tile);
        // SAFETY: as above; each group of lanes writes a row of its own.
        unsafe {
            down_kernel::launch_unchecked(
                cube::counted(&x.client),
                cube::cubes(hidden.div_ceil(units / lanes)),
                CubeDim::new_1d(units as u32),
                group.down.address_type(),
                x_size,
                size,
                act.clone().into_buffer_arg(),
                group.down.elements.clone().into_buffer_arg(),
                group.down.scales.clone().unwrap_or_else(|| none.clone()).into_buffer_arg(),
                act_scales.clone().unwrap_or_else(|| none.clone()).into_buffer_arg(),
                grouped.order.clone().into_buffer_arg(),
                grouped.items.clone().into_buffer_arg(),
                factors.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                grouped.most as u32,
                tokens,
                Few { layout: group.down.layout, ..few },
                [cube::elem(x.dtype), group.down.elem(), cube::elem(dtype)],
            );
        }
    }
    out
}

/// [`few`] for any number of tokens, in the dtype of `x`.
pub(super) fn many(
    x: &CubeTensor,
    chosen: &CubeTensor,
    factors: &CubeTensor,
    groups: &[Buffers],
    activations: Activations,
) -> CubeTensor {
    let abilities = Abilities::of(&x.client);
    let [tokens, choices] = cube::dims(chosen);
    let experts: usize = groups.iter().map(|group| group.experts).sum();
    let grouped = group(chosen, experts, TILE);

    let [_, hidden] = cube::dims(x);
    let gate_up_rows = groups[0].gate_up.rows / groups[0].experts;
    let both = cube::empty(x, [tokens * choices, gate_up_rows], x.dtype);
    let y = cube::empty(x, [tokens * choices, hidden], x.dtype);
    if multiplies_codes(&groups[0].gate_up, activations, abilities) {
        let (words, scales) = quantise::codes(x);
        let gate_up = |group: &Buffers| group.gate_up.clone();
        multiply_codes(&words, &scales, &grouped, groups, gate_up, choices, &both);
        let (words, scales) = quantise::codes(&swiglu::launch::joint(&both));
        multiply_codes(&words, &scales, &grouped, groups, |group| group.down.clone(), 1, &y);
    } else {
        let (x, x_scales) = quantised(x, activations);
        multiply(&x, x_scales.as_ref(), &grouped, groups, |group| &group.gate_up, choices, &both);
        let (act, act_scales) = quantised(&swiglu::launch::joint(&both), activations);
        multiply(&act, act_scales.as_ref(), &grouped, groups, |group| &group.down, 1, &y);
    }

    let out = cube::empty(x, [tokens, hidden], x.dtype);
    let size = cube::vector_size(x.dtype.size(), &[hidden]);
    let units = 256.min(abilities.units);
    // SAFETY: units past the last vector do nothing, and places that no expert took are not read.
    unsafe {
        combine_kernel::launch_unchecked(
            cube::counted(&x.client),
            cube::cubes((tokens * hidden / size).div_ceil(units)),
            CubeDim::new_1d(units as u32),
            y.required_address_type(),
            size,
            y.into_buffer_arg(),
            chosen.clone().into_buffer_arg(),
            factors.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            tokens as u32,
            choices,
            experts,
            hidden / size,
            cube::elem(x.dtype),
        );
    }
    out
}

/// [`multiply`] of codes.
fn multiply_codes(
    words: &CubeTensor,
    scales: &CubeTensor,
    grouped: &Grouped,
    groups: &[Buffers],
    matrix: fn(&Buffers) -> MatrixBuffers,
    choices: usize,
    out: &CubeTensor,
) {
    let mut first_expert = 0;
    for group in groups {
        let experts = first_expert..first_expert + group.experts;
        first_expert = experts.end;
        let (order, items) = (&grouped.order, &grouped.items);
        let places = OrderedPlaces { order, items, experts, choices };
        codes(words, scales, &matrix(group), Some(&places), out);
    }
}

/// `out[place] = matrix of its expert · x[place / choices]`
fn multiply(
    x: &CubeTensor,
    x_scales: Option<&CubeTensor>,
    grouped: &Grouped,
    groups: &[Buffers],
    matrix: fn(&Buffers) -> &MatrixBuffers,
    choices: usize,
    out: &CubeTensor,
) {
    let abilities = Abilities::of(&x.client);
    let matrices = abilities.plane.filter(|_| abilities.multiplies(x.dtype));
    let held = if matrices.is_some() { x.dtype } else { DType::F32 };
    let units = Tiles::units(matrices.is_some(), abilities.plane_size());
    let none = cube::empty(x, [1], DType::F32);
    let [_, rows] = cube::dims(out);
    let mut first_expert = 0;
    for group in groups {
        let weight = matrix(group);
        let (x_size, size) = weight.vector_sizes(x.dtype, TILE);
        let tiles = Tiles {
            layout: weight.layout,
            rows,
            choices,
            first_expert,
            end_expert: first_expert + group.experts,
            scales_rows: x_scales.is_some(),
            matrices: matrices.is_some(),
            plane: abilities.plane_size(),
            units,
        };
        first_expert = tiles.end_expert;
        // SAFETY: rows and places past the last ones of an item are zeros and not written.
        unsafe {
            tiles_kernel::launch_unchecked(
                cube::counted(&x.client),
                CubeCount::Static(rows.div_ceil(TILE) as u32, grouped.most as u32, 1),
                CubeDim::new_1d(units as u32),
                weight.address_type().max(out.required_address_type()),
                x_size,
                size,
                x.clone().into_buffer_arg(),
                weight.elements.clone().into_buffer_arg(),
                weight.scales.clone().unwrap_or_else(|| none.clone()).into_buffer_arg(),
                x_scales.cloned().unwrap_or_else(|| none.clone()).into_buffer_arg(),
                grouped.order.clone().into_buffer_arg(),
                grouped.items.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                tiles,
                [cube::elem(x.dtype), weight.elem(), cube::elem(held)],
            );
        }
    }
}
