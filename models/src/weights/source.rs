//! What a checkpoint has to offer, whatever its files look like.

use std::fmt;

use burn::tensor::Bytes;

/// A checkpoint's tensors by name, as they are stored.
pub trait TensorSource {
    /// All names, sorted.
    fn names(&self) -> Vec<String>;

    /// Dtype and shape of a tensor; `None` where there is none of this name.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// The stored bytes: row-major, little-endian, at any alignment.
    fn bytes(&self, name: &str) -> Option<&[u8]>;

    /// The stored bytes as memory that lives on without the source, where no copy is needed for it.
    fn shared(&self, name: &str) -> Option<Bytes> {
        let _ = name;
        None
    }

    /// A hint that the bytes of this tensor are not needed any more. Reading them again
    /// stays correct and costs a read of the file.
    fn release(&self, name: &str);
}

/// What a checkpoint says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of the elements in the file.
    pub dtype: StoredDtype,
    /// Length of each axis, outermost first.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes of the tensor in a file; 0 for a type whose size is not known here.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let size = match self.dtype {
            StoredDtype::F8E4M3 => 1,
            StoredDtype::Bf16 | StoredDtype::F16 => 2,
            StoredDtype::F32 => 4,
            StoredDtype::Other(_) => 0,
        };
        self.shape.iter().product::<usize>() as u64 * size
    }
}

/// Type of a stored tensor's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredDtype {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// 8-bit float, 4 exponent and 3 mantissa bits, finite only.
    F8E4M3,
    /// Any other, under the name that the file format gives it.
    Other(String),
}

impl fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F32 => "F32",
            Self::F8E4M3 => "F8_E4M3",
            Self::Other(name) => name,
        })
    }
}
