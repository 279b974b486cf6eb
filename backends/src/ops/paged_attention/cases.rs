use burn::tensor::s;

use super::paged_attention;
use crate::kv::{KvPool, KvSpec};
use crate::ops::case::{Case, Kernel, PagedCase, kv_format};

/// Shape of a case: heads, KV heads, head_dim, format of the cache, tokens per page, padded tokens,
/// then cached and query tokens of each sequence.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "paged_attention",
    cases: &[
        Case { label: "decode", shape: &[12, 2, 32, kv_format::F32, 8, 0, 37, 1], seed: 1 },
        Case { label: "prefill", shape: &[6, 2, 32, kv_format::F32, 8, 0, 0, 24], seed: 2 },
        Case { label: "chunked_prefill", shape: &[8, 4, 20, kv_format::F32, 8, 0, 21, 8], seed: 3 },
        Case { label: "bf16_cache", shape: &[8, 4, 20, kv_format::BF16, 8, 0, 21, 4], seed: 4 },
        Case { label: "f16_cache", shape: &[8, 4, 20, kv_format::F16, 8, 0, 21, 4], seed: 5 },
        Case { label: "fp8_cache", shape: &[8, 2, 32, kv_format::FP8, 8, 0, 21, 4], seed: 6 },
        Case { label: "fp8_odd_width", shape: &[8, 4, 19, kv_format::FP8, 8, 0, 21, 4], seed: 7 },
        Case {
            label: "ragged_decode",
            shape: &[12, 1, 128, kv_format::F32, 64, 2, 62, 1, 63, 1, 64, 1, 0, 1, 300, 1, 128, 1],
            seed: 8,
        },
        Case { label: "long", shape: &[12, 1, 64, kv_format::F32, 64, 0, 4095, 1], seed: 9 },
        Case { label: "long_fp8", shape: &[12, 1, 128, kv_format::FP8, 64, 0, 4096, 1], seed: 10 },
        Case {
            label: "verify",
            shape: &[24, 2, 64, kv_format::F32, 64, 0, 190, 4, 61, 4, 5, 2],
            seed: 11,
        },
        Case {
            label: "mixed",
            shape: &[6, 2, 16, kv_format::F32, 16, 5, 40, 70, 3, 1, 100, 1, 15, 1],
            seed: 12,
        },
        Case { label: "one_value", shape: &[2, 2, 1, kv_format::F32, 4, 0, 9, 3], seed: 13 },
        Case {
            label: "tiles_prefill",
            shape: &[12, 2, 128, kv_format::F32, 16, 0, 30, 41],
            seed: 15,
        },
        Case {
            label: "tiles_fp8",
            shape: &[8, 2, 128, kv_format::FP8, 16, 3, 70, 9, 5, 3],
            seed: 16,
        },
        Case { label: "wide", shape: &[2, 1, 260, kv_format::F32, 16, 0, 90, 1], seed: 14 },
    ],
    tolerance: 1e-4,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let ([heads, kv_heads, head_dim, format, page_size, padding], sequences) =
            case.dims_and_sequences();
        let format = inputs.kv_format(format);
        let paged = PagedCase::padded(sequences, padding, page_size, inputs.device());
        let spec = KvSpec::Gqa { layers: 1, kv_heads, head_dim, page_size };
        let mut pool = KvPool::new(spec, paged.pages, format, inputs.device());
        let [rows] = paged.slots.dims();
        let keys = inputs.cached([rows, kv_heads * head_dim], format);
        let values = inputs.cached([rows, kv_heads * head_dim], format);
        pool.layer(0).write(keys, values, paged.slots.clone());
        let [tokens] = paged.tables.positions.dims();
        let q = inputs.model_floats([tokens, heads, head_dim], 1.0);
        let scale = (head_dim as f64).powf(-0.5);
        let out = paged_attention(q, pool.layer(0), &paged.tables, page_size, scale);
        let live = tokens - padding;
        let mut values = inputs.values(out.clone().slice(s![0..live]));
        if padding > 0 {
            // Whatever they are, they are finite.
            values.extend(inputs.values(out.slice(s![live..]) * 0.0));
        }
        values
    },
};
