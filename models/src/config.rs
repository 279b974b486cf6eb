//! `config.json` → [`Config`], chosen by its `model_type`; the blocks that families share.
//!
//! Keys keep the checkpoint's names. A value that this crate does not implement is
//! refused with the key, what was found and what was wanted: a model that runs with
//! another formula gives plausible wrong answers, which is worse than an error. Keys that
//! no formula here reads (dropout, caching flags, versions) are ignored.

use std::fmt;
use std::path::{Path, PathBuf};

use glm_backends::kv::KvFormat;
use serde_json::{Map, Value};

use crate::plan::Attention;
use crate::{glm4_moe, glm4_moe_lite};

mod fields;
mod quantization;
mod skeleton;

pub use fields::Fields;
pub use quantization::{ActivationScheme, Quantization, ScaleLayout};
pub(crate) use skeleton::{
    Skeleton, first_dense_layers, narrow, prediction_layers, refuse_other_formulas, stored_dtype,
    wide,
};

/// The families that load today, by `model_type`.
const SUPPORTED: &str = "glm4_moe, glm4_moe_lite";

/// One checkpoint's dimensions and choices, by family.
#[derive(Debug, Clone, PartialEq)]
pub enum Config {
    /// GLM-4.5, GLM-4.5-Air, GLM-4.6, GLM-4.7 and their base models.
    Glm4Moe(glm4_moe::Config),
    /// GLM-4.7-Flash.
    Glm4MoeLite(glm4_moe_lite::Config),
}

impl Config {
    /// Reads the text of a `config.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// Text that is not a JSON object, an unknown `model_type`, a missing key, a value of
    /// the wrong JSON type or out of range, and every value that is not implemented.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let map: Map<String, Value> = parse(text, path)?;
        let fields = Fields::new(&map, path);
        let model_type = fields.text("model_type")?.ok_or_else(|| fields.missing("model_type"))?;
        match model_type {
            "glm4_moe" => glm4_moe::Config::read(&fields).map(Self::Glm4Moe),
            "glm4_moe_lite" => glm4_moe_lite::Config::read(&fields).map(Self::Glm4MoeLite),
            other => Err(ConfigError::UnknownModelType {
                path: path.to_owned(),
                found: other.to_owned(),
            }),
        }
    }

    /// The family's name as `config.json` spells it.
    #[must_use]
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::Glm4Moe(_) => "glm4_moe",
            Self::Glm4MoeLite(_) => "glm4_moe_lite",
        }
    }

    /// Decoder layers, prediction layers not counted.
    #[must_use]
    pub fn num_hidden_layers(&self) -> usize {
        self.skeleton().num_hidden_layers
    }

    /// Decoder layers with a dense feed-forward part; the others have experts.
    #[must_use]
    pub fn dense_layers(&self) -> usize {
        self.skeleton().dense_layers()
    }

    /// Rows of the embedding and of the head, padding rows included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.skeleton().vocab_size
    }

    /// Tokens that a sequence may hold.
    #[must_use]
    pub fn max_position_embeddings(&self) -> usize {
        self.skeleton().max_position_embeddings
    }

    /// Token ids that end a text; empty where the file names none.
    #[must_use]
    pub fn eos_token_ids(&self) -> &[u32] {
        match self {
            Self::Glm4Moe(config) => &config.eos_token_id,
            Self::Glm4MoeLite(config) => &config.eos_token_id,
        }
    }

    /// What the file says the weights are stored in; the tensors themselves decide.
    #[must_use]
    pub fn dtype(&self) -> Option<&str> {
        match self {
            Self::Glm4Moe(config) => config.dtype.as_deref(),
            Self::Glm4MoeLite(config) => config.dtype.as_deref(),
        }
    }

    /// Which matrices are FP8; `None` for a checkpoint in floats.
    #[must_use]
    pub fn quantization(&self) -> Option<&Quantization> {
        match self {
            Self::Glm4Moe(config) => config.quantization.as_ref(),
            Self::Glm4MoeLite(config) => config.quantization.as_ref(),
        }
    }

    /// Parameter counts that follow from the dimensions.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        match self {
            Self::Glm4Moe(config) => config.parameters(),
            Self::Glm4MoeLite(config) => config.parameters(),
        }
    }

    /// Bytes that one token adds to the KV cache over all layers of the main model.
    #[must_use]
    pub fn kv_bytes_per_token(&self, kv: KvFormat) -> u64 {
        narrow(wide(self.num_hidden_layers()) * self.attention().kv_bytes(1, kv))
    }

    /// Whether the main model has no use for a tensor of a checkpoint.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        self.skeleton().ignores(name)
    }

    /// What of attention decides the sizes of cache and activations.
    pub(crate) fn attention(&self) -> Attention {
        match self {
            Self::Glm4Moe(config) => Attention::Grouped {
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
            Self::Glm4MoeLite(config) => Attention::Latent {
                heads: config.num_attention_heads,
                latent: config.kv_lora_rank,
                rope: config.qk_rope_head_dim,
                value_dim: config.v_head_dim,
            },
        }
    }

    pub(crate) fn skeleton(&self) -> Skeleton {
        match self {
            Self::Glm4Moe(config) => config.skeleton(),
            Self::Glm4MoeLite(config) => config.skeleton(),
        }
    }
}

