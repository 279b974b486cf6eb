//! Gated activation of the feed-forward networks.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::{Tensor, s};

/// `silu(gate) * up`, element by element ([Shazeer 2020](https://arxiv.org/abs/2002.05202)).
///
/// Shapes: `gate`, `up` `[tokens, width]` → `[tokens, width]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&gate.device()) {
        return launch::swiglu(gate, up);
    }
    reference::swiglu(gate, up)
}

/// [`swiglu`] of what one projection made: `x [tokens, 2 * width]`, gates first →
/// `[tokens, width]`.
pub fn swiglu_joint(x: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if super::flex::takes(&x.device(), x.dtype()) {
        return cpu::swiglu_joint(x);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device()) {
        return launch::swiglu_joint(x);
    }
    let [_, both] = x.dims();
    let gate = x.clone().slice(s![.., 0..both / 2]);
    reference::swiglu(gate, x.slice(s![.., both / 2..]))
}
