use glm_backends::kv::KvLayer;
use glm_backends::ops::Rotation;
use glm_backends::ranks::{Rank, sum_over_ranks};

use super::Config;
use super::attention::Attention;
use crate::forward::ForwardBatch;
use crate::nn::{FeedForward, Residual, RmsNorm};
use crate::trace::LayerTrace;
use crate::weights::{LoadError, Weights};

/// One layer: `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.
#[derive(Debug)]
pub(super) struct DecoderLayer {
    input_norm: RmsNorm,
    attention: Attention,
    post_norm: RmsNorm,
    mlp: FeedForward,
    rank: Rank,
}

impl DecoderLayer {
    pub(super) fn load(w: &Weights<'_>, config: &Config, index: usize) -> Result<Self, LoadError> {
        let norm = |name: &str| RmsNorm::load(&w.at(name), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            attention: Attention::load(&w.at("self_attn"), config)?,
            post_norm: norm("post_attention_layernorm")?,
            mlp: FeedForward::load(&w.at("mlp"), &config.skeleton(), index)?,
            rank: w.rank(),
        })
    }

    /// Adds attention and feed-forward network to the stream; stores the tokens' latents in `kv`.
    pub(super) fn forward(
        &self,
        stream: &mut Residual,
        rotation: &Rotation,
        batch: &ForwardBatch,
        kv: &mut KvLayer,
        trace: &mut LayerTrace<'_>,
    ) {
        let attended = self.attention.forward(stream, &self.input_norm, rotation, batch, kv);
        let attended = sum_over_ranks(attended, self.rank);
        trace.floats("attn_out", &attended);
        stream.add(attended);

        let fed = self.mlp.forward(stream, &self.post_norm, batch.live.clone(), trace);
        let fed = sum_over_ranks(fed, self.rank);
        trace.floats("mlp_out", &fed);
        stream.add(fed);
    }
}
