use burn::tensor::{DType, Tensor};

use super::{HeadNorms, gqa_write};
use crate::kv::{KvPool, KvSpec};
use crate::ops::case::{Case, Kernel, kv_format};
use crate::ops::{Norm, RopeOrder, RotaryTable};

/// Shape of a case: tokens, heads, KV heads, head_dim, rotary_dim, 1 for interleaved pairs, 1 for
/// norms, format of the cache.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "gqa_write",
    cases: &[
        Case { label: "decode", shape: &[1, 12, 1, 128, 64, 0, 1, kv_format::F32], seed: 1 },
        Case { label: "no_norms", shape: &[3, 6, 2, 32, 16, 0, 0, kv_format::F32], seed: 2 },
        Case { label: "interleaved", shape: &[5, 4, 2, 20, 10, 1, 1, kv_format::F32], seed: 3 },
        Case { label: "prefill", shape: &[70, 6, 2, 64, 64, 0, 1, kv_format::F32], seed: 4 },
        Case { label: "fp8", shape: &[9, 12, 2, 128, 64, 0, 1, kv_format::FP8], seed: 5 },
        Case { label: "fp8_odd_width", shape: &[4, 3, 3, 19, 8, 1, 0, kv_format::FP8], seed: 6 },
    ],
    // A code may be the neighbour where a value lies between two.
    tolerance: 1e-3,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        const PAGE: usize = 16;
        let [tokens, heads, kv_heads, head_dim, rotary_dim, interleaved, normed, format] =
            case.dims();
        let format = inputs.kv_format(format);
        let pages = tokens.div_ceil(PAGE) + 1;
        let spec = KvSpec::Gqa { layers: 1, kv_heads, head_dim, page_size: PAGE };
        let mut pool = KvPool::new(spec, pages, format, inputs.device());
        let order = [RopeOrder::HalfSplit, RopeOrder::Interleaved][interleaved];
        let table = RotaryTable::new(300, rotary_dim, 1e4, order, inputs.device());
        let rotation = table.at(inputs.ints([tokens], 300));
        let qkv = inputs.model_floats([tokens, (heads + 2 * kv_heads) * head_dim], 1.0);
        let weights = [1.5, 0.7].map(|scale| inputs.model_floats([head_dim], scale));
        let [query, key] =
            [(&weights[0], 1e-5), (&weights[1], 1e-3)].map(|(weight, eps)| Norm { weight, eps });
        let norms = (normed == 1).then_some(HeadNorms { query, key });
        let last = (pages * PAGE) as i32 - 1;
        let slots: Vec<i32> = (0..tokens as i32).map(|token| last - token).collect();
        let slots = Tensor::from_data(slots.as_slice(), inputs.device());
        let layer = pool.layer(0);
        let q = gqa_write(qkv, head_dim, norms, &rotation, layer, slots);
        let mut out = inputs.values(q);
        let all = Tensor::arange(0..i64::from(last) + 1, inputs.device());
        for rows in [layer.keys(), layer.values()] {
            out.extend(inputs.values(rows.gather(all.clone(), DType::F32)));
        }
        out
    },
};
