//! What the user typed. No work and no I/O happens here: [`crate::resolve`] turns it
//! into what the engine needs.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use glm_backends::device::Selection;
use glm_runtime::{DtypeChoice, Fp8Choice, QuantChoice};

mod bench;
mod doctor;
mod inspect;
mod plan;
mod serve;
mod tuning;

pub(crate) use bench::{
    Bench, BenchArgs, BenchModelArgs, BenchOutputArgs, EndpointChoice, LatencyArgs, ServeArgs,
    SweepArgs, ThroughputArgs,
};
pub(crate) use doctor::DoctorArgs;
pub(crate) use inspect::InspectArgs;
pub(crate) use plan::{KvDtype, PlanArgs};
pub(crate) use serve::{ListenArgs, LogFormat, ServerArgs};
pub(crate) use tuning::TuningArgs;

const EXAMPLES: &str = "\
Examples:
  glm run \"What is 7 + 5?\"             ask the built-in demonstration model
  glm run                               the same, as a chat
  glm run zai-org/GLM-4.5-Air \"Hello\"  a model from the hub
  glm run ./my-model < question.txt     a local folder, prompt from a file
  glm serve ./my-model                  answer over HTTP
  glm devices                           what this machine can run on
  glm doctor                            does it work, and what is missing
  glm inspect ./my-model                size and shape of a model
  glm plan zai-org/GLM-4.7 --gpu 8xH200 does it fit, how fast can it be
  glm bench latency ./my-model          how fast is it here";

const RUN_EXAMPLES: &str = "\
Examples:
  glm run \"What is 7 + 5?\"
  glm run zai-org/GLM-4.5-Air --backend cuda:0 \"Write a haiku\"
  glm run -m ./my-model --temperature 0.7 --seed 1 \"Write a haiku\"
  glm run --messages conversation.json --json > answer.json
  echo \"Once upon a time\" | glm run --raw --max-tokens 50

MODEL is a folder, or a hub id (owner/name). A single argument is the PROMPT, unless
it is an existing folder or has the form owner/name; after -m it is always the PROMPT.

The answer goes to standard output, everything else to standard error. Exit codes:
0 done, 1 error, 2 wrong usage, 130 interrupted.";

/// Run GLM-4 MoE models on CPU, CUDA, ROCm and Vulkan.
#[derive(Debug, Parser)]
#[command(name = "glm", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer a prompt, or chat when no prompt is given on a terminal
    Run(Box<RunArgs>),
    /// Answer over HTTP: the APIs of OpenAI and Anthropic, and a page to chat
    Serve(Box<ServerArgs>),
    /// Show the size and shape of a model, or its logits for debugging
    Inspect(InspectArgs),
    /// Say what a model needs: memory, GPUs, context, and the speed that memory allows
    Plan(PlanArgs),
    /// Measure how fast a model answers, alone or many at once, here or over HTTP
    Bench(BenchArgs),
    /// List the devices that each backend sees
    Devices(DevicesArgs),
    /// Try the devices of this machine, and say what to install where something is missing
    Doctor(DoctorArgs),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = RUN_EXAMPLES, allow_negative_numbers = true,
          override_usage = "glm run [OPTIONS] [MODEL] [PROMPT]")]
pub(crate) struct RunArgs {
    /// Folder or hub id of the model [default: the built-in glm-tiny]
    #[arg(value_name = "MODEL")]
    pub(crate) first: Option<String>,
    /// What to answer [default: standard input, or a chat on a terminal]
    #[arg(value_name = "PROMPT")]
    pub(crate) second: Option<String>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) stopping: StoppingArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// The same as MODEL; what follows is the PROMPT in any case
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Where a hub id is looked up.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Model")]
pub(crate) struct SourceArgs {
    /// Branch, tag or commit of a hub model [default: main, or master on ModelScope]
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Where hub ids are looked up
    #[arg(long, value_enum, default_value_t = Hub::Huggingface)]
    pub(crate) hub: Hub,
}

