use burn::tensor::Tensor;
use glm_backends::ops;

use crate::weights::{LoadError, Weights};

/// Root-mean-square norm with a weight.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor<1>,
    eps: f64,
}

impl RmsNorm {
    pub(crate) fn load(w: &Weights<'_>, width: usize, eps: f64) -> Result<Self, LoadError> {
        Ok(Self { weight: w.tensor("weight", [width])?, eps })
    }

    /// Weight and epsilon, for an op that norms on its way.
    pub(crate) fn op(&self) -> ops::Norm<'_> {
        ops::Norm { weight: &self.weight, eps: self.eps }
    }

    /// `x + added` and its norm, all `[tokens, width]`.
    pub(crate) fn forward_added(&self, x: Tensor<2>, added: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        ops::add_rms_norm(x, added, self.weight.clone(), self.eps)
    }

    /// Over the last axis, whatever the shape.
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.weight.clone(), self.eps)
    }
}
