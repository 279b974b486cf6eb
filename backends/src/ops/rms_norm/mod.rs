//! Root-mean-square norm.

pub(super) mod cases;
mod reference;

use burn::tensor::Tensor;

/// Root-mean-square norm over the last axis: `x / sqrt(mean(x²) + eps) * weight`
/// ([Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467)).
///
/// Shapes: `x [.., width]`, `weight [width]` → `[.., width]`. The mean is taken in f32 whatever
/// the dtype, and the result is rounded to the dtype of `x` before the weight is multiplied, as
/// transformers' `Glm4MoeRMSNorm` does.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    reference::rms_norm(x, weight, eps)
}
