use super::paged_attention;
use crate::kv::{KvPool, KvSpec};
use crate::ops::case::{Case, Kernel, PagedCase, kv_format};

/// Shape of a case: query tokens, cached tokens before them, heads, KV heads, head_dim,
/// format of the cache.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "paged_attention",
    cases: &[
        Case { label: "decode", shape: &[1, 37, 12, 2, 32, kv_format::F32], seed: 1 },
        Case { label: "prefill", shape: &[24, 0, 6, 2, 32, kv_format::F32], seed: 2 },
        Case { label: "chunked_prefill", shape: &[8, 21, 8, 4, 20, kv_format::F32], seed: 3 },
        Case { label: "bf16_cache", shape: &[4, 21, 8, 4, 20, kv_format::BF16], seed: 4 },
        Case { label: "f16_cache", shape: &[4, 21, 8, 4, 20, kv_format::F16], seed: 5 },
        Case { label: "fp8_cache", shape: &[4, 21, 8, 2, 32, kv_format::FP8], seed: 6 },
        Case { label: "fp8_odd_width", shape: &[4, 21, 8, 4, 19, kv_format::FP8], seed: 7 },
    ],
    tolerance: 1e-4,
    run: |case, inputs| {
        const PAGE: usize = 8;
        let [queries, cached, heads, kv_heads, head_dim, format] = case.dims();
        let format = kv_format::on(format, inputs.device());
        let paged = PagedCase::new(&[[cached, queries]], PAGE, inputs.device());
        let spec = KvSpec::Gqa { layers: 1, kv_heads, head_dim, page_size: PAGE };
        let mut pool = KvPool::new(spec, paged.pages, format, inputs.device());
        let keys = inputs.cached([cached + queries, kv_heads * head_dim], format);
        let values = inputs.cached([cached + queries, kv_heads * head_dim], format);
        pool.layer(0).write(keys, values, paged.slots);
        let q = inputs.floats([queries, heads, head_dim], 1.0);
        let scale = (head_dim as f64).powf(-0.5);
        inputs.values(paged_attention(q, pool.layer(0), &paged.tables, PAGE, scale))
    },
};
