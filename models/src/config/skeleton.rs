use super::{ConfigError, Fields, Parameters, quoted};
use crate::inventory::{Part, TensorGroup};

/// What each layer's feed-forward part is, `dense` or `sparse`.
const LAYER_TYPES: &str = "mlp_layer_types";
/// Layers and experts are counted one by one in places; no model has nearly as many.
const MAX_LAYERS: usize = 1 << 12;
const MAX_EXPERTS: usize = 1 << 16;
/// Positions are f32 in the rotary angles, exact up to here.
const MAX_POSITIONS: usize = 1 << 24;

/// The dimensions and choices that the families share: everything but the attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Skeleton {
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) first_k_dense_replace: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) moe_intermediate_size: usize,
    pub(crate) n_routed_experts: usize,
    pub(crate) num_experts_per_tok: usize,
    pub(crate) n_shared_experts: usize,
    pub(crate) routed_scaling_factor: f64,
    pub(crate) n_group: usize,
    pub(crate) topk_group: usize,
    pub(crate) norm_topk_prob: bool,
    pub(crate) num_nextn_predict_layers: usize,
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) rms_norm_eps: f64,
    pub(crate) tie_word_embeddings: bool,
}

impl Skeleton {
    /// Whether layer `index` (from 0) has experts. True for every prediction layer.
    pub(crate) fn is_moe_layer(&self, index: usize) -> bool {
        index >= self.first_k_dense_replace || index >= self.num_hidden_layers
    }

    /// Decoder layers with a dense feed-forward part.
    pub(crate) fn dense_layers(&self) -> usize {
        self.first_k_dense_replace.min(self.num_hidden_layers)
    }

    /// Whether the main model has no use for a tensor: the multi-token-prediction layers, and
    /// buffers that some exporters write.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
        let predicts = layer.and_then(|index| index.parse::<usize>().ok()).is_some_and(|index| {
            (0..self.num_nextn_predict_layers).any(|k| index == self.num_hidden_layers + k)
        });
        predicts || name.ends_with(".rotary_emb.inv_freq")
    }

    /// Parameter counts of a model that has these tensors.
    pub(crate) fn parameters(&self, groups: &[TensorGroup]) -> Parameters {
        let (mut total, mut active, mut mtp) = (0, 0, 0);
        for group in groups {
            let elements = group.elements();
            if group.mtp {
                mtp += elements;
                continue;
            }
            total += elements;
            active += match group.part {
                Part::Embedding | Part::Head => 0,
                Part::RoutedExperts => {
                    elements / wide(self.n_routed_experts) * wide(self.num_experts_per_tok)
                }
                _ => elements,
            };
        }
        Parameters { total: narrow(total), active: narrow(active), mtp: narrow(mtp) }
    }

    /// Refuses dimensions that do not fit together.
    pub(crate) fn validate(&self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        for (key, found, most) in [
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_nextn_predict_layers", self.num_nextn_predict_layers, MAX_LAYERS),
            ("n_routed_experts", self.n_routed_experts, MAX_EXPERTS),
        ] {
            if found > most {
                return Err(fields.invalid(key, found, format_args!("at most {most}")));
            }
        }
        if self.max_position_embeddings > MAX_POSITIONS {
            let wanted = format_args!("at most {MAX_POSITIONS}");
            return Err(fields.invalid(
                "max_position_embeddings",
                self.max_position_embeddings,
                wanted,
            ));
        }
        if self.rms_norm_eps <= 0.0 {
            return Err(fields.invalid("rms_norm_eps", self.rms_norm_eps, "a number above 0"));
        }
        self.check_expert_choice(fields)?;
        self.check_layer_types(fields)
    }

    fn check_expert_choice(&self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        let experts = self.n_routed_experts;
        if !experts.is_multiple_of(self.n_group) {
            let wanted = format_args!("a divisor of n_routed_experts ({experts})");
            return Err(fields.invalid("n_group", self.n_group, wanted));
        }
        // A group is scored by its two best experts.
        let group = experts / self.n_group;
        if self.n_group > 1 && group < 2 {
            let wanted = format_args!("groups of at least 2 of the {experts} experts");
            return Err(fields.invalid("n_group", self.n_group, wanted));
        }
        if self.topk_group > self.n_group {
            let wanted = format_args!("at most n_group ({})", self.n_group);
            return Err(fields.invalid("topk_group", self.topk_group, wanted));
        }
        let choice = group * self.topk_group;
        if self.num_experts_per_tok > choice {
            let wanted = format_args!("at most the {choice} experts that a token may choose from");
            return Err(fields.invalid("num_experts_per_tok", self.num_experts_per_tok, wanted));
        }
        Ok(())
    }

    /// transformers 5 may list each layer's kind: it has to say what `is_moe_layer` says.
    fn check_layer_types(&self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        const KEY: &str = LAYER_TYPES;
        let Some(kinds) = fields.texts(KEY)? else { return Ok(()) };
        let layers = self.num_hidden_layers;
        if kinds.len() != layers {
            let found = format_args!("a list of {}", kinds.len());
            return Err(fields.invalid(
                KEY,
                found,
                format_args!("num_hidden_layers ({layers}) entries"),
            ));
        }
        for (index, found) in kinds.into_iter().enumerate() {
            let wanted = if self.is_moe_layer(index) { "sparse" } else { "dense" };
            if found != wanted {
                let dense = self.first_k_dense_replace;
                return Err(fields.invalid(
                    &format!("{KEY}[{index}]"),
                    quoted(found),
                    format_args!("`{wanted}`, because first_k_dense_replace is {dense}"),
                ));
            }
        }
        Ok(())
    }
}

