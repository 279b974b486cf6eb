//! How many launches a layer takes when its launches are not replayed, those of Burn included.

use burn::tensor::{DType, Tensor};

use super::Offline;
use super::attention::{HEAD_DIM, HEADS, KV_HEADS, LATENT, LATENT_HEADS, NOPE, ROPE, VALUE, parts};
use super::rows::{Attention, MODELS, Model};
use super::targets::Target;
use crate::kv::{KvFormat, KvLayer, KvSpec};
use crate::ops::{
    self, ExpertGroup, ExpertWeights, HeadNorms, MlaForm, MlaProjected, Norm, Normed, Routing,
};
use crate::weight::Weight;

const DTYPE: DType = DType::BF16;

/// A decode step of one sequence and of eight, with 4096 tokens in the cache each, on an H100.
#[test]
fn a_layer_of_experts_takes_few_launches() {
    for tokens in [1, 8] {
        for model in MODELS {
            let most = match model.attention {
                // Normed projection, rotation and write, attention and the sum of its splits,
                // projection, normed router, choice, experts in two halves.
                Attention::Heads { .. } => 9,
                // Two normed projections; the splits are summed where values are expanded.
                Attention::Latents => 10,
            };
            let device = Offline::new(Target::Cuda(90));
            layer(&device, model, tokens);
            let launches = device.take_all();
            let names = || launches.iter().map(|launch| (launch.count, launch.kernel.name()));
            let count: usize = launches.iter().map(|launch| launch.count).sum();
            let names: Vec<_> = names().collect();
            assert!(count <= most, "{count} launches for {tokens} tokens: {names:#?}");
        }
    }
}

/// A layer as the models compute it.
fn layer(device: &Offline, model: &Model, tokens: usize) {
    let hidden = model.hidden;
    let floats = |shape| -> Tensor<2> { device.floats(shape, DTYPE) };
    let matrix = |shape| Weight::Dense(floats(shape));
    let (x, added) = (floats([tokens, hidden]), floats([tokens, hidden]));
    let weight = || device.floats([hidden], DTYPE);
    let gain = weight();
    let norm = Norm { weight: &gain, eps: 1e-5 };
    let input = Normed { x, added: Some(added), norm };
    let (sum, attended) = match model.attention {
        Attention::Heads { norms } => heads(device, input, norms),
        Attention::Latents => latents(device, input),
    };
    let [_, width] = attended.dims();
    let attended = ops::linear(attended, &matrix([hidden, width]), None);
    let router = Weight::Dense(device.floats([model.experts, hidden], DType::F32));
    let input = Normed { x: sum, added: Some(attended), norm };
    let (sum, logits) = ops::norm_linear(input, &router, None, true);
    let routing = Routing {
        n_group: 1,
        topk_group: 1,
        num_experts_per_tok: model.per_token,
        norm_topk_prob: true,
        routed_scaling_factor: 1.0,
        shared_experts: 1,
    };
    let bias = device.floats([model.experts], DType::F32);
    let routed = ops::moe_route(logits, bias, device.ints([tokens]), &routing);
    let (experts, width) = (model.experts + 1, model.widths[0]);
    let group = ExpertGroup {
        experts,
        gate_up: matrix([experts * 2 * width, hidden]),
        down: matrix([experts * hidden, width]),
    };
    ops::norm_moe_experts(sum, norm, &routed, &ExpertWeights::new(vec![group], experts));
}

fn heads(device: &Offline, input: Normed<'_>, norms: bool) -> (Tensor<2>, Tensor<2>) {
    let [tokens, hidden] = input.x.dims();
    let attention = Attention::Heads { norms };
    let rows = || device.rows(&parts(attention), KvFormat::Float(DTYPE));
    let mut layer = KvLayer::of(vec![rows(), rows()]);
    let width = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
    let project = Weight::Dense(device.floats([width, hidden], DTYPE));
    let bias = Some(device.floats([width], DTYPE));
    let (sum, qkv) = ops::norm_linear(input, &project, bias, false);
    let weight = device.floats([HEAD_DIM], DTYPE);
    let norm = Norm { weight: &weight, eps: 1e-5 };
    let norms = norms.then_some(HeadNorms { query: norm, key: norm });
    let rotation = device.rotation(attention, tokens);
    let slots = device.ints([tokens]);
    let q = ops::gqa_write(qkv, HEAD_DIM, norms, &rotation, &mut layer, slots);
    let tables = device.tables([tokens, tokens]);
    (sum, ops::paged_attention(q, &layer, &tables, KvSpec::PAGE_SIZE, 0.1).flatten(1, 2))
}

fn latents(device: &Offline, input: Normed<'_>) -> (Tensor<2>, Tensor<2>) {
    const RANK: usize = 768;
    let [tokens, hidden] = input.x.dims();
    let matrix = |shape| Weight::Dense(device.floats(shape, DTYPE));
    let rows = device.rows(&parts(Attention::Latents), KvFormat::Float(DTYPE));
    let mut layer = KvLayer::of(vec![rows]);
    let down = matrix([RANK + LATENT + ROPE, hidden]);
    let (sum, joint) = ops::norm_linear(input, &down, None, false);
    let latent = ops::columns(joint.clone(), 0..RANK);
    let weight = device.floats([RANK], DTYPE);
    let norm = Norm { weight: &weight, eps: 1e-6 };
    let input = Normed { x: latent, added: None, norm };
    let up = matrix([LATENT_HEADS * (NOPE + ROPE), RANK]);
    let (_, q) = ops::norm_linear(input, &up, None, false);
    let weight = device.floats([LATENT], DTYPE);
    let norm = Norm { weight: &weight, eps: 1e-6 };
    let down = ops::columns(joint, RANK..RANK + LATENT + ROPE);
    let projected = MlaProjected { q, down, norm, heads: LATENT_HEADS };
    let kv_b = matrix([LATENT_HEADS * (NOPE + VALUE), LATENT]);
    let rotation = device.rotation(Attention::Latents, tokens);
    let (slots, form) = (device.ints([tokens]), MlaForm::Absorbed);
    let q = ops::mla_write(projected, &kv_b, &rotation, &mut layer, slots, form);
    let tables = device.tables([tokens, tokens]);
    let attended = ops::mla_attention(q, &kv_b, &layer, &tables, KvSpec::PAGE_SIZE, 0.1, form);
    (sum, attended.flatten(1, 2))
}
