use burn::tensor::{Int, Tensor, s};

use super::HeadNorms;
use crate::kv::KvLayer;
use crate::ops::{Norm, Rotation, rms_norm, rope};

pub(super) fn gqa_write(
    qkv: Tensor<2>,
    head_dim: usize,
    norms: Option<HeadNorms<'_>>,
    rotation: &Rotation,
    layer: &mut KvLayer,
    slots: Tensor<1, Int>,
) -> Tensor<3> {
    let [tokens, width] = qkv.dims();
    let kv_width = layer.keys().width();
    let values = width - kv_width;
    let keys = values - kv_width;
    let heads = |x: Tensor<2>, norm: Option<Norm<'_>>| {
        let [_, width] = x.dims();
        let x = x.reshape([tokens, width / head_dim, head_dim]);
        let x = match norm {
            Some(norm) => rms_norm(x, norm.weight.clone(), norm.eps),
            None => x,
        };
        rope(x, rotation)
    };
    let q = heads(qkv.clone().slice(s![.., 0..keys]), norms.map(|norms| norms.query));
    let k = heads(qkv.clone().slice(s![.., keys..values]), norms.map(|norms| norms.key));
    layer.write(k.flatten(1, 2), qkv.slice(s![.., values..]), slots);
    q
}
