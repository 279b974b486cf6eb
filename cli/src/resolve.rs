//! From what was typed, the environment and the model folder to what the engine needs.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use clap::CommandFactory;
use clap::error::ErrorKind;
use glm_backends::device::{self, OpenDevice, Selection};
use glm_models::config::Config;
use glm_models::model::Parts;
use glm_runtime::hub::Wanted;
use glm_runtime::load::{
    Checkpoint, GenerationDefaults, ModelFiles, WeightSource, indexed_bytes, read_config,
};
use glm_runtime::{
    Engine, EngineConfig, Fp8Choice, LoadProgress, QuantChoice, Request, RequestError,
    SamplingParams,
};
use glm_server::parse::Start;
use serde_json::{Map, Value};

use crate::args::{
    self, Args, EngineArgs, LoadFormat, PromptArgs, RunArgs, SamplingArgs, SourceArgs, StoppingArgs,
};
use crate::conversation::Conversation;
use crate::download::download;
use crate::{builtin, ui};

/// Which model is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelChoice {
    /// The one inside the binary.
    BuiltIn,
    /// A folder in the Hugging Face layout.
    Folder(PathBuf),
    /// `owner/name` on a hub.
    HubId(String),
}

/// A wrong combination of arguments of `glm run`: exit code 2, like those that the parser finds.
pub(crate) fn usage(kind: ErrorKind, text: &str) -> anyhow::Error {
    let mut command = Args::command();
    command.build();
    let run = command.find_subcommand_mut("run").map(|run| run.error(kind, text));
    run.unwrap_or_else(|| command.error(kind, text)).into()
}

