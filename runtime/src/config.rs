//! What the engine is told when it starts.

use std::fmt;
use std::str::FromStr;

use burn::tensor::DType;
use glm_models::model::Parts;
use glm_models::weights::{Fp8Numerics, Quantise};

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
    /// What FP8 weights are multiplied with.
    pub fp8: Fp8Choice,
    /// What weights that are stored in floats become.
    pub quant: QuantChoice,
    /// Whether NaN and infinite weights are taken as they are.
    pub allow_nan: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            dtype: DtypeChoice::Auto,
            prefill_chunk: 256,
            max_context: None,
            parts: Parts::Main,
            fp8: Fp8Choice::Auto,
            quant: QuantChoice::None,
            allow_nan: false,
        }
    }
}

/// The numerics of FP8 weights as the user names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fp8Choice {
    /// `W8a16`: it is the more exact one, and no device here computes the other one faster yet.
    #[default]
    Auto,
    /// FP8 weights, activations in the model's dtype.
    W8a16,
    /// FP8 weights and, token by token, FP8 activations, as FP8 checkpoints are meant.
    W8a8,
}

impl Fp8Choice {
    /// What it comes to.
    pub fn numerics(self) -> Fp8Numerics {
        match self {
            Fp8Choice::Auto | Fp8Choice::W8a16 => Fp8Numerics::W8a16,
            Fp8Choice::W8a8 => Fp8Numerics::W8a8,
        }
    }
}

impl FromStr for Fp8Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Fp8Choice::Auto),
            "w8a16" => Ok(Fp8Choice::W8a16),
            "w8a8" => Ok(Fp8Choice::W8a8),
            other => Err(format!("`{other}` is not known, wanted auto, w8a16 or w8a8")),
        }
    }
}

impl fmt::Display for Fp8Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fp8Choice::Auto => "auto",
            Fp8Choice::W8a16 => "w8a16",
            Fp8Choice::W8a8 => "w8a8",
        })
    }
}

/// Quantisation on loading as the user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuantChoice {
    /// Weights stay as they are stored.
    #[default]
    None,
    /// Linear layers but head, router and `eh_proj` become FP8 with one scale an output channel.
    Fp8,
}

impl QuantChoice {
    /// What it comes to.
    pub fn quantise(self) -> Quantise {
        match self {
            QuantChoice::None => Quantise::No,
            QuantChoice::Fp8 => Quantise::Fp8,
        }
    }
}

impl FromStr for QuantChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(QuantChoice::None),
            "fp8" => Ok(QuantChoice::Fp8),
            other => Err(format!("`{other}` is not known, wanted none or fp8")),
        }
    }
}

impl fmt::Display for QuantChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuantChoice::None => "none",
            QuantChoice::Fp8 => "fp8",
        })
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

/// What the KV cache is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvDtypeChoice {
    /// The dtype of the computation.
    #[default]
    Auto,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// E4M3 with a scale for each token and head, or each latent.
    Fp8,
}

/// How many tokens the multi-token-prediction layer drafts ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DraftChoice {
    /// As many as pay off, by measured acceptance and step cost; perhaps none.
    #[default]
    Auto,
    /// Always this many, 0 to [`DraftChoice::MOST`].
    Fixed(usize),
}

impl DraftChoice {
    /// Most drafts in a step.
    pub const MOST: usize = 4;
}

/// What follows a panic on the engine's thread, once all requests in flight have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnPanic {
    /// Go on with an empty cache and new requests.
    #[default]
    Restart,
    /// Refuse all further requests.
    Stop,
}
