//! Projection by a weight matrix.

pub(super) mod cases;
#[cfg(feature = "cube")]
mod codes;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::{DType, Tensor};

use crate::ops::Norm;
use crate::weight::Weight;

/// `x · weightᵀ + bias`.
///
/// Shapes: `x [tokens, in]`, `weight [out, in]`, `bias [out]` → `[tokens, out]` in the dtype of
/// `x`; sums are kept in f32 by every backend's matrix product.
///
/// FP8 weights with float activations (w8a16) are `code * scale` in f32, rounded to the dtype of
/// `x`. With FP8 activations (w8a8) `x` is quantised as [`quantise_fp8`](super::quantise_fp8)
/// says, and the result is `(q_x · q_wᵀ) * scale_x * scale_w + bias` in f32 before it is rounded;
/// where a row of the weight has several scales, the scales go into the sum.
pub fn linear(x: Tensor<2>, weight: &Weight, bias: Option<Tensor<1>>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if cpu::takes(&x) {
        return cpu::linear(x, weight, bias);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device()) {
        let dtype = x.dtype();
        return launch::linear(x, weight, bias, dtype);
    }
    reference::linear(x, weight, bias)
}

/// [`linear`] without a bias and with its result in f32, for logits: a dense `weight` may be of a
/// wider dtype than `x`, which is then widened first.
pub fn wide_linear(x: Tensor<2>, weight: &Weight) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device()) {
        return launch::linear(x, weight, None, DType::F32);
    }
    #[cfg(feature = "cpu")]
    if cpu::takes(&x) {
        return cpu::linear(x, weight, None);
    }
    let x = match weight {
        Weight::Dense(weight) => x.cast(weight.dtype()),
        Weight::Fp8(_) | Weight::Groups(_) => x,
    };
    linear(x, weight, None).cast(DType::F32)
}

/// What a projection reads: the norm of a sum.
#[derive(Debug)]
pub struct Normed<'a> {
    /// `[tokens, width]`
    pub x: Tensor<2>,
    /// Added to `x` before, `[tokens, width]`.
    pub added: Option<Tensor<2>>,
    /// Taken of the sum.
    pub norm: Norm<'a>,
}

/// `sum = x + added`, rounded to the dtype of `x`, and [`linear`] of its [`rms_norm`](super::rms_norm),
/// in the dtype of `x` or, for logits, in f32 as [`wide_linear`]: the sum and the product. For few
/// tokens on GPUs in one launch, which does not round the norm; in two where activations are FP8.
pub fn norm_linear(
    input: Normed<'_>,
    weight: &Weight,
    bias: Option<Tensor<1>>,
    wide: bool,
) -> (Tensor<2>, Tensor<2>) {
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&input.x.device())
        && launch::norms_on_the_way(input.x.dims()[0], weight)
    {
        let dtype = if wide { DType::F32 } else { input.x.dtype() };
        let norm = launch::NormBuffers {
            added: input.added.map(crate::cube::floats),
            gain: crate::cube::floats(input.norm.weight.clone()),
            eps: input.norm.eps as f32,
        };
        return launch::norm_linear(input.x, &norm, weight, bias, dtype);
    }
    let Normed { x, added, norm: Norm { weight: gain, eps } } = input;
    let (sum, normed) = match added {
        Some(added) => super::add_rms_norm(x, added, gain.clone(), eps),
        None => (x.clone(), super::rms_norm(x, gain.clone(), eps)),
    };
    let y = if wide { wide_linear(normed, weight) } else { linear(normed, weight, bias) };
    (sum, y)
}
