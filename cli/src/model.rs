//! Which model is meant, and what of it is opened.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use glm_models::config::Config;
use glm_runtime::Engine;
use glm_runtime::hub::Wanted;
use glm_runtime::load::{Checkpoint, ModelFiles, WeightSource, indexed_bytes, read_config};

use crate::args::{self, LoadFormat, SourceArgs};
use crate::download::download;
use crate::resolve::Place;
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
    /// A configuration alone: enough for a model with random weights.
    ConfigFile(PathBuf),
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
            Some(name) if Path::new(name).exists() => Ok(Self::ConfigFile(name.into())),
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
            Self::ConfigFile(file) => file.display().to_string(),
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
            Self::ConfigFile(_) => return Err(self.is_a_file()),
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
        let place = match self {
            Self::BuiltIn => bail!("--load-format dummy wants a MODEL: the built-in one is here"),
            Self::Folder(path) | Self::ConfigFile(path) => path.clone(),
            Self::HubId(id) => download(id, source, Wanted::Description)?,
        };
        ui::note("weights: random (--load-format dummy); the answers mean nothing");
        Ok(ModelFiles::open_random(&place, SEED, &builtin::MODEL)?)
    }

    /// Its config.json, and the headers of its weights where they are on this machine and meant: no
    /// weights are downloaded.
    pub(crate) fn describe(
        &self,
        source: &SourceArgs,
        load_format: LoadFormat,
    ) -> Result<(Config, Option<Checkpoint>)> {
        let files = match self {
            _ if load_format == LoadFormat::Dummy => self.open_dummy(source)?,
            Self::BuiltIn => ModelFiles::from_embedded(&builtin::MODEL)?,
            Self::Folder(folder) => ModelFiles::open(folder)?,
            Self::ConfigFile(_) => return Err(self.is_a_file()),
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

    fn is_a_file(&self) -> anyhow::Error {
        anyhow!("model `{}` is a file; give the folder it lies in", self.name())
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
            ModelChoice::ConfigFile(_) => return Err(choice.is_a_file()),
            ModelChoice::HubId(id) => download(id, source, Wanted::Sizes)?,
        };
        let (config, index_bytes) = (read_config(&folder)?, indexed_bytes(&folder)?);
        Ok(Self { name: choice.name(), config, index_bytes })
    }
}

/// `owner/name` without spaces.
pub(crate) fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_name_is_a_folder_a_hub_id_or_the_built_in() -> Result<()> {
        assert_eq!(ModelChoice::new(None)?, ModelChoice::BuiltIn);
        assert_eq!(ModelChoice::new(Some("glm-tiny"))?, ModelChoice::BuiltIn);
        assert_eq!(ModelChoice::new(Some("a/b"))?, ModelChoice::HubId("a/b".into()));
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(ModelChoice::new(Some(file))?, ModelChoice::ConfigFile(file.into()));
        for wrong in ["./nowhere", "/no/where", "plain"] {
            assert!(ModelChoice::new(Some(wrong)).is_err(), "{wrong}");
        }
        Ok(())
    }
}
