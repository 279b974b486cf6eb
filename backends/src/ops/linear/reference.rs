use burn::tensor::{DType, Tensor, s};

use crate::fp8::{Activations, Fp8Matrix};
use crate::ops::product::product;
use crate::ops::quantise_fp8;
use crate::weight::Weight;

/// Most FP8 weights that are floats at a time.
const MOST_EXPANDED: usize = 1 << 22;

pub(super) fn linear(x: Tensor<2>, weight: &Weight, bias: Option<Tensor<1>>) -> Tensor<2> {
    let weight = match weight {
        Weight::Dense(weight) => return add(product(x, weight.clone().transpose()), bias),
        Weight::Fp8(weight) => weight,
        Weight::Groups(weight) => {
            let weight = weight.dequantised().cast(x.dtype());
            return add(product(x, weight.transpose()), bias);
        }
    };
    let [rows, width] = weight.dims();
    let step = (MOST_EXPANDED / width).max(1);
    let part = |first: usize| {
        let rows = first..rows.min(first + step);
        let bias = bias.clone().map(|bias| bias.slice(s![rows.clone()]));
        fp8(x.clone(), &weight.rows(rows), bias)
    };
    match rows <= step {
        true => fp8(x, weight, bias),
        false => Tensor::cat((0..rows).step_by(step).map(part).collect(), 1),
    }
}

fn fp8(x: Tensor<2>, weight: &Fp8Matrix, bias: Option<Tensor<1>>) -> Tensor<2> {
    let dtype = x.dtype();
    let group = match weight.activations() {
        Activations::Float => {
            let weight = weight.dequantised().cast(dtype);
            return add(product(x, weight.transpose()), bias);
        }
        Activations::PerToken => None,
        Activations::PerGroup(group) => Some(group),
    };
    let quantised = quantise_fp8(x, group);
    let y = match (group, weight.row_scales()) {
        (None, Some(scales)) => {
            let y = product(quantised.values, weight.unscaled().transpose());
            y * quantised.scales * scales.transpose()
        }
        _ => product(quantised.dequantised(), weight.dequantised().transpose()),
    };
    add(y, bias.map(|bias| bias.cast(DType::F32))).cast(dtype)
}

/// Adds the bias, where there is one.
pub(super) fn add(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}
