use std::fmt::Display;
use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};
use glm_backends::ranks::Rank;

use super::host::HostBuffer;
use super::loader::{Loader, Origin};
use super::{LoadError, Split, StoredDtype, TensorInfo, random};

/// The types that a tensor which is no FP8 matrix may be stored in.
pub(super) const FLOATS: &str = "BF16, F16 or F32";

/// The tensors under one prefix, such as `model.layers.3.self_attn`.
#[derive(Debug)]
pub struct Weights<'a> {
    pub(super) loader: &'a Loader<'a>,
    prefix: String,
}

/// Bytes of a stored tensor, with what is known about them.
pub(super) struct Stored<'a> {
    pub(super) name: String,
    pub(super) bytes: &'a [u8],
    pub(super) dtype: StoredDtype,
}

impl<'a> Weights<'a> {
    pub(super) fn new(loader: &'a Loader<'a>) -> Self {
        Weights { loader, prefix: String::new() }
    }

    /// The tensors under `name` below this prefix.
    pub fn at(&self, name: impl Display) -> Weights<'a> {
        Weights { loader: self.loader, prefix: self.full_name(&name.to_string()) }
    }

    /// Whether the checkpoint has `name` below this prefix.
    pub fn has(&self, name: &str) -> bool {
        self.loader.origin.info(&self.full_name(name)).is_some()
    }

    /// A whole tensor in the model's dtype.
    ///
    /// # Errors
    /// When it is missing, or has another shape or an unreadable dtype, or holds NaN.
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, LoadError> {
        self.floats(name, shape, &shape.map(|length| 0..length), self.loader.format.dtype)
    }

    /// A whole matrix whose rows are looked up, in the dtype in which matrices are kept.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn table(&self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>, LoadError> {
        let dtype = self.dtype_of_matrix(&self.info(name)?.dtype);
        if let Some(mapped) = self.mapped(&self.piece(name, shape, Split::Replicated)?, dtype)? {
            return Ok(mapped.reshape(shape));
        }
        self.floats(name, shape, &shape.map(|length| 0..length), dtype)
    }

    /// Dtype of activations.
    pub fn dtype(&self) -> DType {
        self.loader.format.dtype
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
        self.floats(name, shape, &shape.map(|length| 0..length), DType::F32)
    }

    /// This rank's part of a bias `[out]` that belongs to a matrix divided by `split`; `None`
    /// where another rank adds it.
    ///
    /// # Errors
    /// As [`Weights::tensor`], and when the axis does not divide.
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
        self.floats(name, [out], &[part], self.loader.format.dtype).map(Some)
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

    fn floats<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        part: &[Range<usize>; D],
        dtype: DType,
    ) -> Result<Tensor<D>, LoadError> {
        let lengths = part.each_ref().map(ExactSizeIterator::len);
        match &self.loader.origin {
            Origin::Random(_) => {
                self.made(name, &shape)?;
                Ok(random::floats(lengths, self.loader.device, dtype))
            }
            Origin::Files(_) => {
                let mut buffer = HostBuffer::new(dtype, lengths.iter().product());
                self.append(&mut buffer, name, &shape, part)?;
                Ok(buffer.upload(lengths, self.loader.device))
            }
        }
    }

    /// Appends a range of a stored tensor to a host buffer.
    pub(super) fn append(
        &self,
        buffer: &mut HostBuffer,
        name: &str,
        shape: &[usize],
        part: &[Range<usize>],
    ) -> Result<(), LoadError> {
        let stored = self.stored(name, shape)?;
        if !is_float(&stored.dtype) {
            return Err(stored.unreadable());
        }
        let finite = buffer.extend(stored.bytes, &stored.dtype, shape, part);
        if !finite && !self.loader.format.allow_nan {
            return Err(LoadError::NotFinite { name: stored.name });
        }
        self.done(&stored, part, shape);
        Ok(())
    }

    /// Counts a tensor that is made instead of read.
    pub(super) fn made(&self, name: &str, shape: &[usize]) -> Result<(), LoadError> {
        let info = self.check(name, shape)?;
        (self.loader.progress)(info.bytes());
        Ok(())
    }

    /// Gives a stored tensor's pages back and tells how much of it was read.
    pub(super) fn done(&self, stored: &Stored<'_>, part: &[Range<usize>], shape: &[usize]) {
        if let Origin::Files(source) = &self.loader.origin {
            source.release(&stored.name);
        }
        let read: usize = part.iter().map(ExactSizeIterator::len).product();
        let element = stored.bytes.len() / shape.iter().product::<usize>().max(1);
        (self.loader.progress)((read * element) as u64);
    }

    /// The bytes of a tensor of this shape, which counts as used from now on.
    pub(super) fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored<'a>, LoadError> {
        let info = self.check(name, shape)?;
        let name = self.full_name(name);
        let bytes = match self.loader.origin {
            Origin::Files(source) => source.bytes(&name),
            Origin::Random(_) => None,
        };
        match bytes {
            Some(bytes) => Ok(Stored { name, bytes, dtype: info.dtype }),
            None => Err(LoadError::Missing { name }),
        }
    }

    /// Marks a tensor as used once its name and shape are right.
    pub(super) fn check(&self, name: &str, wanted: &[usize]) -> Result<TensorInfo, LoadError> {
        let info = self.info(name)?;
        let name = self.full_name(name);
        if info.shape != wanted {
            return Err(LoadError::Shape { name, found: info.shape, wanted: wanted.to_vec() });
        }
        self.loader.used.borrow_mut().insert(name);
        Ok(info)
    }

    /// What the checkpoint says about a tensor.
    pub(super) fn info(&self, name: &str) -> Result<TensorInfo, LoadError> {
        let name = self.full_name(name);
        self.loader.origin.info(&name).ok_or(LoadError::Missing { name })
    }

    pub(super) fn full_name(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }
}

impl Stored<'_> {
    /// The error of a type that is not read here.
    pub(super) fn unreadable(&self) -> LoadError {
        LoadError::Dtype { name: self.name.clone(), found: self.dtype.clone(), wanted: FLOATS }
    }
}

/// Whether values of a stored type are floats of 16 or 32 bits.
pub(super) fn is_float(dtype: &StoredDtype) -> bool {
    matches!(dtype, StoredDtype::Bf16 | StoredDtype::F16 | StoredDtype::F32)
}
