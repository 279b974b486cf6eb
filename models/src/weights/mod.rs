//! Reading weights where the fields are: a model's structs are built directly from a prefixed
//! view of the checkpoint, so that no half-built model and no second list of names exists.
//!
//! - `loader`: [`Loader`], where weights come from and go to, and which were read
//! - `view`: [`Weights`], the tensors under one prefix
//! - `matrix`: weight matrices, in floats or FP8, alone or stacked
//! - `host`, `host_fp8`, `host_groups`: values on their way to the device; `random`: values made there
//! - `source`: [`TensorSource`], what a checkpoint has to offer

use std::ops::Range;

use glm_backends::ranks::Rank;

mod error;
mod host;
mod host_fp8;
mod host_groups;
mod loader;
mod matrix;
mod random;
mod source;
mod view;

pub use error::LoadError;
pub use loader::{Format, Fp8Numerics, Loader, Matrices, Quantise};
pub use matrix::{OnLoad, Piece};
pub use random::RandomWeights;
pub use source::{StoredDtype, TensorInfo, TensorSource};
pub use view::Weights;

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

#[cfg(test)]
mod tests;
