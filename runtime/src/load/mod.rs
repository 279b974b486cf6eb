//! A model folder in the Hugging Face layout, opened: all its small files read and checked,
//! its weights mapped into memory but not read.
//!
//! - `safetensors`: [`Checkpoint`], the weights by name
//! - `links`: which links a folder may hold
//! - `generation`: [`GenerationDefaults`], what the model's authors sample with
//! - `error`: [`CheckpointError`], everything that can be wrong with a folder

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use glm_models::config::Config;
use glm_models::weights::{RandomWeights, TensorInfo, TensorSource};
use serde_json::{Map, Value};

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
    pub weights: WeightSource,
}

/// Where the weights of a model come from.
#[derive(Debug)]
pub enum WeightSource {
    /// Files.
    Checkpoint(Checkpoint),
    /// Nowhere: random values, made on the device.
    Random(RandomWeights),
}

impl WeightSource {
    /// Bytes of all tensors together, as they are or would be stored.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.total_bytes(),
            Self::Random(weights) => weights.total_bytes(),
        }
    }

    /// The files, where there are any.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Self::Checkpoint(checkpoint) => Some(checkpoint),
            Self::Random(_) => None,
        }
    }

    /// Dtype and shape of a tensor; `None` where there is none of this name.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.info(name),
            Self::Random(weights) => weights.info(name),
        }
    }
}

/// Reads the `config.json` of a folder that may hold nothing else yet.
///
/// # Errors
/// No such file, a link out of the folder, a configuration that is not supported.
pub fn read_config(folder: &Path) -> Result<Config, CheckpointError> {
    error::check_folder(folder)?;
    Ok(Config::from_json(&required(folder, CONFIG)?, &folder.join(CONFIG))?)
}

