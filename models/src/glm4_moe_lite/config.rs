//! The dimensions and choices of a `glm4_moe_lite` checkpoint.

use crate::config::{
    ConfigError, Fields, Parameters, Quantization, Rope, Skeleton, first_dense_layers,
    prediction_layers, refuse_other_formulas, stored_dtype,
};

/// `config.json` of a `glm4_moe_lite` checkpoint, under the file's own names.
///
/// Keys that give a tensor its shape are required. The others fall back to the value that
/// transformers' `Glm4MoeLiteConfig` gives them; it stands at the field.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers, multi-token-prediction layers not counted.
    pub num_hidden_layers: usize,
    /// Layers before this one have a dense feed-forward part, the others experts. Default 1.
    pub first_k_dense_replace: usize,
    /// Heads of queries, keys and values.
    pub num_attention_heads: usize,
    /// Equal to `num_attention_heads`, and that where absent.
    pub num_key_value_heads: usize,
    /// Width of the queries' latent; none, `null` in the file, where queries are projected
    /// directly.
    pub q_lora_rank: Option<usize>,
    /// Width of the latent of keys and values.
    pub kv_lora_rank: usize,
    /// Dimensions of a query or key head that are not rotated.
    pub qk_nope_head_dim: usize,
    /// Dimensions of a query or key head that are rotated; even.
    pub qk_rope_head_dim: usize,
    /// Width of a value head.
    pub v_head_dim: usize,
    /// Whether rotated pairs are neighbours (`x[2i]`, `x[2i + 1]`) or half a width apart. Default
    /// true.
    pub rope_interleave: bool,
    /// Base of the rotary frequencies. Default 10000.
    pub rope_theta: f64,
    /// Inner width of the dense feed-forward part.
    pub intermediate_size: usize,
    /// Inner width of one expert.
    pub moe_intermediate_size: usize,
    /// Experts per layer.
    pub n_routed_experts: usize,
    /// Experts that a token is sent to.
    pub num_experts_per_tok: usize,
    /// The shared expert is this many times as wide as a routed one. Default 1.
    pub n_shared_experts: usize,
    /// Factor on the weights of the chosen experts. Default 1.8.
    pub routed_scaling_factor: f64,
    /// Groups that the experts are divided into for choosing. Default 1.
    pub n_group: usize,
    /// Groups that a token may choose from. Default 1.
    pub topk_group: usize,
    /// Whether the chosen experts' weights are divided by their sum. Default true.
    pub norm_topk_prob: bool,
    /// Multi-token-prediction layers that the checkpoint may hold. Default 1.
    pub num_nextn_predict_layers: usize,
    /// Rows of embedding and head, padding rows included.
    pub vocab_size: usize,
    /// Tokens that a sequence may hold. Default 202752.
    pub max_position_embeddings: usize,
    /// Added to the mean square under the root of every norm but those of the latents. Default
    /// 1e-5.
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding table and the file holds no `lm_head`. Default false.
    pub tie_word_embeddings: bool,
    /// Activation between the gate and the up projection: always `silu`.
    pub hidden_act: String,
    /// `dtype`, or `torch_dtype` as older files call it: what the file says the weights are
    /// stored in. The tensors themselves decide.
    pub dtype: Option<String>,
    /// Token ids that end a text; one number or a list in the file. Default none.
    pub eos_token_id: Vec<u32>,
    /// `quantization_config`: which matrices are FP8. Default none.
    pub quantization: Option<Quantization>,
}

