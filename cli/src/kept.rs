//! Where later runs find what was found out on a device: the fastest kernels for a shape, and
//! kernels that are compiled. Only a build with the feature `autotune-cache` keeps any.

use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Result, bail};

use crate::resolve;

/// Files and bytes of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) folder: PathBuf,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// From here on devices remember. To be called before one is opened.
pub(crate) fn install() {
    if let Some(folder) = resolve::autotune_folder() {
        glm_backends::device::keep_in(folder);
    }
}

/// What is kept; nothing in a build that keeps nothing.
pub(crate) fn describe() -> Option<Kept> {
    let folder = resolve::autotune_folder().filter(|_| cfg!(feature = "autotune-cache"))?;
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let sizes: Vec<u64> = entries
        .filter_map(|entry| entry.metadata().ok().filter(fs::Metadata::is_file))
        .map(|metadata| metadata.len())
        .collect();
    Some(Kept { folder, files: sizes.len(), bytes: sizes.iter().sum() })
}

/// Deletes what is kept.
pub(crate) fn forget() -> Result<()> {
    if !cfg!(feature = "autotune-cache") {
        bail!(
            "--tune: this program keeps nothing from run to run; build it with `cargo build \
             --release --features autotune-cache`, which takes libclang (Debian: libclang-dev)"
        );
    }
    let folder = resolve::autotune_folder().context("--tune: there is no home folder")?;
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", folder.display()))
        }
        _ => Ok(()),
    }
}
