#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::MlaProjected;
use super::kernel::{ACROSS, Absorbed, mla_write_kernel};
use crate::cube::{self, Abilities, MatrixBuffers, PageBuffers, vector_size};
use crate::kv::KvLayer;
use crate::ops::rope::launch::TurnBuffers;
use crate::ops::{PreparedQueries, Rotation};
use crate::weight::Weight;

/// Most tokens of a cube.
const MOST_TOKENS: usize = 8;

pub(super) fn is_for_few(q: &Tensor<2>) -> bool {
    q.dims()[0] <= cube::FEW_TOKENS
}

pub(super) fn mla_write(
    projected: MlaProjected<'_>,
    kv_b: &Weight,
    rotation: &Rotation,
    layer: &mut KvLayer,
    slots: Tensor<1, Int>,
) -> PreparedQueries {
    let MlaProjected { q, down, norm, heads } = projected;
    let dtype = q.dtype();
    let rope = down.dims()[1] - norm.weight.dims()[0];
    let nope = q.dims()[1] / heads - rope;
    let q = cube::floats(q);
    let matrix = MatrixBuffers::new(kv_b, Abilities::of(&q.client));
    let norm = (cube::floats(norm.weight.clone().cast(dtype)), norm.eps as f32);
    let pages = PageBuffers::to_write(layer.latents_mut());
    let (down, rotation, slots) = (cube::rows(down), TurnBuffers::new(rotation), cube::ints(slots));
    let q = launch(&q, &down, &norm, &matrix, &rotation, &slots, &pages, heads);
    PreparedQueries::Absorbed { queries: cube::tensor(q), nope }
}

/// `q [tokens, heads * (nope + rope)]`, `down [tokens, latent + rope]`, norm of the latent with its
/// weight `[latent]`; `pages` are written.
#[expect(clippy::too_many_arguments, reason = "the buffers of a kernel")]
pub(super) fn launch(
    q: &CubeTensor,
    down: &CubeTensor,
    norm: &(CubeTensor, f32),
    matrix: &MatrixBuffers,
    rotation: &TurnBuffers,
    slots: &CubeTensor,
    pages: &PageBuffers,
    heads: usize,
) -> CubeTensor {
    let abilities = Abilities::of(&q.client);
    let [tokens, width] = cube::dims(q);
    let [_, row] = cube::dims(down);
    let [latent] = cube::dims(&norm.0);
    let rope = row - latent;
    let nope = width / heads - rope;
    assert_eq!(matrix.layout.width, latent, "columns of the matrix");
    assert!(2 * rotation.turn.pairs <= rope, "{:?} of {rope} values", rotation.turn);
    let size = match matrix.layout.is_fp8() {
        true => 1,
        false => vector_size(size_of::<f32>(), &[latent, matrix.layout.stride]),
    };
    let absorbed = Absorbed {
        heads,
        nope,
        rope,
        value: matrix.rows / heads - nope,
        latent,
        stride: cube::row_stride(down),
        turn: rotation.turn,
        pages: pages.layout,
        rows: matrix.layout,
        native: abilities.e4m3,
        tokens: tokens.next_power_of_two().min(MOST_TOKENS),
        units: (8 * ACROSS).min(abilities.units),
        plane: abilities.plane_size(),
    };
    let cubes = tokens + tokens.div_ceil(absorbed.tokens) * heads * absorbed.blocks(size);
    let out = cube::empty(q, [tokens, heads, row], q.dtype);
    let none = || cube::empty(q, [1], DType::F32);
    // SAFETY: cubes past the count do nothing, tokens and columns past the last repeat one that there
    // is and are not written, positions are rows of the table and slots rows of the pages.
    unsafe {
        mla_write_kernel::launch_unchecked(
            cube::counted(&q.client),
            cube::cubes(cubes),
            CubeDim::new_1d(absorbed.units as u32),
            pages.address_type().max(matrix.address_type()),
            size,
            q.clone().into_buffer_arg(),
            down.clone().into_buffer_arg(),
            norm.0.clone().into_buffer_arg(),
            rotation.cos.clone().into_buffer_arg(),
            rotation.sin.clone().into_buffer_arg(),
            rotation.positions.clone().into_buffer_arg(),
            slots.clone().into_buffer_arg(),
            matrix.elements.clone().into_buffer_arg(),
            matrix.scales.clone().unwrap_or_else(none).into_buffer_arg(),
            pages.elements.clone().into_buffer_arg(),
            pages.scales.clone().unwrap_or_else(none).into_buffer_arg(),
            out.clone().into_buffer_arg(),
            tokens as u32,
            cubes as u32,
            norm.1,
            absorbed,
            [cube::elem(q.dtype), matrix.elem(), pages.elem()],
        );
    }
    out
}
