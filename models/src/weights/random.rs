//! Random weights for timing a model of any size without its files.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Distribution, Int, Tensor, s};
use glm_backends::fp8::{Activations, CODES_PER_WORD, Fp8Matrix};
use glm_backends::groups::{Bits, GROUP, GroupMatrix};

use super::{StoredDtype, TensorInfo};
use crate::config::Config;
use crate::inventory::{Form, TensorEntry};

/// Most words of FP8 codes that are made at a time: making them takes several times their size.
const MOST_WORDS: usize = 1 << 24;

/// The tensors that a checkpoint of some config.json would hold. Their values are made on the
/// device, when they are loaded, such that every layer keeps the size of its input.
#[derive(Debug)]
pub struct RandomWeights {
    tensors: BTreeMap<String, TensorInfo>,
    seed: u64,
}

impl RandomWeights {
    /// Weights for `tensors`, the same for the same seed and device.
    pub fn new(tensors: impl IntoIterator<Item = (String, TensorInfo)>, seed: u64) -> Self {
        RandomWeights { tensors: tensors.into_iter().collect(), seed }
    }

    /// Weights for all tensors of a checkpoint of `config`, the prediction layer's included:
    /// matrices are FP8 where the configuration says so.
    #[must_use]
    pub fn of(config: &Config, seed: u64) -> Self {
        let floats = match config.dtype() {
            Some("float16") => StoredDtype::F16,
            Some("float32") => StoredDtype::F32,
            _ => StoredDtype::Bf16,
        };
        let quantised = |entry: &TensorEntry| {
            entry.form == Form::Matrix
                && config.quantization().is_some_and(|block| !block.ignores(&entry.name))
        };
        let tensor = |entry: TensorEntry| {
            let dtype = match entry.form {
                Form::Wide => StoredDtype::F32,
                Form::Matrix | Form::Plain if quantised(&entry) => StoredDtype::F8E4M3,
                Form::Matrix | Form::Plain => floats.clone(),
            };
            (entry.name, TensorInfo { dtype, shape: entry.shape })
        };
        Self::new(config.inventory().into_iter().map(tensor), seed)
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Dtype and shape of a tensor; `None` where there is none of this name.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).cloned()
    }

    /// All names; scales of FP8 matrices have none of their own here.
    pub(super) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Bytes that the tensors would take in files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(TensorInfo::bytes).sum()
    }
}

/// Random values: of a vector around 1 (norms; as a bias that does no harm), of a matrix `[out,
/// in]` with the variance `1 / in`.
pub(super) fn floats<const D: usize>(
    shape: [usize; D],
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    let distribution = match D {
        1 => Distribution::Uniform(0.9, 1.1),
        _ => {
            let largest = (3.0 / shape[D - 1] as f64).sqrt();
            Distribution::Uniform(-largest, largest)
        }
    };
    Tensor::random(shape, distribution, (device, dtype))
}

/// Random E4M3 codes, none of them NaN, with scales that give values of the variance `1 / in`.
pub(super) fn fp8(
    [rows, width]: [usize; 2],
    group: usize,
    activations: Activations,
    device: &Device,
) -> Fp8Matrix {
    let words = width.div_ceil(CODES_PER_WORD);
    let step = (MOST_WORDS / words).max(1);
    let mut codes = Tensor::<2, Int>::zeros([rows, words], (device, DType::I32));
    for first in (0..rows).step_by(step) {
        let last = rows.min(first + step);
        let part = random_words([last - first, words], device);
        codes = codes.slice_assign(s![first..last, ..], part);
    }
    // Codes with the highest exponent bit clear have a variance of about 0.39.
    let scale = 1.0 / (0.39 * width as f64).sqrt();
    let scales = Tensor::random(
        [rows, width.div_ceil(group)],
        Distribution::Uniform(0.9 * scale, 1.1 * scale),
        (device, DType::F32),
    );
    Fp8Matrix::new(codes, scales, [width, group], activations)
}

/// Random codes in groups, with scales that give values of the variance `1 / in`.
pub(super) fn groups([rows, width]: [usize; 2], bits: Bits, device: &Device) -> GroupMatrix {
    let words = width.div_ceil(GROUP) * bits.words();
    let step = (MOST_WORDS / words).max(1);
    let mut codes = Tensor::<2, Int>::zeros([rows, words], (device, DType::I32));
    for first in (0..rows).step_by(step) {
        let last = rows.min(first + step);
        let part = random_words([last - first, words], device);
        codes = codes.slice_assign(s![first..last, ..], part);
    }
    // Of codes that are drawn evenly.
    let deviation = match bits {
        Bits::Eight => 74.0,
        Bits::Four => 4.6,
    };
    let scale = 1.0 / (deviation * (width as f64).sqrt());
    let scales = Tensor::random(
        [rows, width.div_ceil(GROUP)],
        Distribution::Uniform(0.9 * scale, 1.1 * scale),
        (device, DType::F16),
    );
    GroupMatrix::new(codes, scales, width, bits)
}

/// Words of 32 random bits, put together from halves because a device draws 24 bits at most. The
/// highest bit of each exponent is cleared: without it no code is NaN.
fn random_words(shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    let half = || {
        let distribution = Distribution::Uniform(0.0, 65_536.0);
        Tensor::<2, Int>::random(shape, distribution, (device, DType::I32))
    };
    let words = half().bitwise_left_shift_scalar(16).bitwise_or(half());
    words.bitwise_and_scalar(0xbfbf_bfbf_u32.cast_signed())
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    #[test]
    fn fp8_values_are_finite_and_of_the_size_that_keeps_a_sum() {
        let device = Device::flex();
        for group in [130, 128] {
            let matrix = fp8([64, 130], group, Activations::Float, &device);
            let values = matrix.dequantised().into_data().try_into_vec_as::<f32>().unwrap();
            assert!(values.iter().all(|value| value.is_finite()));
            let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
            assert!((0.5..2.0).contains(&(variance * 130.0)), "{variance}");
            let codes: std::collections::BTreeSet<u32> =
                values.iter().take(130).map(|value| value.to_bits()).collect();
            assert!(codes.len() > 40, "only {} values", codes.len());
        }
    }
}
