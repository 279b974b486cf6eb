//! Rows to FP8 on the CPU, in one pass.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::fp8::{CODES_PER_WORD, encode};
use crate::kv::Parts;
use crate::ops::quantise_fp8::scale_fp8;

/// Quantisation as Flex has it.
#[backend_extension(Flex)]
pub(crate) trait QuantiseRows: Backend {
    /// `rows [tokens, width]` in f32 → words `[tokens, words]`, i32, and scales `[tokens, parts]`,
    /// f32.
    fn quantise_rows(
        rows: FloatTensor<Self>,
        parts: Vec<Parts>,
    ) -> (IntTensor<Self>, FloatTensor<Self>);
}

impl QuantiseRows for Flex {
    fn quantise_rows(
        rows: FloatTensor<Self>,
        parts: Vec<Parts>,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let rows = rows.to_contiguous();
        let [tokens, width] = rows.layout().shape().dims();
        let values: &[f32] = rows.as_slice().expect("contiguous");
        let (mut words, mut scales) = (Vec::new(), Vec::new());
        for row in values.chunks_exact(width) {
            let mut rest = row;
            for part in parts.iter().flat_map(|part| std::iter::repeat_n(part.width, part.count)) {
                let values;
                (values, rest) = rest.split_at(part);
                let largest =
                    values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
                // What is not finite must not be read back as if it were.
                let finite = values.iter().all(|value| value.is_finite());
                let scale = if finite { scale_fp8(largest) } else { f32::NAN };
                scales.push(scale);
                words.extend(values.chunks(CODES_PER_WORD).map(|four| {
                    let mut codes = [0; CODES_PER_WORD];
                    for (code, value) in codes.iter_mut().zip(four) {
                        *code = encode(value / scale);
                    }
                    i32::from_le_bytes(codes)
                }));
            }
        }
        let columns = |length: usize| [tokens, length / tokens.max(1)];
        let (words_shape, scales_shape) = (columns(words.len()), columns(scales.len()));
        (
            IntTensor::<Flex>::from_data(TensorData::new(words, words_shape)),
            FloatTensor::<Flex>::from_data(TensorData::new(scales, scales_shape)),
        )
    }
}

pub(super) fn quantised(rows: &Tensor<2>, parts: &[Parts]) -> (Tensor<2, Int>, Tensor<2>) {
    let rows = rows.clone().cast(DType::F32).into_dispatch();
    let (words, scales) = Dispatch::quantise_rows(rows, parts.to_vec());
    (Tensor::from_dispatch(words), Tensor::from_dispatch(scales))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::case::Inputs;
    use crate::ops::kv_write::reference;

    #[test]
    fn words_and_scales_are_those_of_the_reference() {
        let parts = [Parts { count: 3, width: 7 }, Parts { count: 1, width: 64 }];
        let mut inputs = Inputs::new(3, &Device::flex());
        for scale in [1.0, 1e-5, 300.0] {
            let rows = inputs.floats([9, 85], scale);
            let (words, scales) = quantised(&rows, &parts);
            let (wanted_words, wanted_scales) = reference::quantised(&rows, &parts);
            words.into_data().assert_eq(&wanted_words.into_data(), true);
            scales.into_data().assert_eq(&wanted_scales.into_data(), true);
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let rows =
            Tensor::from_data([[1.0, f32::NAN, 2.0], [1.0, 2.0, f32::INFINITY]], &Device::flex());
        let (_, scales) = quantised(&rows, &[Parts { count: 1, width: 3 }]);
        let scales = scales.into_data().try_into_vec_as::<f32>().unwrap();
        assert!(scales.iter().all(|scale| scale.is_nan()), "{scales:?}");
    }
}
