//! `glm bench`: what is measured, and how.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use glm_runtime::EngineConfig;

use super::{EngineArgs, SourceArgs, TuningArgs, at_least_one, positive_wide};

const BENCH_EXAMPLES: &str = "\
Examples:
  glm bench latency ./GLM-4.7-Flash --depth 0,4096,32768
  glm bench throughput zai-org/GLM-4.5-Air --load-format dummy --requests 256
  glm bench sweep ./my-model --streams 1,2,4,8,16,32 --plot speed.svg
  glm bench serve --url http://127.0.0.1:8000 --rate 0.5,1,2 --goal-ttft-ms 2000

The table (or with --json one object) goes to standard output, all else to standard error.
Keys of each row of --json, null where it does not apply:
  ttft_ms, tpot_ms            medians: time to first token, time per token after it
  itl_ms                      {mean, p50, p90, p95, p99} of the gaps between what came
  ttft_percentiles_ms, tpot_percentiles_ms, e2e_percentiles_ms
  output_tokens_per_s, total_tokens_per_s, requests_per_s, goodput_per_s
  bandwidth_share, flop_share what had to be read and multiplied, as shares of what a copy
                              and a product of matrices reach on this device
  bound_share                 the least time that both allow, as a share of the time it took
  parts                       where the time went: weights, kv (both at the speed of the
                              memory), kernels (the rest of the layers), sampling, drafting,
                              host, waiting
  device_idle_share           time in which there was work and the device had none
  drafts                      {drafted, accepted, acceptance}, by place
  replayed_steps              steps that ran as a recording; not_recorded says why none did
  launches_per_step           kernels of the layers of a short step without a recording
Tokens of latency's time to first token are those of --prompt-tokens; its bandwidth_share is
that of the answer, its flop_share that of the prompt.";

#[derive(Debug, ClapArgs)]
#[command(after_help = BENCH_EXAMPLES, override_usage = "glm bench <WHAT> [OPTIONS] [MODEL]")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: Bench,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// One stream: time to the first token and per token, at depths of the context
    #[command(after_help = BENCH_EXAMPLES, override_usage = "glm bench latency [OPTIONS] [MODEL]")]
    Latency(Box<LatencyArgs>),
    /// Many requests that are all there from the start
    #[command(after_help = BENCH_EXAMPLES,
              override_usage = "glm bench throughput [OPTIONS] [MODEL]")]
    Throughput(Box<ThroughputArgs>),
    /// Rising numbers of streams, each with one request after the other
    #[command(after_help = BENCH_EXAMPLES, override_usage = "glm bench sweep [OPTIONS] [MODEL]")]
    Sweep(Box<SweepArgs>),
    /// Requests that arrive at random times, at any OpenAI-compatible server
    #[command(after_help = BENCH_EXAMPLES,
              override_usage = "glm bench serve --url URL [OPTIONS]")]
    Serve(Box<ServeArgs>),
}

/// What every benchmark of an engine takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct BenchModelArgs {
    /// Folder, hub id, or (with --load-format dummy) config.json of the model [default: the
    /// built-in glm-tiny]
    pub(crate) model: Option<String>,
    /// Sequences that are computed at once
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_batch,
          value_parser = at_least_one, help_heading = "Engine")]
    pub(crate) max_batch: usize,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// How results are shown.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Output")]
