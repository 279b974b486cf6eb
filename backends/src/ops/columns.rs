//! Some columns of what one projection made for several uses.

use std::ops::Range;

use burn::tensor::{Tensor, s};

/// Columns of a matrix, `[rows, width]` → `[rows, columns.len()]`. On GPUs they stay where they are
/// if the device binds a buffer that begins there; kernels that read rows take them so.
pub fn columns(x: Tensor<2>, columns: Range<usize>) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device())
        && let Some(view) = crate::cube::columns(&x, columns.clone())
    {
        return view;
    }
    x.slice(s![.., columns])
}
