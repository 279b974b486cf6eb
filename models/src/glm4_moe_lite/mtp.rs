use burn::tensor::Tensor;
use glm_backends::kv::{KvLayer, KvSpec};

use super::layer::DecoderLayer;
use super::{Config, Glm4MoeLite};
use crate::forward::ForwardBatch;
use crate::nn::{MtpHead, Residual};
use crate::trace::Trace;
use crate::weights::{LoadError, Loader};

/// The multi-token-prediction layer, at the index after the last decoder layer: one more decoder
/// layer, with experts, that sees a token's final hidden state and the next token, and predicts
/// the token after that.
///
/// Embedding and head are the main model's, as in transformers and vLLM: the copies that
/// GLM-4.7-Flash stores beside this layer are not read.
#[derive(Debug)]
pub struct Mtp {
    head: MtpHead,
    layer: DecoderLayer,
}

impl Mtp {
    /// Loads the layer, or `None` where the checkpoint has none.
    ///
    /// # Errors
    /// A tensor that is missing, or has another shape or dtype than wanted.
    pub fn load(loader: &Loader<'_>, config: &Config) -> Result<Option<Self>, LoadError> {
        let index = config.num_hidden_layers;
        let w = loader.root().at("model.layers").at(index);
        if config.num_nextn_predict_layers == 0 || !w.has("eh_proj.weight") {
            return Ok(None);
        }
        Ok(Some(Self {
            head: MtpHead::load(&w, config.hidden_size, config.rms_norm_eps)?,
            layer: DecoderLayer::load(&w, config, index)?,
        }))
    }

    /// One draft for every row: the hidden states that draft logits are computed from, and that
    /// the next draft starts from. They are after `shared_head.norm`: a chain that carries the
    /// state before that norm loses its second draft.
    ///
    /// The batch's token ids are those of the tokens after the rows, `hidden [tokens, hidden]` the
    /// final hidden states of the rows. Latents go to the layer's own cache `kv`.
    pub fn forward(
        &self,
        main: &Glm4MoeLite,
        hidden: Tensor<2>,
        batch: &ForwardBatch,
        kv: &mut KvLayer,
    ) -> Tensor<2> {
        let joined = self.head.join(main.embed(batch.token_ids.clone()), hidden);
        let mut untraced = Trace::off();
        let mut stream = Residual::new(joined);
        let rotation = main.rotation(batch);
        self.layer.forward(&mut stream, &rotation, batch, kv, &mut untraced.layer(0));
        self.head.norm(&mut stream)
    }

    /// Shape of the layer's cache.
    pub fn kv_spec(config: &Config) -> KvSpec {
        Glm4MoeLite::kv_spec(config).with_layers(1)
    }
}
