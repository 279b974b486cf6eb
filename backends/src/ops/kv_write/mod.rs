//! Storing rows of keys or values in the pages.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::{Int, Tensor};

use crate::kv::KvRows;

/// Replaces the rows of `pages` at `slots` by `rows`, in place.
/// Floats are converted to the dtype of `pages`; for FP8 each part of a row is quantised as
/// [`quantise_fp8`](super::quantise_fp8) does it, with a scale of its own.
///
/// Shapes: `pages` of `width` values a slot, `rows [tokens, width]`, `slots [tokens]`. Slots of live
/// tokens are distinct; padded tokens share the sink page and may overwrite each other.
pub fn kv_write(pages: &mut KvRows, rows: Tensor<2>, slots: Tensor<1, Int>) {
    #[cfg(feature = "cpu")]
    if super::flex::computes_on(&rows.device()) {
        return reference::kv_write(pages, rows, slots, cpu::quantised);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&rows.device()) {
        return launch::kv_write(pages, rows, slots);
    }
    reference::kv_write(pages, rows, slots, reference::quantised);
}
