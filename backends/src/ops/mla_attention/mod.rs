//! Multi-head latent attention over paged latents.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::Tensor;

use crate::kv::{KvLayer, PageTables};
use crate::weight::Weight;

/// The queries of a step in their two parts.
#[derive(Debug, Clone)]
pub struct MlaQueries {
    /// Without position, `[tokens, heads, nope]`.
    pub nope: Tensor<3>,
    /// Rotated, `[tokens, heads, rope]`.
    pub rope: Tensor<3>,
}

/// Queries of a step in one of the forms in which attention takes them.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub enum PreparedQueries {
    /// As the heads have them.
    Heads(MlaQueries),
    /// With `W_UKᵀ` applied to their first part.
    Absorbed {
        /// Of latents and rotated keys, `[tokens, heads, latent + rope]`.
        queries: Tensor<3>,
        /// Values of a head's query without position, which are rows of the matrix.
        nope: usize,
    },
}

impl PreparedQueries {
    #[cfg(feature = "cube")]
    fn device(&self) -> burn::tensor::Device {
        match self {
            PreparedQueries::Heads(q) => q.nope.device(),
            PreparedQueries::Absorbed { queries, .. } => queries.device(),
        }
    }
}

impl From<MlaQueries> for PreparedQueries {
    fn from(q: MlaQueries) -> Self {
        PreparedQueries::Heads(q)
    }
}

/// In which order the products of [`mla_attention`] are formed. Both give the same result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlaForm {
    /// The matrix is applied to queries and results: `(W_UKᵀ q) · c` and `W_UV (Σ p c)`. Attention
    /// then reads nothing but latents, as with one KV head of `latent + rope` values.
    Absorbed,
    /// The matrix is applied to the cached latents: `q · (W_UK c)` and `Σ p (W_UV c)`. Attention
    /// then works on heads of `nope + rope` and `value` values.
    Expanded,
}

/// Causal attention of the tokens of a step over the latents in the pages of their sequences
/// ([DeepSeek-V2 2024](https://arxiv.org/abs/2405.04434), section 2.1). For head `h`, token `t` and
/// a cached row `j` that it sees, with `[c; k_rope]` the row and `[W_UK; W_UV]` the head's rows of
/// `kv_b`:
///
/// ```text
/// score(h, t, j) = (q_nope(t, h) · W_UK c(j) + q_rope(t, h) · k_rope(j)) * scale
/// out(t, h)      = Σⱼ softmax(score)(j) · W_UV c(j)
/// ```
///
/// A token sees its sequence's positions up to its own, itself included (its row has to be written
/// before). Query lengths may be ragged. Rows of padded tokens hold finite values without meaning.
/// Softmax in f32, sums in f32. An FP8 `kv_b` is widened in both forms, with activations in floats:
/// the absorbed form applies it to what no checkpoint has a scheme for, and the numbers must not
/// depend on the form. Kernels take the absorbed form for all steps; `form` is for the other paths,
/// and for queries that are not absorbed yet.
///
/// Shapes: `kv_b [heads * (nope + value), latent]`, cached rows `[slots, latent + rope]` →
/// `[tokens, heads, value]`.
pub fn mla_attention(
    q: impl Into<PreparedQueries>,
    kv_b: &Weight,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
    form: MlaForm,
) -> Tensor<3> {
    let q = q.into();
    #[cfg(feature = "cpu")]
    if let PreparedQueries::Heads(q) = &q
        && super::flex::takes(&q.nope.device(), q.nope.dtype())
    {
        return cpu::mla_attention(q.clone(), kv_b, layer, tables, page_size, scale, form);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&q.device()) {
        return launch::mla_attention(q, kv_b, layer, tables, page_size, scale);
    }
    reference::mla_attention(q, kv_b, layer, tables, page_size, scale, form)
}

/// Queries of latents and rotated keys, `[tokens, heads, latent + rope]`.
pub(super) fn absorbed_queries(q: PreparedQueries, kv_b: &Weight) -> Tensor<3> {
    reference::UpProjection::new(&q, kv_b).absorbed(q)
}
