use burn::tensor::{DType, Int, Tensor, TensorData, s};

use super::Fp8Activations;
use crate::fp8::MAX;

/// Least scale: of a token whose largest value is 1/512.
pub(crate) const LEAST_SCALE: f32 = 1.0 / (MAX * 512.0);
/// Exponents of E4M3, the subnormal values' being the least.
const EXPONENTS: std::ops::RangeInclusive<i32> = -6..=8;

pub(super) fn quantise_fp8(x: Tensor<2>, group: usize) -> Fp8Activations {
    let [tokens, width] = x.dims();
    let groups = width.div_ceil(group);
    let x = x.cast(DType::F32);
    let padded = match groups * group - width {
        0 => x,
        missing => {
            let zeros = Tensor::zeros([tokens, missing], (&x.device(), DType::F32));
            Tensor::cat(vec![x, zeros], 1)
        }
    };
    let x = padded.reshape([tokens, groups, group]);
    let scales = x.clone().abs().max_dim(2).div_scalar(MAX).clamp_min(LEAST_SCALE);
    let values = rounded((x / scales.clone()).clamp(-MAX, MAX));
    Fp8Activations {
        values: values.reshape([tokens, groups * group]).slice(s![.., 0..width]),
        scales: scales.reshape([tokens, groups]),
        group,
    }
}

/// Codes of the nearest E4M3 values of `x / scale` and the scales, one for each row, as
/// [`quantise_fp8`] chooses them: `[rows, width]` → codes `[rows, width]`, i32, and `[rows, 1]`, f32.
pub(super) fn codes_fp8(x: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    let x: Tensor<3> = x.cast(DType::F32).unsqueeze_dim(1);
    let scales = x.clone().abs().max_dim(2).div_scalar(MAX).clamp_min(LEAST_SCALE);
    let x = (x / scales.clone()).clamp(-MAX, MAX);
    let magnitude = x.clone().abs();
    let (index, step) = steps(magnitude.clone());
    // Eight steps, or mantissas, to each exponent; the first eight steps are the subnormal values.
    let unsigned = index.mul_scalar(8) + to_even(magnitude / step).int();
    let codes = unsigned + x.lower_elem(0.0).int().mul_scalar(0x80);
    (codes.cast(DType::I32).squeeze_dim(1), scales.squeeze_dim(1))
}

/// The nearest E4M3 values of `x` within ±448, ties to even.
fn rounded(x: Tensor<3>) -> Tensor<3> {
    let (_, step) = steps(x.clone().abs());
    to_even(x / step.clone()) * step
}

/// For each magnitude, its exponent, counted from the least, and the distance of its neighbours.
fn steps(magnitude: Tensor<3>) -> (Tensor<3, Int>, Tensor<3>) {
    let device = magnitude.device();
    // Powers of two come from a table: no device promises them exactly.
    let steps: Vec<f32> = EXPONENTS.map(|exponent| 2f32.powi(exponent - 3)).collect();
    let steps = Tensor::<1>::from_data(TensorData::from(steps.as_slice()), (&device, DType::F32));
    let (least, most) = (*EXPONENTS.start() as f32, *EXPONENTS.end() as f32);
    // A logarithm that is off by its last bit errs only beside a power of two, where both steps
    // round to that power.
    let shape = magnitude.dims();
    let exponent = magnitude.clamp_min(2f32.powi(-20)).log().mul_scalar(1.0 / 2f32.ln());
    let index = exponent.floor().clamp(least, most).sub_scalar(least).int();
    let step = steps.select(0, index.clone().reshape([-1])).reshape(shape);
    (index, step)
}

/// The nearest integers, ties to even.
fn to_even(x: Tensor<3>) -> Tensor<3> {
    let below = x.clone().floor();
    let rest = x - below.clone();
    let odd = below.clone() - below.clone().div_scalar(2.0).floor().mul_scalar(2.0);
    let up =
        rest.clone().greater_elem(0.5).bool_or(rest.equal_elem(0.5).bool_and(odd.equal_elem(1.0)));
    below + up.float()
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::fp8;

    /// Every code, the middle of every two neighbours, and what lies just beside it.
    #[test]
    fn rounding_equals_the_encoder() {
        let mut values = Vec::new();
        for code in 0..0x7e_u8 {
            let middle = (fp8::decode(code) + fp8::decode(code + 1)) / 2.0;
            values.extend([fp8::decode(code), middle, middle.next_down(), middle.next_up()]);
        }
        values.extend([448.0, 1e-10, 0.0]);
        values.extend(values.clone().into_iter().map(|value| -value));
        let tensor = Tensor::<1>::from_data(values.as_slice(), &Device::flex());
        let got = rounded(tensor.clone().reshape([1, 1, -1]))
            .into_data()
            .try_into_vec_as::<f32>()
            .unwrap();
        for (value, got) in values.iter().zip(got) {
            assert_eq!(got, fp8::decode(fp8::encode(*value)), "{value}");
        }
        // The largest value of the row is 448, so that its scale is 1.
        let (codes, scales) = codes_fp8(tensor.reshape([1, -1]));
        assert_eq!(scales.into_scalar::<f32>(), 1.0);
        let codes = codes.into_data().try_into_vec_as::<i64>().unwrap();
        for (value, code) in values.into_iter().zip(codes) {
            let code = u8::try_from(code).unwrap();
            assert_eq!(fp8::decode(code), fp8::decode(fp8::encode(value)), "{value}");
        }
    }

    #[test]
    fn every_token_and_group_has_its_own_scale() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[448.0, 1.0, -2.0], [0.0, 0.0, 1e-6]], &device);
        let whole = quantise_fp8(x.clone(), 3);
        let scales = whole.scales.into_data().try_into_vec_as::<f32>().unwrap();
        assert_eq!(scales, [1.0, LEAST_SCALE]);
        let values = whole.values.into_data().try_into_vec_as::<f32>().unwrap();
        assert_eq!(values[..5], [448.0, 1.0, -2.0, 0.0, 0.0]);
        let groups = quantise_fp8(x, 2);
        let scales = groups.scales.clone().into_data().try_into_vec_as::<f32>().unwrap();
        assert_eq!(scales, [1.0, 2.0 / MAX, LEAST_SCALE, LEAST_SCALE]);
        let back = groups.dequantised().into_data().try_into_vec_as::<f32>().unwrap();
        assert_eq!(back[..3], [448.0, 1.0, -2.0]);
    }
}
