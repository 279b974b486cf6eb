//! Projections on the CPU: the weight is read in place, in the type in which it is held.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};

use super::reference::add;
use crate::cpu::{self, Isa};
use crate::fp8::Activations;
use crate::ops::flex::{HeldWeight, WeightForm};
use crate::ops::quantise_fp8;
use crate::weight::Weight;

/// Projections as Flex has them.
#[backend_extension(Flex)]
pub(crate) trait Project: Backend {
    /// `x [tokens, in]` in f32, `weight [out, in]` → `[tokens, out]` in f32.
    fn project(
        x: FloatTensor<Self>,
        #[extension_type] weight: HeldWeight<Self>,
        form: WeightForm,
    ) -> FloatTensor<Self>;
}

impl Project for Flex {
    fn project(
        x: FloatTensor<Self>,
        weight: HeldWeight<Self>,
        form: WeightForm,
    ) -> FloatTensor<Self> {
        let (x, weight) = (x.to_contiguous(), weight.contiguous());
        let matrix = weight.matrix(&form);
        let [tokens, _] = x.layout().shape().dims();
        let out = cpu::product(Isa::current(), x.as_slice().expect("contiguous"), &matrix);
        FloatTensor::<Flex>::from_data(TensorData::new(out, [tokens, matrix.rows()]))
    }
}

/// Whether these kernels take a product: `x` is in f32, whatever the weight is in.
pub(super) fn takes(x: &Tensor<2>) -> bool {
    crate::ops::flex::takes(&x.device(), x.dtype())
}

/// As [`super::linear`], for `x` in f32.
pub(super) fn linear(x: Tensor<2>, weight: &Weight, bias: Option<Tensor<1>>) -> Tensor<2> {
    let activations = match weight {
        Weight::Dense(_) | Weight::Groups(_) => Activations::Float,
        Weight::Fp8(matrix) => matrix.activations(),
    };
    let y = match activations {
        Activations::Float => project(x, weight),
        Activations::PerToken => {
            // Values of E4M3 are bf16 values too, so that only their sums are rounded.
            let quantised = quantise_fp8(x, None);
            project(quantised.values, weight) * quantised.scales
        }
        Activations::PerGroup(group) => project(quantise_fp8(x, Some(group)).dequantised(), weight),
    };
    add(y, bias)
}

fn project(x: Tensor<2>, weight: &Weight) -> Tensor<2> {
    let form = WeightForm::of(weight);
    Tensor::from_dispatch(Dispatch::project(x.into_dispatch(), weight.into(), form))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::groups::Bits;
    use crate::ops::case::Inputs;
    use crate::ops::linear::reference;

    fn floats(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_into_vec_as::<f32>().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Whatever the weight is held in, against the product with its values.
        #[test]
        fn the_kernel_agrees_with_the_reference(
            (tokens, rows, width) in (1..40_usize, 1..150_usize, 1..300_usize),
            held in 0..7_usize,
            seed: u64,
        ) {
            let mut inputs = Inputs::new(seed, &Device::flex());
            let x = inputs.floats([tokens, width], 1.0);
            let dense = inputs.floats([rows, width], 0.3);
            let weight = match held {
                0 => Weight::Dense(dense),
                1 => Weight::Dense(dense.cast(DType::BF16)),
                2 => Weight::Dense(dense.cast(DType::F16)),
                3 => inputs.groups([rows, width], Bits::Eight).into(),
                4 => inputs.groups([rows, width], Bits::Four).into(),
                5 => inputs.fp8([rows, width], width, Activations::Float).into(),
                _ => inputs.fp8([rows, width], 64, Activations::Float).into(),
            };
            let got = floats(linear(x.clone(), &weight, None));
            let want = floats(reference::linear(x, &Weight::Dense(weight.dense(DType::F32)), None));
            // Products with a part of 16 bits, of weights up to 0.5: their roundings add up.
            let most = 2e-5 * (width as f32).sqrt().max(1.0);
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < most, "{got} {want}, {most}");
            }
        }
    }

    /// By one thread or several, whoever the other tokens are, of many: the same bits.
    #[test]
    fn threads_and_neighbours_do_not_change_a_bit() {
        let mut inputs = Inputs::new(4, &Device::flex());
        for dtype in [DType::F32, DType::BF16] {
            let (x, weight) = (inputs.floats([44, 301], 1.0), inputs.floats([1390, 301], 0.3));
            let weight = Weight::Dense(weight.cast(dtype));
            let product = |x: Tensor<2>| floats(linear(x, &weight, None));
            let together = product(x.clone());
            for first in [0, 3, 16] {
                let some = product(x.clone().narrow(0, first, 28));
                assert_eq!(together[first * 1390..(first + 28) * 1390], some);
            }
        }
    }
}
