//! From what was typed, the environment and the model folder to what the engine needs.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::CommandFactory;
use clap::error::ErrorKind;
use glm_backends::device::{self, OpenDevice, Selection};
use glm_models::model::Parts;
use glm_runtime::load::{GenerationDefaults, ModelFiles};
use glm_runtime::{
    DraftChoice, Engine, EngineConfig, Fp8Choice, LoadProgress, QuantChoice, Request, RequestError,
    SamplingParams,
};
use glm_server::parse::Start;
use serde_json::{Map, Value};

use crate::args::{
    Args, EngineArgs, LoadFormat, PromptArgs, RunArgs, SamplingArgs, StoppingArgs, TuningArgs,
};
use crate::conversation::Conversation;
use crate::model::{ModelChoice, is_hub_id};
use crate::ui;

/// A wrong combination of arguments of a command: exit code 2, like those that the parser finds.
pub(crate) fn usage(name: &str, kind: ErrorKind, text: &str) -> anyhow::Error {
    let mut command = Args::command();
    command.build();
    let found = command.find_subcommand_mut(name).map(|found| found.error(kind, text));
    found.unwrap_or_else(|| command.error(kind, text)).into()
}

/// The names of model and prompt. After `-m` a positional is the prompt; a single one is the
/// prompt unless it names a model.
pub(crate) fn model_and_prompt(args: &RunArgs) -> Result<(Option<&str>, Option<&str>)> {
    let flag = args.model.model.as_deref();
    match (flag, args.first.as_deref(), args.second.as_deref()) {
        (Some(_), Some(_), Some(_)) => Err(usage(
            "run",
            ErrorKind::TooManyValues,
            "with --model only the PROMPT follows; put it in quotes if it has spaces",
        )),
        (None, Some(only), None) if Path::new(only).is_dir() || is_hub_id(only) => {
            Ok((Some(only), None))
        }
        (None, Some(only), None) => {
            if only.contains('/') && !only.contains(char::is_whitespace) {
                ui::note(format!("`{only}` is no folder and no owner/name: it is the prompt"));
            }
            Ok((None, Some(only)))
        }
        (None, model, prompt) => Ok((model, prompt)),
        (model, first, second) => Ok((model, first.or(second))),
    }
}

/// Where and how the model is to compute.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) device: OpenDevice,
    pub(crate) config: EngineConfig,
    pub(crate) load_format: LoadFormat,
}

impl Place {
    /// Opens the device that `--backend` selects.
    pub(crate) fn open(args: &EngineArgs) -> Result<Self> {
        let device = device::open(&args.backend)?;
        ui::note(match args.backend {
            Selection::Auto => format!("device: {}", device.why),
            Selection::Named { .. } => format!("device: {}, {}", device.label(), device.why),
        });
        let config = EngineConfig {
            dtype: args.dtype,
            fp8: args.fp8,
            quant: args.quant,
            threads: args.threads,
            mmap: args.mmap,
            allow_nan: args.allow_nan,
            ..EngineConfig::default()
        };
        Ok(Self { device, config, load_format: args.load_format })
    }

    /// The same place, with these choices for one conversation at a time.
    pub(crate) fn for_one(mut self, tuning: &TuningArgs) -> Self {
        tuning.apply(&mut self.config);
        self.config.max_batch = 1;
        self
    }

    /// The same place for looking at the model alone: nothing is generated.
    pub(crate) fn for_a_look(mut self, drafts: bool) -> Self {
        self.config.parts = if drafts { Parts::MainAndMtp } else { Parts::Main };
        self.config.drafts = DraftChoice::Fixed(0);
        self.config.max_batch = 1;
        self
    }

