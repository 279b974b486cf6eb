//! Weights as small integers in groups of 32 columns with one f16 scale: 8.5 or 4.5 bits each.
//!
//! The layouts and the choice of scales are those of ggml's `Q8_0` and `Q4_0`
//! (<https://github.com/ggml-org/ggml>): a group's value of the largest magnitude becomes ±127, or
//! -8. The scale of a group of 4 bits is then fitted to the codes by least squares, which makes the
//! error of the weights smaller and nothing else.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, Device, Int, Tensor, TensorData, s};
use half::f16;

/// Columns of a group.
pub const GROUP: usize = 32;
#[cfg(feature = "cpu")]
const _: () = assert!(GROUP == crate::cpu::CHUNK, "kernels take whole groups");

/// Bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// Signed bytes.
    Eight,
    /// From -8 to 7; the first half of a group is in the lower bits of its 16 bytes.
    Four,
}

impl Bits {
    /// Words of a group.
    #[must_use]
    pub fn words(self) -> usize {
        match self {
            Bits::Eight => 8,
            Bits::Four => 4,
        }
    }

    /// Bytes of a row of `width` columns, scales included.
    #[must_use]
    pub fn bytes(self, width: usize) -> usize {
        width.div_ceil(GROUP) * (4 * self.words() + size_of::<f16>())
    }
}

/// A matrix `[rows, width]`: `value = code * scale`. The last group of a row may be short; its codes
/// are filled up with those of zero.
#[derive(Debug, Clone)]
pub struct GroupMatrix {
    /// `[rows, groups * words]`, i32, the first code in the lowest bits.
    words: Tensor<2, Int>,
    /// `[rows, groups]`, f16.
    scales: Tensor<2>,
    width: usize,
    bits: Bits,
}

impl GroupMatrix {
    /// A matrix of `width` columns.
    ///
    /// # Panics
    /// When the shapes do not belong together.
    pub fn new(words: Tensor<2, Int>, scales: Tensor<2>, width: usize, bits: Bits) -> Self {
        let ([rows, held], groups) = (words.dims(), width.div_ceil(GROUP));
        assert_eq!(held, groups * bits.words(), "words of {width} codes");
        assert_eq!(scales.dims(), [rows, groups], "scales of {rows} rows");
        assert_eq!(scales.dtype(), DType::F16, "dtype of scales");
        GroupMatrix { words, scales, width, bits }
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        [self.words.dims()[0], self.width]
    }

    /// Bits of a code.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// `[rows, groups * words]`, i32.
    pub(crate) fn words(&self) -> &Tensor<2, Int> {
        &self.words
    }

    /// `[rows, groups]`, f16.
    pub(crate) fn scales(&self) -> &Tensor<2> {
        &self.scales
    }

    /// Some of the rows.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Self {
        GroupMatrix {
            words: self.words.clone().slice(s![rows.clone(), ..]),
            scales: self.scales.clone().slice(s![rows, ..]),
            ..self.clone()
        }
    }

    /// The matrix in floats, `[rows, width]`, f32.
    pub fn dequantised(&self) -> Tensor<2> {
        let ([rows, _], [_, groups]) = (self.dims(), self.scales.dims());
        let words = self.words.clone().reshape([rows, groups, self.bits.words(), 1]);
        // Byte by byte, each from a sign of its own.
        let byte = |index: i32| {
            words.clone().bitwise_left_shift_scalar(24 - 8 * index).bitwise_right_shift_scalar(24)
        };
        let bytes = Tensor::cat((0..4).map(byte).collect(), 3);
        let bytes = bytes.reshape([rows, groups, 4 * self.bits.words()]);
        let codes = match self.bits {
            Bits::Eight => bytes,
            Bits::Four => {
                let low = bytes.clone().bitwise_and_scalar(15);
                let high = bytes.bitwise_right_shift_scalar(4).bitwise_and_scalar(15);
                Tensor::cat(vec![low, high], 2) - 8
            }
        };
        let values = codes.float().cast(DType::F32)
            * self.scales.clone().cast(DType::F32).reshape([rows, groups, 1]);
        values.reshape([rows, groups * GROUP]).slice(s![.., 0..self.width])
    }
}

