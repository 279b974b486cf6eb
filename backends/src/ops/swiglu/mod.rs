//! Gated activation of the feed-forward networks.

pub(super) mod cases;
mod reference;

use burn::tensor::Tensor;

/// `silu(gate) * up`, element by element ([Shazeer 2020](https://arxiv.org/abs/2002.05202)).
///
/// Shapes: `gate`, `up` `[tokens, width]` → `[tokens, width]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    reference::swiglu(gate, up)
}
