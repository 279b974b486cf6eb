//! FP8 weights: E4M3 codes with scales, one byte a weight on every device.
//!
//! E4M3 "FN" has 1 sign, 4 exponent and 3 mantissa bits, bias 7, no infinity, NaN at `0x7f` and
//! `0xff`, and 448 as its largest value
//! ([Micikevicius et al. 2022](https://arxiv.org/abs/2209.05433)).

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData, s};

/// Largest E4M3 value.
pub const MAX: f32 = 448.0;

/// Codes that share one word.
pub const CODES_PER_WORD: usize = 4;

/// The value of an E4M3 code; NaN for `0x7f` and `0xff`.
#[must_use]
pub fn decode(code: u8) -> f32 {
    let mantissa = f32::from(code & 7);
    let magnitude = match (code >> 3) & 15 {
        15 if code & 7 == 7 => f32::NAN,
        0 => mantissa * 2f32.powi(-9),
        exponent => (8.0 + mantissa) * 2f32.powi(i32::from(exponent) - 10),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest E4M3 code, ties to even; values past ±448 become ±448, NaN stays NaN.
#[must_use]
pub fn encode(value: f32) -> u8 {
    let bits = value.to_bits();
    let magnitude = f32::from_bits(bits & 0x7fff_ffff).min(MAX);
    let held = magnitude.to_bits();
    // From 2⁻⁶ on: another bias, and rounding away 20 bits of the mantissa.
    let normal = (held + 0x7_ffff + ((held >> 20) & 1)).wrapping_sub(120 << 23) >> 20;
    // Below: the distance of two neighbours is 2⁻⁹, as it is of the floats from 2¹⁴ on.
    let subnormal = (magnitude + 16_384.0).to_bits() - 16_384f32.to_bits();
    let code = if magnitude < 0.015_625 { subnormal } else { normal };
    let code = if value.is_nan() { 0x7f } else { code };
    ((bits >> 24) & 0x80 | code) as u8
}

/// The value of the nearest E4M3 code, as [`encode`] chooses it.
#[cfg(feature = "cpu")]
#[inline(always)]
pub(crate) fn nearest(value: f32) -> f32 {
    let magnitude = value.abs();
    // Written so that NaN stays NaN.
    let magnitude = if magnitude > MAX { MAX } else { magnitude };
    let held = magnitude.to_bits();
    let normal = f32::from_bits((held + 0x7_ffff + ((held >> 20) & 1)) & 0xfff0_0000);
    let subnormal = (magnitude + 16_384.0) - 16_384.0;
    let rounded = if magnitude < 0.015_625 { subnormal } else { normal };
    let rounded = if magnitude.is_nan() { magnitude } else { rounded };
    rounded.copysign(value)
}

/// Whether a code is one of the two NaNs.
#[must_use]
pub fn is_nan(code: u8) -> bool {
    code & 0x7f == 0x7f
}

/// What the other side of a product with FP8 weights is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// Kept in the model's dtype ("w8a16").
    Float,
    /// Quantised to FP8 too, a scale for each token ("w8a8").
    PerToken,
    /// Quantised to FP8 too, a scale for each token and this many columns.
    PerGroup(usize),
}

/// A matrix `[rows, width]` of E4M3 codes with f32 scales: `value = code * scale`.
///
/// A row has one scale for every `group` columns, so that a whole row (per output channel), a
/// square block and a whole tensor with one scale are all the same case.
#[derive(Debug, Clone)]
pub struct Fp8Matrix {
    /// Four codes a word, the first in the lowest byte: `[rows, ⌈width / 4⌉]`, i32.
    words: Tensor<2, Int>,
    /// `[rows, ⌈width / group⌉]`, f32.
    scales: Tensor<2>,
    /// Value of every code, `[256]`, f32.
    values: Tensor<1>,
    width: usize,
    group: usize,
    activations: Activations,
}

impl Fp8Matrix {
    /// A matrix of `width` columns.
    ///
    /// Shapes: `words [rows, ⌈width / 4⌉]` i32, `scales [rows, ⌈width / group⌉]` f32.
    ///
    /// # Panics
    /// When the shapes do not belong together.
    pub fn new(
        words: Tensor<2, Int>,
        scales: Tensor<2>,
        [width, group]: [usize; 2],
        activations: Activations,
    ) -> Self {
        let values = values(&words.device());
        Self::with_values(words, scales, values, [width, group], activations)
    }

    /// [`Fp8Matrix::new`] with `values` that are on the device already: `[256]`, of the codes in
    /// order.
    pub(crate) fn with_values(
        words: Tensor<2, Int>,
        scales: Tensor<2>,
        values: Tensor<1>,
        [width, group]: [usize; 2],
        activations: Activations,
    ) -> Self {
        let [rows, held] = words.dims();
        assert_eq!(held, width.div_ceil(CODES_PER_WORD), "words of {width} codes");
        assert_eq!(scales.dims(), [rows, width.div_ceil(group)], "scales of {rows} rows");
        Fp8Matrix { words, scales, values, width, group, activations }
    }

    /// [`Fp8Matrix::with_values`] with one scale a row, `scales [rows, 1]`, for activations that stay
    /// floats.
    pub(crate) fn of_codes(
        words: Tensor<2, Int>,
        scales: Tensor<2>,
        values: Tensor<1>,
        width: usize,
    ) -> Self {
        Self::with_values(words, scales, values, [width, width], Activations::Float)
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        [self.words.dims()[0], self.width]
    }

    /// What the matrix is multiplied with.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Some of the rows.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        Fp8Matrix {
            words: self.words.clone().slice(s![rows.clone(), ..]),
            scales: self.scales.clone().slice(s![rows, ..]),
            ..self.clone()
        }
    }

    /// Four codes a word: `[rows, ⌈width / 4⌉]`, i32.
    pub(crate) fn words(&self) -> &Tensor<2, Int> {
        &self.words
    }

    /// `[rows, ⌈width / group⌉]`, f32
    pub(crate) fn scales(&self) -> &Tensor<2> {
        &self.scales
    }

    /// Columns that share a scale.
    pub(crate) fn group(&self) -> usize {
        self.group
    }

    /// Whether each row has a single scale.
    pub(crate) fn has_row_scales(&self) -> bool {
        self.group >= self.width
    }

    /// The one scale of each row, `[rows, 1]`; `None` where a row has several.
    pub fn row_scales(&self) -> Option<Tensor<2>> {
        self.has_row_scales().then(|| self.scales.clone())
    }

    /// The codes' values without their scales, `[rows, width]`, f32.
    pub fn unscaled(&self) -> Tensor<2> {
        let [rows, words] = self.words.dims();
        let byte = |index: usize| {
            let shifted = match index {
                0 => self.words.clone(),
                _ => self.words.clone().bitwise_right_shift_scalar(8 * index as i32),
            };
            shifted.bitwise_and_scalar(0xff).unsqueeze_dim::<3>(2)
        };
        let codes = Tensor::cat((0..CODES_PER_WORD).map(byte).collect(), 2);
        let codes = codes.reshape([rows * words * CODES_PER_WORD]);
        let values = self.values.clone().select(0, codes).reshape([rows, words * CODES_PER_WORD]);
        values.slice(s![.., 0..self.width])
    }

    /// The matrix in floats, `[rows, width]`, f32.
    pub fn dequantised(&self) -> Tensor<2> {
        let [rows, groups] = self.scales.dims();
        let scales = match self.row_scales() {
            Some(scales) => scales,
            None => self
                .scales
                .clone()
                .unsqueeze_dim::<3>(2)
                .expand([rows, groups, self.group])
                .reshape([rows, groups * self.group])
                .slice(s![.., 0..self.width]),
        };
        self.unscaled() * scales
    }
}

