#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernel::{Place, swiglu_kernel};
use crate::cube::{self, Abilities};

pub(super) fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let [_, width] = gate.dims();
    let (gate, up) = (cube::floats(gate), cube::floats(up));
    cube::tensor(launch(&gate, &up, [width, width, 0]))
}

/// `x [tokens, 2 * width]`, gates first → `[tokens, width]`.
pub(super) fn swiglu_joint(x: Tensor<2>) -> Tensor<2> {
    let x = cube::floats(x);
    cube::tensor(joint(&x))
}

pub(crate) fn joint(x: &CubeTensor) -> CubeTensor {
    let [_, both] = cube::dims(x);
    launch(x, x, [both / 2, both, both / 2])
}

/// `[width, stride, up]`: values of a row, from row to row, and from a row of `up` to its values.
fn launch(gate: &CubeTensor, up: &CubeTensor, [width, stride, offset]: [usize; 3]) -> CubeTensor {
    let [tokens, _] = cube::dims(gate);
    let size = cube::vector_size(gate.dtype.size(), &[width, stride]);
    let out = cube::empty(gate, [tokens, width], gate.dtype);
    let vectors = tokens * width / size;
    let units = 256.min(Abilities::of(&gate.client).units);
    // SAFETY: units past the last vector do nothing.
    unsafe {
        swiglu_kernel::launch_unchecked(
            cube::counted(&gate.client),
            cube::cubes(vectors.div_ceil(units)),
            CubeDim::new_1d(units as u32),
            gate.required_address_type(),
            size,
            gate.clone().into_buffer_arg(),
            up.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            vectors as u32,
            Place { width: width / size, stride: stride / size, up: offset / size },
            cube::elem(gate.dtype),
        );
    }
    out
}
