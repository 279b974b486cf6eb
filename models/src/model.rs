//! The only list of families outside their own folders.

use burn::tensor::Tensor;
use glm_backends::kv::{KvPool, KvSpec};
use glm_backends::ranks::Rank;

use crate::config::Config;
use crate::forward::ForwardBatch;
use crate::glm4_moe::{self, Glm4Moe};
use crate::glm4_moe_lite::{self, Glm4MoeLite};
use crate::trace::Trace;
use crate::weights::{LoadError, Loader};

/// Which parts of a checkpoint are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// The main model.
    Main,
    /// The main model and, where there is one, the multi-token-prediction layer.
    MainAndMtp,
}

/// A loaded model of one of the families.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process holds one")]
pub enum Model {
    /// GLM-4.5, GLM-4.5-Air, GLM-4.6, GLM-4.7 and their base models.
    Glm4Moe {
        /// The main model.
        main: Glm4Moe,
        /// The multi-token-prediction layer, where it is there and was asked for.
        mtp: Option<glm4_moe::Mtp>,
    },
    /// GLM-4.7-Flash.
    Glm4MoeLite {
        /// The main model.
        main: Glm4MoeLite,
        /// The multi-token-prediction layer, where it is there and was asked for.
        mtp: Option<glm4_moe_lite::Mtp>,
    },
}

impl Model {
    /// Loads a model for sequences of at most `context` tokens and checks that the checkpoint
    /// holds nothing that it has no use for.
    ///
    /// # Errors
    /// A tensor that is missing, left over, or has another shape or dtype than wanted.
    pub fn load(
        loader: Loader<'_>,
        config: &Config,
        context: usize,
        parts: Parts,
    ) -> Result<Self, LoadError> {
        let mtp = parts == Parts::MainAndMtp;
        let model = match config {
            Config::Glm4Moe(config) => Model::Glm4Moe {
                main: Glm4Moe::load(&loader, config, context)?,
                mtp: mtp.then(|| glm4_moe::Mtp::load(&loader, config)).transpose()?.flatten(),
            },
            Config::Glm4MoeLite(config) => Model::Glm4MoeLite {
                main: Glm4MoeLite::load(&loader, config, context)?,
                mtp: mtp.then(|| glm4_moe_lite::Mtp::load(&loader, config)).transpose()?.flatten(),
            },
        };
        loader.finish(|name| config.ignores(name))?;
        Ok(model)
    }

    /// Hidden states after the final norm, `[tokens, hidden]`; stores what it caches in `kv`.
    pub fn forward(&self, batch: &ForwardBatch, kv: &mut KvPool, trace: &mut Trace) -> Tensor<2> {
        match self {
            Model::Glm4Moe { main, .. } => main.forward(batch, kv, trace),
            Model::Glm4MoeLite { main, .. } => main.forward(batch, kv, trace),
        }
    }

    /// Logits of hidden states after the final norm: `[rows, hidden]` → `[rows, vocab_size]`, f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match self {
            Model::Glm4Moe { main, .. } => main.logits(hidden),
            Model::Glm4MoeLite { main, .. } => main.logits(hidden),
        }
    }

    /// Whether [`Model::draft`] can be called.
    pub fn drafts(&self) -> bool {
        match self {
            Model::Glm4Moe { mtp, .. } => mtp.is_some(),
            Model::Glm4MoeLite { mtp, .. } => mtp.is_some(),
        }
    }

    /// One draft for every row by the multi-token-prediction layer: the hidden states that draft
    /// logits and the next draft are computed from, `[tokens, hidden]`.
    ///
    /// The batch holds the tokens after the rows, `hidden [tokens, hidden]` what
    /// [`Model::forward`] or the last draft returned for the rows, `kv` the layer's own cache.
    ///
    /// # Panics
    /// When no such layer was loaded.
    pub fn draft(&self, hidden: Tensor<2>, batch: &ForwardBatch, kv: &mut KvPool) -> Tensor<2> {
        match self {
            Model::Glm4Moe { main, mtp } => {
                let mtp = mtp.as_ref().expect("a multi-token-prediction layer");
                mtp.forward(main, hidden, batch, kv.layer(0))
            }
            Model::Glm4MoeLite { main, mtp } => {
                let mtp = mtp.as_ref().expect("a multi-token-prediction layer");
                mtp.forward(main, hidden, batch, kv.layer(0))
            }
        }
    }

    /// Shape of the cache that `rank` keeps for a model of this configuration.
    pub fn kv_spec(config: &Config, rank: Rank) -> KvSpec {
        match config {
            Config::Glm4Moe(config) => Glm4Moe::kv_spec(config, rank),
            Config::Glm4MoeLite(config) => Glm4MoeLite::kv_spec(config),
        }
    }

    /// Shape of the cache of the multi-token-prediction layer.
    pub fn draft_kv_spec(config: &Config, rank: Rank) -> KvSpec {
        match config {
            Config::Glm4Moe(config) => glm4_moe::Mtp::kv_spec(config, rank),
            Config::Glm4MoeLite(config) => glm4_moe_lite::Mtp::kv_spec(config),
        }
    }
}
