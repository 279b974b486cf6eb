//! What the engine is told when it starts.

use std::fmt;
use std::str::FromStr;

use burn::tensor::DType;
use glm_backends::groups::Bits;
use glm_models::model::Parts;
use glm_models::weights::{Fp8Numerics, Quantise};

use crate::error::EngineError;

/// Choices for a loaded model.
#[derive(Debug, Clone, PartialEq)]
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
    /// What the KV cache is stored in.
    pub kv_dtype: KvDtypeChoice,
    /// Share of the device's memory that weights and cache may take, above 0 and at most 1; 0.9,
    /// and half of what is free for the cache on the CPU, when `None`.
    pub memory_fraction: Option<f64>,
    /// Most tokens that the cache has room for; what memory allows when `None`.
    pub kv_tokens: Option<usize>,
    /// Sequences that are computed at once, 1 to [`EngineConfig::MOST_SEQUENCES`].
    pub max_batch: usize,
    /// Tokens that the multi-token-prediction layer drafts ahead.
    pub drafts: DraftChoice,
    /// Bit for bit the same answer to the same request, whatever else is computed: every sequence
    /// is computed by itself, in steps of a fixed shape, and nothing is drafted.
    pub deterministic: bool,
    /// Whether prompts that begin alike share what was computed for the first of them.
    pub prefix_cache: bool,
    /// What follows a panic on the engine's thread.
    pub on_panic: OnPanic,
    /// Steps that are launched before the oldest of them is read, 1 or 2; what suits the device
    /// when `None`.
    pub steps_in_flight: Option<usize>,
    /// On the CPU, leave float weights, experts included, where their files are mapped instead of
    /// copying them to large pages: they take no memory of their own and are read more slowly. What
    /// is joined or quantised is copied.
    pub mmap: bool,
    /// Threads that compute on the CPU; its physical cores when `None`.
    pub threads: Option<usize>,
    /// Wait for the device after each part of a step, so that [`Stats`](crate::Stats) can tell
    /// where the time goes; costs speed on GPUs.
    pub profile: bool,
    /// Compute by the references of the ops instead of kernels, for the whole process: to find out
    /// where a wrong number comes from.
    pub reference_ops: bool,
    /// Record the launches of short steps and run the recording for the next step of its shape,
    /// where the device can.
    pub record_steps: bool,
}

impl EngineConfig {
    /// Most sequences that are computed at once.
    pub const MOST_SEQUENCES: usize = 1024;

    /// Checks every number.
    ///
    /// # Errors
    /// [`EngineError::Config`] for the first that is out of range.
    pub fn validate(&self) -> Result<(), EngineError> {
        let check = |ok: bool, name, found: String, wanted: String| match ok {
            true => Ok(()),
            false => Err(EngineError::Config { name, found, wanted }),
        };
        let most = EngineConfig::MOST_SEQUENCES;
        let count = |most: usize| format!("a number from 1 to {most}");
        check(
            (1..=most).contains(&self.max_batch),
            "max-batch",
            self.max_batch.to_string(),
            count(most),
        )?;
        check(
            (1..=1 << 20).contains(&self.prefill_chunk),
            "prefill-chunk",
            self.prefill_chunk.to_string(),
            count(1 << 20),
        )?;
        check(
            self.max_context.is_none_or(|context| context >= 2),
            "max-context",
            self.max_context.unwrap_or_default().to_string(),
            "at least 2 tokens".into(),
        )?;
        let fraction = self.memory_fraction.unwrap_or(1.0);
        check(
            fraction > 0.0 && fraction <= 1.0,
            "memory-fraction",
            fraction.to_string(),
            "a number above 0 and at most 1".into(),
        )?;
        let DraftChoice::Fixed(drafts) = self.drafts else { return Ok(()) };
        check(
            drafts == 0 || !self.deterministic,
            "drafts",
            drafts.to_string(),
            "auto or 0: with deterministic nothing is drafted".into(),
        )?;
        check(
            drafts <= DraftChoice::MOST,
            "drafts",
            drafts.to_string(),
            format!("auto or a number from 0 to {}", DraftChoice::MOST),
        )
    }
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
            kv_dtype: KvDtypeChoice::Auto,
            memory_fraction: None,
            kv_tokens: None,
            max_batch: 32,
            drafts: DraftChoice::Auto,
            deterministic: false,
            prefix_cache: true,
            on_panic: OnPanic::Restart,
            steps_in_flight: None,
            threads: None,
            mmap: false,
            profile: false,
            reference_ops: false,
            record_steps: true,
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
    /// The same become bytes in groups of 32 columns with a scale.
    Q8,
    /// The same in four bits.
    Q4,
}

