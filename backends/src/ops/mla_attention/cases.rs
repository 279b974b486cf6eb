use super::{MlaForm, MlaQueries, mla_attention};
use crate::kv::{KvPool, KvSpec};
use crate::ops::case::{Case, Kernel, PagedCase, kv_format};
use crate::weight::Weight;

/// Shape of a case: query tokens, cached tokens before them, heads, nope, rope, value, latent, 1
/// for the expanded form, format of the cache.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "mla_attention",
    cases: &[
        Case { label: "decode", shape: &[1, 37, 5, 48, 16, 64, 128, 0, kv_format::F32], seed: 1 },
        Case { label: "prefill", shape: &[24, 0, 4, 24, 8, 32, 64, 1, kv_format::F32], seed: 2 },
        Case {
            label: "chunk_absorbed",
            shape: &[8, 29, 3, 12, 4, 20, 28, 0, kv_format::F32],
            seed: 3,
        },
        Case {
            label: "chunk_expanded",
            shape: &[8, 29, 3, 12, 4, 20, 28, 1, kv_format::F32],
            seed: 3,
        },
        Case {
            label: "bf16_cache",
            shape: &[4, 29, 3, 12, 4, 20, 28, 0, kv_format::BF16],
            seed: 4,
        },
        Case { label: "f16_cache", shape: &[4, 29, 3, 12, 4, 20, 28, 1, kv_format::F16], seed: 5 },
        Case {
            label: "fp8_absorbed",
            shape: &[4, 29, 3, 12, 4, 20, 28, 0, kv_format::FP8],
            seed: 6,
        },
        Case {
            label: "fp8_expanded",
            shape: &[4, 29, 3, 12, 6, 20, 27, 1, kv_format::FP8],
            seed: 7,
        },
    ],
    tolerance: 1e-4,
    run: |case, inputs| {
        const PAGE: usize = 8;
        let [queries, cached, heads, nope, rope, value, latent, expanded, format] = case.dims();
        let format = kv_format::on(format, inputs.device());
        let paged = PagedCase::new(&[[cached, queries]], PAGE, inputs.device());
        let spec = KvSpec::Mla { layers: 1, latent, rope, page_size: PAGE };
        let mut pool = KvPool::new(spec, paged.pages, format, inputs.device());
        let rows = inputs.cached([cached + queries, latent + rope], format);
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
