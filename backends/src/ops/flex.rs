//! What the kernels for the CPU share. They belong to Burn's Flex backend and are reached through
//! its `backend_extension`; each file `cpu.rs` declares the trait of its ops.

use std::sync::LazyLock;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, DispatchDevice, ExtensionType, Flex};
use burn::tensor::{DType, Device};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::kv::{KvRows, Parts};

/// Whether tensors of the device are Flex's.
pub(super) fn computes_on(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// Integers of any width, in order.
pub(super) fn integers(tensor: &IntTensor<Flex>) -> Vec<usize> {
    let tensor = tensor.to_contiguous();
    match tensor.dtype() {
        DType::I64 => tensor.as_slice::<i64>().map(|s| s.iter().map(|v| *v as usize).collect()),
        DType::I32 => tensor.as_slice::<i32>().map(|s| s.iter().map(|v| *v as usize).collect()),
        other => panic!("indices in {}", other.name()),
    }
    .expect("contiguous")
}

/// [`KvRows`] as the tensors of a backend.
#[derive(Debug, ExtensionType)]
pub(crate) enum HeldRows<B: Backend> {
    /// `[slots, width]`
    Float(FloatTensor<B>),
    /// Codes and scales, as in [`Fp8Rows`](crate::kv::Fp8Rows).
    Fp8 {
        /// `[slots, words]`
        words: IntTensor<B>,
        /// `[slots, parts]`
        scales: FloatTensor<B>,
    },
}

impl From<&KvRows> for HeldRows<Dispatch> {
    fn from(rows: &KvRows) -> Self {
        match rows {
            KvRows::Float(rows) => HeldRows::Float(rows.clone().into_dispatch()),
            KvRows::Fp8(rows) => HeldRows::Fp8 {
                words: rows.words.clone().into_dispatch(),
                scales: rows.scales.clone().into_dispatch(),
            },
        }
    }
}

/// Cached rows in memory, and where in a row the values of each KV head lie.
#[derive(Debug)]
pub(super) struct Cached<'a> {
    rows: Rows<'a>,
    /// Values, words and scales of a row.
    widths: [usize; 3],
    heads: Vec<Vec<Place>>,
}

#[derive(Debug)]
enum Rows<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    Fp8 { words: &'a [i32], scales: &'a [f32] },
}

/// Where a part of a row begins: its first value, its first word and its scale.
#[derive(Debug, Clone, Copy)]
struct Place {
    value: usize,
    word: usize,
    scale: usize,
    width: usize,
}

impl<'a> Cached<'a> {
    /// Rows that consist of `parts`, of which each of `heads` KV heads reads as many.
    pub(super) fn new(rows: &'a HeldRows<Flex>, parts: &[Parts], heads: usize) -> Self {
        let mut next = Place { value: 0, word: 0, scale: 0, width: 0 };
        let mut places = Vec::new();
        for part in parts {
            for _ in 0..part.count {
                places.push(Place { width: part.width, ..next });
                next.value += part.width;
                next.word += crate::kv::words(part.width);
                next.scale += 1;
            }
        }
        let rows = match rows {
            HeldRows::Float(rows) => match rows.dtype() {
                DType::F32 => Rows::F32(rows.as_slice().expect("contiguous pages")),
                DType::F16 => Rows::F16(rows.as_slice().expect("contiguous pages")),
                DType::BF16 => Rows::Bf16(rows.as_slice().expect("contiguous pages")),
                other => panic!("a cache in {}", other.name()),
            },
            HeldRows::Fp8 { words, scales } => Rows::Fp8 {
                words: words.as_slice().expect("contiguous pages"),
                scales: scales.as_slice().expect("contiguous pages"),
            },
        };
        let heads = places.chunks(places.len() / heads).map(<[Place]>::to_vec).collect();
        Cached { rows, widths: [next.value, next.word, next.scale], heads }
    }

    /// Values of a KV head at a slot.
    #[inline(always)]
    pub(super) fn read(&self, slot: usize, head: usize, into: &mut [f32]) {
        let [values, words_of_row, scales_of_row] = self.widths;
        let mut rest = into;
        for place in &self.heads[head] {
            let out;
            (out, rest) = rest.split_at_mut(place.width);
            let first = slot * values + place.value;
            let range = first..first + place.width;
            match &self.rows {
                Rows::F32(rows) => out.copy_from_slice(&rows[range]),
                Rows::F16(rows) => rows[range].convert_to_f32_slice(out),
                Rows::Bf16(rows) => {
                    for (out, value) in out.iter_mut().zip(&rows[range]) {
                        *out = f32::from_bits(u32::from(value.to_bits()) << 16);
                    }
                }
                Rows::Fp8 { words, scales } => {
                    let first = slot * words_of_row + place.word;
                    let words = &words[first..first + crate::kv::words(place.width)];
                    widen(words, scales[slot * scales_of_row + place.scale], out);
                }
            }
        }
    }
}

/// `code * scale` for the codes of some words.
#[inline(always)]
fn widen(words: &[i32], scale: f32, out: &mut [f32]) {
    let (whole, rest) = out.as_chunks_mut::<4>();
    for (out, word) in whole.iter_mut().zip(words) {
        *out = values(*word).map(|value| value * scale);
    }
    if let Some(word) = words.get(whole.len()) {
        for (out, value) in rest.iter_mut().zip(values(*word)) {
            *out = value * scale;
        }
    }
}

/// The values of a word's codes. A code's bits, shifted to where f32 has exponent and mantissa, are
/// the value times 2⁻¹²⁰, also where it is subnormal; the two NaNs are not told apart, because what
/// is not finite has a scale that is not.
#[inline(always)]
fn values(word: i32) -> [f32; 4] {
    let word = word.cast_unsigned();
    [0, 8, 16, 24].map(|shift| {
        let code = word >> shift;
        let sign = (code & 0x80) << 24;
        f32::from_bits(sign | (code & 0x7f) << 20) * f32::from_bits((127 + 120) << 23)
    })
}

/// The widest instructions of this CPU.
pub(super) static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp8;

    #[test]
    fn codes_widen_to_their_values() {
        for code in (0..=255_u8).filter(|code| !fp8::is_nan(*code)) {
            let word = i32::from_le_bytes([0, code, 0x38, code]);
            let mut out = [0.0; 4];
            widen(&[word], 3.0, &mut out);
            let value = 3.0 * fp8::decode(code);
            assert_eq!(out, [0.0, value, 3.0, value], "{code:#x}");
        }
    }
}