/// Rows of codes in host memory.
#[derive(Debug)]
pub struct Rows {
    words: Vec<i32>,
    scales: Vec<f16>,
    bits: Bits,
}

impl Rows {
    /// No row yet.
    #[must_use]
    pub fn new(bits: Bits) -> Self {
        Rows { words: Vec::new(), scales: Vec::new(), bits }
    }

    /// Makes room for `count` rows of `width` columns.
    pub fn reserve(&mut self, [count, width]: [usize; 2]) {
        let groups = count * width.div_ceil(GROUP);
        self.words.reserve_exact(groups * self.bits.words());
        self.scales.reserve_exact(groups);
        #[cfg(feature = "cpu")]
        crate::cpu::use_large_pages(self.words.as_ptr(), self.words.capacity());
    }

    /// Appends `count` rows of `width` values, on all threads. `values` appends those of a row to an
    /// empty list. Says whether all were finite; what is not becomes anything.
    pub fn append(
        &mut self,
        count: usize,
        width: usize,
        values: impl Fn(usize, &mut Vec<f32>) + Sync,
    ) -> bool {
        /// Rows of a piece of work.
        const PIECE: usize = 16;
        let groups = width.div_ceil(GROUP);
        let of_row = groups * self.bits.words();
        let (first, first_scale) = (self.words.len(), self.scales.len());
        self.words.resize(first + count * of_row, 0);
        self.scales.resize(first_scale + count * groups, f16::ZERO);
        let finite = AtomicBool::new(true);
        let words = self.words[first..].chunks_mut(of_row * PIECE);
        let scales = self.scales[first_scale..].chunks_mut(groups * PIECE);
        let pieces: Vec<_> = words.zip(scales).map(|parts| Mutex::new(Some(parts))).collect();
        let bits = self.bits;
        in_pieces(pieces.len(), |piece| {
            let parts = pieces[piece].lock().ok().and_then(|mut parts| parts.take());
            let Some((words, scales)) = parts else { return };
            let mut row = Vec::with_capacity(width);
            let rows = words.chunks_mut(of_row).zip(scales.chunks_mut(groups));
            for (index, (words, scales)) in rows.enumerate() {
                row.clear();
                values(piece * PIECE + index, &mut row);
                if !row.iter().all(|value| value.is_finite()) {
                    finite.store(false, Ordering::Relaxed);
                }
                quantise_row(&row, bits, words, scales);
            }
        });
        finite.into_inner()
    }
}

/// On all threads, where the CPU computes.
fn in_pieces(pieces: usize, work: impl Fn(usize) + Sync) {
    #[cfg(feature = "cpu")]
    crate::cpu::in_pieces(pieces, true, work);
    #[cfg(not(feature = "cpu"))]
    (0..pieces).for_each(work);
}

/// Writes the words and scales of a row.
fn quantise_row(values: &[f32], bits: Bits, words: &mut [i32], scales: &mut [f16]) {
    let groups = words.chunks_mut(bits.words()).zip(scales).zip(values.chunks(GROUP));
    for ((words, scale), values) in groups {
        let mut group = [0.0; GROUP];
        group[..values.len()].copy_from_slice(values);
        *scale = match bits {
            Bits::Eight => quantise_to_bytes(&group, words),
            Bits::Four => quantise_to_halves(&group, words),
        };
    }
}

