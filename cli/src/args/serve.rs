//! `glm serve`: where it listens, who may ask, and the flags of other engines' launch lines.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use glm_runtime::{DraftChoice, EngineConfig};

use super::{EngineArgs, SourceArgs, TuningArgs, at_least_one, positive_wide};

const EXAMPLES: &str = "\
Examples:
  glm serve                                    the built-in model, to try things out
  glm serve zai-org/GLM-4.7-Flash --backend cuda
  glm serve ./my-model --host 0.0.0.0 --api-key-file keys.txt
  glm serve zai-org/GLM-4.7-FP8 --served-model-name glm-4.7-fp8 --drafts 1

The APIs of OpenAI (/v1/chat/completions, /v1/completions, /v1/responses) and Anthropic
(/v1/messages), a page to chat at /, and a list of all routes at /openapi.json. Templates,
parsers of thoughts and of tool calls follow from the model: there is no flag to set.

Flags of vLLM's and SGLang's launch lines are taken with their meaning: --help lists them.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES, override_usage = "glm serve [OPTIONS] [MODEL]")]
pub(crate) struct ServerArgs {
    /// Folder or hub id of the model [default: the built-in glm-tiny]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) compatible: CompatibleArgs,
}

/// Addresses, names and keys.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Server")]
pub(crate) struct ListenArgs {
    /// Address to listen on; beyond this machine only with a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = host)]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes any that is free
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Name of the model in the APIs (several: all are answered to) [default: MODEL as given]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) served_model_name: Vec<String>,
    /// Key that clients have to send (repeatable)
    #[arg(long, value_name = "KEY", env = "GLM_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Vec<String>,
    /// File with keys, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Let everybody in who can reach the address
    #[arg(long)]
    pub(crate) insecure_no_auth: bool,
    /// Certificates in PEM, for https
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Key of the certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Name under which this machine may be asked besides its own (repeatable)
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub(crate) allowed_host: Vec<String>,
    /// Origin whose pages may ask, or * for all (repeatable)
    #[arg(long, value_name = "ORIGIN", hide_short_help = true)]
    pub(crate) cors_origin: Vec<String>,
    /// How requests are logged
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also by module as in RUST_LOG
    #[arg(long, value_name = "LEVEL", default_value = "info", hide_short_help = true)]
    pub(crate) log_level: String,
    /// Collector of OpenTelemetry that spans of answers are sent to, over HTTP
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_short_help = true)]
    pub(crate) otlp_endpoint: Option<String>,
    /// Only glm_* metrics, without vLLM's names besides
    #[arg(long, hide_short_help = true)]
    pub(crate) no_vllm_metrics: bool,
    /// Keep the line of Claude Code's system prompt that differs in each request, although no
    /// prompt is found in the cache then
    #[arg(long, hide_short_help = true)]
    pub(crate) keep_billing_line: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
    Off,
}

/// How much is taken on at once.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Sequences that are computed at once
    #[arg(long, visible_alias = "max-num-seqs", visible_alias = "max-running-requests",
          value_name = "N", default_value_t = EngineConfig::default().max_batch,
          value_parser = at_least_one)]
    pub(crate) max_batch: usize,
    /// Answers that may wait for a place; more are refused with 429
    #[arg(long, visible_alias = "max-queued-requests", value_name = "N", default_value_t = 256)]
    pub(crate) max_queue: usize,
    /// Longest time of a request; it ends with what it has by then [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = positive_wide)]
    pub(crate) request_timeout: Option<f64>,
    /// How long answers in flight may go on when the server is asked to stop
    #[arg(long, visible_alias = "shutdown-timeout", value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain: u64,
}

