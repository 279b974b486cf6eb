use burn::tensor::Tensor;
use glm_backends::kv::KvLayer;
use glm_backends::ops::{self, Rotation};
use glm_backends::ranks::Rank;

use super::Config;
use crate::forward::ForwardBatch;
use crate::nn::{JointLinear, Linear, Residual, RmsNorm};
use crate::weights::{LoadError, Split, Weights};

/// Grouped-query attention with optional norms of queries and keys and partial rotation.
///
/// With several ranks each holds some of the heads, and the result is a partial sum.
#[derive(Debug)]
pub(super) struct Attention {
    /// Queries, keys and values.
    project: JointLinear,
    output: Linear,
    norms: Option<QkNorms>,
    head_dim: usize,
    scale: f64,
}

/// Norms over each head, shared by all heads of a layer.
#[derive(Debug)]
struct QkNorms {
    query: RmsNorm,
    key: RmsNorm,
}

impl Attention {
    pub(super) fn load(w: &Weights<'_>, config: &Config) -> Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let parts = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let norm = |name: &str| RmsNorm::load(&w.at(name), config.head_dim, config.rms_norm_eps);
        Ok(Self {
            project: JointLinear::load(w, &parts, hidden, Split::Column, config.attention_bias)?,
            output: Linear::load(&w.at("o_proj"), [hidden, queries], Split::Row)?,
            norms: match config.use_qk_norm {
                true => Some(QkNorms { query: norm("q_norm")?, key: norm("k_norm")? }),
                false => None,
            },
            head_dim: config.head_dim,
            scale: (config.head_dim as f64).powf(-0.5),
        })
    }

    /// Of the norm of a stream, `[tokens, hidden]`; stores the tokens' keys and values first.
    pub(super) fn forward(
        &self,
        stream: &mut Residual,
        norm: &RmsNorm,
        rotation: &Rotation,
        batch: &ForwardBatch,
        kv: &mut KvLayer,
    ) -> Tensor<2> {
        let norms = self
            .norms
            .as_ref()
            .map(|norms| ops::HeadNorms { query: norms.query.op(), key: norms.key.op() });
        let joint = self.project.of_stream(stream, norm);
        let slots = batch.slots.clone();
        let q = ops::gqa_write(joint, self.head_dim, norms, rotation, kv, slots);
        let attended = ops::paged_attention(q, kv, &batch.tables, batch.page_size(), self.scale);
        self.output.forward(attended.flatten(1, 2))
    }
}

impl Config {
    /// KV heads that `rank` holds.
    pub(crate) fn kv_heads_of(&self, rank: Rank) -> usize {
        self.num_key_value_heads / rank.count()
    }
}
