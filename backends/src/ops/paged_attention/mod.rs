//! Attention over paged keys and values.

#[cfg(feature = "cube")]
pub(super) mod attend;
#[cfg(feature = "cube")]
mod block;
pub(super) mod cases;
#[cfg(feature = "cube")]
pub(super) mod combine;
#[cfg(feature = "cpu")]
pub(super) mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
#[cfg(feature = "cube")]
mod products;
mod reference;
#[cfg(feature = "cube")]
mod tiled;
#[cfg(feature = "cube")]
mod tiles;

use burn::tensor::Tensor;

use crate::kv::{KvLayer, PageTables};

/// Causal grouped-query attention of the tokens of a step over the pages of their sequences:
/// `softmax(q · kᵀ * scale) · v` ([Ainslie et al. 2023](https://arxiv.org/abs/2305.13245)), where
/// head `h` reads KV head `h * kv_heads / heads` and a token sees its sequence's positions up to
/// its own, itself included (its row has to be written before).
///
/// Shapes: `q [tokens, heads, head_dim]` → `[tokens, heads, head_dim]`. Query lengths may be
/// ragged. Rows of padded tokens hold finite values without meaning. Softmax in f32.
pub fn paged_attention(
    q: Tensor<3>,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    #[cfg(feature = "cpu")]
    if super::flex::takes(&q.device(), burn::tensor::DType::F32) {
        return cpu::paged_attention(q, layer, tables, page_size, scale);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&q.device()) {
        return launch::paged_attention(q, layer, tables, page_size, scale);
    }
    reference::paged_attention(q, layer, tables, page_size, scale)
}
