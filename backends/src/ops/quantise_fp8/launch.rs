#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Fp8Activations;
use super::kernel::quantise_kernel;
use crate::cube::{self, Abilities};
use crate::fp8::Activations;

pub(super) fn quantise_fp8(x: Tensor<2>, group: usize) -> Fp8Activations {
    let (values, scales) = launch(&cube::floats(x), group, DType::F32, false);
    Fp8Activations { values: cube::tensor(values), scales: cube::tensor(scales), group }
}

/// `x [rows, width]` → words of four codes `[rows, ⌈width / 4⌉]`, and a scale for each row.
pub(crate) fn codes(x: &CubeTensor) -> (CubeTensor, CubeTensor) {
    let [_, width] = cube::dims(x);
    launch(x, width, DType::U32, true)
}

/// `x [rows, width]` → values in `dtype`, which holds all of E4M3, or packed codes, and scales
/// `[rows, groups]`.
fn launch(x: &CubeTensor, group: usize, dtype: DType, packs: bool) -> (CubeTensor, CubeTensor) {
    let abilities = Abilities::of(&x.client);
    let [rows, width] = cube::dims(x);
    let groups = width.div_ceil(group);
    let values = cube::empty(x, [rows, if packs { width.div_ceil(4) } else { width }], dtype);
    let scales = cube::empty(x, [rows, groups], DType::F32);
    let least = abilities.plane.unwrap_or(32);
    let units = group.div_ceil(4).next_power_of_two().clamp(least, 256.min(abilities.units));
    // SAFETY: cubes past the rows and columns past the width do nothing.
    unsafe {
        quantise_kernel::launch_unchecked(
            cube::counted(&x.client),
            cube::cubes(rows * groups),
            CubeDim::new_1d(units as u32),
            x.required_address_type(),
            x.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            scales.clone().into_buffer_arg(),
            rows as u32,
            width,
            group,
            units,
            abilities.plane_size(),
            packs,
            [cube::elem(x.dtype), cube::elem(dtype)],
        );
    }
    (values, scales)
}

/// What FP8 weights are multiplied with, `x [rows, width]` in its dtype: the values themselves, or E4M3
/// values and the scale of each row. A scale for several columns is multiplied in again.
pub(crate) fn quantised(
    x: &CubeTensor,
    activations: Activations,
) -> (CubeTensor, Option<CubeTensor>) {
    let [_, width] = cube::dims(x);
    match activations {
        Activations::Float => (x.clone(), None),
        Activations::PerToken => {
            let (values, scales) = launch(x, width, x.dtype, false);
            (values, Some(scales))
        }
        Activations::PerGroup(group) => {
            let values = quantise_fp8(cube::tensor(x.clone()), group.min(width)).dequantised();
            (cube::floats(values.cast(x.dtype)), None)
        }
    }
}