/// Flags of vLLM and SGLang that have another name here, or none.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "As other engines call it")]
pub(crate) struct CompatibleArgs {
    /// MODEL
    #[arg(long, value_name = "MODEL", hide_short_help = true, conflicts_with = "model")]
    pub(crate) model_path: Option<String>,
    /// Devices that share the model: one, so far
    #[arg(long, visible_alias = "tp-size", visible_alias = "tp", value_name = "N",
          hide_short_help = true, value_parser = one_device)]
    pub(crate) tensor_parallel_size: Option<usize>,
    /// mtp: drafts by the model's own layer, which is --drafts
    #[arg(long = "speculative-config.method", value_name = "METHOD", hide_short_help = true,
          value_parser = ["mtp"])]
    pub(crate) speculative_method: Option<String>,
    /// --drafts
    #[arg(long = "speculative-config.num_speculative_tokens", value_name = "N",
          hide_short_help = true, conflicts_with = "drafts", value_parser = drafts)]
    pub(crate) num_speculative_tokens: Option<usize>,
    /// EAGLE (or NEXTN): drafts by the model's own layer, which is --drafts
    #[arg(long, value_name = "NAME", hide_short_help = true, ignore_case = true,
          value_parser = ["EAGLE", "NEXTN"])]
    pub(crate) speculative_algorithm: Option<String>,
    /// --drafts
    #[arg(long, value_name = "N", hide_short_help = true,
          conflicts_with_all = ["drafts", "num_speculative_tokens"], value_parser = drafts)]
    pub(crate) speculative_num_steps: Option<usize>,
    /// Drafts are a chain: 1
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = ["1"])]
    pub(crate) speculative_eagle_topk: Option<String>,
    /// --drafts, and one more: the token that is sampled
    #[arg(long, value_name = "N", hide_short_help = true,
          conflicts_with_all = ["drafts", "num_speculative_tokens"], value_parser = draft_tokens)]
    pub(crate) speculative_num_draft_tokens: Option<usize>,
    /// --memory-fraction
    #[arg(long, visible_alias = "gpu-memory-utilization", value_name = "SHARE",
          hide_short_help = true, conflicts_with = "memory_fraction",
          value_parser = super::tuning::memory_fraction)]
    pub(crate) mem_fraction_static: Option<f64>,
    /// --max-context
    #[arg(long, visible_alias = "context-length", value_name = "TOKENS", hide_short_help = true,
          conflicts_with = "max_context", value_parser = at_least_one)]
    pub(crate) max_model_len: Option<usize>,
    /// Tools are called whenever a request declares some
    #[arg(long, hide_short_help = true)]
    pub(crate) enable_auto_tool_choice: bool,
    /// The model says how calls are written: glm45 and glm47 are one parser
    #[arg(long, value_name = "NAME", hide_short_help = true, value_parser = ["glm", "glm45", "glm47"])]
    pub(crate) tool_call_parser: Option<String>,
    /// The prompt says where a thought begins: glm45 and glm47 are one parser
    #[arg(long, value_name = "NAME", hide_short_help = true, value_parser = ["glm", "glm45", "glm47"])]
    pub(crate) reasoning_parser: Option<String>,
}

impl CompatibleArgs {
    /// Drafts by one of their names, or what contradicts itself.
    pub(crate) fn drafts(&self) -> Result<Option<usize>, String> {
        let by_tokens = self.speculative_num_draft_tokens.map(|tokens| tokens - 1);
        match (self.speculative_num_steps, by_tokens) {
            (Some(steps), Some(drafts)) if steps != drafts => Err(format!(
                "--speculative-num-steps {steps} makes a chain of {steps} drafts, and \
                 --speculative-num-draft-tokens {} asks for {drafts}: with one draft a step, wanted {}",
                drafts + 1,
                steps + 1
            )),
            (steps, drafts) => Ok(self.num_speculative_tokens.or(steps).or(drafts)),
        }
    }
}

fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        text => text
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| "not an address such as 127.0.0.1, 0.0.0.0 or ::1".to_owned()),
    }
}

fn one_device(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(1) => Ok(1),
        Ok(_) => Err("the model is computed on one device: more do not exist yet here".to_owned()),
        Err(_) => Err("not a whole number".to_owned()),
    }
}

fn drafts(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= DraftChoice::MOST);
    number.ok_or_else(|| format!("must be a whole number from 0 to {}", DraftChoice::MOST))
}

fn draft_tokens(text: &str) -> Result<usize, String> {
    let most = DraftChoice::MOST + 1;
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("must be a whole number from 1 to {most}"))
}
