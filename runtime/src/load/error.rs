//! What can be wrong with a model folder.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ::safetensors::SafeTensorError;
use glm_models::config::ConfigError;

use super::safetensors::{INDEX, SINGLE};

/// Why a model folder does not open. The message names the file; where there is an error
/// below it (parser, file system), that is its `source`.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The path is not a folder.
    #[error("{}: {found}, wanted a model folder", .folder.display())]
    Folder {
        /// The path.
        folder: PathBuf,
        /// What is there instead.
        found: &'static str,
    },
    /// A file that every model needs.
    #[error("{}: no {file}; {found}", .folder.display())]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The file's name.
        file: &'static str,
        /// What the folder holds.
        found: Listing,
    },
    /// Neither of the two ways in which weights are stored.
    #[error("{}: no weights: neither {SINGLE} nor {INDEX}; {found}", .folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What the folder holds.
        found: Listing,
    },
    /// A file that is there but cannot be read.
    #[error("{}: cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The file system's reason.
        source: io::Error,
    },
    /// A file that is a link to somewhere else.
    #[error(
        "{}: a link to {}, wanted a file of this folder, or of `blobs` in the same hub cache",
        .path.display(), .target.display()
    )]
    LinkOutside {
        /// The link.
        path: PathBuf,
        /// Where it ends.
        target: PathBuf,
    },
    /// `config.json` or `generation_config.json`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `tokenizer.json` or the file of the chat template.
    #[error("{}: {reason}", .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// The tokenizer gives ids that have no row in the embedding.
    #[error(
        "{}: {found} token ids, wanted at most vocab_size ({wanted}) of {}",
        .path.display(), super::CONFIG
    )]
    TokenizerTooLarge {
        /// `tokenizer.json`.
        path: PathBuf,
        /// Ids of the tokenizer.
        found: usize,
        /// The configuration's `vocab_size`.
        wanted: usize,
    },
    /// An id that is to end a text has no row in the embedding.
    #[error("{}: `eos_token_id` {id}, wanted ids below vocab_size ({vocab_size})", .path.display())]
    EndIdOutOfRange {
        /// The file that names the id.
        path: PathBuf,
        /// The id.
        id: u32,
        /// The configuration's `vocab_size`.
        vocab_size: usize,
    },
    /// The index is not JSON of the form `{"weight_map": {tensor: file}}`.
    #[error(
        "{}: not a list of shards, wanted {{\"weight_map\": {{tensor: file}}}}",
        .path.display()
    )]
    Index {
        /// The index.
        path: PathBuf,
        /// Where the parser stopped, and why.
        source: serde_json::Error,
    },
    /// The index names no tensor at all.
    #[error("{}: `weight_map` is empty", .path.display())]
    EmptyIndex {
        /// The index.
        path: PathBuf,
    },
    /// The index names a file outside the folder.
    #[error(
        "{}: tensor `{tensor}` is in `{found}`, wanted the plain name of a file in this folder",
        .path.display()
    )]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file name that the index gives.
        found: String,
    },
    /// Files that the index names are not there.
    #[error(
        "{}: {} of {wanted} shards are missing, the first is {}",
        .path.display(), .missing.len(), .missing[0]
    )]
    MissingShards {
        /// The index.
        path: PathBuf,
        /// The missing files, at least one.
        missing: Vec<String>,
        /// Files that the index names.
        wanted: usize,
    },
    /// The index says that a shard holds a tensor, and it does not.
    #[error("{}: no tensor `{tensor}`, which {INDEX} says is there", .path.display())]
    NotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Two shards hold a tensor of the same name.
    #[error(
        "tensor `{tensor}`: found in both {} and {}, wanted in one",
        .first.display(), .second.display()
    )]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A shard with less in it than its header says, or more.
    #[error(
        "{}: {found} bytes, wanted {wanted} by its header{}",
        .path.display(), cut(.found, .wanted)
    )]
    Size {
        /// The shard.
        path: PathBuf,
        /// Bytes of the file.
        found: u64,
        /// Bytes that the header speaks of, itself included.
        wanted: u64,
    },
    /// A pointer that git leaves in place of a large file.
    #[error(
        "{}: a git-lfs pointer, wanted the weights themselves: run `git lfs pull`",
        .path.display()
    )]
    LfsPointer {
        /// The shard.
        path: PathBuf,
    },
    /// A file that is not in the safetensors format.
    #[error("{}: not a safetensors file", .path.display())]
    Header {
        /// The shard.
        path: PathBuf,
        /// What is wrong with its header.
        source: SafeTensorError,
    },
}

fn cut(found: &u64, wanted: &u64) -> &'static str {
    if found < wanted { ": the file is truncated, fetch it again" } else { "" }
}

/// Names of what a folder holds, weights first.
#[derive(Debug)]
pub struct Listing(Vec<String>);

impl Listing {
    /// What is in `folder`, as far as it can be read.
    pub(super) fn of(folder: &Path) -> Self {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_by_key(|name| (!looks_like_weights(name), name.clone()));
        Self(names)
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 12;
        if self.0.is_empty() {
            return f.write_str("the folder is empty");
        }
        write!(f, "it holds {}", self.0[..self.0.len().min(MOST)].join(", "))?;
        match self.0.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn looks_like_weights(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("safetensors" | "bin" | "gguf" | "pt" | "pth" | "ckpt" | "incomplete"))
}

/// Refuses a path that is not a folder.
pub(super) fn check_folder(folder: &Path) -> Result<(), CheckpointError> {
    let found = match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "a file",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "nothing there",
        Err(source) => return Err(CheckpointError::Read { path: folder.to_owned(), source }),
    };
    Err(CheckpointError::Folder { folder: folder.to_owned(), found })
}
