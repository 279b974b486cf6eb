use std::cell::RefCell;
use std::collections::BTreeSet;

use burn::tensor::{DType, Device};
use glm_backends::fp8::Activations;
use glm_backends::groups::Bits;
use glm_backends::ranks::Rank;

use super::{LoadError, RandomWeights, TensorInfo, TensorSource, Weights};
use crate::config::{ActivationScheme, Quantization};

/// How weights are kept and computed with.
#[derive(Debug, Clone)]
pub struct Format {
    /// Dtype of activations, and of everything that is not FP8.
    pub dtype: DType,
    /// Dtype of matrices that are floats, if not that.
    pub matrices: Matrices,
    /// What FP8 weights are multiplied with.
    pub fp8: Fp8Numerics,
    /// Whether matrices that the file holds in floats become FP8.
    pub quantise: Quantise,
    /// What config.json says of FP8 matrices in the file.
    pub quantization: Option<Quantization>,
    /// Whether NaN and infinite weights are taken as they are.
    pub allow_nan: bool,
    /// Whether what is one tensor in a file stays where it is mapped, on the host.
    pub map: bool,
}

impl Format {
    /// Weights as they are in the file, floats in `dtype`.
    pub fn plain(dtype: DType) -> Self {
        Format {
            dtype,
            matrices: Matrices::InDtype,
            fp8: Fp8Numerics::W8a16,
            quantise: Quantise::No,
            quantization: None,
            allow_nan: false,
            map: false,
        }
    }

    /// What FP8 weights are multiplied with: in the checkpoint's own scheme where it has one.
    pub(super) fn activations(&self) -> Activations {
        let scheme = self.quantization.as_ref().and_then(|q| q.activations);
        match (self.fp8, scheme) {
            (Fp8Numerics::W8a16, _) => Activations::Float,
            (Fp8Numerics::W8a8, Some(ActivationScheme::Group(size))) => Activations::PerGroup(size),
            (Fp8Numerics::W8a8, _) => Activations::PerToken,
        }
    }
}

/// The dtype of weight matrices and of the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrices {
    /// That of the model.
    InDtype,
    /// Each that of its tensor in the file, for kernels that widen weights on their way.
    AsStored,
}

/// What FP8 weights are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fp8Numerics {
    /// Activations in the model's dtype.
    W8a16,
    /// Activations in FP8, with a scale for each token.
    W8a8,
}

/// Whether matrices are quantised while they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantise {
    /// They stay as they are stored.
    No,
    /// To E4M3 with one scale for each output channel.
    Fp8,
    /// To integers in groups of 32 columns with an f16 scale each.
    Groups(Bits),
}

/// Where tensors come from.
pub(super) enum Origin<'a> {
    Files(&'a dyn TensorSource),
    Random(&'a RandomWeights),
}

impl Origin<'_> {
    /// Dtype and shape of a tensor; `None` where there is none of this name.
    pub(super) fn info(&self, name: &str) -> Option<TensorInfo> {
        match self {
            Origin::Files(source) => source.info(name),
            Origin::Random(weights) => weights.info(name),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Origin::Files(source) => source.names(),
            Origin::Random(weights) => weights.names(),
        }
    }
}

/// Reads tensors from a source to a device and remembers which ones.
pub struct Loader<'a> {
    pub(super) origin: Origin<'a>,
    pub(super) device: &'a Device,
    pub(super) rank: Rank,
    pub(super) format: Format,
    pub(super) used: RefCell<BTreeSet<String>>,
    pub(super) progress: &'a dyn Fn(u64),
}

impl std::fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("format", &self.format).field("rank", &self.rank).finish()
    }
}

impl<'a> Loader<'a> {
    /// A loader that keeps weights in `format` on `device` and tells `progress` after each tensor
    /// how many bytes of the files are done.
    pub fn new(
        source: &'a dyn TensorSource,
        device: &'a Device,
        rank: Rank,
        format: Format,
        progress: &'a dyn Fn(u64),
    ) -> Self {
        Self::from_origin(Origin::Files(source), device, rank, format, progress)
    }

    /// A loader of random weights, made on the device, without any file.
    pub fn random(
        weights: &'a RandomWeights,
        device: &'a Device,
        rank: Rank,
        format: Format,
        progress: &'a dyn Fn(u64),
    ) -> Self {
        device.seed(weights.seed());
        Self::from_origin(Origin::Random(weights), device, rank, format, progress)
    }

    fn from_origin(
        origin: Origin<'a>,
        device: &'a Device,
        rank: Rank,
        format: Format,
        progress: &'a dyn Fn(u64),
    ) -> Self {
        Loader { origin, device, rank, format, used: RefCell::default(), progress }
    }

    /// The view that all names start from.
    pub fn root(&self) -> Weights<'_> {
        Weights::new(self)
    }

    /// Ends loading: every tensor of the source was read or is one that `ignored` names.
    ///
    /// # Errors
    /// [`LoadError::Leftover`] with all the others.
    pub fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<(), LoadError> {
        let used = self.used.into_inner();
        let mut names = self.origin.names();
        names.retain(|name| !used.contains(name) && !ignored(name));
        match names.len() {
            0 => Ok(()),
            count => Err(LoadError::Leftover { names, count }),
        }
    }
}
