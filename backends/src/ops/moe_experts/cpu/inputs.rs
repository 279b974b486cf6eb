//! What experts are multiplied with, quantised where that is asked for.

use std::borrow::Cow;

use crate::fp8::Activations;
use crate::ops::quantise_fp8::cpu::rows_to_grid;

/// One side of a product: rows, and what products with each are multiplied with.
pub(super) struct Inputs<'a> {
    /// `[rows, width]`
    rows: Cow<'a, [f32]>,
    width: usize,
    /// Of each row, where it is quantised as a whole.
    scales: Option<Vec<f32>>,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(
        rows: impl Into<Cow<'a, [f32]>>,
        width: usize,
        activations: Activations,
    ) -> Self {
        let mut rows = rows.into();
        let group = match activations {
            Activations::Float => return Inputs { rows, width, scales: None },
            Activations::PerToken => width,
            Activations::PerGroup(group) => group,
        };
        let scales = rows_to_grid(rows.to_mut(), width, group);
        if activations == Activations::PerToken {
            return Inputs { rows, width, scales: Some(scales) };
        }
        let groups = rows.to_mut().chunks_mut(width).flat_map(|row| row.chunks_mut(group));
        for (values, scale) in groups.zip(scales) {
            values.iter_mut().for_each(|value| *value *= scale);
        }
        Inputs { rows, width, scales: None }
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.rows[row * self.width..][..self.width]
    }

    pub(super) fn has_scales(&self) -> bool {
        self.scales.is_some()
    }

    pub(super) fn scale(&self, row: usize) -> f32 {
        self.scales.as_ref().map_or(1.0, |scales| scales[row])
    }
}
