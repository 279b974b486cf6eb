#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::codes::{CodeTiles, ROWS, UNITS, codes_kernel};
use super::kernel::{Few, expand_kernel, few_tokens_kernel};
use super::reference;
use crate::cube::{self, Abilities, MatrixBuffers, OnTheWay, RowLayout};
use crate::fp8::{Activations, CODES_PER_WORD, Fp8Matrix};
use crate::ops::product::product;
use crate::ops::{quantise_fp8, rms_norm};
use crate::weight::Weight;

/// Tokens that a group of lanes takes at once.
const MOST_TOKENS: usize = 8;

/// `x · weightᵀ + bias` in `dtype`.
pub(super) fn linear(
    x: Tensor<2>,
    weight: &Weight,
    bias: Option<Tensor<1>>,
    dtype: DType,
) -> Tensor<2> {
    let [tokens, _] = x.dims();
    if tokens > cube::FEW_TOKENS {
        return many(x, weight, bias, dtype);
    }
    let (x, x_scales) = match weight {
        Weight::Fp8(matrix) => quantised(x, matrix.activations()),
        Weight::Dense(_) | Weight::Groups(_) => (x, None),
    };
    let x = cube::floats(padded(x, weight));
    let x_scales = x_scales.map(cube::floats);
    let bias = bias.map(|bias| cube::floats(bias.cast(dtype)));
    let weight = MatrixBuffers::new(weight, Abilities::of(&x.client));
    cube::tensor(few(&x, x_scales.as_ref(), None, &weight, bias.as_ref(), dtype))
}

/// [`quantise_fp8::launch::quantised`] of a tensor.
fn quantised(x: Tensor<2>, activations: Activations) -> (Tensor<2>, Option<Tensor<2>>) {
    let (values, scales) = quantise_fp8::launch::quantised(&cube::floats(x), activations);
    (cube::tensor(values), scales.map(cube::tensor))
}

/// Activations with zeros for the codes past the width of an FP8 weight.
fn padded(x: Tensor<2>, weight: &Weight) -> Tensor<2> {
    let [tokens, width] = x.dims();
    match width.next_multiple_of(CODES_PER_WORD) - width {
        missing if missing > 0 && matches!(weight, Weight::Fp8(_)) => {
            let zeros = Tensor::zeros([tokens, missing], (&x.device(), x.dtype()));
            Tensor::cat(vec![x, zeros], 1)
        }
        _ => x,
    }
}

/// For many tokens: codes with codes on units for FP8, else the products of matrices that Burn tunes
/// for the device, with FP8 expanded first. Activations take the dtype of a dense weight that is wider,
/// which is the router's.
fn many(x: Tensor<2>, weight: &Weight, bias: Option<Tensor<1>>, dtype: DType) -> Tensor<2> {
    if let Weight::Fp8(matrix) = weight {
        let x = cube::floats(x.clone());
        let abilities = Abilities::of(&x.client);
        let buffers = MatrixBuffers::of_codes(matrix, abilities);
        if multiplies_codes(&buffers, matrix.activations(), abilities) {
            let (words, scales) = quantise_fp8::launch::codes(&x);
            let [tokens, _] = cube::dims(&words);
            let out = cube::empty(&x, [tokens, buffers.rows], dtype);
            codes(&words, &scales, &buffers, None, &out);
            return reference::add(cube::tensor(out), bias.map(|bias| bias.cast(dtype)));
        }
    }
    let wanted = match weight {
        Weight::Dense(weight) if weight.dtype().size() > x.dtype().size() => weight.dtype(),
        _ => x.dtype(),
    };
    let y = match weight {
        Weight::Dense(weight) => product(x.cast(wanted), weight.clone().cast(wanted).transpose()),
        Weight::Groups(_) => panic!("{}", cube::NO_GROUPS),
        Weight::Fp8(matrix) => {
            let (x, x_scales) = quantised(x, matrix.activations());
            match x_scales {
                Some(x_scales) if matrix.has_row_scales() => {
                    let codes = cube::tensor::<2>(expand(matrix, wanted, false));
                    let y = product(x, codes.transpose()).cast(DType::F32);
                    y * x_scales * matrix.scales().clone().transpose()
                }
                x_scales => {
                    let weight = cube::tensor::<2>(expand(matrix, wanted, true));
                    let y = product(x, weight.transpose());
                    match x_scales {
                        Some(scales) => y.cast(DType::F32) * scales,
                        None => y,
                    }
                }
            }
        }
    };
    reference::add(y.cast(dtype), bias.map(|bias| bias.cast(dtype)))
}