/// The value of every code, `[256]`, f32.
pub(crate) fn values(device: &Device) -> Tensor<1> {
    let values: Vec<f32> = (0..=255).map(decode).collect();
    Tensor::from_data(TensorData::new(values, [256]), (device, DType::F32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_decoding_and_encoding() {
        for code in 0..=255 {
            assert_eq!(is_nan(code), decode(code).is_nan(), "{code:#x}");
            let wanted = if is_nan(code) { code & 0x80 | 0x7f } else { code };
            assert_eq!(encode(decode(code)), wanted, "{code:#x}");
        }
        assert_eq!([0x08, 0x7e, 0x01, 0x38].map(decode), [2f32.powi(-6), MAX, 2f32.powi(-9), 1.0]);
    }

    /// Between two neighbours the nearer one, in the middle the even one.
    #[test]
    fn encoding_rounds_to_the_nearest_and_ties_to_even() {
        for code in 0..0x7e_u8 {
            let (below, above) = (decode(code), decode(code + 1));
            let middle = (below + above) / 2.0;
            assert_eq!(encode(middle), code + code % 2, "{middle}");
            assert_eq!(encode(middle.next_down()), code, "{middle}");
            assert_eq!(encode(middle.next_up()), code + 1, "{middle}");
            assert_eq!(encode(-middle.next_up()), (code + 1) | 0x80, "{middle}");
        }
        for large in [449.0, 464.0, 1e30, f32::INFINITY] {
            assert_eq!([encode(large), encode(-large)], [0x7e, 0xfe], "{large}");
        }
        assert_eq!([encode(-0.0), encode(1e-30), encode(f32::NAN)], [0x80, 0, 0x7f]);
    }

    #[test]
    #[cfg(feature = "cpu")]
    fn a_matrix_decodes_to_its_values_times_its_scales() {
        let device = Device::flex();
        let codes: [[u8; 8]; 2] =
            [[0x38, 0xb8, 0x7e, 0xfe, 0x01, 0, 0, 0], [0x40, 0, 0, 0x81, 0xfe, 0, 0, 0]];
        let words: Vec<i32> = codes
            .as_flattened()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|c| i32::from_le_bytes(*c))
            .collect();
        let words = Tensor::from_data(TensorData::new(words, [2, 2]), (&device, DType::I32));
        let scales = Tensor::from_data([[1.0, 2.0, 4.0], [0.5, 1.0, 10.0]], &device);
        let matrix = Fp8Matrix::new(words, scales, [5, 2], Activations::Float);
        let got = matrix.dequantised().into_data().try_into_vec_as::<f32>().unwrap();
        let tiny = 2f32.powi(-9);
        let want = [1.0, -1.0, 896.0, -896.0, 4.0 * tiny, 1.0, 0.0, 0.0, -tiny, -4480.0];
        assert_eq!(got, want);
        let second = matrix.rows(1..2).dequantised().into_data().try_into_vec_as::<f32>().unwrap();
        assert_eq!(second, want[5..]);
    }
}
