use burn::tensor::{DType, Tensor};

use super::paged_attention;
use crate::kv::{KvPool, KvSpec, PageTables};
use crate::ops::case::{Case, Kernel};

/// Shape of a case: query tokens, cached tokens before them, heads, KV heads, head_dim.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "paged_attention",
    cases: &[
        Case { label: "decode", shape: &[1, 37, 12, 2, 32], seed: 1 },
        Case { label: "prefill", shape: &[24, 0, 6, 2, 32], seed: 2 },
        Case { label: "chunked_prefill", shape: &[8, 21, 8, 4, 20], seed: 3 },
    ],
    tolerance: 1e-4,
    run: |case, inputs| {
        const PAGE: usize = 8;
        let [queries, cached, heads, kv_heads, head_dim] = case.dims();
        let length = cached + queries;
        let pages = length.div_ceil(PAGE);
        let spec = KvSpec::Gqa { layers: 1, kv_heads, head_dim, page_size: PAGE };
        let device = inputs.device().clone();
        let mut pool = KvPool::new(spec, pages + 1, DType::F32, &device);
        let ints = |values: Vec<usize>| {
            let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
            Tensor::<1, burn::tensor::Int>::from_data(values.as_slice(), &device)
        };
        // Pages in reverse order, so that a slot is never equal to a position.
        let table: Vec<usize> = (1..=pages).rev().collect();
        let slots = (0..length).map(|at| table[at / PAGE] * PAGE + at % PAGE).collect();
        let keys = inputs.floats([length, kv_heads * head_dim], 1.0);
        let values = inputs.floats([length, kv_heads * head_dim], 1.0);
        pool.layer(0).write(keys, values, ints(slots));
        let tables = PageTables {
            sequences: ints(vec![0; queries]),
            positions: ints((cached..length).collect()),
            block_tables: ints(table).unsqueeze(),
            query_starts: ints(vec![0, queries]),
            lengths: ints(vec![length]),
        };
        let q = inputs.floats([queries, heads, head_dim], 1.0);
        let scale = (head_dim as f64).powf(-0.5);
        inputs.values(paged_attention(q, pool.layer(0), &tables, PAGE, scale))
    },
};