/// Whether activations are multiplied as codes with a weight.
pub(crate) fn multiplies_codes(
    weight: &MatrixBuffers,
    activations: Activations,
    abilities: Abilities,
) -> bool {
    abilities.codes && activations == Activations::PerToken && weight.layout.has_row_scales()
}

/// Places in the order of experts, and the tiles that they make.
#[derive(Debug)]
pub(crate) struct OrderedPlaces<'a> {
    pub(crate) order: &'a CubeTensor,
    /// `[tiles, 3]`: expert, first place and places, at most 64.
    pub(crate) items: &'a CubeTensor,
    /// Experts of the weight.
    pub(crate) experts: std::ops::Range<usize>,
    /// Places of a row of `x`.
    pub(crate) choices: usize,
}

/// `out[place] = weight · x[place / choices]`, `x [tokens, words]` of codes and `x_scales [tokens]`.
pub(crate) fn codes(
    x: &CubeTensor,
    x_scales: &CubeTensor,
    weight: &MatrixBuffers,
    places: Option<&OrderedPlaces<'_>>,
    out: &CubeTensor,
) {
    let [_, words] = cube::dims(x);
    let [count, rows] = cube::dims(out);
    let stride = weight.layout.stride;
    let size = cube::vector_size(size_of::<u32>(), &[words, stride]);
    let tile = if places.is_some() || count <= 64 { 64 } else { 128 };
    let experts = places.map_or(0..1, |places| places.experts.clone());
    let tiles = CodeTiles {
        words,
        stride,
        scale_stride: weight.layout.scale_stride(),
        rows,
        places: tile,
        ordered: places.is_some(),
        first_expert: experts.start,
        end_expert: experts.end,
        choices: places.map_or(1, |places| places.choices),
    };
    let most = places.map_or(count.div_ceil(tile), |places| cube::dims::<2>(places.items)[0]);
    let none = cube::empty(x, [1], DType::I32);
    // SAFETY: rows and places past the last ones are zeros and not written, and no word past a row's
    // end is read.
    unsafe {
        codes_kernel::launch_unchecked(
            cube::counted(&x.client),
            CubeCount::Static(rows.div_ceil(ROWS) as u32, most as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            weight.address_type().max(out.required_address_type()),
            size,
            x.clone().into_buffer_arg(),
            weight.elements.clone().into_buffer_arg(),
            weight.scales.clone().expect("scales of codes").into_buffer_arg(),
            x_scales.clone().into_buffer_arg(),
            places.map_or(&none, |places| places.order).clone().into_buffer_arg(),
            places.map_or(&none, |places| places.items).clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count as u32,
            tiles,
            cube::elem(out.dtype),
        );
    }
}

/// A norm that is taken on the way into a product.
#[derive(Debug)]
pub(crate) struct NormBuffers {
    /// What is added before, `[tokens, width]`.
    pub(crate) added: Option<CubeTensor>,
    /// `[width]`
    pub(crate) gain: CubeTensor,
    pub(crate) eps: f32,
}

/// Whether a norm is taken together with what follows it: for few tokens on the way into the product
/// with `weight`, or into their codes where a token has one scale.
pub(crate) fn norms_on_the_way(tokens: usize, weight: &Weight) -> bool {
    let whole = match weight {
        Weight::Dense(_) | Weight::Groups(_) => true,
        Weight::Fp8(matrix) => {
            let words = matrix.dims()[1].is_multiple_of(CODES_PER_WORD);
            !matches!(matrix.activations(), Activations::PerGroup(_)) && words
        }
    };
    tokens <= cube::FEW_TOKENS && whole
}

/// Whether activations are quantised with a scale for each token.
pub(crate) fn is_per_token(weight: &Weight) -> bool {
    matches!(weight, Weight::Fp8(matrix) if matrix.activations() == Activations::PerToken)
}

/// `sum = x + added`, `norm(sum) · weightᵀ + bias` in `dtype` → the sum and the product.
pub(super) fn norm_linear(
    x: Tensor<2>,
    norm: &NormBuffers,
    weight: &Weight,
    bias: Option<Tensor<1>>,
    dtype: DType,
) -> (Tensor<2>, Tensor<2>) {
    let x = if norm.added.is_some() { cube::floats(x) } else { cube::rows(x) };
    let bias = bias.map(|bias| cube::floats(bias.cast(dtype)));
    let quantises = is_per_token(weight);
    let weight = MatrixBuffers::new(weight, Abilities::of(&x.client));
    if quantises {
        let (sum, (values, scales)) =
            rms_norm::launch::quantised(&x, norm.added.as_ref(), &norm.gain, norm.eps.into());
        let y = few(&values, Some(&scales), None, &weight, bias.as_ref(), dtype);
        return (cube::tensor(sum), cube::tensor(y));
    }
    let [tokens, width] = cube::dims(&x);
    let total = norm.added.as_ref().map(|_| cube::empty(&x, [tokens, width], x.dtype));
    let on_the_way = Some((norm, total.as_ref()));
    let y = few(&x, None, on_the_way, &weight, bias.as_ref(), dtype);
    (cube::tensor(total.unwrap_or(x)), cube::tensor(y))
}

/// `x [tokens, width]`, `x_scales [tokens]`, a norm and where its sum goes → `[tokens, rows]` in
/// `dtype`.
pub(super) fn few(
    x: &CubeTensor,
    x_scales: Option<&CubeTensor>,
    norm: Option<(&NormBuffers, Option<&CubeTensor>)>,
    weight: &MatrixBuffers,
    bias: Option<&CubeTensor>,
    dtype: DType,
) -> CubeTensor {
    let abilities = Abilities::of(&x.client);
    let [tokens, width] = cube::dims(x);
    let block = tokens.next_power_of_two().min(MOST_TOKENS);
    let stride = cube::row_stride(x);
    let (mut x_size, mut size) = weight.vector_sizes(x.dtype, block);
    while !stride.is_multiple_of(x_size) {
        (x_size, size) = (x_size / 2, size / 2);
    }
    assert!(size > 0, "rows of {width} values, {stride} apart");
    let lanes = abilities.plane.unwrap_or(32);
    let units = lanes * if abilities.plane.is_some() { 8 } else { 2 };
    let groups = units / lanes;
    // More rows for a group while there is work for every multiprocessor.
    let enough = |rows: &usize| {
        rows * block <= 16 && weight.rows >= rows * groups * abilities.multiprocessors * 4
    };
    let rows = [4, 2].into_iter().find(enough).unwrap_or(1);
    let most = weight.layout.width.next_multiple_of(CODES_PER_WORD);
    assert!(width == weight.layout.width || width == most, "{width} columns of the weight");
    let few = Few {
        layout: RowLayout { width, ..weight.layout },
        stride,
        on_the_way: match norm {
            None => OnTheWay::Nothing,
            Some((NormBuffers { added: None, .. }, _)) => OnTheWay::Norm,
            Some(_) => OnTheWay::AddNorm,
        },
        tokens: block,
        rows,
        lanes,
        units,
        plane: abilities.plane_size(),
        has_bias: bias.is_some(),
        scales_tokens: x_scales.is_some(),
    };
    let out = cube::empty(x, [tokens, weight.rows], dtype);
    let none = cube::empty(x, [1], DType::F32);
    let no_bias = cube::empty(x, [1], dtype);
    let unused = cube::empty(x, [x_size], x.dtype);
    let added = norm.and_then(|(norm, _)| norm.added.clone());
    let total = norm.and_then(|(_, total)| total.cloned());
    let CubeCount::Static(cubes_x, cubes_y, _) = cube::cubes(weight.rows.div_ceil(groups * rows))
    else {
        unreachable!("a static count")
    };
    // SAFETY: groups past the rows do nothing, rows and tokens past the last repeat one that there
    // is and are not written, and vectors past a row's end are not read.
    unsafe {
        few_tokens_kernel::launch_unchecked(
            cube::counted(&x.client),
            CubeCount::Static(cubes_x, cubes_y, tokens.div_ceil(block) as u32),
            CubeDim::new_1d(units as u32),
            weight.address_type(),
            x_size,
            size,
            x.clone().into_buffer_arg(),
            added.unwrap_or_else(|| x.clone()).into_buffer_arg(),
            norm.map_or_else(|| x.clone(), |(norm, _)| norm.gain.clone()).into_buffer_arg(),
            weight.elements.clone().into_buffer_arg(),
            weight.scales.clone().unwrap_or_else(|| none.clone()).into_buffer_arg(),
            x_scales.cloned().unwrap_or(none).into_buffer_arg(),
            bias.cloned().unwrap_or(no_bias).into_buffer_arg(),
            total.unwrap_or(unused).into_buffer_arg(),
            out.clone().into_buffer_arg(),
            tokens as u32,
            weight.rows as u32,
            norm.map_or(0.0, |(norm, _)| norm.eps),
            few,
            [cube::elem(x.dtype), weight.elem(), cube::elem(dtype)],
        );
    }
    out
}

/// A weight in `dtype`, `[out, in]`. FP8 is expanded anew at each call.
pub(crate) fn dense(weight: &Weight, dtype: DType) -> Tensor<2> {
    match weight {
        Weight::Dense(weight) => weight.clone().cast(dtype),
        Weight::Fp8(matrix) => cube::tensor(expand(matrix, dtype, true)),
        Weight::Groups(_) => panic!("{}", cube::NO_GROUPS),
    }
}

/// The matrix in floats, `[rows, width]`, with its scales or without them.
fn expand(matrix: &Fp8Matrix, dtype: DType, scaled: bool) -> CubeTensor {
    let words = cube::strided_ints(matrix.words().clone());
    let abilities = Abilities::of(&words.client);
    expand_buffers(&MatrixBuffers::of_codes(matrix, abilities), dtype, scaled, abilities)
}

pub(super) fn expand_buffers(
    matrix: &MatrixBuffers,
    dtype: DType,
    scaled: bool,
    abilities: Abilities,
) -> CubeTensor {
    let (rows, layout) = (matrix.rows, matrix.layout);
    let out = cube::empty(&matrix.elements, [rows, layout.width], dtype);
    let units = 256.min(abilities.units);
    let scales = matrix.scales.clone().expect("scales of codes");
    // SAFETY: units past the last word do nothing, and a word's codes past the width are not
    // written.
    unsafe {
        expand_kernel::launch_unchecked(
            cube::counted(&out.client),
            cube::cubes((rows * layout.width.div_ceil(4)).div_ceil(units)),
            CubeDim::new_1d(units as u32),
            out.required_address_type(),
            matrix.elements.clone().into_buffer_arg(),
            scales.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows as u32,
            layout,
            scaled,
            abilities.e4m3,
            cube::elem(dtype),
        );
    }
    out
}
