use burn::tensor::DType;

use super::{MlaForm, MlaQueries, mla_attention};
use crate::kv::{KvPool, KvSpec};
use crate::ops::case::{Case, Kernel, PagedCase};
use crate::weight::Weight;

/// Shape of a case: query tokens, cached tokens before them, heads, nope, rope, value, latent, and
/// 1 for the expanded form.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "mla_attention",
    cases: &[
        Case { label: "decode", shape: &[1, 37, 5, 48, 16, 64, 128, 0], seed: 1 },
        Case { label: "prefill", shape: &[24, 0, 4, 24, 8, 32, 64, 1], seed: 2 },
        Case { label: "chunk_absorbed", shape: &[8, 29, 3, 12, 4, 20, 28, 0], seed: 3 },
        Case { label: "chunk_expanded", shape: &[8, 29, 3, 12, 4, 20, 28, 1], seed: 3 },
    ],
    tolerance: 1e-4,
    run: |case, inputs| {
        const PAGE: usize = 8;
        let [queries, cached, heads, nope, rope, value, latent, expanded] = case.dims();
        let paged = PagedCase::new(&[[cached, queries]], PAGE, inputs.device());
        let spec = KvSpec::Mla { layers: 1, latent, rope, page_size: PAGE };
        let mut pool = KvPool::new(spec, paged.pages, DType::F32, inputs.device());
        let rows = inputs.floats([cached + queries, latent + rope], 1.0);
        pool.layer(0).write_latents(rows, paged.slots);
        let q = MlaQueries {
            nope: inputs.floats([queries, heads, nope], 1.0),
            rope: inputs.floats([queries, heads, rope], 1.0),
        };
        let kv_b = Weight::Dense(inputs.floats([heads * (nope + value), latent], 0.2));
        let scale = ((nope + rope) as f64).powf(-0.5);
        let form = [MlaForm::Absorbed, MlaForm::Expanded][expanded];
        let out = mla_attention(q, &kv_b, pool.layer(0), &paged.tables, PAGE, scale, form);
        inputs.values(out)
    },
};
