//! Storing rows of keys or values in the pages.

pub(super) mod cases;
mod reference;

use burn::tensor::{Int, Tensor};

/// Replaces the rows of `pages` at `slots` by `rows`, in place where `pages` is the only handle.
///
/// Shapes: `pages [slots, width]`, `rows [tokens, width]`, `slots [tokens]` → `pages`. Slots of
/// live tokens are distinct; padded tokens share the sink page and may overwrite each other.
pub fn kv_write(pages: Tensor<2>, rows: Tensor<2>, slots: Tensor<1, Int>) -> Tensor<2> {
    reference::kv_write(pages, rows, slots)
}
