use clap::{Args as ClapArgs, ValueEnum};
use glm_models::plan::GpuChoice;
use glm_runtime::{DtypeChoice, QuantChoice};

use super::{SourceArgs, at_least_one, positive_wide};

const PLAN_EXAMPLES: &str = "\
Examples:
  glm plan zai-org/GLM-4.5-Air                    what it needs, on which GPUs
  glm plan zai-org/GLM-4.7-FP8 --gpu 8xH200       does it fit, how much context
  glm plan ./config.json --gpu 2xMI300X --context 131072 --batch 8 --kv-dtype fp8
  glm plan zai-org/GLM-4.7-Flash --quant fp8 --gpu 2x --gpu-memory 24 --bandwidth 900

MODEL is a folder, a hub id (owner/name) or the path of a config.json. Only config.json
and the list of the shards are read: no weights, no GPU.

--json prints one object, sizes in bytes; null is what has no --gpu to be asked of, or does
not fit:
  fits, devices_needed       whether it fits --gpu, and the fewest devices it fits on
  weights_bytes              all weights in one copy; weights_bytes_by_part
  weights_bytes_by_format    the same in other number formats
  kv_bytes_per_token         of all layers, in one copy; kv_bytes for --context and --batch
  max_context                the longest context at which --batch sequences fit
  decode_bound_tokens_per_s  of --batch sequences together; …_batch_1 of a single one
  split, per_device          how it is divided, and what each device holds
  gpus                       devices_needed and so on of common GPUs, without --gpu
also model, family, parameters, dtype, quantization, kv_dtype, mtp, context, batch,
checkpoint_bytes (by config.json), index_bytes (by the list of the shards), gpu.";

#[derive(Debug, ClapArgs)]
#[command(after_help = PLAN_EXAMPLES, allow_negative_numbers = true,
          override_usage = "glm plan [OPTIONS] [MODEL]")]
pub(crate) struct PlanArgs {
    /// Folder, hub id or config.json of the model [default: the built-in glm-tiny]
    pub(crate) model: Option<String>,
    /// Kind and number of GPUs, as in 8xH100 or H200 (as many as needed)
    #[arg(long, value_name = "[N x] NAME", help_heading = "GPU")]
    pub(crate) gpu: Option<GpuChoice>,
    /// Usable memory of each GPU, in units of 10⁹ bytes, for kinds that are not known; --gpu 8x
    /// says how many
    #[arg(long, value_name = "GB", value_parser = positive_wide, help_heading = "GPU")]
    pub(crate) gpu_memory: Option<f64>,
    /// Memory bandwidth of each GPU
    #[arg(long, value_name = "GB/s", value_parser = positive_wide, help_heading = "GPU")]
    pub(crate) bandwidth: Option<f64>,
    /// Tokens of each sequence, prompt and answer [default: 32768, or the model's limit]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one, help_heading = "Use")]
    pub(crate) context: Option<usize>,
    /// Sequences at a time
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one,
          help_heading = "Use")]
    pub(crate) batch: usize,
    /// Number format to compute in: auto (the checkpoint's), bf16, f16 or f32
    #[arg(long, default_value = "auto", help_heading = "Use")]
    pub(crate) dtype: DtypeChoice,
    /// Quantise the weights while loading: none, fp8, q8 or q4 (8, 8.5 or 4.5 bits a weight)
    #[arg(long, default_value = "none", help_heading = "Use")]
    pub(crate) quant: QuantChoice,
    /// Number format of the KV cache; auto is that of --dtype
    #[arg(long, value_enum, default_value_t = KvDtype::Auto, help_heading = "Use")]
    pub(crate) kv_dtype: KvDtype,
    /// Count the multi-token-prediction layer too
    #[arg(long, help_heading = "Use")]
    pub(crate) mtp: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvDtype {
    Auto,
    Bf16,
    F16,
    F32,
    Fp8,
}
