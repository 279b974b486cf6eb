//! From a model name such as `zai-org/GLM-4.5-Air` to a local folder that holds its files.
//!
//! [`resolve`] asks the hub once which commit a revision is, then fetches every file at that commit,
//! so that a revision which moves during a long download never mixes two versions. What is already
//! in the cache is not asked for again, and a transfer that broke continues where it stopped.
//!
//! The cache is the one that Hugging Face tools share (paths by the `hf-hub` crate, locks as in
//! `huggingface_hub`); ModelScope models lie in the same layout one folder deeper:
//!
//! ```text
//! <cache>/models--zai-org--GLM-4.5-Air/              <cache>/modelscope/models--ZhipuAI--GLM-4.5-Air/
//!   refs/main            the commit of a revision       refs/master     the fingerprint of a file list
//!   snapshots/<commit>/  links to blobs by file name    snapshots/<fingerprint>/
//!   blobs/<etag>         whole files                    blobs/<sha256>
//!   blobs/<etag>.glm.incomplete   the first bytes of a file
//! <cache>/.locks/models--zai-org--GLM-4.5-Air/<etag>.lock
//! ```
//!
//! A blob gets its name only when its size, and its SHA-256 where the hub names it by that, are what
//! the hub announced and it is on the disk. `refs/` names a snapshot when all its files are there;
//! until a revision has such a snapshot, it names the last one whose small files are there, and
//! until then the last one with a `config.json`.
//!
//! - `config`: what to ask whom, from environment variables that the caller looks up
//! - `cache`: folders, links, references, locks
//! - `client`: HTTP, redirects, the token
//! - `download`: one file, with resume and retries
//! - `error`: what can go wrong
//! - `huggingface`, `modelscope`: what the two hubs say differently

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

mod cache;
mod client;
mod config;
mod download;
mod error;
mod huggingface;
mod modelscope;

pub use config::{Hub, HubConfig};
pub use error::HubError;

use cache::RepoCache;
use client::Client;
use download::Download;

/// The list of the shards of a checkpoint that has several.
const INDEX: &str = "model.safetensors.index.json";
/// The weights of a checkpoint that has no index.
const SINGLE: &str = "model.safetensors";
const CONFIG: &str = "config.json";
/// What a model folder holds besides weights; all but [`CONFIG`] are fetched where the hub has them.
const SMALL: [&str; 5] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// How much of a model is wanted.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// `config.json`, and the list of the shards where there is one: enough to know how large the
    /// model is.
    Sizes,
    /// All but the weights: enough to know whether and how the model runs.
    Description,
    /// Everything.
    Whole {
        /// Whether the weights are worth their download; see [`Check`].
        check: Check<'a>,
    },
}

/// Is given the model's folder once its description is there and before any weight is asked for. Its
/// error ends [`resolve`] as [`HubError::Refused`].
pub type Check<'a> = &'a dyn Fn(&Path) -> Result<(), Box<dyn Error + Send + Sync>>;

