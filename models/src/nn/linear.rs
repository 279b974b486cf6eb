use burn::tensor::Tensor;
use glm_backends::ops;
use glm_backends::weight::Weight;

use crate::weights::{LoadError, OnLoad, Split, Weights};

/// Projection by a stored matrix `[out, in]`, in floats or FP8 as the checkpoint holds it, with a
/// bias where the family has one.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Tensor<1>>,
}

impl Linear {
    /// This rank's part of a projection without a bias.
    pub(crate) fn load(
        w: &Weights<'_>,
        shape: [usize; 2],
        split: Split,
    ) -> Result<Self, LoadError> {
        Ok(Self { weight: w.weight("weight", shape, split, OnLoad::Quantise)?, bias: None })
    }

    /// The whole of a projection that is not quantised on loading.
    pub(crate) fn load_kept(w: &Weights<'_>, shape: [usize; 2]) -> Result<Self, LoadError> {
        let weight = w.weight("weight", shape, Split::Replicated, OnLoad::Keep)?;
        Ok(Self { weight, bias: None })
    }

    /// This rank's part of a projection with a bias.
    pub(crate) fn load_with_bias(
        w: &Weights<'_>,
        shape: [usize; 2],
        split: Split,
    ) -> Result<Self, LoadError> {
        let [out, _] = shape;
        Ok(Self { bias: w.bias("bias", out, split)?, ..Self::load(w, shape, split)? })
    }

    /// A projection by a matrix that something else holds too.
    pub(crate) fn tied(weight: Tensor<2>) -> Self {
        Self { weight: Weight::Dense(weight), bias: None }
    }

    /// `[tokens, in]` → `[tokens, out]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, &self.weight, self.bias.clone())
    }
}
