use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, s};

use crate::fp8::CODES_PER_WORD;
use crate::kv::{Fp8Rows, KvRows, Parts};
use crate::ops::quantise_fp8::codes_fp8;

/// `quantised` makes words and scales of rows `[tokens, width]`.
pub(super) fn kv_write(
    pages: &mut KvRows,
    rows: Tensor<2>,
    slots: Tensor<1, Int>,
    quantised: fn(&Tensor<2>, &[Parts]) -> (Tensor<2, Int>, Tensor<2>),
) {
    match pages {
        KvRows::Float(held) => {
            let rows = rows.cast(held.dtype());
            held.inplace(|held| held.select_assign(0, slots, rows, IndexingUpdateOp::Assign));
        }
        KvRows::Fp8(Fp8Rows { words, scales, parts, .. }) => {
            let (fresh_words, fresh_scales) = quantised(&rows, parts);
            let replace = IndexingUpdateOp::Assign;
            words.inplace(|held| held.select_assign(0, slots.clone(), fresh_words, replace));
            let replace = IndexingUpdateOp::Assign;
            scales.inplace(|held| held.select_assign(0, slots, fresh_scales, replace));
        }
    }
}

/// Words and scales of `rows [tokens, width]`.
pub(super) fn quantised(rows: &Tensor<2>, parts: &[Parts]) -> (Tensor<2, Int>, Tensor<2>) {
    let [tokens, _] = rows.dims();
    let mut first = 0;
    let parts = parts.iter().map(|&Parts { count, width }| {
        let values = rows.clone().slice(s![.., first..first + count * width]);
        first += count * width;
        let (codes, scales) = codes_fp8(values.reshape([tokens * count, width]));
        (packed(codes).reshape([tokens as i32, -1]), scales.reshape([tokens, count]))
    });
    let (words, scales): (Vec<_>, Vec<_>) = parts.unzip();
    (Tensor::cat(words, 1), Tensor::cat(scales, 1))
}

/// Four codes a word, the first in the lowest byte, zeros after the last:
/// `[rows, width]` → `[rows, ⌈width / 4⌉]`.
fn packed(codes: Tensor<2, Int>) -> Tensor<2, Int> {
    let [rows, width] = codes.dims();
    let words = width.div_ceil(CODES_PER_WORD);
    let codes = match words * CODES_PER_WORD - width {
        0 => codes,
        missing => {
            let zeros = Tensor::zeros([rows, missing], (&codes.device(), DType::I32));
            Tensor::cat(vec![codes, zeros], 1)
        }
    };
    let codes = codes.reshape([rows, words, CODES_PER_WORD]);
    let byte = |index: usize| {
        let code = codes.clone().slice(s![.., .., index..index + 1]);
        match index {
            0 => code,
            _ => code.bitwise_left_shift_scalar(8 * index as i32),
        }
    };
    let rest = (1..CODES_PER_WORD).map(byte);
    rest.fold(byte(0), |word, next| word.bitwise_or(next)).reshape([rows, words])
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::kv::KvFormat;
    use crate::ops::case::Inputs;
    use crate::ops::quantise_fp8;

    /// What was at `slots` after `rows` were written there.
    fn stored(rows: &Tensor<2>, parts: &[Parts], format: KvFormat) -> Vec<f32> {
        let device = rows.device();
        let mut pages = KvRows::zeros(parts, 8, format, &device);
        let slots = Tensor::from_data([6, 1, 3], &device);
        kv_write(&mut pages, rows.clone(), slots.clone(), quantised);
        pages.gather(slots, DType::F32).into_data().try_into_vec_as::<f32>().unwrap()
    }

    #[test]
    fn floats_are_rounded_to_the_dtype_of_the_cache() {
        let rows = Inputs::new(1, &Device::flex()).floats([3, 10], 1.0);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let want = rows.clone().cast(dtype).cast(DType::F32).into_data();
            let got = stored(&rows, &[Parts { count: 2, width: 5 }], dtype.into());
            assert_eq!(got, want.try_into_vec_as::<f32>().unwrap(), "{dtype:?}");
        }
    }

    #[test]
    fn each_part_of_a_row_is_quantised_with_its_own_scale() {
        let mut inputs = Inputs::new(2, &Device::flex());
        let parts = [Parts { count: 3, width: 7 }, Parts { count: 1, width: 6 }];
        // Parts of sizes that differ by far more than E4M3 spans.
        let part = |index: i32, inputs: &mut Inputs| {
            let width = if index == 3 { 6 } else { 7 };
            inputs.floats([3, width], 100f32.powi(index - 2))
        };
        let values: Vec<Tensor<2>> = (0..4).map(|index| part(index, &mut inputs)).collect();
        let want = values.iter().map(|part| quantise_fp8(part.clone(), None).dequantised());
        let want = Tensor::cat(want.collect(), 1);
        let got = stored(&Tensor::cat(values, 1), &parts, KvFormat::Fp8);
        assert_eq!(got, want.into_data().try_into_vec_as::<f32>().unwrap());
    }
}
