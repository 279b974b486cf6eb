//! Weights on their way from the file to the device: one tensor or stack at a time.

use std::ops::Range;

use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use half::{bf16, f16};

use super::StoredDtype;

/// Values of one dtype in host memory, to be moved to a device as one tensor.
#[derive(Debug)]
pub(super) struct HostBuffer {
    values: Values,
    /// Values that it will hold; room is made with the first of them, so that a shape which no
    /// file confirms allocates nothing.
    capacity: usize,
}

#[derive(Debug)]
enum Values {
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    F32(Vec<f32>),
}

impl HostBuffer {
    /// A buffer for `capacity` values of `dtype`.
    ///
    /// # Panics
    /// For a dtype that no model is kept in.
    pub(super) fn new(dtype: DType, capacity: usize) -> Self {
        let values = match dtype {
            DType::BF16 => Values::Bf16(Vec::new()),
            DType::F16 => Values::F16(Vec::new()),
            DType::F32 => Values::F32(Vec::new()),
            other => panic!("no weights in {other:?}"),
        };
        HostBuffer { values, capacity }
    }

    /// Appends the range `part` of a tensor of `shape` that is stored in floats, converted to the
    /// buffer's dtype; says whether all of it is finite.
    pub(super) fn extend(
        &mut self,
        bytes: &[u8],
        stored: &StoredDtype,
        shape: &[usize],
        part: &[Range<usize>],
    ) -> bool {
        self.make_room();
        let size = size(stored);
        let mut finite = true;
        for run in runs(shape, part) {
            let bytes = &bytes[run.start * size..run.end * size];
            finite &= is_finite(bytes, stored);
            match stored {
                StoredDtype::Bf16 => self.extend_from(bytes, |b| bf16::from_le_bytes(b).to_f32()),
                StoredDtype::F16 => self.extend_from(bytes, |b| f16::from_le_bytes(b).to_f32()),
                _ => self.extend_from(bytes, f32::from_le_bytes),
            }
        }
        finite
    }

    /// Every value passes through f32, which holds all of bf16 and f16 exactly.
    fn extend_from<const N: usize>(&mut self, bytes: &[u8], decode: impl Fn([u8; N]) -> f32) {
        let (values, rest) = bytes.as_chunks::<N>();
        debug_assert!(rest.is_empty(), "whole elements");
        let values = values.iter().map(|bytes| decode(*bytes));
        match &mut self.values {
            Values::Bf16(held) => held.extend(values.map(bf16::from_f32)),
            Values::F16(held) => held.extend(values.map(f16::from_f32)),
            Values::F32(held) => held.extend(values),
        }
    }

    /// The values of a buffer in f32.
    ///
    /// # Panics
    /// For a buffer of another dtype.
    pub(super) fn into_f32(self) -> Vec<f32> {
        match self.values {
            Values::F32(values) => values,
            other => panic!("f32 values, not {other:?}"),
        }
    }

    fn make_room(&mut self) {
        match &mut self.values {
            Values::Bf16(held) => reserve(held, self.capacity),
            Values::F16(held) => reserve(held, self.capacity),
            Values::F32(held) => reserve(held, self.capacity),
        }
    }

    /// Moves the values to a device.
    pub(super) fn upload<const D: usize>(self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let shape = Shape::from(shape);
        let (data, dtype) = match self.values {
            Values::Bf16(values) => (TensorData::new(values, shape), DType::BF16),
            Values::F16(values) => (TensorData::new(values, shape), DType::F16),
            Values::F32(values) => (TensorData::new(values, shape), DType::F32),
        };
        Tensor::from_data(data, (device, dtype))
    }
}

/// Room for `capacity` values in all.
pub(super) fn reserve<T>(held: &mut Vec<T>, capacity: usize) {
    let is_empty = held.is_empty();
    held.reserve_exact(capacity - held.len());
    // Before the first value is written there.
    if is_empty {
        #[cfg(feature = "cpu")]
        glm_backends::cpu::use_large_pages(held.as_ptr(), held.capacity());
    }
}