    /// Loads the weights, with a progress bar.
    pub(crate) fn load(&self, files: ModelFiles) -> Result<Engine> {
        let in_fp8 = files.config.quantization().is_some() || self.config.quant == QuantChoice::Fp8;
        if self.config.fp8 != Fp8Choice::Auto && !in_fp8 {
            ui::warning("--fp8 has no effect: the weights are not FP8 (see --quant fp8)");
        }
        if self.config.quant != QuantChoice::None && files.config.quantization().is_some() {
            let quant = self.config.quant;
            ui::note(format!(
                "--quant {quant} changes only what this FP8 checkpoint keeps in floats"
            ));
        }
        let bar = ui::Bar::bytes("loading");
        let mut progress =
            |progress: LoadProgress| bar.set(progress.done_bytes, progress.total_bytes);
        let engine = Engine::load(files, &self.device, &self.config, &mut progress)
            .context("cannot load the model")?;
        drop(bar);
        if let Some(text) = engine.dtype_note() {
            ui::note(format!("dtype: {text}"));
        }
        let limits = engine.limits();
        let bytes = limits.kv_tokens * limits.kv_bytes_per_token;
        ui::note(format!(
            "cache: {} tokens in {}, {}; at most {} a sequence",
            limits.kv_tokens,
            limits.kv_dtype,
            ui::bytes(bytes as u64),
            limits.context_length
        ));
        Ok(engine)
    }
}

/// Defaults of the model's generation_config.json, then the flags. The built-in model is
/// greedy unless a flag asks to sample.
fn sampling(
    args: &SamplingArgs,
    model: &ModelChoice,
    defaults: &GenerationDefaults,
) -> SamplingParams {
    let mut params = SamplingParams::from_defaults(defaults);
    if args.greedy || (*model == ModelChoice::BuiltIn && !args.asks_to_sample()) {
        params.temperature = 0.0;
    }
    fn set<T: Copy>(field: &mut T, flag: Option<T>) {
        *field = flag.unwrap_or(*field);
    }
    set(&mut params.temperature, args.temperature);
    set(&mut params.top_k, args.top_k);
    set(&mut params.top_p, args.top_p);
    set(&mut params.min_p, args.min_p);
    set(&mut params.repetition_penalty, args.repetition_penalty);
    set(&mut params.presence_penalty, args.presence_penalty);
    set(&mut params.frequency_penalty, args.frequency_penalty);
    params.logit_bias.clone_from(&args.logit_bias);
    params.seed = args.seed;
    params
}

/// Everything of a request but its prompt, checked as far as the files tell.
pub(crate) fn request(args: &RunArgs, model: &ModelChoice, files: &ModelFiles) -> Result<Request> {
    let sampling = sampling(&args.sampling, model, &files.generation);
    sampling.validate()?;
    let StoppingArgs { max_tokens, thinking_budget, min_tokens, stop, stop_token } = &args.stopping;
    let vocab_size = files.config.vocab_size();
    if let Some(id) = stop_token.iter().find(|id| **id as usize >= vocab_size) {
        bail!("stop-token is {id}, wanted a token id below {vocab_size}");
    }
    Ok(Request {
        stop_strings: stop.clone(),
        stop_token_ids: stop_token.clone(),
        max_tokens: max_tokens.or(files.generation.max_new_tokens),
        min_tokens: min_tokens.unwrap_or(0),
        thinking_budget: *thinking_budget,
        ..Request::new(Vec::new(), sampling)
    })
}

/// Variables of the chat template that flags set.
pub(crate) fn template_arguments(prompt: &PromptArgs) -> Map<String, Value> {
    let thinking = prompt.no_thinking.then(|| ("enable_thinking".to_owned(), Value::Bool(false)));
    thinking.into_iter().chain(prompt.template_arguments.iter().cloned()).collect()
}

/// Token ids of a conversation, and where the model starts to speak.
pub(crate) fn render(
    files: &ModelFiles,
    conversation: &Conversation,
    arguments: &Map<String, Value>,
) -> Result<(Vec<u32>, Start)> {
    let template = require_template(files)?;
    let prompt = template
        .render(&conversation.chat_input(arguments))
        .context("cannot render the chat template")?;
    ensure!(!prompt.is_empty(), "the chat template makes an empty prompt of these messages");
    Ok((files.tokenizer.encode(&prompt)?, Start::after(&prompt)))
}