/// Parses a JSON object; `path` is only named in the error.
///
/// # Errors
/// [`ConfigError::Json`] where `text` is not a JSON object.
pub fn parse(text: &str, path: &Path) -> Result<Map<String, Value>, ConfigError> {
    serde_json::from_str(text).map_err(|source| ConfigError::Json { path: path.to_owned(), source })
}

/// Parameter counts of a checkpoint, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// The main model: every stored element, biases and the router's selection bias
    /// included, the multi-token-prediction layers not.
    pub total: u64,
    /// What one token is multiplied with: `total` without the experts that are not chosen
    /// and, as the model cards count it, without the embedding and the head.
    pub active: u64,
    /// The multi-token-prediction layers, with their own copies of embedding and head
    /// (GLM-4.6 leaves those copies out of its files).
    pub mtp: u64,
}

/// The rotary block, from either spelling: `rope_theta`, `rope_scaling` and
/// `partial_rotary_factor` at the top level, or all of them inside `rope_parameters`
/// (transformers 5), whose values win.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the inverse frequencies; 10000 where absent.
    pub theta: f64,
    /// Share of each head's dimensions that is rotated, in (0, 1].
    pub partial_rotary_factor: f64,
}

impl Rope {
    /// Reads the block; `default_factor` stands in for an absent `partial_rotary_factor`.
    ///
    /// # Errors
    /// A scaled rotary type (`yarn`, `linear`, …), a theta that is not above 0, a factor
    /// outside (0, 1].
    pub fn read(fields: &Fields<'_>, default_factor: f64) -> Result<Self, ConfigError> {
        let mut theta = fields.number("rope_theta")?.unwrap_or(10_000.0);
        let mut factor = fields.number("partial_rotary_factor")?.unwrap_or(default_factor);
        for block_key in ["rope_parameters", "rope_scaling"] {
            let Some(block) = fields.object(block_key)? else { continue };
            for type_key in ["rope_type", "type"] {
                match block.text(type_key)? {
                    None | Some("default") => {}
                    Some(other) => {
                        return Err(block.invalid(
                            type_key,
                            quoted(other),
                            "`default` (no scaling)",
                        ));
                    }
                }
            }
            theta = block.number("rope_theta")?.unwrap_or(theta);
            factor = block.number("partial_rotary_factor")?.unwrap_or(factor);
        }
        if theta <= 0.0 {
            return Err(fields.invalid("rope_theta", theta, "a number above 0"));
        }
        if factor <= 0.0 || factor > 1.0 {
            return Err(fields.invalid("partial_rotary_factor", factor, "above 0 and at most 1"));
        }
        Ok(Self { theta, partial_rotary_factor: factor })
    }
}

/// A string as errors show it.
pub(crate) fn quoted(text: &str) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| write!(f, "`{text}`"))
}

/// What is wrong with a `config.json` or a `generation_config.json`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a JSON object.
    #[error("{}: not a valid JSON object", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the parser stopped, and why.
        source: serde_json::Error,
    },
    /// A family that this project does not know.
    #[error("{}: `model_type` is `{found}`, wanted one of: {SUPPORTED}", .path.display())]
    UnknownModelType {
        /// The file.
        path: PathBuf,
        /// The value of `model_type`.
        found: String,
    },
    /// A key without which the model is not defined.
    #[error("{}: `{key}` is missing", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key, with the block it belongs to.
        key: String,
    },
    /// A value of the wrong type, out of range, or not implemented.
    #[error("{}: `{key}` is {found}, wanted {wanted}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key, with the block it belongs to.
        key: String,
        /// The value in the file.
        found: String,
        /// What would be accepted.
        wanted: String,
    },
}

#[cfg(test)]
pub(crate) mod tests;
