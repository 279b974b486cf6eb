//! Norms and rotation of queries and keys on the CPU, in one pass over a joint projection.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor, TensorData};

use super::HeadNorms;
use crate::cpu::{Isa, Shared, in_pieces, math};
use crate::kv::KvLayer;
use crate::ops::flex::ROWS;
use crate::ops::rope::cpu::rotate;
use crate::ops::{RopeOrder, Rotation};

/// How a row of a joint projection is divided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    order: RopeOrder,
    /// Of the norms of queries and keys.
    eps: [f32; 2],
}

/// What becomes of queries and keys as Flex has it: queries `[tokens, heads, head_dim]`, keys and
/// values `[tokens, kv_heads * head_dim]`, all in f32.
#[backend_extension(Flex)]
pub(crate) trait PrepareHeads: Backend {
    /// `qkv [tokens, (heads + 2 * kv_heads) * head_dim]`, `cos` and `sin` `[tokens, pairs]`.
    fn rotate_heads(
        qkv: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        form: Heads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The same with norms `[head_dim]` before.
    fn norm_and_rotate_heads(
        qkv: FloatTensor<Self>,
        query_norm: FloatTensor<Self>,
        key_norm: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        form: Heads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl PrepareHeads for Flex {
    fn rotate_heads(
        qkv: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        form: Heads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        prepare(&qkv, None, [cos, sin], form)
    }

    fn norm_and_rotate_heads(
        qkv: FloatTensor<Self>,
        query_norm: FloatTensor<Self>,
        key_norm: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        form: Heads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        prepare(&qkv, Some([query_norm, key_norm]), [cos, sin], form)
    }
}

fn prepare(
    qkv: &FloatTensor<Flex>,
    norms: Option<[FloatTensor<Flex>; 2]>,
    rotation: [FloatTensor<Flex>; 2],
    form: Heads,
) -> (FloatTensor<Flex>, FloatTensor<Flex>, FloatTensor<Flex>) {
    let Heads { heads, kv_heads, head_dim, order, eps } = form;
    let (qkv, isa) = (qkv.to_contiguous(), Isa::current());
    let [tokens, width] = qkv.layout().shape().dims();
    let [cos, sin] = rotation.map(|table| table.to_contiguous());
    let [_, pairs] = cos.layout().shape().dims();
    let table = [&cos, &sin].map(|table| table.as_slice::<f32>().expect("contiguous"));
    let norms = norms.map(|norms| norms.map(|norm| norm.to_contiguous()));
    let norms = norms
        .as_ref()
        .map(|norms| norms.each_ref().map(|norm| norm.as_slice::<f32>().expect("contiguous")));
    let values: &[f32] = qkv.as_slice().expect("contiguous");
    let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let [mut q, mut k, mut v] =
        [q_width, kv_width, kv_width].map(|width| vec![0.0; tokens * width]);
    let shared = [&mut q, &mut k, &mut v].map(|values| Shared::new(values));
    in_pieces(tokens.div_ceil(ROWS), tokens > 2 * ROWS, |piece| {
        for token in piece * ROWS..tokens.min((piece + 1) * ROWS) {
            let row = &values[token * width..][..width];
            let [cos, sin] = table.map(|table| &table[token * pairs..][..pairs]);
            let parts = [(0, 0, q_width), (1, q_width, kv_width)];
            for (which, first, width) in parts {
                // SAFETY: each piece has tokens of its own.
                let out = unsafe { shared[which].part(token * width, width) };
                let from = row[first..first + width].chunks_exact(head_dim);
                for (out, x) in out.chunks_exact_mut(head_dim).zip(from) {
                    match norms {
                        Some(norms) => math::rms_norm(isa, x, norms[which], eps[which], out),
                        None => out.copy_from_slice(x),
                    }
                    rotate(order, out, cos, sin);
                }
            }
            // SAFETY: as above.
            unsafe { shared[2].part(token * kv_width, kv_width) }
                .copy_from_slice(&row[q_width + kv_width..]);
        }
    });
    let of = |values, shape: &[usize]| {
        FloatTensor::<Flex>::from_data(TensorData::new(values, shape.to_vec()))
    };
    (of(q, &[tokens, heads, head_dim]), of(k, &[tokens, kv_width]), of(v, &[tokens, kv_width]))
}

/// See [`super::gqa_write`], for a projection in f32.
pub(super) fn gqa_write(
    qkv: Tensor<2>,
    head_dim: usize,
    norms: Option<HeadNorms<'_>>,
    rotation: &Rotation,
    layer: &mut KvLayer,
    slots: Tensor<1, Int>,
) -> Tensor<3> {
    let [_, width] = qkv.dims();
    let kv_heads = layer.keys().width() / head_dim;
    let eps = norms.map_or([0.0; 2], |norms| [norms.query.eps as f32, norms.key.eps as f32]);
    let heads = width / head_dim - 2 * kv_heads;
    let form = Heads { heads, kv_heads, head_dim, order: rotation.order, eps };
    let (cos, sin) = rotation.gathered();
    let [qkv, cos, sin] = [qkv, cos, sin].map(Tensor::into_dispatch);
    let (q, k, v) = match norms {
        None => Dispatch::rotate_heads(qkv, cos, sin, form),
        Some(norms) => {
            let [query, key] =
                [norms.query, norms.key].map(|norm| norm.weight.clone().into_dispatch());
            Dispatch::norm_and_rotate_heads(qkv, query, key, cos, sin, form)
        }
    };
    layer.write(Tensor::from_dispatch(k), Tensor::from_dispatch(v), slots);
    Tensor::from_dispatch(q)
}
