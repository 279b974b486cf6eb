#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::PreparedQueries;
use super::kernel::{Expand, expand_kernel};
use super::reference::UpProjection;
use crate::cube::{self, Abilities, MatrixBuffers, PageBuffers};
use crate::kv::{KvLayer, PageTables};
use crate::ops::linear::launch::dense;
use crate::ops::paged_attention::launch::{
    Attended, Pages, Splits, TableBuffers, combine, launch as attend,
};
use crate::weight::Weight;

/// Most tokens of a cube.
const MOST_TOKENS: usize = 4;

pub(super) fn mla_attention(
    q: PreparedQueries,
    kv_b: &Weight,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let [_, latent] = kv_b.dims();
    let (q, nope) = match q {
        PreparedQueries::Absorbed { queries, nope } => (queries, nope),
        PreparedQueries::Heads(q) => {
            let [_, heads, nope] = q.nope.dims();
            let matrix = dense(kv_b, q.nope.dtype());
            (UpProjection { matrix, heads, nope }.absorb(q), nope)
        }
    };
    let ([tokens, heads, row], dtype) = (q.dims(), q.dtype());
    let rows = PageBuffers::new(layer.latents());
    let pages = Pages {
        keys: rows.clone(),
        values: rows,
        kv_heads: 1,
        key_parts: [latent, row - latent],
        value_width: latent,
        page_size,
        values_in_keys: true,
    };
    let (q, tables) = (cube::floats(q), TableBuffers::new(tables));
    let few = tokens <= cube::FEW_TOKENS;
    match attend(&q, &pages, &tables, scale as f32, few) {
        Attended::Split(splits) if few => {
            let matrix = MatrixBuffers::new(kv_b, Abilities::of(&q.client));
            cube::tensor(expand(&splits, &tables, &matrix, nope, dtype))
        }
        attended => {
            let sums = match attended {
                Attended::Whole(sums) => sums,
                Attended::Split(splits) => combine(&splits, &tables, dtype),
            };
            let matrix = dense(kv_b, dtype);
            UpProjection { matrix, heads, nope }.expand_results(cube::tensor(sums))
        }
    }
}

/// `W_UV` times the sums of the splits: `[tokens, heads, value]` in `dtype`.
pub(super) fn expand(
    splits: &Splits,
    tables: &TableBuffers,
    matrix: &MatrixBuffers,
    nope: usize,
    dtype: DType,
) -> CubeTensor {
    let sums = &splits.sums;
    let abilities = Abilities::of(&sums.client);
    let [tokens, heads, count, latent] = cube::dims(sums);
    assert_eq!(matrix.layout.width, latent, "columns of the matrix");
    let block = tokens.next_power_of_two().min(MOST_TOKENS);
    let (x_size, size) = matrix.vector_sizes(DType::F32, block);
    let lanes = abilities.plane.unwrap_or(32);
    let expand = Expand {
        heads,
        nope,
        value: matrix.rows / heads - nope,
        layout: matrix.layout,
        tokens: block,
        rows: if block == 1 { 8 } else { 4 },
        lanes,
        units: (8 * lanes).min(abilities.units),
        plane: abilities.plane_size(),
    };
    let out = cube::empty(sums, [tokens, heads, expand.value], dtype);
    let cubes = tokens.div_ceil(block) * heads * expand.blocks();
    let scales = matrix.scales.clone();
    // SAFETY: cubes past the last token do nothing, tokens past the last have no splits, splits past
    // a token's position are not read, and rows and columns past the last are neither read nor
    // written.
    unsafe {
        expand_kernel::launch_unchecked(
            cube::counted(&out.client),
            cube::cubes(cubes),
            CubeDim::new_1d(expand.units as u32),
            sums.required_address_type().max(matrix.address_type()),
            x_size,
            size,
            sums.clone().into_buffer_arg(),
            splits.statistics.clone().into_buffer_arg(),
            tables.positions.clone().into_buffer_arg(),
            tables.query_starts.clone().into_buffer_arg(),
            matrix.elements.clone().into_buffer_arg(),
            scales.unwrap_or_else(|| cube::empty(sums, [1], DType::F32)).into_buffer_arg(),
            out.clone().into_buffer_arg(),
            tokens as u32,
            cube::dims::<1>(&tables.query_starts)[0] as u32 - 1,
            count as u32,
            splits.rows as u32,
            expand,
            [cube::elem(dtype), matrix.elem()],
        );
    }
    out
}
