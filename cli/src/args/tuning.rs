//! How the engine shares out time and memory.

use clap::Args as ClapArgs;
use glm_runtime::{DraftChoice, EngineConfig, KvDtypeChoice, OnPanic};

/// Choices for cache, drafts and steps.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Engine")]
pub(crate) struct TuningArgs {
    /// Tokens that the model's own draft layer guesses ahead: auto (as many as pay off) or 0 to 4
    #[arg(long, value_name = "auto|0..4", default_value = "auto", hide_short_help = true)]
    pub(crate) drafts: DraftChoice,
    /// Most tokens of a sequence, prompt and answer together [default: the model's limit]
    #[arg(long, value_name = "TOKENS", value_parser = super::at_least_one, hide_short_help = true)]
    pub(crate) max_context: Option<usize>,
    /// Number format of the KV cache: auto (that of the computation), bf16, f16, f32 or fp8
    #[arg(long, default_value = "auto", hide_short_help = true)]
    pub(crate) kv_dtype: KvDtypeChoice,
    /// Share of the device's memory that weights and cache may take [default: 0.9; on the CPU the
    /// cache may take half of what is free]
    #[arg(long, value_name = "SHARE", value_parser = memory_fraction, hide_short_help = true)]
    pub(crate) memory_fraction: Option<f64>,
    /// Most prompt tokens computed in one step
    #[arg(long, value_name = "TOKENS", value_parser = super::at_least_one,
          default_value_t = EngineConfig::default().prefill_chunk, hide_short_help = true)]
    pub(crate) prefill_chunk: usize,
    /// Bit for bit the same answer whatever else is computed; slower, see the README
    #[arg(long, hide_short_help = true)]
    pub(crate) deterministic: bool,
    /// Compute every prompt anew, also where it begins like an earlier one
    #[arg(long, hide_short_help = true)]
    pub(crate) no_prefix_cache: bool,
    /// Launch every kernel of every step, instead of replaying recorded steps; for finding errors
    #[arg(long, hide_short_help = true)]
    pub(crate) no_graph: bool,
    /// Compute by Burn's own kernels instead of those of glm; slow, for finding errors
    #[arg(long, hide_short_help = true)]
    pub(crate) reference_ops: bool,
    /// After a panic of the engine: restart (with an empty cache) or stop
    #[arg(long, default_value = "restart", hide_short_help = true)]
    pub(crate) on_panic: OnPanic,
}

impl TuningArgs {
    /// Takes the choices over.
    pub(crate) fn apply(&self, config: &mut EngineConfig) {
        config.drafts = self.drafts;
        config.max_context = self.max_context;
        config.kv_dtype = self.kv_dtype;
        config.memory_fraction = self.memory_fraction;
        config.prefill_chunk = self.prefill_chunk;
        config.deterministic = self.deterministic;
        config.prefix_cache = !self.no_prefix_cache;
        config.record_steps = !self.no_graph;
        config.reference_ops = self.reference_ops;
        config.on_panic = self.on_panic;
    }
}

pub(super) fn memory_fraction(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match number > 0.0 && number <= 1.0 {
        true => Ok(number),
        false => Err("must be more than 0 and at most 1".to_owned()),
    }
}
