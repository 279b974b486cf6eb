//! Reading weights where the fields are: a model's structs are built directly from a prefixed
//! view of the checkpoint, so that no half-built model and no second list of names exists.

mod host;
mod source;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};
use glm_backends::ranks::Rank;

pub use host::HostBuffer;
pub use source::{StoredDtype, TensorInfo, TensorSource};

/// How a weight matrix `[out, in]` is divided over ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Every rank holds all of it.
    Replicated,
    /// Output features are divided ("column parallel").
    Column,
    /// Input features are divided ("row parallel"); the products are summed over ranks.
    Row,
}

impl Split {
    /// The part of `[out, in]` that `rank` holds; `None` when the axis does not divide.
    fn part(self, [out, input]: [usize; 2], rank: Rank) -> Option<[Range<usize>; 2]> {
        Some(match self {
            Split::Replicated => [0..out, 0..input],
            Split::Column => [rank.range(out)?, 0..input],
            Split::Row => [0..out, rank.range(input)?],
        })
    }
}

/// Why a checkpoint does not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A tensor that the configuration calls for is not there.
    #[error("tensor `{name}` is missing from the checkpoint")]
    Missing {
        /// Full name.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}`: shape {found:?} in the file, {wanted:?} by config.json")]
    Shape {
        /// Full name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        wanted: Vec<usize>,
    },
    /// A tensor is stored in a type that is not read.
    #[error("tensor `{name}`: dtype {found} in the file, wanted BF16, F16 or F32")]
    Dtype {
        /// Full name.
        name: String,
        /// Type in the file.
        found: StoredDtype,
    },
    /// The checkpoint holds tensors that this model has no use for.
    #[error(
        "the checkpoint has {} more than config.json calls for: {}",
        match count { 1 => "1 tensor".to_owned(), count => format!("{count} tensors") },
        some_of(names)
    )]
    Leftover {
        /// Full names, sorted.
        names: Vec<String>,
        /// How many.
        count: usize,
    },
    /// An axis cannot be divided over the ranks.
    #[error("tensor `{name}`: an axis of {shape:?} does not divide into {ranks} equal parts")]
    Indivisible {
        /// Full name.
        name: String,
        /// Whole shape.
        shape: Vec<usize>,
        /// Number of ranks.
        ranks: usize,
    },
}

fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut list: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        list.push(format!("and {} more", names.len() - SHOWN));
    }
    list.join(", ")
}

/// Reads tensors from a source to a device and remembers which ones.
pub struct Loader<'a> {
    source: &'a dyn TensorSource,
    device: &'a Device,
    dtype: DType,
    rank: Rank,
    used: RefCell<BTreeSet<String>>,
    progress: &'a dyn Fn(u64),
}

impl std::fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("dtype", &self.dtype).field("rank", &self.rank).finish()
    }
}

impl<'a> Loader<'a> {
    /// A loader that keeps weights in `dtype` on `device` and tells `progress` after each tensor
    /// how many bytes of the files are done.
    pub fn new(
        source: &'a dyn TensorSource,
        device: &'a Device,
        dtype: DType,
        rank: Rank,
        progress: &'a dyn Fn(u64),
    ) -> Self {
        Loader { source, device, dtype, rank, used: RefCell::default(), progress }
    }

    /// The view that all names start from.
    pub fn root(&self) -> Weights<'_> {
        Weights { loader: self, prefix: String::new() }
    }

    /// Ends loading: every tensor of the source was read or is one that `ignored` names.
    ///
    /// # Errors
    /// [`LoadError::Leftover`] with all the others.
    pub fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<(), LoadError> {
        let used = self.used.into_inner();
        let mut names = self.source.names();
        names.retain(|name| !used.contains(name) && !ignored(name));
        match names.len() {
            0 => Ok(()),
            count => Err(LoadError::Leftover { names, count }),
        }
    }
}

/// The tensors under one prefix, such as `model.layers.3.self_attn`.
#[derive(Debug)]
pub struct Weights<'a> {
    loader: &'a Loader<'a>,
    prefix: String,
}