impl QuantChoice {
    /// What it comes to.
    pub fn quantise(self) -> Quantise {
        match self {
            QuantChoice::None => Quantise::No,
            QuantChoice::Fp8 => Quantise::Fp8,
            QuantChoice::Q8 => Quantise::Groups(Bits::Eight),
            QuantChoice::Q4 => Quantise::Groups(Bits::Four),
        }
    }
}

impl FromStr for QuantChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(QuantChoice::None),
            "fp8" => Ok(QuantChoice::Fp8),
            "q8" => Ok(QuantChoice::Q8),
            "q4" => Ok(QuantChoice::Q4),
            other => Err(format!("`{other}` is not known, wanted none, fp8, q8 or q4")),
        }
    }
}

impl fmt::Display for QuantChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuantChoice::None => "none",
            QuantChoice::Fp8 => "fp8",
            QuantChoice::Q8 => "q8",
            QuantChoice::Q4 => "q4",
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

impl KvDtypeChoice {
    /// The float dtype asked for; `None` for `Auto` and `Fp8`.
    pub fn dtype(self) -> Option<DType> {
        match self {
            KvDtypeChoice::Auto | KvDtypeChoice::Fp8 => None,
            KvDtypeChoice::Bf16 => Some(DType::BF16),
            KvDtypeChoice::F16 => Some(DType::F16),
            KvDtypeChoice::F32 => Some(DType::F32),
        }
    }
}

impl FromStr for KvDtypeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(KvDtypeChoice::Auto),
            "bf16" => Ok(KvDtypeChoice::Bf16),
            "f16" => Ok(KvDtypeChoice::F16),
            "f32" => Ok(KvDtypeChoice::F32),
            "fp8" => Ok(KvDtypeChoice::Fp8),
            other => Err(format!("`{other}` is not known, wanted auto, bf16, f16, f32 or fp8")),
        }
    }
}

impl fmt::Display for KvDtypeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvDtypeChoice::Auto => "auto",
            KvDtypeChoice::Bf16 => "bf16",
            KvDtypeChoice::F16 => "f16",
            KvDtypeChoice::F32 => "f32",
            KvDtypeChoice::Fp8 => "fp8",
        })
    }
}

impl FromStr for DraftChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = || format!("`{text}` is not known, wanted auto or 0 to {}", Self::MOST);
        match text {
            "auto" => Ok(DraftChoice::Auto),
            number => {
                let drafts = number.parse().ok().filter(|drafts| *drafts <= Self::MOST);
                drafts.map(DraftChoice::Fixed).ok_or_else(wanted)
            }
        }
    }
}

impl fmt::Display for DraftChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DraftChoice::Auto => f.write_str("auto"),
            DraftChoice::Fixed(drafts) => write!(f, "{drafts}"),
        }
    }
}

impl FromStr for OnPanic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "restart" => Ok(OnPanic::Restart),
            "stop" => Ok(OnPanic::Stop),
            other => Err(format!("`{other}` is not known, wanted restart or stop")),
        }
    }
}

impl fmt::Display for OnPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnPanic::Restart => "restart",
            OnPanic::Stop => "stop",
        })
    }
}