/// Bytes of all tensors by the list of the shards, where a folder has a list that says so. The
/// shards need not be there.
///
/// # Errors
/// A list that cannot be read, is no JSON object or is a link out of the folder.
pub fn indexed_bytes(folder: &Path) -> Result<Option<u64>, CheckpointError> {
    let Some(text) = optional(folder, safetensors::INDEX)? else { return Ok(None) };
    let index: Map<String, Value> = serde_json::from_str(&text).map_err(|source| {
        CheckpointError::Index { path: folder.join(safetensors::INDEX), source }
    })?;
    let size = index.get("metadata").and_then(|metadata| metadata.get("total_size"));
    // Some exporters write it as a float.
    Ok(size.and_then(|size| size.as_u64().or_else(|| size.as_f64().map(|size| size as u64))))
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
        let texts = Texts::in_folder(folder, None)?;
        Self::assemble(folder, &texts, |_| Checkpoint::open(folder).map(WeightSource::Checkpoint))
    }

    /// Opens a folder that needs to hold nothing but `config.json`, or such a file under any name,
    /// with random weights instead of the files: for timing a model without its download. Where there is no tokenizer, that of
    /// `stand_in` and its chat template take its place.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for the weights.
    pub fn open_random(
        model: &Path,
        seed: u64,
        stand_in: &EmbeddedModel,
    ) -> Result<Self, CheckpointError> {
        let (folder, texts) = if model.is_file() {
            let folder = model.parent().unwrap_or(Path::new(""));
            (folder, Texts::of_configuration(model, stand_in)?)
        } else {
            error::check_folder(model)?;
            (model, Texts::in_folder(model, Some(stand_in))?)
        };
        Self::assemble(folder, &texts, |config| {
            Ok(WeightSource::Random(RandomWeights::of(config, seed)))
        })
    }

    /// The same from files inside the program.
    ///
    /// # Errors
    /// As [`open`](Self::open); the folder is called `built-in` there.
    pub fn from_embedded(model: &EmbeddedModel) -> Result<Self, CheckpointError> {
        Self::assemble(Path::new("built-in"), &Texts::embedded(model), |_| {
            Checkpoint::from_bytes(model.weights).map(WeightSource::Checkpoint)
        })
    }

    fn assemble(
        folder: &Path,
        texts: &Texts<'_>,
        weights: impl FnOnce(&Config) -> Result<WeightSource, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let text_error = |error| texts.error(folder, error);
        let config = Config::from_json(&texts.config, &texts.config_path)?;
        let generation = texts.generation_config.as_deref();
        let generation = GenerationDefaults::read(generation, &config, folder)?;
        let tokenizer = Tokenizer::from_bytes(&texts.tokenizer).map_err(text_error)?;
        if tokenizer.vocab_len() > config.vocab_size() {
            return Err(CheckpointError::TokenizerTooLarge {
                path: folder.join(TOKENIZER),
                found: tokenizer.vocab_len(),
                wanted: config.vocab_size(),
            });
        }
        let template = (texts.chat_template.as_deref(), texts.tokenizer_config.as_deref());
        let template = ChatTemplate::find(template.0, template.1);
        Ok(Self {
            weights: weights(&config)?,
            config,
            config_text: texts.config.to_string(),
            generation,
            tokenizer,
            template: template.map_err(text_error)?,
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
    config_path: PathBuf,
    config: Cow<'a, str>,
    generation_config: Option<Cow<'a, str>>,
    tokenizer: Cow<'a, [u8]>,
    tokenizer_config: Option<Cow<'a, str>>,
    chat_template: Option<Cow<'a, str>>,
}

impl<'a> Texts<'a> {
    fn embedded(model: &EmbeddedModel) -> Self {
        Texts {
            config_path: Path::new("built-in").join(CONFIG),
            config: model.config.into(),
            generation_config: Some(model.generation_config.into()),
            tokenizer: model.tokenizer.into(),
            tokenizer_config: Some(model.tokenizer_config.into()),
            chat_template: Some(model.chat_template.into()),
        }
    }

    /// The files of `folder`; where it holds no tokenizer, all about text is `stand_in`'s.
    fn in_folder(folder: &Path, stand_in: Option<&EmbeddedModel>) -> Result<Self, CheckpointError> {
        let read = |file| optional(folder, file).map(|text| text.map(Cow::Owned));
        let (config_path, config) = (folder.join(CONFIG), required(folder, CONFIG)?.into());
        let generation_config = read(GENERATION_CONFIG)?;
        if let Some(stand_in) = stand_in
            && optional(folder, TOKENIZER)?.is_none()
        {
            let stand_in = Texts::embedded(stand_in);
            return Ok(Texts { config_path, config, generation_config, ..stand_in });
        }
        // An empty file would make every prompt empty.
        let chat_template = read(CHAT_TEMPLATE)?.filter(|text| !text.trim().is_empty());
        Ok(Texts {
            config_path,
            config,
            generation_config,
            tokenizer: required(folder, TOKENIZER)?.into_bytes().into(),
            tokenizer_config: read(TOKENIZER_CONFIG)?,
            chat_template,
        })
    }

    /// The file `config`, whatever its name, and nothing of what lies beside it.
    fn of_configuration(config: &Path, stand_in: &EmbeddedModel) -> Result<Self, CheckpointError> {
        let text = read(config)?.ok_or_else(|| CheckpointError::Read {
            path: config.to_owned(),
            source: ErrorKind::NotFound.into(),
        })?;
        Ok(Texts {
            config_path: config.to_owned(),
            config: text.into(),
            generation_config: None,
            ..Texts::embedded(stand_in)
        })
    }

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
    read(&links::file_in(folder, file)?)
}

/// The text of a file; `None` where there is none. What is no file, a pipe say, would never end.
fn read(path: &Path) -> Result<Option<String>, CheckpointError> {
    let error = |source| CheckpointError::Read { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if found.is_file() => fs::read_to_string(path).map(Some).map_err(error),
        Ok(_) => Err(error(std::io::Error::other("not a regular file"))),
        Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(error(source)),
    }
}
