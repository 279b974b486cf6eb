use std::ops::Range;

#[cfg(feature = "cpu")]
use burn::tensor::Bytes;
use burn::tensor::{DType, Device, Int, Tensor, TensorData, s};

use super::{KvFormat, Parts, words};
use crate::fp8::{self, Fp8Matrix};
use crate::graph::BufferId;
use crate::ops;

/// Rows of a cache, one for each slot. Kernels write them in place: a clone of a tensor of them would
/// change too, so that none is to be kept.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a few for each layer of a model")]
pub enum KvRows {
    /// `[slots, width]`
    Float(Tensor<2>),
    /// Codes and scales.
    Fp8(Fp8Rows),
}

/// Rows of E4M3 codes. `value = code * scale`, with one scale for each part of a row.
#[derive(Debug)]
pub struct Fp8Rows {
    /// Four codes a word, the first in the lowest byte; a part begins with a word.
    /// `[slots, words]`, i32
    pub words: Tensor<2, Int>,
    /// `[slots, parts]`, f32
    pub scales: Tensor<2>,
    /// Value of every code, `[256]`, f32.
    pub(crate) values: Tensor<1>,
    pub(crate) parts: Vec<Parts>,
}

impl KvRows {
    pub(crate) fn zeros(parts: &[Parts], slots: usize, format: KvFormat, device: &Device) -> Self {
        let sum = |of: fn(&Parts) -> usize| parts.iter().map(of).sum::<usize>();
        match format {
            KvFormat::Float(dtype) => {
                let width = sum(|part| part.count * part.width);
                KvRows::Float(zeros(slots, width, dtype, device))
            }
            KvFormat::Fp8 => KvRows::Fp8(Fp8Rows {
                words: Tensor::zeros(
                    [slots, sum(|part| part.count * words(part.width))],
                    (device, DType::I32),
                ),
                scales: zeros(slots, sum(|part| part.count), DType::F32, device),
                values: fp8::values(device),
                parts: parts.to_vec(),
            }),
        }
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        match self {
            KvRows::Float(rows) => rows.dims()[1],
            KvRows::Fp8(rows) => rows.parts.iter().map(|part| part.count * part.width).sum(),
        }
    }

    /// What the values are stored in.
    pub fn format(&self) -> KvFormat {
        match self {
            KvRows::Float(rows) => KvFormat::Float(rows.dtype()),
            KvRows::Fp8(_) => KvFormat::Fp8,
        }
    }

    /// The buffers that the rows lie in.
    pub(super) fn buffers(&self) -> Vec<BufferId> {
        match self {
            KvRows::Float(rows) => vec![BufferId::of_floats(rows)],
            KvRows::Fp8(Fp8Rows { words, scales, .. }) => {
                vec![BufferId::of_ints(words), BufferId::of_floats(scales)]
            }
        }
    }

    /// Stores one row per token at `slots`: `rows [tokens, width]`, `slots [tokens]`.
    pub fn write(&mut self, rows: Tensor<2>, slots: Tensor<1, Int>) {
        ops::kv_write(self, rows, slots);
    }

    /// The values at `slots`, in `dtype`: `slots [n]` → `[n, width]`.
    pub fn gather(&self, slots: Tensor<1, Int>, dtype: DType) -> Tensor<2> {
        match self {
            KvRows::Float(rows) => rows.clone().select(0, slots).cast(dtype),
            KvRows::Fp8(rows) => rows.gather(slots).cast(dtype),
        }
    }

    /// Adds zeroed rows at the end.
    pub(super) fn grow(&mut self, slots: usize) {
        match self {
            KvRows::Float(rows) => rows.inplace(|held| {
                let fresh = Tensor::zeros([slots, held.dims()[1]], (&held.device(), held.dtype()));
                Tensor::cat(vec![held, fresh], 0)
            }),
            KvRows::Fp8(Fp8Rows { words, scales, .. }) => {
                words.inplace(|held| {
                    let shape = [slots, held.dims()[1]];
                    let fresh = Tensor::zeros(shape, (&held.device(), held.dtype()));
                    Tensor::cat(vec![held, fresh], 0)
                });
                scales.inplace(|held| {
                    let shape = [slots, held.dims()[1]];
                    let fresh = Tensor::zeros(shape, (&held.device(), held.dtype()));
                    Tensor::cat(vec![held, fresh], 0)
                });
            }
        }
    }