/// Bytes of a stored float.
///
/// # Panics
/// For types that are no floats of 16 or 32 bits.
pub(super) fn size(stored: &StoredDtype) -> usize {
    match stored {
        StoredDtype::Bf16 | StoredDtype::F16 => 2,
        StoredDtype::F32 => 4,
        other => panic!("{other} is no float that is read"),
    }
}

/// Appends stored floats to `values`.
pub(super) fn decode_into(values: &mut Vec<f32>, bytes: &[u8], stored: &StoredDtype) {
    let halves = || bytes.as_chunks::<2>().0.iter();
    match stored {
        StoredDtype::Bf16 => values.extend(halves().map(|b| bf16::from_le_bytes(*b).to_f32())),
        StoredDtype::F16 => values.extend(halves().map(|b| f16::from_le_bytes(*b).to_f32())),
        _ => values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
    }
}

/// Whether no stored value has all bits of its exponent set.
pub(super) fn is_finite(bytes: &[u8], stored: &StoredDtype) -> bool {
    let halves = |exponent: u16| {
        let special = |b: &[u8; 2]| u16::from_le_bytes(*b) & exponent == exponent;
        // Without an early end the loop is wide.
        bytes.as_chunks::<2>().0.iter().fold(false, |found, bytes| found | special(bytes))
    };
    !match stored {
        StoredDtype::Bf16 => halves(0x7f80),
        StoredDtype::F16 => halves(0x7c00),
        _ => {
            let words = bytes.as_chunks::<4>().0.iter();
            let special = |b: &[u8; 4]| u32::from_le_bytes(*b) & 0x7f80_0000 == 0x7f80_0000;
            words.fold(false, |found, bytes| found | special(bytes))
        }
    }
}

/// The consecutive elements that make up `part` of a row-major tensor of `shape`.
pub(super) fn runs(shape: &[usize], part: &[Range<usize>]) -> Vec<Range<usize>> {
    let Some((first, rest)) = shape.split_first() else {
        return std::iter::once(0..1).collect();
    };
    let whole: usize = rest.iter().product();
    let outer = &part[0];
    if rest.iter().zip(&part[1..]).all(|(length, range)| *range == (0..*length)) {
        return std::iter::once(outer.start * whole..outer.end * whole).collect();
    }
    debug_assert!(outer.end <= *first, "range within the axis");
    let inner = runs(rest, &part[1..]);
    outer
        .clone()
        .flat_map(|row| inner.iter().map(move |run| row * whole + run.start..row * whole + run.end))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_whole_rows_and_cut_columns() {
        let bounds = |shape: &[usize], part: &[Range<usize>]| -> Vec<[usize; 2]> {
            runs(shape, part).into_iter().map(|run| [run.start, run.end]).collect()
        };
        assert_eq!(bounds(&[4, 3], &[1..3, 0..3]), [[3, 9]]);
        assert_eq!(bounds(&[4, 3], &[1..3, 1..2]), [[4, 5], [7, 8]]);
        assert_eq!(bounds(&[2, 2, 3], &[0..2, 1..2, 0..3]), [[3, 6], [9, 12]]);
        assert_eq!(bounds(&[5], std::slice::from_ref(&(2..4))), [[2, 4]]);
    }

    #[test]
    fn values_keep_their_bits_where_the_dtype_allows() {
        let stored: Vec<u8> = [1.0f32, -2.5, 3.140625]
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect();
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let mut buffer = HostBuffer::new(dtype, 3);
            let all = std::slice::from_ref(&(0..3));
            assert!(buffer.extend(&stored, &StoredDtype::Bf16, &[3], all));
            let values: Vec<f32> = match buffer.values {
                Values::Bf16(values) => values.iter().map(|v| v.to_f32()).collect(),
                Values::F16(values) => values.iter().map(|v| v.to_f32()).collect(),
                Values::F32(values) => values,
            };
            assert_eq!(values, [1.0, -2.5, 3.140625]);
        }
    }
}
