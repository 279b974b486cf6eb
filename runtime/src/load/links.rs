//! The one way to a file of a model folder: links may not lead out of it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::CheckpointError;

/// The path of `file` in `folder`, which may itself be a link.
///
/// A file that is a link has to end inside the folder. The one exception is the layout of the
/// hub cache: `snapshots/<revision>/<file>` links to a blob of the same repository. A link that
/// ends nowhere is left to whoever opens it, as a file that is not there.
///
/// # Errors
/// [`CheckpointError::LinkOutside`].
pub(super) fn file_in(folder: &Path, file: &str) -> Result<PathBuf, CheckpointError> {
    let path = folder.join(file);
    if !path.is_symlink() {
        return Ok(path);
    }
    // A file on the way may be absent or closed to us: opening it says so.
    let (Ok(target), Ok(root)) = (path.canonicalize(), folder.canonicalize()) else {
        return Ok(path);
    };
    let blobs = blobs_of(&root);
    if target.starts_with(&root) || (blobs.is_some() && target.parent() == blobs.as_deref()) {
        return Ok(path);
    }
    Err(CheckpointError::LinkOutside { path, target })
}

/// Where the hub cache keeps the contents of the files of a snapshot:
/// `models--owner--name/blobs` beside `models--owner--name/snapshots/<revision>`.
fn blobs_of(snapshot: &Path) -> Option<PathBuf> {
    let snapshots = snapshot.parent()?;
    let repository = snapshots.parent()?;
    let is_repository = repository.file_name()?.to_str()?.starts_with("models--");
    let is_cache = snapshots.file_name() == Some(OsStr::new("snapshots")) && is_repository;
    is_cache.then(|| repository.join("blobs"))
}