pub(crate) struct BenchOutputArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Also say how many kernels a step of few tokens launches where it is not a recording
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Also draw the results
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Seed of prompts and arrival times
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    pub(crate) model: BenchModelArgs,
    /// Tokens of the prompt whose time to first token is taken
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = at_least_one)]
    pub(crate) prompt_tokens: usize,
    /// Tokens of the answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = at_least_two)]
    pub(crate) output_tokens: usize,
    /// Tokens that are in the cache before the prompt, rounded down to whole pages of 64
    #[arg(long, value_name = "TOKENS,…", default_value = "0", value_delimiter = ',')]
    pub(crate) depth: Vec<usize>,
    /// Times that each depth is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    pub(crate) repeat: usize,
    #[command(flatten)]
    pub(crate) output: BenchOutputArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ThroughputArgs {
    #[command(flatten)]
    pub(crate) model: BenchModelArgs,
    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    pub(crate) requests: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least_one)]
    pub(crate) prompt_tokens: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = at_least_two)]
    pub(crate) output_tokens: usize,
    #[command(flatten)]
    pub(crate) output: BenchOutputArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    pub(crate) model: BenchModelArgs,
    /// Numbers of streams, one after the other
    #[arg(long, value_name = "N,…", default_value = "1,2,4,8,16,32", value_delimiter = ',',
          value_parser = at_least_one)]
    pub(crate) streams: Vec<usize>,
    /// Requests of each stream
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
    pub(crate) requests: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = at_least_one)]
    pub(crate) prompt_tokens: usize,
    /// Tokens of each stream that are in the cache before its prompts, rounded down to whole
    /// pages of 64
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) depth: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = at_least_two)]
    pub(crate) output_tokens: usize,
    #[command(flatten)]
    pub(crate) output: BenchOutputArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Address of the server, as http://HOST:PORT
    #[arg(long)]
    pub(crate) url: String,
    /// Name of the model [default: the first one that the server names]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Environment variable that holds the server's API key [default: no key is sent]
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) key_from: Option<String>,
    /// Which API is asked
    #[arg(long, value_enum, default_value_t = EndpointChoice::Chat)]
    pub(crate) endpoint: EndpointChoice,
    /// Requests per second in the mean, one rate after the other; inf sends all at once
    #[arg(long, value_name = "RATE,…", default_value = "1", value_delimiter = ',',
          value_parser = rate)]
    pub(crate) rate: Vec<f64>,
    /// Requests at each rate
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one)]
    pub(crate) requests: usize,
    /// Words of each made-up prompt, about one token each
    #[arg(long, value_name = "WORDS", default_value_t = 256, value_parser = at_least_one)]
    pub(crate) prompt_tokens: usize,
    /// Take the prompts from the lines of this file instead, from the start again after the last
    #[arg(long, value_name = "FILE", conflicts_with = "prompt_tokens")]
    pub(crate) prompts: Option<PathBuf>,
    /// Tokens of each answer; fewer where the server does not know ignore_eos
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = at_least_one)]
    pub(crate) output_tokens: usize,
    /// Requests under way at most; others are sent when one of them has ended
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub(crate) max_concurrency: usize,
    /// A request on which nothing comes for so long has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, value_parser = positive_wide)]
    pub(crate) timeout: f64,
    /// Most time to the first token of a good answer
    #[arg(long, value_name = "MS", value_parser = positive_wide, help_heading = "Goodput")]
    pub(crate) goal_ttft_ms: Option<f64>,
    /// Most time per token of a good answer
    #[arg(long, value_name = "MS", value_parser = positive_wide, help_heading = "Goodput")]
    pub(crate) goal_tpot_ms: Option<f64>,
    /// Most time to the end of a good answer
    #[arg(long, value_name = "MS", value_parser = positive_wide, help_heading = "Goodput")]
    pub(crate) goal_e2e_ms: Option<f64>,
    #[command(flatten)]
    pub(crate) output: BenchOutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EndpointChoice {
    /// /v1/chat/completions
    Chat,
    /// /v1/completions
    Completions,
}

fn at_least_two(text: &str) -> Result<usize, String> {
    let number = at_least_one(text).ok().filter(|number| *number > 1);
    number.ok_or_else(|| format!("must be a whole number from 2 to {}", 1 << 24))
}

fn rate(text: &str) -> Result<f64, String> {
    if text == "inf" {
        return Ok(f64::INFINITY);
    }
    positive_wide(text).map_err(|reason| format!("{reason}, or inf"))
}
