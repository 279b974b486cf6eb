//! What the references of paged ops share: the rows of the block tables, and who sees which.

use burn::tensor::{Bool, Int, Tensor};

use crate::kv::PageTables;

/// Score of a key that a token may not see; finite, because shader languages have no infinity.
pub(super) const HIDDEN: f32 = -1e30;

/// Slots of all rows of all block tables, `[sequences * pages * page_size]`.
pub(super) fn slots(tables: &PageTables, page_size: usize) -> Tensor<1, Int> {
    let [sequences, pages] = tables.block_tables.dims();
    let offsets = Tensor::<1, Int>::arange(0..page_size as i64, &tables.block_tables.device());
    let first = tables.block_tables.clone().mul_scalar(page_size as i64).unsqueeze_dim::<3>(2);
    (first + offsets.reshape([1, 1, page_size])).reshape([sequences * pages * page_size])
}

/// Whether a gathered row is none that a token may see: of another sequence, or after the token.
/// `[tokens, sequences * pages * page_size]`
pub(super) fn hidden(tables: &PageTables, page_size: usize) -> Tensor<2, Bool> {
    let [sequences, pages] = tables.block_tables.dims();
    let [tokens] = tables.positions.dims();
    let device = tables.positions.device();
    let length = pages * page_size;
    let shape = [tokens, sequences, length];

    let key_position = Tensor::<1, Int>::arange(0..length as i64, &device);
    let key_position = key_position.reshape([1, 1, length]).expand(shape);
    let key_sequence = Tensor::<1, Int>::arange(0..sequences as i64, &device);
    let key_sequence = key_sequence.reshape([1, sequences, 1]).expand(shape);
    let position = tables.positions.clone().reshape([tokens, 1, 1]).expand(shape);
    let sequence = tables.sequences.clone().reshape([tokens, 1, 1]).expand(shape);

    key_position
        .lower_equal(position)
        .bool_and(key_sequence.equal(sequence))
        .bool_not()
        .reshape([tokens, sequences * length])
}
