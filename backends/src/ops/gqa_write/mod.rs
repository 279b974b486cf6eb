//! From the joint projection of queries, keys and values to rotated queries and stored rows.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::{Int, Tensor};

use super::{Norm, Rotation};
use crate::kv::KvLayer;

/// Norms over each head, shared by all heads.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a> {
    /// Of queries.
    pub query: Norm<'a>,
    /// Of keys.
    pub key: Norm<'a>,
}

/// What becomes of the joint projection of a step before attention: norms and rotation of queries
/// and keys as [`rms_norm`](super::rms_norm) and [`rope`](super::rope) compute them, and keys and
/// values stored at `slots` as by [`kv_write`](super::kv_write). A row of `qkv` holds the heads of
/// the queries, then those of the keys, then those of the values.
///
/// Shapes: `qkv [tokens, (heads + 2 * kv_heads) * head_dim]`, `slots [tokens]` → rotated queries
/// `[tokens, heads, head_dim]`.
///
/// # Panics
/// When `layer` holds latents, or its rows are not of heads of `head_dim` values.
pub fn gqa_write(
    qkv: Tensor<2>,
    head_dim: usize,
    norms: Option<HeadNorms<'_>>,
    rotation: &Rotation,
    layer: &mut KvLayer,
    slots: Tensor<1, Int>,
) -> Tensor<3> {
    #[cfg(feature = "cpu")]
    if super::flex::takes(&qkv.device(), qkv.dtype()) {
        return cpu::gqa_write(qkv, head_dim, norms, rotation, layer, slots);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&qkv.device()) {
        return launch::gqa_write(qkv, head_dim, norms, rotation, layer, slots);
    }
    reference::gqa_write(qkv, head_dim, norms, rotation, layer, slots)
}
