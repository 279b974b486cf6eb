//! The dimensions and choices of a `glm4_moe` checkpoint.

use crate::config::{
    ConfigError, Fields, Parameters, Quantization, Rope, Skeleton, first_dense_layers,
    prediction_layers, refuse_other_formulas, stored_dtype,
};

/// `config.json` of a `glm4_moe` checkpoint, under the file's own names.
///
/// Keys that give a tensor its shape are required, except `head_dim`. The others fall back
/// to the value that transformers' `Glm4MoeConfig` gives them; it stands at the field.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers, multi-token-prediction layers not counted.
    pub num_hidden_layers: usize,
    /// Layers before this one have a dense feed-forward part, the others experts. Default 1.
    pub first_k_dense_replace: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head. Default `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Whether the query, key and value projections have a bias. Default false.
    pub attention_bias: bool,
    /// Whether queries and keys are normed per head before the rotation. Default false.
    pub use_qk_norm: bool,
    /// Share of a head that is rotated, in (0, 1]. Default 0.5.
    pub partial_rotary_factor: f64,
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
    /// Factor on the weights of the chosen experts. Default 1.
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
    /// Tokens that a sequence may hold. Default 131072.
    pub max_position_embeddings: usize,
    /// Added to the mean square under the root of every norm. Default 1e-5.
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
        let rope = Rope::read(fields, 0.5)?;
        let hidden_size = fields.required_size("hidden_size")?;
        let num_attention_heads = fields.required_size("num_attention_heads")?;
        let head_dim = match fields.size("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => return Err(fields.missing("head_dim")),
        };
        let config = Self {
            hidden_size,
            num_hidden_layers: fields.required_size("num_hidden_layers")?,
            first_k_dense_replace: first_dense_layers(fields)?,
            num_attention_heads,
            num_key_value_heads: fields.required_size("num_key_value_heads")?,
            head_dim,
            attention_bias: fields.flag("attention_bias")?.unwrap_or(false),
            use_qk_norm: fields.flag("use_qk_norm")?.unwrap_or(false),
            partial_rotary_factor: rope.partial_rotary_factor,
            rope_theta: rope.theta,
            intermediate_size: fields.required_size("intermediate_size")?,
            moe_intermediate_size: fields.required_size("moe_intermediate_size")?,
            n_routed_experts: fields.required_size("n_routed_experts")?,
            num_experts_per_tok: fields.required_size("num_experts_per_tok")?,
            n_shared_experts: fields.size("n_shared_experts")?.unwrap_or(1),
            routed_scaling_factor: fields.number("routed_scaling_factor")?.unwrap_or(1.0),
            n_group: fields.size("n_group")?.unwrap_or(1),
            topk_group: fields.size("topk_group")?.unwrap_or(1),
            norm_topk_prob: fields.flag("norm_topk_prob")?.unwrap_or(true),
            num_nextn_predict_layers: prediction_layers(fields)?,
            vocab_size: fields.required_size("vocab_size")?,
            max_position_embeddings: fields.size("max_position_embeddings")?.unwrap_or(131_072),
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

    /// Dimensions of a head that are rotated: `⌊head_dim · partial_rotary_factor⌋`, even.
    #[must_use]
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim as f64 * self.partial_rotary_factor) as usize
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
        if !heads.is_multiple_of(self.num_key_value_heads) {
            let wanted = format_args!("a divisor of num_attention_heads ({heads})");
            return Err(fields.invalid("num_key_value_heads", self.num_key_value_heads, wanted));
        }
        let rotary_dim = self.rotary_dim();
        if rotary_dim == 0 || rotary_dim % 2 == 1 {
            return Err(fields.invalid(
                "partial_rotary_factor",
                self.partial_rotary_factor,
                format_args!(
                    "an even number of rotated dimensions, not {rotary_dim} of head_dim {}",
                    self.head_dim
                ),
            ));
        }
        self.skeleton().validate(fields)
    }
}
