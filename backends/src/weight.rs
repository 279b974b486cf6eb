//! A weight matrix as the device holds it.

use std::ops::Range;

use burn::tensor::{DType, Tensor, s};

use crate::fp8::Fp8Matrix;
use crate::groups::GroupMatrix;

/// A weight matrix `[out, in]`.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a tensor is the usual case, and there are few")]
pub enum Weight {
    /// In a float dtype.
    Dense(Tensor<2>),
    /// In E4M3 codes with scales.
    Fp8(Box<Fp8Matrix>),
    /// In integers of few bits with a scale for each group of columns.
    Groups(Box<GroupMatrix>),
}

impl From<Fp8Matrix> for Weight {
    fn from(matrix: Fp8Matrix) -> Self {
        Weight::Fp8(Box::new(matrix))
    }
}

impl From<GroupMatrix> for Weight {
    fn from(matrix: GroupMatrix) -> Self {
        Weight::Groups(Box::new(matrix))
    }
}

impl Weight {
    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Weight::Dense(weight) => weight.dims(),
            Weight::Fp8(weight) => weight.dims(),
            Weight::Groups(weight) => weight.dims(),
        }
    }

    /// Some of the rows.
    pub fn rows(&self, rows: Range<usize>) -> Weight {
        match self {
            Weight::Dense(weight) => Weight::Dense(weight.clone().slice(s![rows, ..])),
            Weight::Fp8(weight) => Weight::Fp8(Box::new(weight.rows(rows))),
            Weight::Groups(weight) => Weight::Groups(Box::new(weight.rows(rows))),
        }
    }

    /// The matrix in `dtype`, `[out, in]`. What is no float is expanded anew at each call.
    pub fn dense(&self, dtype: DType) -> Tensor<2> {
        match self {
            Weight::Dense(weight) => weight.clone().cast(dtype),
            Weight::Fp8(weight) => weight.dequantised().cast(dtype),
            Weight::Groups(weight) => weight.dequantised().cast(dtype),
        }
    }
}