impl Config {
    /// Reads and checks the keys of a `config.json`.
    ///
    /// # Errors
    /// A missing key, a value of the wrong type, and all that `validate` refuses.
    pub fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        refuse_other_formulas(fields)?;
        if fields.flag("attention_bias")? == Some(true) {
            return Err(fields.invalid("attention_bias", true, false));
        }
        let rope = Rope::read(fields, 1.0)?;
        // qk_rope_head_dim is the part that is rotated.
        if rope.partial_rotary_factor != 1.0 {
            return Err(fields.invalid("partial_rotary_factor", rope.partial_rotary_factor, 1));
        }
        let num_attention_heads = fields.required_size("num_attention_heads")?;
        let config = Self {
            hidden_size: fields.required_size("hidden_size")?,
            num_hidden_layers: fields.required_size("num_hidden_layers")?,
            first_k_dense_replace: first_dense_layers(fields)?,
            num_attention_heads,
            num_key_value_heads: fields.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
            q_lora_rank: match fields.is_null("q_lora_rank") {
                true => None,
                false => Some(fields.required_size("q_lora_rank")?),
            },
            kv_lora_rank: fields.required_size("kv_lora_rank")?,
            qk_nope_head_dim: fields.required_size("qk_nope_head_dim")?,
            qk_rope_head_dim: fields.required_size("qk_rope_head_dim")?,
            v_head_dim: fields.required_size("v_head_dim")?,
            rope_interleave: fields.flag("rope_interleave")?.unwrap_or(true),
            rope_theta: rope.theta,
            intermediate_size: fields.required_size("intermediate_size")?,
            moe_intermediate_size: fields.required_size("moe_intermediate_size")?,
            n_routed_experts: fields.required_size("n_routed_experts")?,
            num_experts_per_tok: fields.required_size("num_experts_per_tok")?,
            n_shared_experts: fields.size("n_shared_experts")?.unwrap_or(1),
            routed_scaling_factor: fields.number("routed_scaling_factor")?.unwrap_or(1.8),
            n_group: fields.size("n_group")?.unwrap_or(1),
            topk_group: fields.size("topk_group")?.unwrap_or(1),
            norm_topk_prob: fields.flag("norm_topk_prob")?.unwrap_or(true),
            num_nextn_predict_layers: prediction_layers(fields)?,
            vocab_size: fields.required_size("vocab_size")?,
            max_position_embeddings: fields.size("max_position_embeddings")?.unwrap_or(202_752),
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-5),
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            hidden_act: fields.text("hidden_act")?.unwrap_or("silu").to_owned(),
            dtype: stored_dtype(fields)?,
            eos_token_id: fields.token_ids("eos_token_id")?,
            quantization: Quantization::read(fields)?,
        };
        config.validate(fields)?;
        Ok(config)
    }

    /// Width of a query or key head.
    #[must_use]
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Whether layer `index` (from 0) has experts. True for every prediction layer.
    #[must_use]
    pub fn is_moe_layer(&self, index: usize) -> bool {
        self.skeleton().is_moe_layer(index)
    }

    /// The dimensions and choices that the families share.
    pub(crate) fn skeleton(&self) -> Skeleton {
        Skeleton {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            first_k_dense_replace: self.first_k_dense_replace,
            intermediate_size: self.intermediate_size,
            moe_intermediate_size: self.moe_intermediate_size,
            n_routed_experts: self.n_routed_experts,
            num_experts_per_tok: self.num_experts_per_tok,
            n_shared_experts: self.n_shared_experts,
            routed_scaling_factor: self.routed_scaling_factor,
            n_group: self.n_group,
            topk_group: self.topk_group,
            norm_topk_prob: self.norm_topk_prob,
            num_nextn_predict_layers: self.num_nextn_predict_layers,
            vocab_size: self.vocab_size,
            max_position_embeddings: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            tie_word_embeddings: self.tie_word_embeddings,
        }
    }

    /// Parameter counts that follow from the dimensions.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.skeleton().parameters(&self.tensor_groups())
    }

    /// Refuses dimensions that do not fit together.
    fn validate(&self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        let heads = self.num_attention_heads;
        // Every head has its own key and value, expanded from the one latent.
        if self.num_key_value_heads != heads {
            let wanted = format_args!("num_attention_heads ({heads})");
            return Err(fields.invalid("num_key_value_heads", self.num_key_value_heads, wanted));
        }
        if self.qk_rope_head_dim % 2 == 1 {
            return Err(fields.invalid(
                "qk_rope_head_dim",
                self.qk_rope_head_dim,
                "an even number",
            ));
        }
        self.skeleton().validate(fields)
    }
}
