#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernel::rope_kernel;
use super::{RopeOrder, Rotation};
use crate::cube::{self, Turn};

/// Buffers of a rotation.
#[derive(Debug, Clone)]
pub(crate) struct TurnBuffers {
    /// `[rows, pairs]`
    pub(crate) cos: CubeTensor,
    /// `[rows, pairs]`
    pub(crate) sin: CubeTensor,
    /// Row of each token, `[tokens]`.
    pub(crate) positions: CubeTensor,
    pub(crate) turn: Turn,
}

impl TurnBuffers {
    pub(crate) fn new(rotation: &Rotation) -> Self {
        let (cos, sin, positions) = rotation.rows();
        let (cos, sin) = (cube::strided(cos), cube::strided(sin));
        let turn = Turn {
            pairs: cube::dims::<2>(&cos)[1],
            interleaved: rotation.order == RopeOrder::Interleaved,
            cos_stride: cube::row_stride(&cos),
            sin_stride: cube::row_stride(&sin),
        };
        TurnBuffers { cos, sin, positions: cube::ints(positions), turn }
    }
}

pub(super) fn rope(x: Tensor<3>, rotation: &Rotation) -> Tensor<3> {
    cube::tensor(launch(&cube::floats(x), &TurnBuffers::new(rotation)))
}

/// `x [tokens, heads, head_dim]`
pub(super) fn launch(x: &CubeTensor, rotation: &TurnBuffers) -> CubeTensor {
    let [tokens, heads, head_dim] = cube::dims(x);
    let turn = rotation.turn;
    assert!(2 * turn.pairs <= head_dim, "{} pairs in heads of {head_dim}", turn.pairs);
    let count = tokens * heads * (head_dim - turn.pairs);
    let out = cube::empty(x, [tokens, heads, head_dim], x.dtype);
    // SAFETY: units past the count do nothing, all others stay within their head, and positions
    // are rows of the table.
    unsafe {
        rope_kernel::launch_unchecked(
            cube::counted(&x.client),
            cube::cubes(count.div_ceil(256)),
            CubeDim::new_1d(256),
            x.required_address_type(),
            x.clone().into_buffer_arg(),
            rotation.cos.clone().into_buffer_arg(),
            rotation.sin.clone().into_buffer_arg(),
            rotation.positions.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count as u32,
            heads as u32,
            head_dim,
            turn,
            cube::elem(x.dtype),
        );
    }
    out
}
