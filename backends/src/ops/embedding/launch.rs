#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernel::embedding_kernel;
use crate::cube::{self, Abilities};

pub(super) fn embedding(table: Tensor<2>, token_ids: Tensor<1, Int>) -> Tensor<2> {
    cube::tensor(launch(&cube::strided(table), &cube::ints(token_ids)))
}

/// `table [vocab_size, hidden]`, `ids [tokens]` → `[tokens, hidden]`.
pub(super) fn launch(table: &CubeTensor, ids: &CubeTensor) -> CubeTensor {
    let ([_, width], [rows]) = (cube::dims(table), cube::dims(ids));
    let stride = cube::row_stride(table);
    let size = cube::vector_size(table.dtype.size(), &[width, stride]);
    let out = cube::empty(table, [rows, width], table.dtype);
    let units = 256.min(Abilities::of(&table.client).units);
    // SAFETY: units past the last vector do nothing; ids are below the rows of the table.
    unsafe {
        embedding_kernel::launch_unchecked(
            cube::counted(&table.client),
            cube::cubes((rows * width / size).div_ceil(units)),
            CubeDim::new_1d(units as u32),
            table.required_address_type(),
            size,
            table.clone().into_buffer_arg(),
            ids.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows as u32,
            width / size,
            stride / size,
            cube::elem(table.dtype),
        );
    }
    out
}