/// Returns the scale.
fn quantise_to_bytes(group: &[f32; GROUP], words: &mut [i32]) -> f16 {
    let largest = group.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let scale = round_scale(largest / 127.0);
    let inverse = inverse(scale);
    let mut bytes = [0; GROUP];
    for (byte, value) in bytes.iter_mut().zip(group) {
        // The scale is rounded, so that what is divided by it may pass 127.
        *byte = (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
    }
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    scale
}

/// Returns the scale.
fn quantise_to_halves(group: &[f32; GROUP], words: &mut [i32]) -> f16 {
    let extreme = group.iter().fold(0f32, |extreme, value| match value.abs() > extreme.abs() {
        true => *value,
        false => extreme,
    });
    let inverse = inverse(round_scale(extreme / -8.0));
    let mut codes = [0f32; GROUP];
    let (mut products, mut squares) = (0.0, 0.0);
    for (code, value) in codes.iter_mut().zip(group) {
        *code = (value * inverse).round_ties_even().clamp(-8.0, 7.0);
        products += f64::from(value * *code);
        squares += f64::from(*code * *code);
    }
    let fitted = if squares > 0.0 { (products / squares) as f32 } else { 0.0 };
    let byte = |index: usize| {
        let [low, high] = [codes[index], codes[index + GROUP / 2]].map(|code| (code + 8.0) as u8);
        low | high << 4
    };
    for (index, word) in words.iter_mut().enumerate() {
        *word = i32::from_le_bytes(std::array::from_fn(|place| byte(4 * index + place)));
    }
    round_scale(fitted)
}

/// To f16, whose largest value is the end.
fn round_scale(scale: f32) -> f16 {
    let largest = f16::MAX.to_f32();
    f16::from_f32(scale.clamp(-largest, largest))
}

fn inverse(scale: f16) -> f32 {
    if scale.to_f32() == 0.0 { 0.0 } else { 1.0 / scale.to_f32() }
}

/// Rows of codes as a matrix on a device.
pub fn upload(rows: Rows, [count, width]: [usize; 2], device: &Device) -> GroupMatrix {
    let Rows { words, scales, bits } = rows;
    let groups = width.div_ceil(GROUP);
    let words = TensorData::new(words, [count, groups * bits.words()]);
    let scales = TensorData::new(scales, [count, groups]);
    GroupMatrix::new(
        Tensor::from_data(words, (device, DType::I32)),
        Tensor::from_data(scales, (device, DType::F16)),
        width,
        bits,
    )
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    fn round_trip(rows: &[&[f32]], bits: Bits) -> Vec<f32> {
        let (mut held, width) = (Rows::new(bits), rows[0].len());
        held.append(rows.len(), width, |row, values| values.extend_from_slice(rows[row]));
        let matrix = upload(held, [rows.len(), width], &Device::flex());
        matrix.dequantised().into_data().try_into_vec_as::<f32>().unwrap()
    }

    /// Values on the grid come back as they are, short last groups and zeros too.
    #[test]
    fn values_on_the_grid_survive() {
        let ramp: Vec<f32> = (0..45).map(|index| (index % 16) as f32 - 8.0).collect();
        let zeros = vec![0.0; 45];
        assert_eq!(round_trip(&[&ramp, &zeros], Bits::Four), [&ramp[..], &zeros].concat());
        let mut bytes: Vec<f32> = (0..45).map(|index| (index * 5 % 255) as f32 - 127.0).collect();
        (bytes[3], bytes[40]) = (127.0, -127.0);
        assert_eq!(round_trip(&[&bytes, &zeros], Bits::Eight), [&bytes[..], &zeros].concat());
    }

    /// The error is at most half a step; of the extreme on the other side of 4 bits a whole one.
    #[test]
    fn values_are_rounded_to_the_nearest() {
        let values: Vec<f32> =
            (0..96).map(|index| ((index * 37 % 101) as f32 - 50.0) * 0.13).collect();
        for (bits, steps, most) in [(Bits::Eight, 127.0, 0.51), (Bits::Four, 8.0, 1.1)] {
            let got = round_trip(&[&values], bits);
            for (got, (values, value)) in got
                .iter()
                .zip(values.chunks(32).flat_map(|group| group.iter().map(move |v| (group, v))))
            {
                let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                assert!((got - value).abs() <= most * largest / steps, "{bits:?}: {got} {value}");
            }
        }
    }

    #[test]
    fn what_is_too_large_for_a_scale_ends_at_the_largest() {
        let huge = [3e38; 32];
        assert!(round_trip(&[&huge], Bits::Eight).iter().all(|value| value.is_finite()));
        assert!(round_trip(&[&huge], Bits::Four).iter().all(|value| value.is_finite()));
    }
}
