use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// A unit for each vector of each row that is looked up.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn embedding_kernel<F: Float, N: Size>(
    table: &[Vector<F, N>],
    ids: &[i32],
    out: &mut [Vector<F, N>],
    rows: u32,
    #[comptime] vectors: usize,
    #[comptime] stride: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = ABSOLUTE_POS / vectors;
    if row < rows as usize {
        out[ABSOLUTE_POS] = table[ids[row] as usize * stride + ABSOLUTE_POS % vectors];
    }
}
