use burn::tensor::{DType, Tensor};

use super::{MlaProjected, mla_write};
use crate::fp8::Activations;
use crate::kv::{KvPool, KvSpec};
use crate::ops::case::{Case, Kernel, kv_format};
use crate::ops::mla_attention::absorbed_queries;
use crate::ops::{MlaForm, Norm, RopeOrder, RotaryTable};
use crate::weight::Weight;

/// Shape of a case: tokens, heads, nope, rope, value, latent, 1 for FP8 weights with a scale a row
/// and above it the columns of a scale, format of the cache.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "mla_write",
    cases: &[
        Case { label: "decode", shape: &[1, 3, 192, 64, 256, 512, 0, kv_format::F32], seed: 1 },
        Case { label: "verify", shape: &[5, 2, 24, 8, 20, 28, 0, kv_format::F32], seed: 2 },
        Case { label: "batch", shape: &[16, 4, 12, 6, 8, 132, 0, kv_format::F32], seed: 3 },
        Case { label: "prefill", shape: &[40, 4, 12, 6, 8, 64, 0, kv_format::F32], seed: 4 },
        Case { label: "fp8", shape: &[2, 2, 24, 8, 20, 128, 1, kv_format::FP8], seed: 5 },
        Case { label: "fp8_groups", shape: &[9, 2, 16, 8, 20, 64, 32, kv_format::FP8], seed: 6 },
        Case { label: "fp8_odd_width", shape: &[3, 3, 5, 6, 4, 27, 1, kv_format::FP8], seed: 7 },
    ],
    // A code may be the neighbour where a value lies between two.
    tolerance: 1e-3,
    // The norm is rounded to bf16 before its code is chosen: a spacing of codes is 16 to 32 roundings
    // wide, so one value in 40 takes its neighbour, a sixteenth to an eighth away.
    bf16_tolerance: 2e-2,
    run: |case, inputs| {
        const PAGE: usize = 16;
        let [tokens, heads, nope, rope, value, latent, group, format] = case.dims();
        let format = inputs.kv_format(format);
        let pages = tokens.div_ceil(PAGE) + 1;
        let spec = KvSpec::Mla { layers: 1, latent, rope, page_size: PAGE };
        let mut pool = KvPool::new(spec, pages, format, inputs.device());
        let table = RotaryTable::new(300, rope, 1e4, RopeOrder::Interleaved, inputs.device());
        let rotation = table.at(inputs.ints([tokens], 300));
        let q = inputs.model_floats([tokens, heads * (nope + rope)], 1.0);
        let down = inputs.model_floats([tokens, latent + rope], 1.0);
        let weight = inputs.model_floats([latent], 1.5);
        let shape = [heads * (nope + value), latent];
        let kv_b = match group {
            0 => Weight::Dense(inputs.model_floats(shape, 0.3)),
            1 => inputs.fp8(shape, latent, Activations::PerToken).into(),
            group => inputs.fp8(shape, group, Activations::Float).into(),
        };
        let last = (pages * PAGE) as i32 - 1;
        let slots: Vec<i32> = (0..tokens as i32).map(|token| last - token).collect();
        let slots = Tensor::from_data(slots.as_slice(), inputs.device());
        let layer = pool.layer(0);
        let norm = Norm { weight: &weight, eps: 1e-6 };
        let projected = MlaProjected { q, down, norm, heads };
        let form = MlaForm::Absorbed;
        let q = mla_write(projected, &kv_b, &rotation, layer, slots, form);
        let mut out = inputs.values(absorbed_queries(q, &kv_b));
        let all = Tensor::arange(0..i64::from(last) + 1, inputs.device());
        out.extend(inputs.values(layer.latents().gather(all, DType::F32)));
        out
    },
};
