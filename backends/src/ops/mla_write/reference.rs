use burn::tensor::{Int, Tensor, s};

use super::MlaProjected;
use crate::kv::KvLayer;
use crate::ops::{MlaQueries, Rotation, rms_norm, rope};

pub(super) fn mla_write(
    projected: MlaProjected<'_>,
    rotation: &Rotation,
    layer: &mut KvLayer,
    slots: Tensor<1, Int>,
) -> MlaQueries {
    let MlaProjected { q, down, norm, heads } = projected;
    let [tokens, width] = q.dims();
    let [latent] = norm.weight.dims();
    let [_, row] = down.dims();
    let nope = width / heads - (row - latent);
    let c = rms_norm(down.clone().slice(s![.., 0..latent]), norm.weight.clone(), norm.eps);
    let k_rope = down.slice(s![.., latent..]).unsqueeze_dim::<3>(1);
    let k_rope = rope(k_rope, rotation).flatten::<2>(1, 2);
    layer.write_latents(Tensor::cat(vec![c, k_rope], 1), slots);
    let q = q.reshape([tokens, heads, width / heads]);
    MlaQueries {
        nope: q.clone().slice(s![.., .., 0..nope]),
        rope: rope(q.slice(s![.., .., nope..]), rotation),
    }
}
