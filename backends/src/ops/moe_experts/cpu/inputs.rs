//! What experts are multiplied with, quantised where that is asked for.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use std::borrow::Cow;

use super::TOKENS;
use crate::cpu::{Shared, in_pieces};
use crate::fp8::Activations;
use crate::ops::quantise_fp8::cpu::to_grid;

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
        let count = rows.len() / width;
        let mut scales = vec![1.0; count];
        let (to_rows, to_scales) = (Shared::new(rows.to_mut()), Shared::new(&mut scales));
        in_pieces(count.div_ceil(TOKENS), count > TOKENS, |piece| {
            for row in piece * TOKENS..count.min((piece + 1) * TOKENS) {
                // SAFETY: a piece has rows of its own.
                let (values, kept) =
                    unsafe { (to_rows.part(row * width, width), to_scales.part(row, 1)) };
                for values in values.chunks_mut(group) {
                    let scale = to_grid(values);
                    match activations {
                        Activations::PerToken => kept[0] = scale,
                        _ => values.iter_mut().for_each(|value| *value *= scale),
                    }
                }
            }
        });
        let scales = (activations == Activations::PerToken).then_some(scales);
        Inputs { rows, width, scales }
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
