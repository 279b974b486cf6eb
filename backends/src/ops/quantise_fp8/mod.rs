//! Activations to FP8.

pub(super) mod cases;
#[cfg(feature = "cpu")]
pub(super) mod cpu;
#[cfg(feature = "cube")]
pub(super) mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
pub(super) mod reference;

use burn::tensor::{Int, Tensor, s};

/// Activations on the grid of E4M3 with their scales: `x ≈ values * scale`.
#[derive(Debug, Clone)]
pub struct Fp8Activations {
    /// Values that E4M3 holds exactly, `[tokens, width]`, f32.
    pub values: Tensor<2>,
    /// `[tokens, ⌈width / group⌉]`, f32.
    pub scales: Tensor<2>,
    group: usize,
}

impl Fp8Activations {
    /// `values * scale`, `[tokens, width]`, f32.
    pub fn dequantised(&self) -> Tensor<2> {
        let [tokens, width] = self.values.dims();
        let [_, groups] = self.scales.dims();
        let scales = self.scales.clone().unsqueeze_dim::<3>(2).expand([tokens, groups, self.group]);
        let scales = scales.reshape([tokens, groups * self.group]).slice(s![.., 0..width]);
        self.values.clone() * scales
    }
}

/// Quantises every token to E4M3, with one scale for the whole token or for each `group` columns:
/// `scale = max(amax / 448, 1 / (448 * 512))` and `value = round(clamp(x / scale, ±448))`, to the
/// nearest with ties to even, all in f32 (compressed-tensors' dynamic per-token scheme; the least
/// scale is vLLM's).
///
/// Shapes: `x [tokens, width]`, any float dtype.
pub fn quantise_fp8(x: Tensor<2>, group: Option<usize>) -> Fp8Activations {
    let [_, width] = x.dims();
    let group = group.unwrap_or(width).min(width);
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device()) {
        return launch::quantise_fp8(x, group);
    }
    #[cfg(feature = "cpu")]
    if super::flex::takes(&x.device(), x.dtype()) {
        return cpu::quantise_fp8(x, group);
    }
    reference::quantise_fp8(x, group)
}

/// The scale of values that are `largest` at most.
#[cfg(feature = "cpu")]
pub(crate) fn scale_fp8(largest: f32) -> f32 {
    (largest / crate::fp8::MAX).max(reference::LEAST_SCALE)
}

/// The same with one scale a row, as codes: `x [rows, width]` → codes `[rows, width]`, i32, and
/// scales `[rows, 1]`, f32.
pub(crate) fn codes_fp8(x: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    reference::codes_fp8(x)
}
