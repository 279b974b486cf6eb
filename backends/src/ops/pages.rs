//! What the references of paged ops share. Tokens are cut into tiles of one sequence each
//! ([`TileTables`](crate::kv::TileTables)), and each tile meets the rows of its sequence's block
//! table: `N` tiles of `M` tokens, `R` rows.

use burn::tensor::{Bool, Int, Tensor};

use crate::kv::PageTables;

/// Score of a key that a token may not see; finite, because shader languages have no infinity.
pub(super) const HIDDEN: f32 = -1e30;

/// Slots of all rows of some block tables: `[n, pages]` → `[n * R]`.
pub(super) fn slots(block_tables: Tensor<2, Int>, page_size: usize) -> Tensor<1, Int> {
    let [tables, pages] = block_tables.dims();
    let offsets = Tensor::<1, Int>::arange(0..page_size as i64, &block_tables.device());
    let first = block_tables.mul_scalar(page_size as i64).unsqueeze_dim::<3>(2);
    (first + offsets.reshape([1, 1, page_size])).reshape([tables * pages * page_size])
}

/// Slots of the rows that each tile meets, `[N * R]`.
pub(super) fn slots_of_tiles(tables: &PageTables, page_size: usize) -> Tensor<1, Int> {
    let sequences = tables.tiles.sequences.clone();
    slots(tables.block_tables.clone().select(0, sequences), page_size)
}

/// What belongs to tokens, for each place of the tiles: `[tokens, a, b]` → `[N * M, a, b]`.
pub(super) fn to_tiles(x: Tensor<3>, tables: &PageTables) -> Tensor<3> {
    let [tiles, size] = tables.tiles.tokens.dims();
    x.select(0, tables.tiles.tokens.clone().reshape([tiles * size]))
}

/// The inverse of [`to_tiles`], `[N * M, a, b]` → `[tokens, a, b]`.
pub(super) fn to_tokens(x: Tensor<3>, tables: &PageTables) -> Tensor<3> {
    x.select(0, tables.tiles.places.clone())
}

/// Whether a row comes after the token at a place, `[N, M, R]`.
pub(super) fn hidden(tables: &PageTables, page_size: usize) -> Tensor<3, Bool> {
    let [tiles, size] = tables.tiles.tokens.dims();
    let [_, pages] = tables.block_tables.dims();
    let shape = [tiles, size, pages * page_size];
    let tokens = tables.tiles.tokens.clone().reshape([tiles * size]);
    let positions = tables.positions.clone().select(0, tokens).reshape([tiles, size, 1]);
    let rows = Tensor::<1, Int>::arange(0..shape[2] as i64, &positions.device());
    rows.reshape([1, 1, shape[2]]).expand(shape).greater(positions.expand(shape))
}
