use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Where a unit finds its values, in vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) width: usize,
    /// From row to row of gate and of up.
    pub(super) stride: usize,
    /// From the start of a row of up to its values.
    pub(super) up: usize,
}

/// `out = silu(gate) * up`, a unit for each vector.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn swiglu_kernel<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    vectors: u32,
    #[comptime] place: Place,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < vectors as usize {
        let row = ABSOLUTE_POS / place.width * place.stride + ABSOLUTE_POS % place.width;
        let gate = Vector::<f32, N>::cast_from(gate[row]);
        let up = Vector::<f32, N>::cast_from(up[row + place.up]);
        let one = Vector::<f32, N>::new(1.0f32);
        let value = gate / (one + Vector::exp(-gate)) * up;
        out[ABSOLUTE_POS] = Vector::<F, N>::cast_from(value);
    }
}
