use burn::tensor::{Device, Int, Tensor};
use glm_backends::kv::{KvPool, KvSpec};
use glm_backends::ops::{RopeOrder, RotaryTable, Rotation};

use super::Config;
use super::layer::DecoderLayer;
use crate::forward::ForwardBatch;
use crate::nn::{Embedding, Linear, Residual, RmsNorm};
use crate::trace::Trace;
use crate::weights::{LoadError, Loader};

/// The language model: embedding, decoder layers, norm and head.
#[derive(Debug)]
pub struct Glm4MoeLite {
    embedding: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    head: Linear,
    rotary: RotaryTable,
}

impl Glm4MoeLite {
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
                false => Linear::load_kept(&w.at("lm_head"), table)?,
            },
            embedding,
            rotary: rotary_table(config, context, w.device()),
        })
    }

    /// Hidden states after the final norm, `[tokens, hidden]`; stores latents in `kv`.
    pub fn forward(&self, batch: &ForwardBatch, kv: &mut KvPool, trace: &mut Trace) -> Tensor<2> {
        let rotation = self.rotation(batch);
        let x = self.embedding.forward(batch.token_ids.clone());
        trace.floats("hidden.embed", &x);
        let mut stream = Residual::new(x);
        for (index, layer) in self.layers.iter().enumerate() {
            let mut trace = trace.layer(index);
            layer.forward(&mut stream, &rotation, batch, kv.layer(index), &mut trace);
            trace.floats_of("hidden", || stream.total());
        }
        let x = stream.norm(&self.norm);
        trace.floats("hidden.final_norm", &x);
        x
    }

    /// Logits of hidden states after the final norm: `[rows, hidden]` → `[rows, vocab_size]`, f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head.wide(hidden)
    }

    /// Rows of the embedding table, which the multi-token-prediction layer shares.
    pub(super) fn embed(&self, token_ids: Tensor<1, Int>) -> Tensor<2> {
        self.embedding.forward(token_ids)
    }

    /// Cosines and sines of a step's positions, which the multi-token-prediction layer shares.
    pub(super) fn rotation(&self, batch: &ForwardBatch) -> Rotation {
        self.rotary.at(batch.tables.positions.clone())
    }

    /// Shape of the cache, which every rank keeps whole.
    pub fn kv_spec(config: &Config) -> KvSpec {
        KvSpec::Mla {
            layers: config.num_hidden_layers,
            latent: config.kv_lora_rank,
            rope: config.qk_rope_head_dim,
            page_size: KvSpec::PAGE_SIZE,
        }
    }
}

fn rotary_table(config: &Config, context: usize, device: &Device) -> RotaryTable {
    let order = match config.rope_interleave {
        true => RopeOrder::Interleaved,
        false => RopeOrder::HalfSplit,
    };
    RotaryTable::new(context, config.qk_rope_head_dim, config.rope_theta, order, device)
}
