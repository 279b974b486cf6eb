//! Model folders: what opens, and the message for each thing that can be wrong with one.

use std::error::Error;
use std::fs;
use std::path::Path;

use glm_runtime::load::CheckpointError;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// The small files around the weights.
mod folder;
/// Files of a folder that are links.
#[cfg(unix)]
mod links;
/// One safetensors file, or an index and its shards.
mod weights;

const SINGLE: &str = "model.safetensors";

/// A safetensors file with one row of BF16 bytes under each name: its first letter, twice as
/// many bytes as `length`.
fn file(tensors: &[(&str, usize)]) -> Vec<u8> {
    let bytes: Vec<_> =
        tensors.iter().map(|(name, length)| vec![name.as_bytes()[0]; 2 * length]).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, length), bytes)| {
        (*name, TensorView::new(Dtype::BF16, vec![1, *length], bytes).expect("sizes agree"))
    });
    safetensors::serialize(views, None).expect("a valid file")
}

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, contents) in files {
        fs::write(folder.path().join(name), contents).expect("writable");
    }
    folder
}

/// The error and its causes on one line, the folder's path as `DIR`.
fn message(error: &CheckpointError, folder: &Path) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace(&folder.display().to_string(), "DIR")
}
