//! The routed experts of one layer.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
pub(super) mod group;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;
#[cfg(feature = "cube")]
mod tiles;

use burn::tensor::{Device, Tensor};

use crate::ops::{Norm, Routed};
use crate::weight::Weight;

/// Weights of all experts of a layer, stacked in buffers of a bounded size.
///
/// One buffer for a whole layer of the 355B models would pass the 2 GiB that many devices bind
/// at most, so the experts are kept in groups of equal size, the last one possibly short. On the CPU
/// the matrices of each expert may also lie apart, as they do in a file.
#[derive(Debug)]
pub struct ExpertWeights {
    /// None where `apart` has them.
    groups: Vec<ExpertGroup>,
    per_group: usize,
    experts: usize,
    #[cfg(feature = "cpu")]
    apart: Option<cpu::Apart>,
}

/// The weights of consecutive experts, stacked along the rows.
#[derive(Debug)]
pub struct ExpertGroup {
    /// Number of experts.
    pub experts: usize,
    /// Gate rows, then up rows of each expert: `[experts * 2 * width, hidden]`.
    pub gate_up: Weight,
    /// `[experts * hidden, width]`
    pub down: Weight,
}

/// The weights of one expert, in one float dtype.
#[cfg(feature = "cpu")]
#[derive(Debug, Clone)]
pub struct ExpertMatrices {
    /// `[width, hidden]`
    pub gate: Tensor<2>,
    /// `[width, hidden]`
    pub up: Tensor<2>,
    /// `[hidden, width]`
    pub down: Tensor<2>,
}

impl ExpertWeights {
    /// How many experts share a buffer of `device` when one takes `bytes_per_expert`: all of them
    /// where the device binds so much at once. On the CPU a buffer is at most 1 GiB, because it is
    /// on the host twice while it is made.
    pub fn experts_per_group(experts: usize, bytes_per_expert: usize, device: &Device) -> usize {
        const MOST_ON_HOST: usize = 1 << 30;
        #[cfg(feature = "cube")]
        let most = crate::cube::most_bytes_of_buffer(device).unwrap_or(MOST_ON_HOST);
        #[cfg(not(feature = "cube"))]
        let (most, _) = (MOST_ON_HOST, device);
        (most / bytes_per_expert.max(1)).clamp(1, experts)
    }

    /// Weights in groups of `per_group`.
    ///
    /// # Panics
    /// When a group other than the last holds another number of experts.
    pub fn new(groups: Vec<ExpertGroup>, per_group: usize) -> Self {
        let experts = groups.iter().map(|group| group.experts).sum();
        for group in groups.iter().rev().skip(1) {
            assert_eq!(group.experts, per_group, "experts in a group");
        }
        ExpertWeights {
            groups,
            per_group,
            experts,
            #[cfg(feature = "cpu")]
            apart: None,
        }
    }

    /// Weights of the host, each where it lies.
    ///
    /// # Panics
    /// When experts differ in shapes or dtype, or weights are not the host's.
    #[cfg(feature = "cpu")]
    pub fn apart(matrices: Vec<ExpertMatrices>) -> Self {
        let experts = matrices.len();
        ExpertWeights {
            groups: Vec::new(),
            per_group: experts,
            experts,
            apart: Some(cpu::Apart::new(matrices)),
        }
    }

    /// Number of experts.
    pub fn count(&self) -> usize {
        self.experts
    }

    /// Gate-up `[2 * width, hidden]` and down `[hidden, width]` of one expert.
    fn expert(&self, id: usize) -> (Weight, Weight) {
        #[cfg(feature = "cpu")]
        if let Some(apart) = &self.apart {
            return apart.expert(id);
        }
        let group = &self.groups[id / self.per_group];
        let row = id % self.per_group;
        let part = |stack: &Weight| {
            let rows = stack.dims()[0] / group.experts;
            stack.rows(row * rows..(row + 1) * rows)
        };
        (part(&group.gate_up), part(&group.down))
    }
}

/// `y[t] = Σⱼ weights[t, j] · downₑ · (silu(gateₑ · x[t]) * (upₑ · x[t]))` with `e = experts[t, j]`.
///
/// Shapes: `x [tokens, hidden]` → `[tokens, hidden]`. Only the chosen experts are computed; the
/// sum is kept in f32. With FP8 activations each token is quantised for gate and up, and once
/// more, per expert, for down.
pub fn moe_experts(x: &Tensor<2>, routed: &Routed, weights: &ExpertWeights) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if cpu::takes(x) {
        return cpu::moe_experts(x, routed, weights);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device()) {
        return launch::moe_experts(x, None, routed, weights);
    }
    reference::moe_experts(x, routed, weights)
}

/// [`moe_experts`] of the norm of `x [tokens, hidden]`. For few tokens on GPUs the norm is taken on the
/// way, and not rounded.
pub fn norm_moe_experts(
    x: Tensor<2>,
    norm: Norm<'_>,
    routed: &Routed,
    weights: &ExpertWeights,
) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device())
        && super::linear::launch::norms_on_the_way(x.dims()[0], &weights.groups[0].gate_up)
    {
        let norm = super::linear::launch::NormBuffers {
            added: None,
            gain: crate::cube::floats(norm.weight.clone()),
            eps: norm.eps as f32,
        };
        return launch::moe_experts(&x, Some(&norm), routed, weights);
    }
    moe_experts(&super::rms_norm(x, norm.weight.clone(), norm.eps), routed, weights)
}
