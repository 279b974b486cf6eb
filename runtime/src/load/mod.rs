//! A model folder in the Hugging Face layout, opened: all its small files read and checked,
//! its weights mapped into memory but not read.
//!
//! - `safetensors`: [`Checkpoint`], the weights by name
//! - `links`: which links a folder may hold
//! - `generation`: [`GenerationDefaults`], what the model's authors sample with
//! - `error`: [`CheckpointError`], everything that can be wrong with a folder

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use glm_models::config::Config;

use crate::text::{ChatTemplate, TextError, Tokenizer};

mod error;
mod generation;
mod links;
mod safetensors;

pub use error::{CheckpointError, Listing};
pub use generation::GenerationDefaults;
pub use safetensors::Checkpoint;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Everything that a model's folder holds.
#[derive(Debug)]
pub struct ModelFiles {
    /// Dimensions and choices, from `config.json`.
    pub config: Config,
    /// The text of `config.json`.
    pub config_text: String,
    /// Sampling defaults and the ids that end a text.
    pub generation: GenerationDefaults,
    /// From `tokenizer.json`.
    pub tokenizer: Tokenizer,
    /// From `chat_template.jinja` or `tokenizer_config.json`; base models may have none.
    pub template: Option<ChatTemplate>,
    /// The weights.
    pub checkpoint: Checkpoint,
}

/// Reads the `config.json` of a folder that may hold nothing else yet.
///
/// # Errors
/// No such file, a link out of the folder, a configuration that is not supported.
pub fn read_config(folder: &Path) -> Result<Config, CheckpointError> {
    error::check_folder(folder)?;
    Ok(Config::from_json(&required(folder, CONFIG)?, &folder.join(CONFIG))?)
}

impl ModelFiles {
    /// Opens a folder with `config.json`, `tokenizer.json` and the weights, and optionally
    /// `generation_config.json`, `tokenizer_config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and what was wanted of it. Names and shapes of the
    /// tensors are not checked here but when the model is loaded.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        error::check_folder(folder)?;
        let config = required(folder, CONFIG)?;
        let generation_config = optional(folder, GENERATION_CONFIG)?;
        let tokenizer = required(folder, TOKENIZER)?;
        let tokenizer_config = optional(folder, TOKENIZER_CONFIG)?;
        // An empty file would make every prompt empty.
        let chat_template = optional(folder, CHAT_TEMPLATE)?.filter(|text| !text.trim().is_empty());
        let texts = Texts {
            config: &config,
            generation_config: generation_config.as_deref(),
            tokenizer: tokenizer.as_bytes(),
            tokenizer_config: tokenizer_config.as_deref(),
            chat_template: chat_template.as_deref(),
        };
        Self::assemble(folder, &texts, || Checkpoint::open(folder))
    }

    /// The same from files inside the program.
    ///
    /// # Errors
    /// As [`open`](Self::open); the folder is called `built-in` there.
    pub fn from_embedded(model: &EmbeddedModel) -> Result<Self, CheckpointError> {
        let texts = Texts {
            config: model.config,
            generation_config: Some(model.generation_config),
            tokenizer: model.tokenizer,
            tokenizer_config: Some(model.tokenizer_config),
            chat_template: Some(model.chat_template),
        };
        Self::assemble(Path::new("built-in"), &texts, || Checkpoint::from_bytes(model.weights))
    }

    fn assemble(
        folder: &Path,
        texts: &Texts<'_>,
        checkpoint: impl FnOnce() -> Result<Checkpoint, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let text_error = |error| texts.error(folder, error);
        let config = Config::from_json(texts.config, &folder.join(CONFIG))?;
        let generation = GenerationDefaults::read(texts.generation_config, &config, folder)?;
        let tokenizer = Tokenizer::from_bytes(texts.tokenizer).map_err(text_error)?;
        if tokenizer.vocab_len() > config.vocab_size() {
            return Err(CheckpointError::TokenizerTooLarge {
                path: folder.join(TOKENIZER),
                found: tokenizer.vocab_len(),
                wanted: config.vocab_size(),
            });
        }
        let template = ChatTemplate::find(texts.chat_template, texts.tokenizer_config);
        Ok(Self {
            config,
            config_text: texts.config.to_owned(),
            generation,
            tokenizer,
            template: template.map_err(text_error)?,
            checkpoint: checkpoint()?,
        })
    }
}

/// A model whose files are part of the program.
#[derive(Clone, Copy)]
pub struct EmbeddedModel {
    /// `config.json`.
    pub config: &'static str,
    /// `generation_config.json`.
    pub generation_config: &'static str,
    /// `tokenizer.json`.
    pub tokenizer: &'static [u8],
    /// `chat_template.jinja`.
    pub chat_template: &'static str,
    /// `tokenizer_config.json`.
    pub tokenizer_config: &'static str,
    /// `model.safetensors`.
    pub weights: &'static [u8],
}

impl std::fmt::Debug for EmbeddedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedModel")
            .field("weights", &self.weights.len())
            .finish_non_exhaustive()
    }
}

/// The small files' contents.
struct Texts<'a> {
    config: &'a str,
    generation_config: Option<&'a str>,
    tokenizer: &'a [u8],
    tokenizer_config: Option<&'a str>,
    chat_template: Option<&'a str>,
}

impl Texts<'_> {
    /// Says which file of `folder` is at fault.
    fn error(&self, folder: &Path, error: TextError) -> CheckpointError {
        let (file, reason) = match error {
            TextError::Tokenizer(reason) => (TOKENIZER, reason),
            TextError::TokenizerConfig(reason) => (TOKENIZER_CONFIG, reason),
            other if self.chat_template.is_some() => (CHAT_TEMPLATE, other.to_string()),
            other => (TOKENIZER_CONFIG, other.to_string()),
        };
        CheckpointError::Text { path: folder.join(file), reason }
    }
}

fn required(folder: &Path, file: &'static str) -> Result<String, CheckpointError> {
    optional(folder, file)?.ok_or_else(|| CheckpointError::MissingFile {
        folder: folder.to_owned(),
        file,
        found: Listing::of(folder),
    })
}

fn optional(folder: &Path, file: &str) -> Result<Option<String>, CheckpointError> {
    let path = links::file_in(folder, file)?;
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Read { path, source }),
    }
}
