use burn::tensor::Tensor;
use glm_backends::ops;

use super::Linear;
use crate::weights::{LoadError, Split, Weights};

/// Gated feed-forward network: `down(silu(gate(x)) * up(x))`.
///
/// With several ranks the result is a partial sum.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Mlp {
    pub(crate) fn load(w: &Weights<'_>, hidden: usize, width: usize) -> Result<Self, LoadError> {
        Ok(Self {
            gate: Linear::load(&w.at("gate_proj"), [width, hidden], Split::Column)?,
            up: Linear::load(&w.at("up_proj"), [width, hidden], Split::Column)?,
            down: Linear::load(&w.at("down_proj"), [hidden, width], Split::Row)?,
        })
    }

    /// `[tokens, hidden]` → `[tokens, hidden]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(ops::swiglu(self.gate.forward(x.clone()), self.up.forward(x)))
    }
}