impl<'a> Weights<'a> {
    /// The tensors under `name` below this prefix.
    pub fn at(&self, name: impl Display) -> Weights<'a> {
        Weights { loader: self.loader, prefix: self.full_name(&name.to_string()) }
    }

    /// Whether the checkpoint has `name` below this prefix.
    pub fn has(&self, name: &str) -> bool {
        self.loader.source.info(&self.full_name(name)).is_some()
    }

    /// A whole tensor in the model's dtype.
    ///
    /// # Errors
    /// When it is missing, or has another shape or an unreadable dtype.
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, LoadError> {
        self.upload(name, shape, &shape.map(|length| 0..length), self.loader.dtype)
    }

    /// A whole tensor in f32 whatever the model's dtype: what the router computes with.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn wide_tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, LoadError> {
        self.upload(name, shape, &shape.map(|length| 0..length), DType::F32)
    }

    /// This rank's part of a matrix `[out, in]`, in the model's dtype. Only that part is read.
    ///
    /// # Errors
    /// As [`Weights::tensor`], and when the axis does not divide.
    pub fn matrix(
        &self,
        name: &str,
        shape: [usize; 2],
        split: Split,
    ) -> Result<Tensor<2>, LoadError> {
        let part = split.part(shape, self.rank());
        let part = part.ok_or_else(|| self.indivisible(name, &shape))?;
        self.upload(name, shape, &part, self.loader.dtype)
    }

    /// This rank's part of a bias `[out]` that belongs to a matrix divided by `split`; `None`
    /// where another rank adds it.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn bias(
        &self,
        name: &str,
        out: usize,
        split: Split,
    ) -> Result<Option<Tensor<1>>, LoadError> {
        let part = match split {
            Split::Replicated => 0..out,
            Split::Column => {
                self.rank().range(out).ok_or_else(|| self.indivisible(name, &[out]))?
            }
            Split::Row if self.rank().is_first() => 0..out,
            Split::Row => {
                self.check(name, &[out])?;
                return Ok(None);
            }
        };
        self.upload(name, [out], &[part], self.loader.dtype).map(Some)
    }

    /// An empty host buffer of the model's dtype, for [`Weights::append`].
    pub fn buffer(&self, capacity: usize) -> HostBuffer {
        HostBuffer::new(self.loader.dtype, capacity)
    }

    /// Appends a range of a tensor to a host buffer: how weights of several tensors are stacked.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn append<const D: usize>(
        &self,
        buffer: &mut HostBuffer,
        name: &str,
        shape: [usize; D],
        part: &[Range<usize>; D],
    ) -> Result<(), LoadError> {
        let full_name = self.check(name, &shape)?;
        let missing = || LoadError::Missing { name: full_name.clone() };
        let info = self.loader.source.info(&full_name).ok_or_else(missing)?;
        let bytes = self.loader.source.bytes(&full_name).ok_or_else(missing)?;
        buffer
            .extend(bytes, &info.dtype, &shape, part)
            .map_err(|found| LoadError::Dtype { name: full_name.clone(), found })?;
        self.loader.source.release(&full_name);
        let read: usize = part.iter().map(ExactSizeIterator::len).product();
        let element = bytes.len() / shape.iter().product::<usize>().max(1);
        (self.loader.progress)((read * element) as u64);
        Ok(())
    }

    /// Moves a buffer to the device as a tensor of `shape`.
    pub fn place<const D: usize>(&self, buffer: HostBuffer, shape: [usize; D]) -> Tensor<D> {
        buffer.upload(shape, self.loader.device)
    }

    /// Where and in how many parts the model is loaded.
    pub fn rank(&self) -> Rank {
        self.loader.rank
    }

    /// The device that weights go to.
    pub fn device(&self) -> &Device {
        self.loader.device
    }

    /// The error of an axis that does not divide over the ranks.
    pub fn indivisible(&self, name: &str, shape: &[usize]) -> LoadError {
        LoadError::Indivisible {
            name: self.full_name(name),
            shape: shape.to_vec(),
            ranks: self.rank().count(),
        }
    }

    fn upload<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        part: &[Range<usize>; D],
        dtype: DType,
    ) -> Result<Tensor<D>, LoadError> {
        let lengths = part.each_ref().map(ExactSizeIterator::len);
        let mut buffer = HostBuffer::new(dtype, lengths.iter().product());
        self.append(&mut buffer, name, shape, part)?;
        Ok(self.place(buffer, lengths))
    }

    /// Marks a tensor as used once its name and shape are right; returns its full name.
    fn check(&self, name: &str, wanted: &[usize]) -> Result<String, LoadError> {
        let name = self.full_name(name);
        let Some(info) = self.loader.source.info(&name) else {
            return Err(LoadError::Missing { name });
        };
        if info.shape != wanted {
            return Err(LoadError::Shape { name, found: info.shape, wanted: wanted.to_vec() });
        }
        self.loader.used.borrow_mut().insert(name.clone());
        Ok(name)
    }

    fn full_name(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }
}

#[cfg(test)]
mod tests;
