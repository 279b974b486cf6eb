//! Projection by a weight matrix.

pub(super) mod cases;
mod reference;

use burn::tensor::Tensor;

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
    reference::linear(x, weight, bias)
}
