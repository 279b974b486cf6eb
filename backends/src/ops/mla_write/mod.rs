//! From the projections of a layer with latents to queries and stored latents.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::{Int, Tensor};

use super::{MlaForm, Norm, PreparedQueries, Rotation};
use crate::kv::KvLayer;
use crate::weight::Weight;

/// What the projections of a layer with latents give for the tokens of a step.
#[derive(Debug)]
pub struct MlaProjected<'a> {
    /// Each head's `nope` values and those to be rotated, `[tokens, heads * (nope + rope)]`.
    pub q: Tensor<2>,
    /// Latents and keys to be rotated, `[tokens, latent + rope]`.
    pub down: Tensor<2>,
    /// Of the latents.
    pub norm: Norm<'a>,
    /// Heads of `q`.
    pub heads: usize,
}

/// What becomes of the projections before attention: latents are normed as by
/// [`rms_norm`](super::rms_norm), keys and queries are rotated as by [`rope`](super::rope), latents
/// and rotated keys are stored at `slots`. Few tokens on a GPU are absorbed at once, whatever `form`
/// says; all others are left to [`mla_attention`](super::mla_attention).
///
/// Shapes: `kv_b [heads * (nope + value), latent]`, `slots [tokens]`.
///
/// # Panics
/// When `layer` holds keys and values.
pub fn mla_write(
    projected: MlaProjected<'_>,
    kv_b: &Weight,
    rotation: &Rotation,
    layer: &mut KvLayer,
    slots: Tensor<1, Int>,
    form: MlaForm,
) -> PreparedQueries {
    #[cfg(feature = "cpu")]
    if super::flex::takes(&projected.q.device(), projected.q.dtype()) {
        return PreparedQueries::Heads(cpu::mla_write(projected, rotation, layer, slots));
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&projected.q.device()) && launch::is_for_few(&projected.q) {
        return launch::mla_write(projected, kv_b, rotation, layer, slots);
    }
    // Only kernels absorb here.
    let (_, _) = (kv_b, form);
    PreparedQueries::Heads(reference::mla_write(projected, rotation, layer, slots))
}
