//! Root-mean-square norm.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::Tensor;

/// Weight of an RMS norm, `[width]`, and what is added to the mean.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// `[width]`
    pub weight: &'a Tensor<1>,
    /// Added to the mean of the squares.
    pub eps: f64,
}

/// Root-mean-square norm over the last axis: `x / sqrt(mean(x²) + eps) * weight`
/// ([Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467)).
///
/// Shapes: `x [.., width]`, `weight [width]` → `[.., width]`. The mean is taken in f32 whatever
/// the dtype, and the result is rounded to the dtype of `x` before the weight is multiplied, as
/// transformers' `Glm4MoeRMSNorm` does.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if super::flex::takes(&x.device(), x.dtype()) {
        return cpu::rms_norm(x, weight, eps);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device()) {
        return launch::rms_norm(x, weight, eps);
    }
    reference::rms_norm(x, weight, eps)
}

/// `sum = x + added` and [`rms_norm`] of it, with `sum` rounded to the dtype of `x`.
///
/// Shapes: `x`, `added` `[tokens, width]`, `weight [width]` → `[tokens, width]` twice.
pub fn add_rms_norm(
    x: Tensor<2>,
    added: Tensor<2>,
    weight: Tensor<1>,
    eps: f64,
) -> (Tensor<2>, Tensor<2>) {
    #[cfg(feature = "cpu")]
    if super::flex::takes(&x.device(), x.dtype()) {
        return cpu::add_rms_norm(x, added, weight, eps);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device()) {
        return launch::add_rms_norm(x, added, weight, eps);
    }
    let sum = x + added;
    (sum.clone(), reference::rms_norm(sum, weight, eps))
}
