#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::HeadNorms;
use super::kernel::{Heads, gqa_write_kernel};
use crate::cube::{self, Abilities, PageBuffers};
use crate::kv::KvLayer;
use crate::ops::rope::launch::TurnBuffers;
use crate::ops::{Norm, Rotation};

pub(super) fn gqa_write(
    qkv: Tensor<2>,
    head_dim: usize,
    norms: Option<HeadNorms<'_>>,
    rotation: &Rotation,
    layer: &mut KvLayer,
    slots: Tensor<1, Int>,
) -> Tensor<3> {
    let kv_width = layer.keys().width();
    assert!(kv_width.is_multiple_of(head_dim), "keys of {kv_width} values in heads of {head_dim}");
    let dtype = qkv.dtype();
    let of = |norm: Norm<'_>| (cube::floats(norm.weight.clone().cast(dtype)), norm.eps as f32);
    let norms = norms.map(|norms| [of(norms.query), of(norms.key)]);
    let [keys, values] = layer.keys_and_values_mut().map(PageBuffers::to_write);
    cube::tensor(launch(
        &cube::floats(qkv),
        norms.as_ref(),
        &TurnBuffers::new(rotation),
        &cube::ints(slots),
        [&keys, &values],
        [kv_width / head_dim, head_dim],
    ))
}

/// `qkv [tokens, (heads + 2 * kv_heads) * head_dim]`, norms of queries and keys `[head_dim]`;
/// `pages` of keys and values are written.
pub(super) fn launch(
    qkv: &CubeTensor,
    norms: Option<&[(CubeTensor, f32); 2]>,
    rotation: &TurnBuffers,
    slots: &CubeTensor,
    [keys, values]: [&PageBuffers; 2],
    [kv_heads, head_dim]: [usize; 2],
) -> CubeTensor {
    let abilities = Abilities::of(&qkv.client);
    let [tokens, width] = cube::dims(qkv);
    let all = width / head_dim;
    assert!(width.is_multiple_of(head_dim) && all > 2 * kv_heads, "{width} values of all heads");
    assert!(2 * rotation.turn.pairs <= head_dim, "{:?} in heads of {head_dim}", rotation.turn);
    let least = abilities.plane.unwrap_or(32);
    let heads = Heads {
        queries: all - 2 * kv_heads,
        keys: kv_heads,
        head_dim,
        turn: rotation.turn,
        has_norms: norms.is_some(),
        key_layout: keys.layout,
        value_layout: values.layout,
        units: (head_dim / 2).next_power_of_two().clamp(least, least.max(128)),
        plane: abilities.plane_size(),
    };
    let q = cube::empty(qkv, [tokens, heads.queries, head_dim], qkv.dtype);
    let no_scales = || cube::empty(qkv, [1], DType::F32);
    let no_norm = || (cube::empty(qkv, [1], qkv.dtype), 0.0);
    let [query, key] = norms.cloned().unwrap_or_else(|| [no_norm(), no_norm()]);
    // SAFETY: cubes past the last token do nothing, positions are rows of the table, slots are rows
    // of the pages, and a head is written within its row.
    unsafe {
        gqa_write_kernel::launch_unchecked(
            cube::counted(&qkv.client),
            cube::cubes(tokens * all),
            CubeDim::new_1d(heads.units as u32),
            keys.address_type().max(qkv.required_address_type()),
            qkv.clone().into_buffer_arg(),
            query.0.into_buffer_arg(),
            key.0.into_buffer_arg(),
            rotation.cos.clone().into_buffer_arg(),
            rotation.sin.clone().into_buffer_arg(),
            rotation.positions.clone().into_buffer_arg(),
            slots.clone().into_buffer_arg(),
            keys.elements.clone().into_buffer_arg(),
            values.elements.clone().into_buffer_arg(),
            keys.scales.clone().unwrap_or_else(no_scales).into_buffer_arg(),
            values.scales.clone().unwrap_or_else(no_scales).into_buffer_arg(),
            q.clone().into_buffer_arg(),
            tokens as u32,
            query.1,
            key.1,
            heads,
            [cube::elem(qkv.dtype), keys.elem()],
        );
    }
    q
}
