//! FP8 matrices on their way from the file to the device.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData};
use glm_backends::fp8::{Activations, CODES_PER_WORD, Fp8Matrix, MAX, encode, is_nan};

use super::StoredDtype;
use super::host::{decode_into, reserve, runs, size};

/// Least scale of a quantised row, as llm-compressor has it for rows of zeros.
const LEAST_SCALE: f32 = 1e-12;

/// Scales of a stored matrix, one for each block of it.
#[derive(Debug)]
pub(super) struct Scales {
    /// Row after row of blocks.
    pub(super) values: Vec<f32>,
    /// Blocks beside each other.
    pub(super) columns: usize,
    /// Rows and columns of a block.
    pub(super) block: [usize; 2],
}

/// Rows of E4M3 codes in host memory, to be moved to a device as one matrix.
#[derive(Debug)]
pub(super) struct Fp8Buffer {
    words: Vec<i32>,
    scales: Vec<f32>,
    rows: usize,
    width: usize,
    group: usize,
}

impl Fp8Buffer {
    /// A buffer for `rows` rows of `width` codes with a scale for each `group` of them.
    pub(super) fn new([rows, width]: [usize; 2], group: usize) -> Self {
        Fp8Buffer { words: Vec::new(), scales: Vec::new(), rows, width, group }
    }

    /// Appends the range `part` of a stored FP8 matrix of `shape`; says whether all of it is
    /// finite.
    pub(super) fn extend(
        &mut self,
        bytes: &[u8],
        shape: &[usize],
        part: &[Range<usize>],
        scales: &Scales,
    ) -> bool {
        self.make_room();
        let [_, width] = [shape[0], shape[1]];
        let columns = part[1].clone();
        let first = columns.start / scales.block[1];
        let groups = self.width.div_ceil(self.group);
        let mut finite = true;
        for row in part[0].clone() {
            let codes = &bytes[row * width + columns.start..row * width + columns.end];
            finite &= !codes.iter().any(|code| is_nan(*code));
            self.push(codes);
            let start = row / scales.block[0] * scales.columns + first;
            self.scales.extend_from_slice(&scales.values[start..start + groups]);
        }
        finite
    }

    /// Appends the range `part` of a tensor stored in floats, quantised row by row with the scale
    /// `max(amax / 448, 1e-12)`; says whether all of it is finite.
    pub(super) fn quantise(
        &mut self,
        bytes: &[u8],
        stored: &StoredDtype,
        shape: &[usize],
        part: &[Range<usize>],
    ) -> bool {
        self.make_room();
        let (columns, outer) = part.split_last().expect("a matrix");
        let (width, outer_shape) = shape.split_last().expect("a matrix");
        let size = size(stored);
        let mut values = Vec::with_capacity(columns.len());
        let mut codes = Vec::with_capacity(columns.len());
        let mut finite = true;
        for row in runs(outer_shape, outer).into_iter().flatten() {
            let start = row * width;
            values.clear();
            let range = (start + columns.start) * size..(start + columns.end) * size;
            decode_into(&mut values, &bytes[range], stored);
            finite &= values.iter().all(|value| value.is_finite());
            let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            let scale = (largest / MAX).max(LEAST_SCALE);
            codes.clear();
            codes.extend(values.iter().map(|value| encode(value / scale)));
            self.push(&codes);
            self.scales.push(scale);
        }
        finite
    }

    /// Moves the codes and scales to a device.
    pub(super) fn upload(self, activations: Activations, device: &Device) -> Fp8Matrix {
        let words = [self.rows, self.width.div_ceil(CODES_PER_WORD)];
        let words = Tensor::from_data(TensorData::new(self.words, words), (device, DType::I32));
        let scales = [self.rows, self.width.div_ceil(self.group)];
        let scales = Tensor::from_data(TensorData::new(self.scales, scales), (device, DType::F32));
        Fp8Matrix::new(words, scales, [self.width, self.group], activations)
    }

    /// One row of codes; the last word is filled up with zeros.
    fn push(&mut self, codes: &[u8]) {
        let (words, rest) = codes.as_chunks::<CODES_PER_WORD>();
        self.words.extend(words.iter().map(|word| i32::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; CODES_PER_WORD];
            last[..rest.len()].copy_from_slice(rest);
            self.words.push(i32::from_le_bytes(last));
        }
    }

    /// Room is made with the first row, so that a shape which no file confirms allocates nothing.
    fn make_room(&mut self) {
        let words = self.rows * self.width.div_ceil(CODES_PER_WORD);
        reserve(&mut self.words, words);
        let scales = self.rows * self.width.div_ceil(self.group);
        reserve(&mut self.scales, scales);
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    fn values(buffer: Fp8Buffer) -> Vec<f32> {
        let matrix = buffer.upload(Activations::Float, &Device::flex());
        matrix.dequantised().into_data().try_into_vec_as::<f32>().unwrap()
    }

    /// 3 x 5 codes in blocks of 2 x 2, whose right and lower edges are cut.
    #[test]
    fn blocks_with_odd_edges_scale_what_they_cover() {
        let one = encode(1.0);
        let scales =
            Scales { values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], columns: 3, block: [2, 2] };
        let mut buffer = Fp8Buffer::new([3, 5], 2);
        assert!(buffer.extend(&[one; 15], &[3, 5], &[0..3, 0..5], &scales));
        let (upper, lower) = ([1.0, 1.0, 2.0, 2.0, 3.0], [4.0, 4.0, 5.0, 5.0, 6.0]);
        assert_eq!(values(buffer), [upper, upper, lower].concat());

        // A rank's columns, from the second block on.
        let mut buffer = Fp8Buffer::new([1, 3], 2);
        assert!(!buffer.extend(&[0x7f; 15], &[3, 5], &[2..3, 2..5], &scales));
        assert_eq!(buffer.scales, [5.0, 6.0]);
    }

    #[test]
    fn rows_are_quantised_each_with_its_own_scale() {
        let rows = [[448.0f32, 1.0, -3.1], [0.0, 0.0, 0.0], [4.48, 0.01, -0.031]];
        let bytes: Vec<u8> = rows.as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut buffer = Fp8Buffer::new([3, 3], 3);
        assert!(buffer.quantise(&bytes, &StoredDtype::F32, &[3, 3], &[0..3, 0..3]));
        assert_eq!(buffer.scales, [1.0, LEAST_SCALE, 4.48 / 448.0]);
        let got = values(buffer);
        assert_eq!(got[..6], [448.0, 1.0, -3.0, 0.0, 0.0, 0.0]);
        assert!((got[8] + 0.03).abs() < 1e-6, "{got:?}");
    }
}
