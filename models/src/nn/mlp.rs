use burn::tensor::Tensor;
use glm_backends::ops;

use super::{JointLinear, Linear, Residual, RmsNorm};
use crate::weights::{LoadError, Split, Weights};

/// Gated feed-forward network: `down(silu(gate(x)) * up(x))`.
///
/// With several ranks the result is a partial sum.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate_up: JointLinear,
    down: Linear,
}

impl Mlp {
    pub(crate) fn load(w: &Weights<'_>, hidden: usize, width: usize) -> Result<Self, LoadError> {
        Ok(Self {
            gate_up: JointLinear::load(
                w,
                &[("gate_proj", width), ("up_proj", width)],
                hidden,
                Split::Column,
                false,
            )?,
            down: Linear::load(&w.at("down_proj"), [hidden, width], Split::Row)?,
        })
    }

    /// Of the norm of a stream, `[tokens, hidden]`.
    pub(crate) fn of_stream(&self, stream: &mut Residual, norm: &RmsNorm) -> Tensor<2> {
        self.down.forward(ops::swiglu_joint(self.gate_up.of_stream(stream, norm)))
    }

    /// `[tokens, hidden]` → `[tokens, hidden]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(ops::swiglu_joint(self.gate_up.forward(x)))
    }
}
