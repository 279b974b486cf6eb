//! What the engine is told when it starts.

use std::fmt;
use std::str::FromStr;

use burn::tensor::DType;
use glm_models::model::Parts;

/// Choices for a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Dtype of weights, activations and cache.
    pub dtype: DtypeChoice,
    /// Most prompt tokens computed in one step.
    pub prefill_chunk: usize,
    /// Most tokens of a sequence; the model's own limit when `None`.
    pub max_context: Option<usize>,
    /// Which parts of the checkpoint are loaded.
    pub parts: Parts,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            dtype: DtypeChoice::Auto,
            prefill_chunk: 256,
            max_context: None,
            parts: Parts::Main,
        }
    }
}

/// A dtype as the user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeChoice {
    /// The checkpoint's where the device has it and is not slow in it, else the nearest.
    #[default]
    Auto,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl DtypeChoice {
    /// The dtype asked for; `None` for `Auto`.
    pub fn dtype(self) -> Option<DType> {
        match self {
            DtypeChoice::Auto => None,
            DtypeChoice::Bf16 => Some(DType::BF16),
            DtypeChoice::F16 => Some(DType::F16),
            DtypeChoice::F32 => Some(DType::F32),
        }
    }
}

impl FromStr for DtypeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(DtypeChoice::Auto),
            "bf16" => Ok(DtypeChoice::Bf16),
            "f16" => Ok(DtypeChoice::F16),
            "f32" => Ok(DtypeChoice::F32),
            other => Err(format!("`{other}` is no dtype, wanted auto, bf16, f16 or f32")),
        }
    }
}

impl fmt::Display for DtypeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DtypeChoice::Auto => "auto",
            DtypeChoice::Bf16 => "bf16",
            DtypeChoice::F16 => "f16",
            DtypeChoice::F32 => "f32",
        })
    }
}
