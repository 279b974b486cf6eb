use burn::tensor::s;

use super::{MlaForm, MlaQueries, mla_attention};
use crate::fp8::Activations;
use crate::kv::{KvPool, KvSpec};
use crate::ops::case::{Case, Kernel, PagedCase, kv_format};
use crate::weight::Weight;

/// Shape of a case: heads, nope, rope, value, latent, 1 for the expanded form and 2 for an FP8
/// matrix, format of the cache, tokens per page, padded tokens, then cached and query tokens of each
/// sequence.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "mla_attention",
    cases: &[
        Case {
            label: "decode",
            shape: &[5, 48, 16, 64, 128, 0, kv_format::F32, 8, 0, 37, 1],
            seed: 1,
        },
        Case {
            label: "prefill",
            shape: &[4, 24, 8, 32, 64, 1, kv_format::F32, 8, 0, 0, 24],
            seed: 2,
        },
        Case {
            label: "chunk_absorbed",
            shape: &[3, 12, 4, 20, 28, 0, kv_format::F32, 8, 0, 29, 8],
            seed: 3,
        },
        Case {
            label: "chunk_expanded",
            shape: &[3, 12, 4, 20, 28, 1, kv_format::F32, 8, 0, 29, 8],
            seed: 3,
        },
        Case {
            label: "bf16_cache",
            shape: &[3, 12, 4, 20, 28, 0, kv_format::BF16, 8, 0, 29, 4],
            seed: 4,
        },
        Case {
            label: "f16_cache",
            shape: &[3, 12, 4, 20, 28, 1, kv_format::F16, 8, 0, 29, 4],
            seed: 5,
        },
        Case {
            label: "fp8_absorbed",
            shape: &[3, 12, 4, 20, 28, 0, kv_format::FP8, 8, 0, 29, 4],
            seed: 6,
        },
        Case {
            label: "fp8_expanded",
            shape: &[3, 12, 6, 20, 27, 1, kv_format::FP8, 8, 0, 29, 4],
            seed: 7,
        },
        Case {
            label: "fp8_matrix",
            shape: &[3, 12, 6, 20, 27, 2, kv_format::FP8, 16, 0, 70, 2],
            seed: 8,
        },
        Case {
            label: "ragged_decode",
            shape: &[4, 12, 4, 70, 64, 0, kv_format::F32, 64, 2, 62, 1, 63, 1, 64, 1, 0, 1, 200, 1],
            seed: 9,
        },
        Case {
            label: "verify",
            shape: &[7, 12, 4, 20, 32, 2, kv_format::FP8, 64, 0, 190, 4, 61, 4, 5, 2],
            seed: 10,
        },
        Case {
            label: "mixed",
            shape: &[6, 8, 4, 16, 32, 2, kv_format::F32, 16, 5, 40, 40, 3, 1, 100, 1],
            seed: 11,
        },
        Case {
            label: "long",
            shape: &[20, 16, 64, 32, 256, 0, kv_format::F32, 64, 0, 4095, 1],
            seed: 12,
        },
        Case {
            label: "tiles_prefill",
            shape: &[5, 24, 16, 32, 256, 0, kv_format::F32, 16, 2, 30, 21, 60, 9],
            seed: 13,
        },
        Case {
            label: "tiles_fp8",
            shape: &[5, 24, 16, 32, 512, 0, kv_format::FP8, 16, 0, 70, 7],
            seed: 14,
        },
    ],
    tolerance: 1e-4,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let ([heads, nope, rope, value, latent, kind, format, page_size, padding], sequences) =
            case.dims_and_sequences();
        let format = inputs.kv_format(format);
        let paged = PagedCase::padded(sequences, padding, page_size, inputs.device());
        let spec = KvSpec::Mla { layers: 1, latent, rope, page_size };
        let mut pool = KvPool::new(spec, paged.pages, format, inputs.device());
        let [rows] = paged.slots.dims();
        let rows = inputs.cached([rows, latent + rope], format);
        pool.layer(0).write_latents(rows, paged.slots.clone());
        let [tokens] = paged.tables.positions.dims();
        let q = MlaQueries {
            nope: inputs.model_floats([tokens, heads, nope], 1.0),
            rope: inputs.model_floats([tokens, heads, rope], 1.0),
        };
        let shape = [heads * (nope + value), latent];
        let kv_b = match kind {
            2 => inputs.fp8(shape, latent, Activations::PerToken).into(),
            _ => Weight::Dense(inputs.model_floats(shape, 0.2)),
        };
        let scale = ((nope + rope) as f64).powf(-0.5);
        let form = if kind == 1 { MlaForm::Expanded } else { MlaForm::Absorbed };
        let layer = pool.layer(0);
        let out = mla_attention(q, &kv_b, layer, &paged.tables, page_size, scale, form);
        let live = tokens - padding;
        let mut values = inputs.values(out.clone().slice(s![0..live]));
        if padding > 0 {
            // Whatever they are, they are finite.
            values.extend(inputs.values(out.slice(s![live..]) * 0.0));
        }
        values
    },
};
