use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::{CONFIG, Extent, Hub, HubConfig, HubError, INDEX, SINGLE, is_plain_name};

/// One model's part of the cache.
pub(super) struct RepoCache {
    id: String,
    paths: CacheRepo,
    /// `<root>/models--owner--name`
    folder: PathBuf,
    /// `<root>/.locks/models--owner--name`
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(config: &HubConfig, id: &str) -> Self {
        let root = match config.hub {
            Hub::HuggingFace => config.cache_dir.clone(),
            Hub::ModelScope => config.cache_dir.join("modelscope"),
        };
        let repo = Repo::new(id.to_owned(), RepoType::Model);
        let name = repo.folder_name();
        Self {
            id: id.to_owned(),
            folder: root.join(&name),
            locks: root.join(".locks").join(name),
            paths: Cache::new(root).repo(repo),
        }
    }

    /// The folder of the last known commit of `revision`, where every file of `extent` is there.
    pub(super) fn snapshot(&self, revision: &str, extent: Extent) -> Result<PathBuf, HubError> {
        let folder = self.snapshot_path(revision);
        let folder = match folder.is_dir() {
            true => folder,
            false => self.snapshot_path(&self.read_reference(revision)?),
        };
        let mut missing = vec![CONFIG.to_owned()];
        if extent != Extent::Sizes {
            missing.push("tokenizer.json".to_owned());
        }
        if extent == Extent::Whole {
            missing.extend(weights(&folder)?);
        }
        missing.retain(|name| !folder.join(name).is_file());
        if missing.is_empty() {
            return Ok(folder);
        }
        let (id, revision) = (self.id.clone(), revision.to_owned());
        Err(HubError::NotCached { id, revision, folder: self.folder.clone(), missing })
    }

    /// The folder of one commit, there or not.
    pub(super) fn snapshot_path(&self, commit: &str) -> PathBuf {
        self.paths.pointer_path(commit)
    }

    /// A whole file by its content's name, there or not.
    pub(super) fn blob_path(&self, blob: &str) -> PathBuf {
        self.paths.blob_path(blob)
    }

    /// Waits until no other process fetches this blob; dropping the file lets the next one in.
    ///
    /// `None` on file systems without locks.
    pub(super) fn lock(
        &self,
        blob: &str,
        waiting: impl FnOnce(),
    ) -> Result<Option<File>, HubError> {
        let path = self.locks.join(format!("{blob}.lock"));
        create_parent(&path)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|source| HubError::disk(&path, source))?;
        let locked = match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
        };
        match locked {
            Ok(()) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(HubError::disk(&path, error)),
        }
    }

    /// Puts a blob under its name into the snapshot of a commit.
    pub(super) fn link(&self, commit: &str, name: &str, blob: &str) -> Result<(), HubError> {
        let link = self.snapshot_path(commit).join(name);
        create_parent(&link)?;
        // A link whose blob is gone.
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::disk(&link, error));
            }
            _ => {}
        }
        let path = self.blob_path(blob);
        // Where the file system has no links of either kind, the snapshot owns the file.
        symlink(Path::new("../../blobs").join(blob), &link)
            .or_else(|_| fs::hard_link(&path, &link))
            .or_else(|_| fs::rename(&path, &link))
            .map_err(|source| HubError::disk(&link, source))
    }

    /// The last known commit of `revision`.
    fn read_reference(&self, revision: &str) -> Result<String, HubError> {
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).unwrap_or_default();
        let commit = Some(text.trim()).filter(|text| is_plain_name(text));
        commit.map(str::to_owned).ok_or_else(|| HubError::NoKnownCommit {
            id: self.id.clone(),
            revision: revision.to_owned(),
            folder: self.folder.clone(),
        })
    }

    /// Notes which commit a revision is, for when the hub cannot be asked.
    pub(super) fn write_reference(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = self.folder.join("refs").join(revision);
        // A cache that is up to date may be read-only.
        if revision == commit || fs::read_to_string(&path).is_ok_and(|found| found == commit) {
            return Ok(());
        }
        create_parent(&path)?;
        let new = path.with_added_extension(format!("{}.new", std::process::id()));
        fs::write(&new, commit)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| HubError::disk(&path, source))
    }
}

/// The names of the files of weights: those that the index in `folder` lists, or the single one.
pub(super) fn weights(folder: &Path) -> Result<Vec<String>, HubError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join(INDEX);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(vec![SINGLE.to_owned()]);
        }
        Err(error) => return Err(HubError::disk(&path, error)),
    };
    let refuse = |why: String| HubError::Index { path: path.clone(), why };
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(refuse("`weight_map` names no file".to_owned()));
    }
    match names.iter().find(|name| !is_plain_name(name)) {
        Some(name) => {
            Err(refuse(format!("`weight_map` names `{name}`, wanted a file beside the index")))
        }
        None => Ok(names.into_iter().collect()),
    }
}

pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|source| HubError::disk(parent, source))
}

#[cfg(unix)]
use std::os::unix::fs::symlink;
#[cfg(windows)]
use std::os::windows::fs::symlink_file as symlink;
