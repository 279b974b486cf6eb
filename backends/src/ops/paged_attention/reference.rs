use burn::tensor::{DType, Tensor, activation::softmax};

use crate::kv::{KvLayer, KvRows, PageTables};
use crate::ops::pages::{HIDDEN, hidden, slots_of_tiles, to_tiles, to_tokens};
use crate::ops::product::product;

/// Gathers for each tile of tokens the pages of its sequence, scores all against all and masks what
/// comes after a token. `N` tiles of `M` tokens, `R` rows of the longest block table.
pub(super) fn paged_attention(
    q: Tensor<3>,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let [_, heads, head_dim] = q.dims();
    let kv_heads = layer.keys().width() / head_dim;
    let group = heads / kv_heads;
    let dtype = q.dtype();
    let [tiles, size] = tables.tiles.tokens.dims();

    let slots = slots_of_tiles(tables, page_size);
    let rows = slots.dims()[0] / tiles;
    let gather = |pages: &KvRows| {
        pages.gather(slots.clone(), dtype).reshape([tiles, rows, kv_heads, head_dim])
    };
    // [N, kv_heads, head_dim, R] and [N, kv_heads, R, head_dim]
    let keys = gather(layer.keys()).permute([0, 2, 3, 1]);
    let values = gather(layer.values()).permute([0, 2, 1, 3]);

    // [N, kv_heads, M * group, head_dim]: the heads of a group are rows of one product.
    let q = to_tiles(q, tables)
        .reshape([tiles, size, kv_heads, group, head_dim])
        .permute([0, 2, 1, 3, 4])
        .reshape([tiles, kv_heads, size * group, head_dim]);
    let scores = product(q, keys).cast(DType::F32) * scale;
    let shape = [tiles, kv_heads, size, group, rows];
    let hidden = hidden(tables, page_size).reshape([tiles, 1, size, 1, rows]).expand(shape);
    let weights = softmax(scores.reshape(shape).mask_fill(hidden, HIDDEN), 4).cast(dtype);

    let weights = weights.reshape([tiles, kv_heads, size * group, rows]);
    let attended = product(weights, values)
        .reshape([tiles, kv_heads, size, group, head_dim])
        .permute([0, 2, 1, 3, 4])
        .reshape([tiles * size, heads, head_dim]);
    to_tokens(attended, tables)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::kv::{KvPool, KvSpec, TileTables};

    /// Two sequences over scattered pages: each token averages the values it may see, because
    /// zero queries weigh all visible keys alike.
    #[test]
    fn a_token_sees_its_own_sequence_up_to_itself() {
        let device = Device::flex();
        let spec = KvSpec::Gqa { layers: 1, kv_heads: 1, head_dim: 1, page_size: 2 };
        let mut pool = KvPool::new(spec, 5, DType::F32, &device);
        // Sequence 0 lies on pages 3, 1 (slots 6, 7, 2); sequence 1 on page 4 (slots 8, 9).
        let values = Tensor::<2>::from_data([[1.0], [2.0], [6.0], [10.0], [30.0]], &device);
        let slots = Tensor::from_data([6, 7, 2, 8, 9], &device);
        pool.layer(0).write(values.zeros_like(), values, slots);
        let tables = PageTables {
            sequences: Tensor::from_data([0, 0, 1, 1, 0], &device),
            positions: Tensor::from_data([1, 2, 0, 1, 0], &device),
            block_tables: Tensor::from_data([[3, 1], [4, 0]], &device),
            query_starts: Tensor::from_data([0, 2, 4], &device),
            lengths: Tensor::from_data([3, 2], &device),
            tiles: TileTables {
                sequences: Tensor::from_data([0, 1, 0], &device),
                tokens: Tensor::from_data([[0, 1], [2, 3], [0, 0]], &device),
                places: Tensor::from_data([0, 1, 2, 3, 0], &device),
            },
        };
        let q = Tensor::zeros([5, 2, 1], &device);
        let out = paged_attention(q, pool.layer(0), &tables, 2, 1.0);
        let got = out.to_data().try_to_vec_as::<f32>().unwrap();
        let want = [1.5, 1.5, 3.0, 3.0, 10.0, 10.0, 20.0, 20.0];
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}
