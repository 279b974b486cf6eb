use burn::tensor::Tensor;
use glm_backends::kv::KvLayer;
use glm_backends::ops::{self, Rotation};
use glm_backends::ranks::Rank;

use super::Config;
use crate::forward::ForwardBatch;
use crate::nn::{Linear, RmsNorm};
use crate::weights::{LoadError, Split, Weights};

/// Grouped-query attention with optional norms of queries and keys and partial rotation.
///
/// With several ranks each holds some of the heads, and the result is a partial sum.
#[derive(Debug)]
pub(super) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
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
        let project = |name: &str, out| {
            if config.attention_bias {
                Linear::load_with_bias(&w.at(name), [out, hidden], Split::Column)
            } else {
                Linear::load(&w.at(name), [out, hidden], Split::Column)
            }
        };
        let norm = |name: &str| RmsNorm::load(&w.at(name), config.head_dim, config.rms_norm_eps);
        Ok(Self {
            query: project("q_proj", queries)?,
            key: project("k_proj", keys)?,
            value: project("v_proj", keys)?,
            output: Linear::load(&w.at("o_proj"), [hidden, queries], Split::Row)?,
            norms: match config.use_qk_norm {
                true => Some(QkNorms { query: norm("q_norm")?, key: norm("k_norm")? }),
                false => None,
            },
            head_dim: config.head_dim,
            scale: (config.head_dim as f64).powf(-0.5),
        })
    }

    /// `x [tokens, hidden]` → `[tokens, hidden]`; stores the tokens' keys and values first.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        rotation: &Rotation,
        batch: &ForwardBatch,
        kv: &mut KvLayer,
    ) -> Tensor<2> {
        let mut q = self.heads(self.query.forward(x.clone()));
        let mut k = self.heads(self.key.forward(x.clone()));
        let v = self.value.forward(x);
        if let Some(norms) = &self.norms {
            q = norms.query.forward(q);
            k = norms.key.forward(k);
        }
        let q = ops::rope(q, rotation);
        let k = ops::rope(k, rotation);

        kv.write(k.flatten(1, 2), v, batch.slots.clone());
        let attended = ops::paged_attention(q, kv, &batch.tables, batch.page_size(), self.scale);
        self.output.forward(attended.flatten(1, 2))
    }

    /// `[tokens, heads * head_dim]` → `[tokens, heads, head_dim]`
    fn heads(&self, x: Tensor<2>) -> Tensor<3> {
        let [tokens, width] = x.dims();
        x.reshape([tokens, width / self.head_dim, self.head_dim])
    }
}

impl Config {
    /// KV heads that `rank` holds.
    pub(crate) fn kv_heads_of(&self, rank: Rank) -> usize {
        self.num_key_value_heads / rank.count()
    }
}
