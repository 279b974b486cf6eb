use burn::tensor::{DType, Device, Int, Tensor};
use glm_backends::kv::{KvPool, KvSpec};
use glm_backends::ops::{RotaryTable, Rotation, Routing};
use glm_backends::ranks::{Rank, sum_over_ranks};

use super::Config;
use super::attention::Attention;
use crate::forward::ForwardBatch;
use crate::nn::{Embedding, Linear, Mlp, Moe, MoeShape, RmsNorm};
use crate::trace::{LayerTrace, Trace};
use crate::weights::{LoadError, Loader, Split, Weights};

/// The language model: embedding, decoder layers, norm and head.
#[derive(Debug)]
pub struct Glm4Moe {
    embedding: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    head: Linear,
    rotary: RotaryTable,
}

impl Glm4Moe {
    /// Loads the main model for sequences of at most `context` tokens.
    ///
    /// # Errors
    /// A tensor that is missing, or has another shape or dtype than wanted.
    pub fn load(loader: &Loader<'_>, config: &Config, context: usize) -> Result<Self, LoadError> {
        let w = loader.root();
        let table = [config.vocab_size, config.hidden_size];
        let embedding = Embedding::load(&w.at("model.embed_tokens"), table)?;
        Ok(Self {
            layers: (0..config.num_hidden_layers)
                .map(|index| DecoderLayer::load(&w.at("model.layers").at(index), config, index))
                .collect::<Result<_, _>>()?,
            norm: RmsNorm::load(&w.at("model.norm"), config.hidden_size, config.rms_norm_eps)?,
            // A head that is stored all the same is the one to use, as transformers does.
            head: match config.tie_word_embeddings && !w.has("lm_head.weight") {
                true => Linear::tied(embedding.table()),
                false => Linear::load(&w.at("lm_head"), table, Split::Replicated)?,
            },
            embedding,
            rotary: rotary_table(config, context, w.device()),
        })
    }

    /// Hidden states after the final norm, `[tokens, hidden]`; stores keys and values in `kv`.
    pub fn forward(&self, batch: &ForwardBatch, kv: &mut KvPool, trace: &mut Trace) -> Tensor<2> {
        let rotation = self.rotary.at(batch.tables.positions.clone());
        let mut x = self.embedding.forward(batch.token_ids.clone());
        trace.floats("hidden.embed", &x);
        for (index, layer) in self.layers.iter().enumerate() {
            let mut trace = trace.layer(index);
            x = layer.forward(x, index, &rotation, batch, kv, &mut trace);
            trace.floats("hidden", &x);
        }
        let x = self.norm.forward(x);
        trace.floats("hidden.final_norm", &x);
        x
    }

    /// Logits of hidden states after the final norm: `[rows, hidden]` → `[rows, vocab_size]`, f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head.forward(hidden).cast(DType::F32)
    }

    /// Whether this model has no use for a tensor: the multi-token-prediction layers, and buffers
    /// that some exporters write.
    pub fn ignores(config: &Config, name: &str) -> bool {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
        let predicts = layer.and_then(|index| index.parse::<usize>().ok()).is_some_and(|index| {
            (0..config.num_nextn_predict_layers).any(|k| index == config.num_hidden_layers + k)
        });
        predicts || name.ends_with(".rotary_emb.inv_freq")
    }

    /// Shape of the cache that `rank` keeps.
    pub fn kv_spec(config: &Config, rank: Rank) -> KvSpec {
        KvSpec::Gqa {
            layers: config.num_hidden_layers,
            kv_heads: config.kv_heads_of(rank),
            head_dim: config.head_dim,
            page_size: KvSpec::PAGE_SIZE,
        }
    }
}

fn rotary_table(config: &Config, context: usize, device: &Device) -> RotaryTable {
    RotaryTable::new(context, config.rotary_dim(), config.rope_theta, device)
}

/// One layer: `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.
#[derive(Debug)]
struct DecoderLayer {
    input_norm: RmsNorm,
    attention: Attention,
    post_norm: RmsNorm,
    mlp: FeedForward,
    rank: Rank,
}

impl DecoderLayer {
    fn load(w: &Weights<'_>, config: &Config, index: usize) -> Result<Self, LoadError> {
        let norm = |name: &str| RmsNorm::load(&w.at(name), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            attention: Attention::load(&w.at("self_attn"), config)?,
            post_norm: norm("post_attention_layernorm")?,
            mlp: FeedForward::load(&w.at("mlp"), config, index)?,
            rank: w.rank(),
        })
    }

    fn forward(
        &self,
        x: Tensor<2>,
        index: usize,
        rotation: &Rotation,
        batch: &ForwardBatch,
        kv: &mut KvPool,
        trace: &mut LayerTrace<'_>,
    ) -> Tensor<2> {
        let normed = self.input_norm.forward(x.clone());
        let attended = self.attention.forward(normed, rotation, batch, kv.layer(index));
        let attended = sum_over_ranks(attended, self.rank);
        trace.floats("attn_out", &attended);
        let h = x + attended;

        let normed = self.post_norm.forward(h.clone());
        let fed = sum_over_ranks(self.mlp.forward(normed, batch.live.clone(), trace), self.rank);
        trace.floats("mlp_out", &fed);
        h + fed
    }
}

/// The second half of a layer: dense in the first layers, experts in the others.
#[derive(Debug)]
enum FeedForward {
    Dense(Box<Mlp>),
    Experts(Box<Moe>),
}

impl FeedForward {
    fn load(w: &Weights<'_>, config: &Config, index: usize) -> Result<Self, LoadError> {
        if !config.is_moe_layer(index) {
            let mlp = Mlp::load(w, config.hidden_size, config.intermediate_size)?;
            return Ok(Self::Dense(Box::new(mlp)));
        }
        let shape = MoeShape {
            hidden_size: config.hidden_size,
            moe_intermediate_size: config.moe_intermediate_size,
            n_routed_experts: config.n_routed_experts,
            n_shared_experts: config.n_shared_experts,
            routing: Routing {
                n_group: config.n_group,
                topk_group: config.topk_group,
                num_experts_per_tok: config.num_experts_per_tok,
                norm_topk_prob: config.norm_topk_prob,
                routed_scaling_factor: config.routed_scaling_factor as f32,
            },
        };
        Ok(Self::Experts(Box::new(Moe::load(w, &shape)?)))
    }

    fn forward(&self, x: Tensor<2>, live: Tensor<1, Int>, trace: &mut LayerTrace<'_>) -> Tensor<2> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Experts(moe) => moe.forward(x, live, trace),
        }
    }
}
