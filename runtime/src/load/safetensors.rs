//! The weights of a checkpoint: safetensors files, mapped into memory.
//!
//! Either one `model.safetensors`, or the files that `model.safetensors.index.json` names,
//! whatever they are called. Where a folder has both, the single file counts, as in
//! transformers. A tensor that a shard holds but the index does not list is present all the
//! same: what a model does not use is refused by name when it is loaded. The index's
//! `total_size` is not looked at when weights are opened, only by [`super::indexed_bytes`].

#![expect(unsafe_code, reason = "mapping a file into memory, and giving its pages back")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ::safetensors::tensor::Metadata;
use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use burn::tensor::{AllocationProperty, Bytes as SharedBytes};
use glm_models::weights::{StoredDtype, TensorInfo, TensorSource};
use memmap2::Mmap;
use serde::Deserialize;

use super::error::{CheckpointError, Listing, check_folder};
use super::links::file_in;

/// The weights of a checkpoint that is one file.
pub(super) const SINGLE: &str = "model.safetensors";
/// The list of the shards of a checkpoint that is several.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// All tensors of a checkpoint by name. Only the headers are read; the bytes come from the
/// files when they are asked for.
///
/// The files must not change while the checkpoint lives: a file that is cut short under its
/// map ends the process with a bus error at the next read, as with any mapped file.
pub struct Checkpoint {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Stored>,
}

impl Checkpoint {
    /// Opens the weights in `folder`.
    ///
    /// # Errors
    /// No weights there, an index that is broken or disagrees with its shards, shards that are
    /// missing, truncated, broken or links out of the folder, a tensor that two shards hold.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        check_folder(folder)?;
        if folder.join(SINGLE).is_file() {
            return Self::from_shards(vec![Shard::map(file_in(folder, SINGLE)?)?]);
        }
        let index = folder.join(INDEX);
        if !index.is_file() {
            let found = Listing::of(folder);
            return Err(CheckpointError::NoWeights { folder: folder.to_owned(), found });
        }
        let weight_map = read_index(&file_in(folder, INDEX)?)?;
        let files: BTreeSet<&String> = weight_map.values().collect();
        let shards = files.iter().map(|file| Shard::map(file_in(folder, file)?));
        let checkpoint = Self::from_shards(shards.collect::<Result<_, _>>()?)?;
        for (tensor, file) in &weight_map {
            let path = folder.join(file);
            let stored = checkpoint.tensors.get(tensor);
            if stored.is_none_or(|stored| checkpoint.shards[stored.shard].path != path) {
                return Err(CheckpointError::NotInShard { path, tensor: tensor.clone() });
            }
        }
        Ok(checkpoint)
    }

    /// The weights of a model that is part of the program: the contents of one safetensors file.
    ///
    /// # Errors
    /// Bytes that are not a whole safetensors file; it is called `built-in/model.safetensors`.
    pub fn from_bytes(bytes: &'static [u8]) -> Result<Self, CheckpointError> {
        let path = Path::new("built-in").join(SINGLE);
        Self::from_shards(vec![Shard { path, bytes: Bytes::Embedded(bytes) }])
    }

    /// Bytes of all tensors together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|stored| stored.range.len() as u64).sum()
    }

    fn from_shards(shards: Vec<Shard>) -> Result<Self, CheckpointError> {
        let mut tensors = BTreeMap::<String, Stored>::new();
        for (index, shard) in shards.iter().enumerate() {
            for (name, range, info) in shard.tensors()? {
                let stored = Stored { shard: index, range, info };
                if let Some(other) = tensors.insert(name.clone(), stored) {
                    return Err(CheckpointError::Duplicate {
                        tensor: name,
                        first: shards[other.shard].path.clone(),
                        second: shard.path.clone(),
                    });
                }
            }
        }
        Ok(Self { shards, tensors })
    }
}

impl TensorSource for Checkpoint {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        Some(self.tensors.get(name)?.info.clone())
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let stored = self.tensors.get(name)?;
        self.shards[stored.shard].bytes.as_slice().get(stored.range.clone())
    }

    fn shared(&self, name: &str) -> Option<SharedBytes> {
        let stored = self.tensors.get(name)?;
        self.shards[stored.shard].bytes.shared(stored.range.clone())
    }

    fn release(&self, name: &str) {
        if let Some(stored) = self.tensors.get(name) {
            self.shards[stored.shard].bytes.release(stored.range.clone());
        }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards: Vec<_> = self.shards.iter().map(|shard| &shard.path).collect();
        f.debug_struct("Checkpoint")
            .field("shards", &shards)
            .field("tensors", &self.tensors.len())
            .field("total_bytes", &self.total_bytes())
            .finish()
    }
}

/// Where a tensor lies.
struct Stored {
    /// Index of its file.
    shard: usize,
    /// Its bytes in the file.
    range: Range<usize>,
    info: TensorInfo,
}

/// One safetensors file.
struct Shard {
    path: PathBuf,
    bytes: Bytes,
}

impl Shard {
    fn map(path: PathBuf) -> Result<Self, CheckpointError> {
        // SAFETY: the map is only read, and only as bytes. Changing the file under it would
        // be undefined behaviour that no program can exclude; `Checkpoint` says so.
        match File::open(&path).and_then(|file| unsafe { Mmap::map(&file) }) {
            Ok(map) => Ok(Self { path, bytes: Bytes::Mapped(Arc::new(map)) }),
            Err(source) => Err(CheckpointError::Read { path, source }),
        }
    }