/// Refuses keys that name another formula than the one that is implemented.
pub(crate) fn refuse_other_formulas(fields: &Fields<'_>) -> Result<(), ConfigError> {
    for (key, wanted) in
        [("hidden_act", "silu"), ("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")]
    {
        match fields.text(key)? {
            Some(found) if found != wanted => {
                return Err(fields.invalid(key, quoted(found), quoted(wanted)));
            }
            _ => {}
        }
    }
    // Attention here sees the whole sequence.
    if let Some(window) = fields.count("sliding_window")? {
        return Err(fields.invalid("sliding_window", window, "null"));
    }
    // Every layer after the dense ones has experts.
    match fields.count("moe_layer_freq")? {
        None | Some(1) => Ok(()),
        Some(other) => Err(fields.invalid("moe_layer_freq", other, "1")),
    }
}

/// What the file says the weights are stored in: `dtype`, or `torch_dtype` as older files call it.
pub(crate) fn stored_dtype(fields: &Fields<'_>) -> Result<Option<String>, ConfigError> {
    let mut dtype = None;
    for key in ["torch_dtype", "dtype"] {
        match fields.text(key)? {
            None => {}
            Some(found @ ("bfloat16" | "float16" | "float32")) => dtype = Some(found.to_owned()),
            Some(found) => {
                let wanted = "`bfloat16`, `float16` or `float32`";
                return Err(fields.invalid(key, quoted(found), wanted));
            }
        }
    }
    Ok(dtype)
}

/// Layers that come before those with experts: `first_k_dense_replace`, or, where transformers 5 wrote
/// only `mlp_layer_types`, the dense ones that this list begins with. Default 1.
pub(crate) fn first_dense_layers(fields: &Fields<'_>) -> Result<usize, ConfigError> {
    Ok(match (fields.count("first_k_dense_replace")?, fields.texts(LAYER_TYPES)?) {
        (Some(layers), _) => layers,
        (None, Some(kinds)) => kinds.iter().take_while(|kind| **kind == "dense").count(),
        (None, None) => 1,
    })
}

/// Multi-token-prediction layers; transformers 5 knows them under both names. Default 1.
pub(crate) fn prediction_layers(fields: &Fields<'_>) -> Result<usize, ConfigError> {
    Ok(match fields.count("num_nextn_predict_layers")? {
        Some(layers) => layers,
        None => fields.count("num_mtp_layers")?.unwrap_or(1),
    })
}

/// Wide enough for a product of any four sizes, which are below 2³¹ each.
pub(crate) fn wide(size: usize) -> u128 {
    size as u128
}

/// The count, or the largest number that fits.
pub(crate) fn narrow(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
