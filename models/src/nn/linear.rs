use burn::tensor::Tensor;
use glm_backends::ops;

use crate::weights::{LoadError, Split, Weights};

/// Projection by a stored matrix `[out, in]`, with a bias where the family has one.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
}

impl Linear {
    /// This rank's part of a projection without a bias.
    pub(crate) fn load(
        w: &Weights<'_>,
        shape: [usize; 2],
        split: Split,
    ) -> Result<Self, LoadError> {
        Ok(Self { weight: w.matrix("weight", shape, split)?, bias: None })
    }

    /// This rank's part of a projection with a bias.
    pub(crate) fn load_with_bias(
        w: &Weights<'_>,
        shape: [usize; 2],
        split: Split,
    ) -> Result<Self, LoadError> {
        let [out, _] = shape;
        Ok(Self { weight: w.matrix("weight", shape, split)?, bias: w.bias("bias", out, split)? })
    }

    /// A projection by a matrix that something else holds too.
    pub(crate) fn tied(weight: Tensor<2>) -> Self {
        Self { weight, bias: None }
    }

    /// `[tokens, in]` → `[tokens, out]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, self.weight.clone(), self.bias.clone())
    }
}
