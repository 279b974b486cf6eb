//! Rows of the embedding table.

pub(super) mod cases;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::{Int, Tensor};

/// The table's row for each token.
///
/// Shapes: `table [vocab_size, hidden]`, `token_ids [tokens]` → `[tokens, hidden]`. Ids must be
/// below `vocab_size`; the engine checks them where they come in.
pub fn embedding(table: Tensor<2>, token_ids: Tensor<1, Int>) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&table.device()) {
        return launch::embedding(table, token_ids);
    }
    reference::embedding(table, token_ids)
}
