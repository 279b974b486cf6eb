//! Projection by a weight matrix.

pub(super) mod cases;
mod reference;

use burn::tensor::Tensor;

/// `x · weightᵀ + bias`.
///
/// Shapes: `x [tokens, in]`, `weight [out, in]`, `bias [out]` → `[tokens, out]`, all of one
/// dtype; sums are kept in f32 by every backend's matrix product.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    reference::linear(x, weight, bias)
}
