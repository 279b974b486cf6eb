//! The absorbed form on the CPU: all heads share one KV head, whose keys are the cached rows and
//! whose values are the latents in them.

use burn::tensor::Tensor;

use super::MlaQueries;
use super::reference::UpProjection;
use crate::kv::{KvLayer, PageTables, Parts};
use crate::ops::paged_attention::cpu::{Form, over_pages};
use crate::weight::Weight;

pub(super) fn mla_attention(
    q: MlaQueries,
    kv_b: &Weight,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let [_, heads, nope] = q.nope.dims();
    let [_, _, rope] = q.rope.dims();
    let up = UpProjection { matrix: kv_b.dense(q.nope.dtype()), heads, nope };
    let latent = up.latent();
    let form = Form {
        kv_heads: 1,
        parts: vec![Parts { count: 1, width: latent }, Parts { count: 1, width: rope }],
        value_width: latent,
        page_size,
        scale: scale as f32,
    };
    let sums = over_pages(up.absorb(q), layer.latents(), None, tables, form);
    up.expand_results(sums)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::kv::{KvPool, KvSpec};
    use crate::ops::case::{Inputs, PagedCase, kv_format};
    use crate::ops::mla_attention::{MlaForm, reference};

    #[test]
    fn the_kernel_agrees_with_the_reference() {
        let device = Device::flex();
        let sequences = [[3, 1], [70, 9], [0, 30], [40, 1]];
        let (heads, nope, rope, value, latent, page_size) = (10, 12, 6, 20, 28, 8);
        let case = PagedCase::new(&sequences, page_size, &device);
        for format in [kv_format::F32, kv_format::BF16, kv_format::F16, kv_format::FP8] {
            let mut inputs = Inputs::new(7, &device);
            let format = inputs.kv_format(format);
            let spec = KvSpec::Mla { layers: 1, latent, rope, page_size };
            let mut pool = KvPool::new(spec, case.pages, format, &device);
            let rows = case.slots.dims()[0];
            let rows = inputs.floats([rows, latent + rope], 1.0);
            pool.layer(0).write_latents(rows, case.slots.clone());
            let [tokens] = case.tables.positions.dims();
            let q = MlaQueries {
                nope: inputs.floats([tokens, heads, nope], 1.0),
                rope: inputs.floats([tokens, heads, rope], 1.0),
            };
            let kv_b = inputs.floats([heads * (nope + value), latent], 0.5);
            let (kv_b, layer) = (Weight::Dense(kv_b), pool.layer(0));
            let got = mla_attention(q.clone(), &kv_b, layer, &case.tables, page_size, 0.2);
            let form = MlaForm::Absorbed;
            let want =
                reference::mla_attention(q, &kv_b, layer, &case.tables, page_size, 0.2, form);
            let most = (got - want).abs().max().cast(DType::F32).into_scalar::<f32>();
            assert!(most < 1e-5, "{format:?}: {most}");
        }
    }
}