/// Refuses, before minutes of loading, a prompt that leaves no room for an answer.
pub(crate) fn check_length(files: &ModelFiles, prompt: &[u32]) -> Result<(), RequestError> {
    let (found, most) = (prompt.len(), files.config.max_position_embeddings() - 1);
    if found > most { Err(RequestError::PromptTooLong { found, most }) } else { Ok(()) }
}

/// The model's chat template, or how to do without.
pub(crate) fn require_template(files: &ModelFiles) -> Result<&glm_runtime::text::ChatTemplate> {
    files
        .template
        .as_ref()
        .context("the model has no chat template: use --raw to send the prompt as it is")
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// Where the chat keeps what was typed: `glm/history` in the user's data folder.
pub(crate) fn history_file() -> Option<PathBuf> {
    let named = variable("XDG_DATA_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let data = named.or_else(|| Some(env::home_dir()?.join(".local").join("share")))?;
    Some(data.join("glm").join("history"))
}

/// Where what was found out on devices is kept: `glm/autotune` in the user's cache folder.
pub(crate) fn autotune_folder() -> Option<PathBuf> {
    let named = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let cache = named.or_else(|| Some(env::home_dir()?.join(".cache")))?;
    Some(cache.join("glm").join("autotune"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Command;

    fn typed(words: &[&str]) -> RunArgs {
        let args = Args::try_parse_from([&["glm", "run"], words].concat());
        match args.expect("parses").command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_positional_is_the_prompt_unless_it_names_a_model() -> Result<()> {
        let here = env!("CARGO_MANIFEST_DIR");
        for (words, model, prompt) in [
            (&[][..], None, None),
            (&["Hello"], None, Some("Hello")),
            (&["zai-org/GLM-4.5-Air"], Some("zai-org/GLM-4.5-Air"), None),
            (&["What is a/b?"], None, Some("What is a/b?")),
            (&["a/b/c"], None, Some("a/b/c")),
            (&["and/or?"], None, Some("and/or?")),
            (&[here], Some(here), None),
            (&["./nowhere"], Some("./nowhere"), None),
            (&["m", "Hi"], Some("m"), Some("Hi")),
            (&["-m", "m"], Some("m"), None),
            (&["-m", "m", here], Some("m"), Some(here)),
            (&["Hi", "-m", "m"], Some("m"), Some("Hi")),
        ] {
            assert_eq!(model_and_prompt(&typed(words))?, (model, prompt), "{words:?}");
        }
        let args = typed(&["-m", "m", "a", "b"]);
        let error = model_and_prompt(&args).expect_err("one too many");
        assert!(error.downcast_ref::<clap::Error>().is_some(), "exit code 2");
        Ok(())
    }

    #[test]
    fn the_built_in_model_is_greedy_until_a_flag_asks_to_sample() {
        let defaults =
            GenerationDefaults { temperature: Some(1.0), ..GenerationDefaults::default() };
        let folder = ModelChoice::Folder("x".into());
        let temperature =
            |args: &SamplingArgs, model: &ModelChoice| sampling(args, model, &defaults).temperature;
        let plain = SamplingArgs::default();
        assert_eq!(temperature(&plain, &ModelChoice::BuiltIn), 0.0);
        assert_eq!(temperature(&plain, &folder), 1.0);
        assert_eq!(
            temperature(&SamplingArgs { greedy: true, ..SamplingArgs::default() }, &folder),
            0.0
        );
        let seeded = SamplingArgs { seed: Some(1), ..SamplingArgs::default() };
        assert_eq!(temperature(&seeded, &ModelChoice::BuiltIn), 1.0);
    }
}