    /// Bytes of some of the slots, as they are stored: for FP8 first all words, then all scales.
    pub(super) fn append_bytes(&self, slots: Range<usize>, bytes: &mut Vec<u8>) {
        match self {
            KvRows::Float(rows) => {
                let part = rows.clone().slice(s![slots, ..]).into_data();
                bytes.extend_from_slice(part.as_bytes());
            }
            KvRows::Fp8(Fp8Rows { words, scales, .. }) => {
                let words = words.clone().slice(s![slots.clone(), ..]).into_data();
                let scales = scales.clone().slice(s![slots, ..]).into_data();
                bytes.extend_from_slice(words.as_bytes());
                bytes.extend_from_slice(scales.as_bytes());
            }
        }
    }

    /// Takes back what [`Self::append_bytes`] gave for as many slots; returns what is left.
    pub(super) fn take_bytes<'bytes>(
        &mut self,
        slots: Range<usize>,
        mut bytes: &'bytes [u8],
    ) -> &'bytes [u8] {
        let count = slots.len();
        let mut data = |width: usize, dtype: DType| {
            let taken = bytes.split_off(..count * width * dtype.size()).expect("bytes of a page");
            TensorData::from_bytes_vec(taken.to_vec(), [count, width], dtype)
        };
        match self {
            KvRows::Float(rows) => {
                let ([_, width], dtype, device) = (rows.dims(), rows.dtype(), rows.device());
                let part = Tensor::from_data(data(width, dtype), (&device, dtype));
                rows.inplace(|held| held.slice_assign(s![slots, ..], part));
            }
            KvRows::Fp8(Fp8Rows { words, scales, .. }) => {
                let device = words.device();
                let part = data(words.dims()[1], DType::I32);
                let part = Tensor::from_data(part, (&device, DType::I32));
                words.inplace(|held| held.slice_assign(s![slots.clone(), ..], part));
                let part = data(scales.dims()[1], DType::F32);
                let part = Tensor::from_data(part, (&device, DType::F32));
                scales.inplace(|held| held.slice_assign(s![slots, ..], part));
            }
        }
        bytes
    }
}

/// Zeros, `[slots, width]`. On the CPU they take no memory until they are written: a pool may be
/// larger than what will ever be used of it.
fn zeros(slots: usize, width: usize, dtype: DType, device: &Device) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if *device == Device::flex() {
        let bytes = slots * width * dtype.size();
        if bytes.is_multiple_of(size_of::<u64>()) {
            // Elements of their own alignment are taken over without a copy.
            let untouched = vec![0_u64; bytes / size_of::<u64>()];
            crate::cpu::use_large_pages(untouched.as_ptr(), untouched.len());
            let untouched = Bytes::from_elems(untouched);
            let data = TensorData::from_bytes(untouched, [slots, width], dtype);
            return Tensor::from_data(data, (device, dtype));
        }
    }
    Tensor::zeros([slots, width], (device, dtype))
}

impl Fp8Rows {
    /// The values at `slots`, `[n, width]`, f32.
    fn gather(&self, slots: Tensor<1, Int>) -> Tensor<2> {
        let [rows] = slots.dims();
        let gathered_words = self.words.clone().select(0, slots.clone());
        let scales = self.scales.clone().select(0, slots);
        let (mut word, mut scale) = (0, 0);
        let parts = self.parts.iter().map(|&Parts { count, width }| {
            let held = words(width);
            let part = gathered_words.clone().slice(s![.., word..word + count * held]);
            let part_scales = scales.clone().slice(s![.., scale..scale + count]);
            (word, scale) = (word + count * held, scale + count);
            let part = part.reshape([rows * count, held]);
            let part_scales = part_scales.reshape([rows * count, 1]);
            let matrix = Fp8Matrix::of_codes(part, part_scales, self.values.clone(), width);
            matrix.dequantised().reshape([rows, count * width])
        });
        match &self.parts[..] {
            [_] => parts.last().expect("a part"),
            _ => Tensor::cat(parts.collect(), 1),
        }
    }
}