    /// Names and places of the tensors, from the header.
    fn tensors(&self) -> Result<Vec<(String, Range<usize>, TensorInfo)>, CheckpointError> {
        let (header, metadata) = self.header()?;
        let tensor = |(name, stored): (String, &::safetensors::tensor::TensorInfo)| {
            let (start, end) = stored.data_offsets;
            let shape = stored.shape.clone();
            let info = TensorInfo { dtype: stored_dtype(stored.dtype), shape };
            (name, header + start..header + end, info)
        };
        Ok(metadata.tensors().into_iter().map(tensor).collect())
    }

    /// The header, checked against the file's length, and its own length in bytes.
    fn header(&self) -> Result<(usize, Metadata), CheckpointError> {
        let bytes = self.bytes.as_slice();
        let size_error = |wanted: usize| CheckpointError::Size {
            path: self.path.clone(),
            found: bytes.len() as u64,
            wanted: wanted as u64,
        };
        let source = match SafeTensors::read_metadata(bytes) {
            Ok((length, metadata)) => return Ok((LENGTH + length, metadata)),
            Err(source) => source,
        };
        // The parser says that the sizes differ, but not what they are.
        match (source, announced_length(bytes)) {
            _ if bytes.starts_with(b"version https://git-lfs") => {
                Err(CheckpointError::LfsPointer { path: self.path.clone() })
            }
            (SafeTensorError::HeaderTooSmall, _) => Err(size_error(LENGTH)),
            (SafeTensorError::InvalidHeaderLength, Some(header)) => Err(size_error(header)),
            (source @ SafeTensorError::MetadataIncompleteBuffer, Some(header)) => {
                match serde_json::from_slice::<Metadata>(&bytes[LENGTH..header]) {
                    Ok(metadata) => Err(size_error(header.saturating_add(metadata.data_len()))),
                    Err(_) => Err(CheckpointError::Header { path: self.path.clone(), source }),
                }
            }
            (source, _) => Err(CheckpointError::Header { path: self.path.clone(), source }),
        }
    }
}

/// Bytes of the number at the start of a file that gives the header's length.
const LENGTH: usize = size_of::<u64>();

/// Length of the header that the start of the file announces, the number itself included.
fn announced_length(bytes: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(*bytes.first_chunk()?);
    usize::try_from(length).ok()?.checked_add(LENGTH)
}

enum Bytes {
    Mapped(Arc<Mmap>),
    Embedded(&'static [u8]),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }

    /// A part of them that keeps the map alive.
    fn shared(&self, range: Range<usize>) -> Option<SharedBytes> {
        struct Part(Arc<Mmap>, Range<usize>);

        impl AsRef<[u8]> for Part {
            fn as_ref(&self) -> &[u8] {
                &self.0[self.1.clone()]
            }
        }

        self.as_slice().get(range.clone())?;
        let bytes = match self {
            Self::Mapped(map) => bytes::Bytes::from_owner(Part(Arc::clone(map), range)),
            Self::Embedded(bytes) => bytes::Bytes::from_static(&bytes[range]),
        };
        Some(SharedBytes::from_shared(bytes, AllocationProperty::File))
    }

    /// Lets the system take back the pages of `range`, and of what shares a page with it.
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && !range.is_empty()
        {
            // SAFETY: the map is shared, read-only and backed by a file. Pages that go are read
            // from that file again at the next access, so what borrows of them see never changes.
            // Refusal (a file system without this advice) costs memory, nothing else.
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Which file holds which tensor, as `model.safetensors.index.json` says.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let owned = path.to_owned();
    let text = fs::read_to_string(path)
        .map_err(|source| CheckpointError::Read { path: owned.clone(), source })?;
    let Index { weight_map } = serde_json::from_str(&text)
        .map_err(|source| CheckpointError::Index { path: owned.clone(), source })?;
    if weight_map.is_empty() {
        return Err(CheckpointError::EmptyIndex { path: owned });
    }
    for (tensor, file) in &weight_map {
        if !is_plain_name(file) {
            let (tensor, found) = (tensor.clone(), file.clone());
            return Err(CheckpointError::ShardName { path: owned, tensor, found });
        }
    }
    let files: BTreeSet<&String> = weight_map.values().collect();
    let is_missing = |file: &&&String| !path.with_file_name(file).is_file();
    let missing: Vec<String> = files.iter().filter(is_missing).map(|&file| file.clone()).collect();
    if !missing.is_empty() {
        return Err(CheckpointError::MissingShards { path: owned, missing, wanted: files.len() });
    }
    Ok(weight_map)
}

/// Whether a file name from the index stays inside the folder, on every system.
fn is_plain_name(file: &str) -> bool {
    let mut components = Path::new(file).components();
    let is_name = matches!(components.next(), Some(Component::Normal(name)) if name == file);
    is_name && components.next().is_none() && !file.contains(['/', '\\', ':', '\0'])
}

fn stored_dtype(dtype: Dtype) -> StoredDtype {
    match dtype {
        Dtype::BF16 => StoredDtype::Bf16,
        Dtype::F16 => StoredDtype::F16,
        Dtype::F32 => StoredDtype::F32,
        Dtype::F8_E4M3 => StoredDtype::F8E4M3,
        other => StoredDtype::Other(other.to_string()),
    }
}
