//! A weight matrix as the device holds it.

use std::ops::Range;

use burn::tensor::{DType, Tensor, s};

use crate::fp8::Fp8Matrix;

/// A weight matrix `[out, in]`, in the model's dtype or in FP8.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a tensor is the usual case, and there are few")]
pub enum Weight {
    /// In a float dtype.
    Dense(Tensor<2>),
    /// In E4M3 codes with scales.
    Fp8(Box<Fp8Matrix>),
}

impl From<Fp8Matrix> for Weight {
    fn from(matrix: Fp8Matrix) -> Self {
        Weight::Fp8(Box::new(matrix))
    }
}

impl Weight {
    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Weight::Dense(weight) => weight.dims(),
            Weight::Fp8(weight) => weight.dims(),
        }
    }

    /// Some of the rows.
    pub fn rows(&self, rows: Range<usize>) -> Weight {
        match self {
            Weight::Dense(weight) => Weight::Dense(weight.clone().slice(s![rows, ..])),
            Weight::Fp8(weight) => Weight::Fp8(Box::new(weight.rows(rows))),
        }
    }

    /// The matrix in `dtype`, `[out, in]`. FP8 is expanded anew at each call.
    pub fn dense(&self, dtype: DType) -> Tensor<2> {
        match self {
            Weight::Dense(weight) => weight.clone().cast(dtype),
            Weight::Fp8(weight) => weight.dequantised().cast(dtype),
        }
    }
}
