#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernel::{add_rms_norm_kernel, rms_norm_kernel};
use crate::cube::{self, Abilities};

/// `x [.., width]`, `weight [width]`
pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let shape = x.shape();
    let x = cube::strided(x);
    // Columns of a wider matrix are read where they lie.
    let x = match x.meta.strides().last() {
        Some(1) if D == 2 => x,
        _ => into_contiguous(x),
    };
    reshaped(launch(&x, &cube::floats(weight), eps, false).0, shape)
}

/// `x` and `added [tokens, width]`, `weight [width]` → `x + added` and its norm.
pub(super) fn add_rms_norm(
    x: Tensor<2>,
    added: Tensor<2>,
    weight: Tensor<1>,
    eps: f64,
) -> (Tensor<2>, Tensor<2>) {
    let (x, added, weight) = (cube::floats(x), cube::floats(added), cube::floats(weight));
    let (sum, (out, _)) = launch_add(&x, &added, &weight, eps, false);
    (cube::tensor(sum), cube::tensor(out))
}

fn reshaped<const D: usize>(mut buffer: CubeTensor, shape: Shape) -> Tensor<D> {
    buffer = CubeTensor::new_contiguous(
        buffer.client,
        buffer.device,
        shape,
        buffer.handle,
        buffer.dtype,
    );
    cube::tensor(buffer)
}

/// Units of a cube for rows of `vectors`.
fn units(vectors: usize, abilities: Abilities) -> usize {
    let least = abilities.plane.unwrap_or(32);
    vectors.next_power_of_two().clamp(least, 512.min(abilities.units).max(least))
}

/// The norm of rows, or of their sums with what is `added`: the sums, and the norms as values of E4M3
/// in the dtype of `x` with a scale for each row.
pub(crate) fn quantised(
    x: &CubeTensor,
    added: Option<&CubeTensor>,
    weight: &CubeTensor,
    eps: f64,
) -> (CubeTensor, (CubeTensor, CubeTensor)) {
    match added {
        Some(added) => launch_add(x, added, weight, eps, true),
        None => (x.clone(), launch(x, weight, eps, true)),
    }
}

/// Norms, and scales where they are quantised.
fn launch(
    x: &CubeTensor,
    weight: &CubeTensor,
    eps: f64,
    quantises: bool,
) -> (CubeTensor, CubeTensor) {
    let abilities = Abilities::of(&x.client);
    let [width] = cube::dims(weight);
    let rows = x.meta.num_elements() / width;
    let stride = if x.meta.strides().len() == 2 { cube::row_stride(x) } else { width };
    let size = cube::vector_size(x.dtype.size(), &[width, stride]);
    let units = units(width / size, abilities);
    let out = cube::empty(x, [rows, width], x.dtype);
    let scales = cube::empty(x, [if quantises { rows } else { 1 }, 1], DType::F32);
    // SAFETY: rows and columns are checked against their number, and the buffers hold
    // `rows * width` and `width` elements.
    unsafe {
        rms_norm_kernel::launch_unchecked(
            cube::counted(&x.client),
            cube::cubes(rows),
            CubeDim::new_1d(units as u32),
            x.required_address_type(),
            size,
            x.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            scales.clone().into_buffer_arg(),
            rows as u32,
            eps as f32,
            width,
            stride,
            units,
            abilities.plane_size(),
            quantises,
            cube::elem(x.dtype),
        );
    }
    (out, scales)
}

/// Sums, and what [`launch`] gives of them.
fn launch_add(
    x: &CubeTensor,
    added: &CubeTensor,
    weight: &CubeTensor,
    eps: f64,
    quantises: bool,
) -> (CubeTensor, (CubeTensor, CubeTensor)) {
    let abilities = Abilities::of(&x.client);
    let [rows, width] = cube::dims(x);
    let size = cube::vector_size(x.dtype.size(), &[width]);
    let units = units(width / size, abilities);
    let [sum, out] = [(); 2].map(|()| cube::empty(x, [rows, width], x.dtype));
    let scales = cube::empty(x, [if quantises { rows } else { 1 }, 1], DType::F32);
    // SAFETY: as in `launch`; `added`, `sum` and `out` are of the shape of `x`.
    unsafe {
        add_rms_norm_kernel::launch_unchecked(
            cube::counted(&x.client),
            cube::cubes(rows),
            CubeDim::new_1d(units as u32),
            x.required_address_type(),
            size,
            x.clone().into_buffer_arg(),
            added.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            sum.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            scales.clone().into_buffer_arg(),
            rows as u32,
            eps as f32,
            width,
            units,
            abilities.plane_size(),
            quantises,
            cube::elem(x.dtype),
        );
    }
    (sum, (out, scales))
}