/// What computes.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Model")]
pub(crate) struct EngineArgs {
    /// auto, cpu, wgpu, vulkan, gl, cuda or rocm, with an optional :index
    #[arg(long, default_value = "auto")]
    pub(crate) backend: Selection,
    /// Number format to compute in: auto (the checkpoint's), bf16, f16 or f32
    #[arg(long, default_value = "auto")]
    pub(crate) dtype: DtypeChoice,
    /// Quantise the weights while loading: none, fp8, or on the CPU q8 or q4
    #[arg(long, default_value = "none")]
    pub(crate) quant: QuantChoice,
    /// Threads that compute on the CPU [default: its physical cores]
    #[arg(long, value_name = "N", value_parser = at_least_one, hide_short_help = true)]
    pub(crate) threads: Option<usize>,
    /// On the CPU, leave float weights in the mapped file, experts included: starts at once and takes
    /// less memory, but computes more slowly
    #[arg(long, hide_short_help = true)]
    pub(crate) mmap: bool,
    /// FP8 weights with float (w8a16) or FP8 activations (w8a8); auto is w8a16
    #[arg(long, default_value = "auto", hide_short_help = true)]
    pub(crate) fp8: Fp8Choice,
    /// dummy: random weights from config.json alone, for timing a model without its download
    #[arg(long, value_enum, default_value_t = LoadFormat::Safetensors, hide_short_help = true)]
    pub(crate) load_format: LoadFormat,
    /// Load weights that are NaN or infinite all the same
    #[arg(long, hide_short_help = true)]
    pub(crate) allow_nan: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadFormat {
    Safetensors,
    Dummy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hub {
    Huggingface,
    Modelscope,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// System prompt
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["messages", "raw"])]
    pub(crate) system: Option<String>,
    /// JSON with OpenAI messages, optionally tools and chat_template_kwargs; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub(crate) messages: Option<PathBuf>,
    /// Answer without thinking first
    #[arg(long, conflicts_with = "raw")]
    pub(crate) no_thinking: bool,
    /// Value for the chat template, JSON or text (repeatable)
    #[arg(long = "template-arg", value_name = "KEY=VALUE", value_parser = template_argument,
          conflicts_with = "raw", hide_short_help = true)]
    pub(crate) template_arguments: Vec<(String, serde_json::Value)>,
    /// Send the prompt as it is, without the chat template, and show all that comes
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Always take the most likely token (the built-in model's default)
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    pub(crate) greedy: bool,
    /// Higher is more random; 0 is greedy
    #[arg(long, value_name = "NUMBER", value_parser = not_negative)]
    pub(crate) temperature: Option<f32>,
    /// Sample among the K most likely tokens; 0 is off
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Sample among the most likely tokens that together reach this probability
    #[arg(long, value_name = "NUMBER", value_parser = share)]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens less likely than this share of the most likely one
    #[arg(long, value_name = "NUMBER", value_parser = fraction, hide_short_help = true)]
    pub(crate) min_p: Option<f32>,
    /// Make tokens that were seen less likely; 1 is off
    #[arg(long, value_name = "NUMBER", value_parser = positive, hide_short_help = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtract this from the logit of tokens in the answer so far
    #[arg(long, value_name = "NUMBER", value_parser = finite, hide_short_help = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// The same, times how often the token came
    #[arg(long, value_name = "NUMBER", value_parser = finite, hide_short_help = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Add BIAS to the logit of token ID (repeatable)
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, hide_short_help = true)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Same seed, same answer
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Stopping")]
pub(crate) struct StoppingArgs {
    /// Longest answer in tokens, thinking included [default: up to the context]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// End the thinking after this many tokens, so that the answer begins
    #[arg(long, value_name = "TOKENS", hide_short_help = true)]
    pub(crate) thinking_budget: Option<usize>,
    /// Do not end before this many tokens
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) min_tokens: Option<usize>,
    /// Stop before this text (repeatable)
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Stop at this token, besides the model's own stop tokens (repeatable)
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub(crate) stop_token: Vec<u32>,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Do not show the thinking
    #[arg(long)]
    pub(crate) hide_thinking: bool,
    /// Print one JSON object when the answer is complete
    #[arg(long)]
    pub(crate) json: bool,
    /// Print speeds to standard error
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl SamplingArgs {
    /// Whether a flag was given that only makes sense when tokens are drawn at random.
    pub(crate) fn asks_to_sample(&self) -> bool {
        self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some()
            || self.seed.is_some()
    }
}

fn finite(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number.is_finite() { Ok(number) } else { Err("not a finite number".to_owned()) }
}

fn not_negative(text: &str) -> Result<f32, String> {
    finite(text).and_then(|number| {
        if number >= 0.0 { Ok(number) } else { Err("must be 0 or more".to_owned()) }
    })
}

fn positive(text: &str) -> Result<f32, String> {
    finite(text).and_then(|number| {
        if number > 0.0 { Ok(number) } else { Err("must be more than 0".to_owned()) }
    })
}

fn positive_wide(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1e9 => Ok(number),
        Ok(_) => Err("must be more than 0 and at most 1e9".to_owned()),
        Err(_) => Err("not a number".to_owned()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=1 << 24).contains(number));
    number.ok_or_else(|| format!("must be a whole number from 1 to {}", 1 << 24))
}

fn fraction(text: &str) -> Result<f32, String> {
    finite(text).and_then(|number| {
        if (0.0..=1.0).contains(&number) {
            Ok(number)
        } else {
            Err("must be from 0 to 1".to_owned())
        }
    })
}

fn share(text: &str) -> Result<f32, String> {
    fraction(text).and_then(|number| {
        if number > 0.0 { Ok(number) } else { Err("must be more than 0".to_owned()) }
    })
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS, for example 42=-1.5")?;
    let id = id.trim().parse().map_err(|_| format!("`{id}` is not a token id"))?;
    Ok((id, finite(bias.trim()).map_err(|reason| format!("`{bias}`: {reason}"))?))
}

fn template_argument(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    if ["messages", "tools", "add_generation_prompt"].contains(&key) {
        return Err(format!("`{key}` is set by glm itself"));
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_are_checked_where_they_are_typed() {
        assert_eq!(bias("5=-3.5"), Ok((5, -3.5)));
        for bad in ["5", "x=1", "5=nan", "-1=2"] {
            assert!(bias(bad).is_err(), "{bad}");
        }
        assert_eq!(template_argument("a=true"), Ok(("a".into(), json!(true))));
        assert_eq!(template_argument("a=b=c"), Ok(("a".into(), json!("b=c"))));
        for bad in ["=1", "messages=[]", "tools=[]", "add_generation_prompt=false"] {
            assert!(template_argument(bad).is_err(), "{bad}");
        }
        assert!(fraction("1.5").is_err() && fraction("1").is_ok());
        assert!(not_negative("-1").is_err() && positive("0").is_err() && finite("inf").is_err());
    }

    #[test]
    fn short_help_stays_short() {
        let mut command = Args::command();
        let run = command.find_subcommand_mut("run").expect("run exists");
        let shown =
            |argument: &&clap::Arg| !argument.is_positional() && !argument.is_hide_short_help_set();
        let flags = run.get_arguments().filter(shown).count();
        assert!(flags <= 20, "{flags} flags in `glm run -h`");
        let serve = command.find_subcommand_mut("serve").expect("serve exists");
        let flags = serve.get_arguments().filter(shown).count();
        assert!(flags <= 20, "{flags} flags in `glm serve -h`");
    }
}
