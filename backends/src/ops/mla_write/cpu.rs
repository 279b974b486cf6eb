//! Norm and rotation of latents, keys and queries on the CPU, in one pass.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor, TensorData};

use super::MlaProjected;
use crate::cpu::{Isa, Shared, in_pieces, math};
use crate::kv::KvLayer;
use crate::ops::flex::ROWS;
use crate::ops::rope::cpu::rotate;
use crate::ops::{MlaQueries, RopeOrder, Rotation};

/// What the tensors do not say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    heads: usize,
    order: RopeOrder,
    eps: f32,
}

/// What becomes of the projections as Flex has it.
#[backend_extension(Flex)]
pub(crate) trait PrepareLatents: Backend {
    /// `q [tokens, heads * (nope + rope)]`, `down [tokens, latent + rope]`, `norm [latent]`, `cos` and
    /// `sin` `[tokens, rope / 2]` → queries `[tokens, heads, nope]` and `[tokens, heads, rope]`, and
    /// what is cached, `[tokens, latent + rope]`; all in f32.
    fn prepare_latents(
        q: FloatTensor<Self>,
        down: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        form: Form,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl PrepareLatents for Flex {
    fn prepare_latents(
        q: FloatTensor<Self>,
        down: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        form: Form,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let Form { heads, order, eps } = form;
        let isa = Isa::current();
        let [q, down, norm, cos, sin] =
            [q, down, norm, cos, sin].map(|tensor| tensor.to_contiguous());
        let [tokens, q_width] = q.layout().shape().dims();
        let [_, width] = down.layout().shape().dims();
        let [latent] = norm.layout().shape().dims();
        let [_, pairs] = cos.layout().shape().dims();
        let rope = width - latent;
        let nope = q_width / heads - rope;
        let [queries, cached, norm, cos, sin] = [&q, &down, &norm, &cos, &sin]
            .map(|tensor| tensor.as_slice::<f32>().expect("contiguous"));
        let [mut plain, mut rotated, mut rows] =
            [heads * nope, heads * rope, width].map(|width| vec![0.0; tokens * width]);
        let shared = [&mut plain, &mut rotated, &mut rows].map(|values| Shared::new(values));
        in_pieces(tokens.div_ceil(ROWS), tokens > 2 * ROWS, |piece| {
            for token in piece * ROWS..tokens.min((piece + 1) * ROWS) {
                let [cos, sin] = [cos, sin].map(|table| &table[token * pairs..][..pairs]);
                // SAFETY: each piece has tokens of its own.
                let [plain, rotated, row] = unsafe {
                    [
                        shared[0].part(token * heads * nope, heads * nope),
                        shared[1].part(token * heads * rope, heads * rope),
                        shared[2].part(token * width, width),
                    ]
                };
                for head in 0..heads {
                    let q = &queries[token * q_width + head * (nope + rope)..][..nope + rope];
                    plain[head * nope..][..nope].copy_from_slice(&q[..nope]);
                    let rotated = &mut rotated[head * rope..][..rope];
                    rotated.copy_from_slice(&q[nope..]);
                    rotate(order, rotated, cos, sin);
                }
                let down = &cached[token * width..][..width];
                math::rms_norm(isa, &down[..latent], norm, eps, &mut row[..latent]);
                row[latent..].copy_from_slice(&down[latent..]);
                rotate(order, &mut row[latent..], cos, sin);
            }
        });
        let of = |values, shape: &[usize]| {
            FloatTensor::<Flex>::from_data(TensorData::new(values, shape.to_vec()))
        };
        (
            of(plain, &[tokens, heads, nope]),
            of(rotated, &[tokens, heads, rope]),
            of(rows, &[tokens, width]),
        )
    }
}

/// See [`super::mla_write`], for projections in f32.
pub(super) fn mla_write(
    projected: MlaProjected<'_>,
    rotation: &Rotation,
    layer: &mut KvLayer,
    slots: Tensor<1, Int>,
) -> MlaQueries {
    let MlaProjected { q, down, norm, heads } = projected;
    let (cos, sin) = rotation.gathered();
    let [q, down, cos, sin] = [q, down, cos, sin].map(Tensor::into_dispatch);
    let weight = norm.weight.clone().into_dispatch();
    let form = Form { heads, order: rotation.order, eps: norm.eps as f32 };
    let (nope, rope, rows) = Dispatch::prepare_latents(q, down, weight, cos, sin, form);
    layer.write_latents(Tensor::from_dispatch(rows), slots);
    MlaQueries { nope: Tensor::from_dispatch(nope), rope: Tensor::from_dispatch(rope) }
}
