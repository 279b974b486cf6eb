//! Matrices that become integers in groups on their way from the file to the device.

use std::ops::Range;

use burn::tensor::Device;
use glm_backends::groups::{self, Bits, GroupMatrix, Rows};

use super::StoredDtype;
use super::host::{decode_into, runs, size};

/// Rows of codes in host memory, to be moved to a device as one matrix.
#[derive(Debug)]
pub(super) struct GroupBuffer {
    rows: Rows,
    shape: [usize; 2],
    is_empty: bool,
}

impl GroupBuffer {
    /// A buffer for a matrix of `shape`.
    pub(super) fn new(shape: [usize; 2], bits: Bits) -> Self {
        GroupBuffer { rows: Rows::new(bits), shape, is_empty: true }
    }

    /// Appends the range `part` of a tensor stored in floats; says whether all of it is finite.
    pub(super) fn quantise(
        &mut self,
        bytes: &[u8],
        stored: &StoredDtype,
        shape: &[usize],
        part: &[Range<usize>],
    ) -> bool {
        if self.is_empty {
            // With the first rows, so that a shape which no file confirms allocates nothing.
            self.rows.reserve(self.shape);
            self.is_empty = false;
        }
        let (columns, outer) = part.split_last().expect("a matrix");
        let (width, outer_shape) = shape.split_last().expect("a matrix");
        let size = size(stored);
        let rows: Vec<usize> = runs(outer_shape, outer).into_iter().flatten().collect();
        self.rows.append(rows.len(), columns.len(), |row, values| {
            let start = rows[row] * width;
            let range = (start + columns.start) * size..(start + columns.end) * size;
            decode_into(values, &bytes[range], stored);
        })
    }

    /// Moves codes and scales to a device.
    pub(super) fn upload(self, device: &Device) -> GroupMatrix {
        groups::upload(self.rows, self.shape, device)
    }
}