/// The names of model and prompt. After `-m` a positional is the prompt; a single one is the
/// prompt unless it names a model.
pub(crate) fn model_and_prompt(args: &RunArgs) -> Result<(Option<&str>, Option<&str>)> {
    let flag = args.model.model.as_deref();
    match (flag, args.first.as_deref(), args.second.as_deref()) {
        (Some(_), Some(_), Some(_)) => Err(usage(
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

/// `owner/name` without spaces.
fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

impl ModelChoice {
    /// The built-in model where no name is given.
    pub(crate) fn new(name: Option<&str>) -> Result<Self> {
        match name {
            None => Ok(Self::BuiltIn),
            Some(name) if Path::new(name).is_dir() => Ok(Self::Folder(name.into())),
            Some(name) if name == builtin::NAME => Ok(Self::BuiltIn),
            // Owners on the hubs do not begin with a dot: this is a path that is not there.
            Some(name) if is_hub_id(name) && !name.starts_with('.') => {
                Ok(Self::HubId(name.to_owned()))
            }
            Some(name) if Path::new(name).exists() => {
                bail!("model `{name}` is a file; give the folder it lies in")
            }
            Some(name) => {
                bail!("model `{name}` is neither an existing folder nor a hub id (owner/name)")
            }
        }
    }

    /// Says that what names a place on a hub has no effect on a model that is here.
    pub(crate) fn note_unused(&self, source: &SourceArgs) {
        if matches!(self, Self::HubId(_)) {
            return;
        }
        let unused = match (&source.revision, source.hub) {
            (Some(_), _) => "--revision",
            (None, args::Hub::Modelscope) => "--hub",
            (None, args::Hub::Huggingface) => return,
        };
        ui::warning(format!("{unused} is not used: {} is not a hub model", self.name()));
    }

    /// Its name in notes.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::BuiltIn => builtin::NAME.to_owned(),
            Self::Folder(folder) => folder.display().to_string(),
            Self::HubId(id) => id.clone(),
        }
    }

    /// Opens its files, downloading first what a hub model lacks, unless it could not run on
    /// `place` anyway. No weight is read.
    pub(crate) fn open(&self, source: &SourceArgs, place: &Place) -> Result<ModelFiles> {
        if place.load_format == LoadFormat::Dummy {
            return self.open_dummy(source);
        }
        Ok(match self {
            Self::BuiltIn => ModelFiles::from_embedded(&builtin::MODEL),
            Self::Folder(folder) => ModelFiles::open(folder),
            Self::HubId(id) => {
                let check = |folder: &Path| {
                    let config = read_config(folder)?;
                    Ok(Engine::check(&config, &place.device, &place.config)?)
                };
                ModelFiles::open(&download(id, source, Wanted::Whole { check: &check })?)
            }
        }?)
    }

    /// Its config.json with random weights, the same in every run; no weights are downloaded.
    fn open_dummy(&self, source: &SourceArgs) -> Result<ModelFiles> {
        const SEED: u64 = 1;
        let folder = match self {
            Self::BuiltIn => bail!("--load-format dummy wants a MODEL: the built-in one is here"),
            Self::Folder(folder) => folder.clone(),
            Self::HubId(id) => download(id, source, Wanted::Description)?,
        };
        ui::note("weights: random (--load-format dummy); the answers mean nothing");
        Ok(ModelFiles::open_random(&folder, SEED, &builtin::MODEL)?)
    }

    /// Its config.json, and the headers of its weights where they are on this machine: no
    /// weights are downloaded.
    pub(crate) fn describe(&self, source: &SourceArgs) -> Result<(Config, Option<Checkpoint>)> {
        let files = match self {
            Self::BuiltIn => ModelFiles::from_embedded(&builtin::MODEL)?,
            Self::Folder(folder) => ModelFiles::open(folder)?,
            Self::HubId(id) => {
                let folder = download(id, source, Wanted::Description)?;
                return Ok((read_config(&folder)?, Checkpoint::open(&folder).ok()));
            }
        };
        Ok(match files.weights {
            WeightSource::Checkpoint(checkpoint) => (files.config, Some(checkpoint)),
            WeightSource::Random(_) => (files.config, None),
        })
    }
}

/// What sizes follow from: of a folder, a hub model or a single file.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub(crate) name: String,
    pub(crate) config: Config,
    /// Bytes of all tensors by the list of the shards, where there is one.
    pub(crate) index_bytes: Option<u64>,
}

impl Sizes {
    /// Reads `config.json` and the list of the shards, downloading them of a hub model; no weights
    /// need to be there.
    pub(crate) fn read(model: Option<&str>, source: &SourceArgs) -> Result<Self> {
        let file = model.map(Path::new).filter(|path| path.is_file());
        if let Some(path) = file {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let config = Config::from_json(&text, path)?;
            // Under another name it is one of many, and a list beside it another model's.
            let folder = path.parent().filter(|_| path.ends_with("config.json"));
            let index_bytes = folder.map(indexed_bytes).transpose()?.flatten();
            return Ok(Self { name: path.display().to_string(), config, index_bytes });
        }
        let choice = ModelChoice::new(model)?;
        choice.note_unused(source);
        let folder = match &choice {
            ModelChoice::BuiltIn => {
                let path = Path::new("built-in").join("config.json");
                let config = Config::from_json(builtin::MODEL.config, &path)?;
                return Ok(Self { name: choice.name(), config, index_bytes: None });
            }
            ModelChoice::Folder(folder) => folder.clone(),
            ModelChoice::HubId(id) => download(id, source, Wanted::Sizes)?,
        };
        let (config, index_bytes) = (read_config(&folder)?, indexed_bytes(&folder)?);
        Ok(Self { name: choice.name(), config, index_bytes })
    }
}

/// Where and how the model is to compute.
#[derive(Debug)]
pub(crate) struct Place {
    device: OpenDevice,
    config: EngineConfig,
    load_format: LoadFormat,
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
            allow_nan: args.allow_nan,
            ..EngineConfig::default()
        };
        Ok(Self { device, config, load_format: args.load_format })
    }

    /// The same place, with the multi-token-prediction layer loaded too.
    pub(crate) fn with_drafts(mut self) -> Self {
        self.config.parts = Parts::MainAndMtp;
        self
    }

    /// Loads the weights, with a progress bar.
    pub(crate) fn load(&self, files: ModelFiles) -> Result<Engine> {
        let in_fp8 = files.config.quantization().is_some() || self.config.quant == QuantChoice::Fp8;
        if self.config.fp8 != Fp8Choice::Auto && !in_fp8 {
            ui::warning("--fp8 has no effect: the weights are not FP8 (see --quant fp8)");
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
    let StoppingArgs { max_tokens, stop, stop_token } = &args.stopping;
    let vocab_size = files.config.vocab_size();
    if let Some(id) = stop_token.iter().find(|id| **id as usize >= vocab_size) {
        bail!("stop-token is {id}, wanted a token id below {vocab_size}");
    }
    Ok(Request {
        prompt: Vec::new(),
        sampling,
        stop_strings: stop.clone(),
        stop_token_ids: stop_token.clone(),
        max_tokens: max_tokens.or(files.generation.max_new_tokens),
        ignore_eos: false,
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
    fn a_model_name_is_a_folder_a_hub_id_or_the_built_in() -> Result<()> {
        assert_eq!(ModelChoice::new(None)?, ModelChoice::BuiltIn);
        assert_eq!(ModelChoice::new(Some("glm-tiny"))?, ModelChoice::BuiltIn);
        assert_eq!(ModelChoice::new(Some("a/b"))?, ModelChoice::HubId("a/b".into()));
        for wrong in
            ["./nowhere", "/no/where", "plain", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]
        {
            assert!(ModelChoice::new(Some(wrong)).is_err(), "{wrong}");
        }
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