/// Finds the model `id` at `config.revision`, downloads what the cache lacks of what is `wanted`,
/// and gives its folder.
///
/// With a hub that cannot be reached, that refuses, or whose answer makes no sense, a snapshot that
/// is complete in the cache is taken instead, with a note to `progress`. With `config.offline`
/// nothing is ever asked.
///
/// # Errors
/// A name or revision that is none, a refusal or an absence at the hub, a connection that broke
/// more than `config.max_retries` times on one file, a full disk, an index that names files outside
/// the folder, what the check says, or, offline, files that the cache lacks. What arrived is kept
/// for the next call.
pub fn resolve(
    config: &HubConfig,
    id: &str,
    wanted: Wanted<'_>,
    progress: &dyn DownloadProgress,
) -> Result<PathBuf, HubError> {
    let id = config.hub.repository(id)?;
    let revision = config.checked_revision()?;
    let cache = RepoCache::new(config, &id);
    if config.offline {
        let folder = cache.snapshot(revision, wanted.extent())?;
        wanted.check(&folder)?;
        return Ok(folder);
    }

    let client = Client::new(config, &id);
    let listed = match config.hub {
        Hub::HuggingFace => huggingface::list(&client, revision),
        Hub::ModelScope => modelscope::list(&client, revision),
    };
    let listing = match listed {
        Ok(listing) => listing,
        Err(error) => {
            if error.cache_may_stand_in()
                && let Ok(folder) = cache.snapshot(revision, wanted.extent())
            {
                progress.note(&format!(
                    "{}; using the copy in {}",
                    error.chain(),
                    folder.display()
                ));
                wanted.check(&folder)?;
                return Ok(folder);
            }
            return Err(error);
        }
    };

    let folder = cache.snapshot_path(&listing.commit);
    let download = Download { client: &client, cache: &cache, listing: &listing, config, progress };
    let small = match wanted.extent() {
        Extent::Sizes => &[CONFIG][..],
        Extent::Description | Extent::Whole => &SMALL,
    };
    let mut names: Vec<&str> =
        small.iter().copied().filter(|name| listing.files.contains_key(*name)).collect();
    if !names.contains(&CONFIG) {
        return Err(client.no_file(&listing.commit, CONFIG));
    }
    // The index first: it says which weights, and so how many files, there are.
    if listing.files.contains_key(INDEX) {
        names.insert(0, INDEX);
        download.file(INDEX, 1, names.len())?;
    }
    let weights = match wanted.extent() {
        Extent::Sizes | Extent::Description => Vec::new(),
        Extent::Whole => cache::weights(&folder)?,
    };
    if let Some(absent) = weights.iter().find(|name| !listing.files.contains_key(*name)) {
        return Err(client.no_file(&listing.commit, absent));
    }
    let files = names.len() + weights.len();
    for (position, name) in names.iter().enumerate() {
        download.file(name, position + 1, files)?;
    }
    // The revision keeps pointing at a snapshot that has more than was asked for.
    let more = match wanted.extent() {
        Extent::Sizes => Extent::Description,
        Extent::Description | Extent::Whole => Extent::Whole,
    };
    if cache.snapshot(revision, more).is_err() {
        cache.write_reference(revision, &listing.commit)?;
    }
    wanted.check(&folder)?;
    if wanted.extent() == Extent::Whole {
        for (position, name) in weights.iter().enumerate() {
            download.file(name, names.len() + position + 1, files)?;
        }
        cache.write_reference(revision, &listing.commit)?;
    }
    Ok(folder)
}

/// [`Wanted`] without its check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Sizes,
    Description,
    Whole,
}

impl Wanted<'_> {
    fn extent(self) -> Extent {
        match self {
            Self::Sizes => Extent::Sizes,
            Self::Description => Extent::Description,
            Self::Whole { .. } => Extent::Whole,
        }
    }

    fn check(self, folder: &Path) -> Result<(), HubError> {
        match self {
            Self::Sizes | Self::Description => Ok(()),
            Self::Whole { check } => check(folder).map_err(HubError::Refused),
        }
    }
}

impl fmt::Debug for Wanted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sizes => "Sizes",
            Self::Description => "Description",
            Self::Whole { .. } => "Whole",
        })
    }
}

/// Where the bytes of a download are shown; `&()` shows nothing.
pub trait DownloadProgress {
    /// A file's transfer begins (`done_bytes` is then what an earlier run left), or bytes arrived.
    fn update(&self, file: &FileProgress<'_>);
    /// Something the user should know, as one sentence without a full stop.
    fn note(&self, text: &str);
}

impl DownloadProgress for () {
    fn update(&self, _: &FileProgress<'_>) {}
    fn note(&self, _: &str) {}
}

/// How far one file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileProgress<'a> {
    /// Its name in the model folder.
    pub name: &'a str,
    /// Its place among the model's files, from 1; files that were in the cache are counted but not reported.
    pub index: usize,
    /// How many files the model has. It grows once the index of the shards is read.
    pub files: usize,
    /// Bytes of it on the disk.
    pub done_bytes: u64,
    /// Bytes that it will have.
    pub total_bytes: u64,
}

/// A model's files at one commit.
struct Listing {
    /// What the snapshot folder is called.
    commit: String,
    /// By name, only those at the top level. `None`: ask the hub for each file (`huggingface::locate`).
    files: BTreeMap<String, Option<Remote>>,
}

/// Where the bytes of a file are and what they are called in the cache.
#[derive(Clone)]
struct Remote {
    /// Addresses of the same bytes; a later one is tried where an earlier one answers 404.
    urls: Vec<String>,
    /// File name under `blobs/`.
    blob: String,
    /// Bytes, where the hub said so before the transfer.
    size: Option<u64>,
}

/// Whether `name` is one plain component of a path: no separator, no `..`.
fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', ':', '\0'])
}
