use burn::tensor::{DType, Tensor, activation::softmax};

use crate::kv::{KvLayer, KvRows, PageTables};
use crate::ops::pages::{HIDDEN, hidden, slots};

/// Gathers the pages of all sequences, scores every token against every gathered row and masks
/// what is not its own. The work grows with tokens × sequences: the kernel does it per sequence.
pub(super) fn paged_attention(
    q: Tensor<3>,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let [tokens, heads, head_dim] = q.dims();
    let kv_heads = layer.keys().width() / head_dim;
    let group = heads / kv_heads;
    let dtype = q.dtype();

    let slots = slots(tables, page_size);
    let [rows] = slots.dims();
    let gather =
        |pages: &KvRows| pages.gather(slots.clone(), dtype).reshape([rows, kv_heads, head_dim]);
    // [kv_heads, head_dim, rows] and [kv_heads, rows, head_dim]
    let keys = gather(layer.keys()).permute([1, 2, 0]);
    let values = gather(layer.values()).swap_dims(0, 1);

    // [kv_heads, tokens * group, head_dim]: the heads of a group are rows of one product.
    let q = q.reshape([tokens, kv_heads, group, head_dim]).permute([1, 0, 2, 3]).reshape([
        kv_heads,
        tokens * group,
        head_dim,
    ]);
    let scores = q.matmul(keys).cast(DType::F32) * scale;
    let scores = scores.reshape([kv_heads, tokens, group, rows]);
    let hidden = hidden(tables, page_size)
        .reshape([1, tokens, 1, rows])
        .expand([kv_heads, tokens, group, rows]);
    let weights = softmax(scores.mask_fill(hidden, HIDDEN), 3).cast(dtype).reshape([
        kv_heads,
        tokens * group,
        rows,
    ]);

    weights
        .matmul(values)
        .reshape([kv_heads, tokens, group, head_dim])
        .permute([1, 0, 2, 3])
        .reshape([tokens, heads, head_dim])
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::kv::{KvPool, KvSpec};

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
        };
        let q = Tensor::zeros([5, 2, 1], &device);
        let out = paged_attention(q, pool.layer(0), &tables, 2, 1.0);
        let got = out.to_data().try_to_vec_as::<f32>().unwrap();
        let want = [1.5, 1.5, 3.0, 3.0, 10.0, 10.0, 20.0, 20.0, 1.0, 1.0];
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}
