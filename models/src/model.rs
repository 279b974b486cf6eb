//! The only list of families outside their own folders.

use burn::tensor::Tensor;
use glm_backends::kv::{KvPool, KvSpec};
use glm_backends::ranks::Rank;

use crate::config::Config;
use crate::forward::ForwardBatch;
use crate::glm4_moe::Glm4Moe;
use crate::trace::Trace;
use crate::weights::{LoadError, Loader};

/// A loaded model of one of the families.
#[derive(Debug)]
pub enum Model {
    /// GLM-4.5, GLM-4.5-Air, GLM-4.6, GLM-4.7 and their base models.
    Glm4Moe(Glm4Moe),
}

impl Model {
    /// Loads a model for sequences of at most `context` tokens and checks that the checkpoint
    /// holds nothing that it has no use for.
    ///
    /// # Errors
    /// A tensor that is missing, left over, or has another shape or dtype than wanted.
    pub fn load(loader: Loader<'_>, config: &Config, context: usize) -> Result<Self, LoadError> {
        match config {
            Config::Glm4Moe(config) => {
                let model = Glm4Moe::load(&loader, config, context)?;
                loader.finish(|name| Glm4Moe::ignores(config, name))?;
                Ok(Model::Glm4Moe(model))
            }
        }
    }

    /// Hidden states after the final norm, `[tokens, hidden]`; stores keys and values in `kv`.
    pub fn forward(&self, batch: &ForwardBatch, kv: &mut KvPool, trace: &mut Trace) -> Tensor<2> {
        match self {
            Model::Glm4Moe(model) => model.forward(batch, kv, trace),
        }
    }

    /// Logits of hidden states after the final norm: `[rows, hidden]` → `[rows, vocab_size]`, f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match self {
            Model::Glm4Moe(model) => model.logits(hidden),
        }
    }

    /// Shape of the cache that `rank` keeps for a model of this configuration.
    pub fn kv_spec(config: &Config, rank: Rank) -> KvSpec {
        match config {
            Config::Glm4Moe(config) => Glm4Moe::kv_spec(config, rank),
        }
    }
}
