use burn::tensor::Tensor;

use super::{Linear, Residual, RmsNorm};
use crate::weights::{LoadError, Weights};

/// What a multi-token-prediction layer has around its decoder layer
/// ([DeepSeek-V3 2024](https://arxiv.org/abs/2412.19437), section 2.2).
#[derive(Debug)]
pub(crate) struct MtpHead {
    embedding_norm: RmsNorm,
    hidden_norm: RmsNorm,
    projection: Linear,
    norm: RmsNorm,
}

impl MtpHead {
    pub(crate) fn load(w: &Weights<'_>, hidden: usize, eps: f64) -> Result<Self, LoadError> {
        let shape = [hidden, 2 * hidden];
        Ok(Self {
            embedding_norm: RmsNorm::load(&w.at("enorm"), hidden, eps)?,
            hidden_norm: RmsNorm::load(&w.at("hnorm"), hidden, eps)?,
            projection: Linear::load_kept(&w.at("eh_proj"), shape)?,
            norm: RmsNorm::load(&w.at("shared_head.norm"), hidden, eps)?,
        })
    }

    /// The decoder layer's input: `eh_proj · [enorm(embedding); hnorm(hidden)]`, the embedding
    /// first. All `[tokens, hidden]`.
    pub(crate) fn join(&self, embedding: Tensor<2>, hidden: Tensor<2>) -> Tensor<2> {
        let normed = vec![self.embedding_norm.forward(embedding), self.hidden_norm.forward(hidden)];
        self.projection.forward(Tensor::cat(normed, 1))
    }

    /// The norm before the draft logits; its output is also the hidden state that the next draft
    /// starts from.
    pub(crate) fn norm(&self, stream: &mut Residual) -> Tensor<2> {
        stream.norm(&self.norm)
    }
}
