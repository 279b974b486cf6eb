use burn::tensor::Tensor;
use glm_backends::ops::{self, Normed};
use glm_backends::weight::Weight;

use super::{Residual, RmsNorm};
use crate::weights::{LoadError, OnLoad, Piece, Split, Weights};

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

    /// [`Linear::forward`] with its result in f32, for logits.
    pub(crate) fn wide(&self, x: Tensor<2>) -> Tensor<2> {
        ops::wide_linear(x, &self.weight)
    }

    /// The sum that is normed, and the projection of the norm.
    pub(crate) fn normed(&self, input: Normed<'_>) -> (Tensor<2>, Tensor<2>) {
        ops::norm_linear(input, &self.weight, self.bias.clone(), false)
    }

    /// `[tokens, in]` → `[tokens, out]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, &self.weight, self.bias.clone())
    }
}

/// Projections of the same input, as one matrix where the checkpoint holds all of them alike.
#[derive(Debug)]
pub(crate) struct JointLinear(Vec<Linear>);

impl JointLinear {
    /// This rank's parts of the projections `[out, input]`, each `(name, out)`, with biases
    /// where `has_bias`.
    pub(crate) fn load(
        w: &Weights<'_>,
        parts: &[(&str, usize)],
        input: usize,
        split: Split,
        has_bias: bool,
    ) -> Result<Self, LoadError> {
        let piece = |(name, out): &(&str, usize)| {
            w.at(name)
                .piece("weight", [*out, input], split)
                .map(|piece| Piece { name: format!("{name}.weight"), ..piece })
        };
        let pieces = parts.iter().map(piece).collect::<Result<Vec<_>, _>>()?;
        if !w.alike(&pieces, OnLoad::Quantise)? {
            let each = |(name, out): &(&str, usize)| match has_bias {
                true => Linear::load_with_bias(&w.at(name), [*out, input], split),
                false => Linear::load(&w.at(name), [*out, input], split),
            };
            return Ok(Self(parts.iter().map(each).collect::<Result<_, _>>()?));
        }
        let weight = w.stack(&pieces, OnLoad::Quantise)?;
        let biases = match has_bias {
            true => parts
                .iter()
                .filter_map(|(name, out)| w.at(name).bias("bias", *out, split).transpose())
                .collect::<Result<Vec<_>, _>>()?,
            false => Vec::new(),
        };
        let bias = (!biases.is_empty()).then(|| Tensor::cat(biases, 0));
        Ok(Self(vec![Linear { weight, bias }]))
    }

    /// The results for the norm of a stream, as [`Self::forward`] gives them.
    pub(crate) fn of_stream(&self, stream: &mut Residual, norm: &RmsNorm) -> Tensor<2> {
        match &self.0[..] {
            [joint] => stream.project(norm, |input| joint.normed(input)),
            _ => self.forward(stream.norm(norm)),
        }
    }

    /// `[tokens, input]` → the results side by side, `[tokens, sum of outs]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.0[..] {
            [joint] => joint.forward(x),
            parts => Tensor::cat(parts.iter().map(|part| part.forward(x.clone())).collect(), 1),
        }
    }
}
