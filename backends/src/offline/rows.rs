//! What each op is asked to compute here: its shapes in the models, short and long steps.

use burn::tensor::DType;

use super::{Offline, attention};
use crate::fp8::{Activations, Fp8Matrix};
use crate::ops::{self, Draw, ExpertGroup, ExpertWeights, Penalties, Routed, Routing};
use crate::weight::Weight;

/// An op on the shapes of a model, with activations and dense weights of a dtype.
pub(super) struct Row {
    pub(super) op: &'static str,
    /// Whether its kernels run for every token: these may not spill registers.
    pub(super) hot: bool,
    pub(super) launch: fn(&Offline, DType, &Model),
}

/// Every op that has kernels. An op is added by a function that calls it with
/// [`Offline::floats`], [`Offline::ints`] and [`Offline::weights`], and a line here.
pub(super) const ROWS: &[Row] = &[
    Row { op: "embedding", hot: true, launch: embedding },
    Row { op: "kv_write", hot: true, launch: attention::kv_write },
    Row { op: "linear", hot: true, launch: linear },
    Row { op: "moe_experts", hot: true, launch: moe_experts },
    Row { op: "moe_route", hot: true, launch: moe_route },
    Row { op: "write and attend", hot: true, launch: attention::write_and_attend },
    Row { op: "quantise_fp8", hot: true, launch: quantise_fp8 },
    Row { op: "rms_norm", hot: true, launch: rms_norm },
    Row { op: "rope", hot: true, launch: attention::rope },
    Row { op: "sample", hot: true, launch: sample },
    Row { op: "swiglu", hot: true, launch: swiglu },
];

/// Tokens of a step: a single answer, several with drafts, a chunk of a prompt.
const TOKENS: [usize; 3] = [1, 8, 512];

/// Tokens that `linear` takes a kernel of ours for. For more, Burn tunes its own, which a device
/// that runs nothing cannot.
const FEW_TOKENS: [usize; 2] = [1, 8];

/// What ops see of a model.
pub(super) struct Model {
    pub(super) hidden: usize,
    pub(super) attention: Attention,
    /// Width of the experts, and of the dense layers before them.
    pub(super) widths: [usize; 2],
    pub(super) experts: usize,
    pub(super) per_token: usize,
    /// Rows of `q_proj` or `q_b_proj`, and its columns.
    pub(super) query: [usize; 2],
    pub(super) vocabulary: usize,
}

/// The two attentions, whose dimensions are the same in all models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// 20 heads of 192 and 64 values, latents of 512, values of 256.
    Latents,
    /// 96 heads of 128 values on 8 KV heads.
    Heads { norms: bool },
}

/// GLM-4.7-Flash, GLM-4.5-Air and GLM-4.6.
pub(super) const MODELS: &[Model] = &[
    Model {
        hidden: 2048,
        attention: Attention::Latents,
        widths: [1536, 10_240],
        experts: 64,
        per_token: 4,
        query: [5120, 768],
        vocabulary: 154_880,
    },
    Model {
        hidden: 4096,
        attention: Attention::Heads { norms: false },
        widths: [1408, 10_944],
        experts: 128,
        per_token: 8,
        query: [12_288, 4096],
        vocabulary: 151_552,
    },
    Model {
        hidden: 5120,
        attention: Attention::Heads { norms: true },
        widths: [1536, 12_288],
        experts: 160,
        per_token: 8,
        query: [12_288, 5120],
        vocabulary: 151_552,
    },
];

fn rms_norm(device: &Offline, dtype: DType, model: &Model) {
    let x = || device.floats([8, model.hidden], dtype);
    let weight = || device.floats([model.hidden], dtype);
    ops::rms_norm(x(), weight(), 1e-5);
    ops::add_rms_norm(x(), x(), weight(), 1e-5);
    // Heads of GLM-4.6, and the latents of GLM-4.7-Flash.
    for width in [128, 512, 768] {
        let latent = device.floats([8, 96, width], dtype);
        ops::rms_norm(latent, device.floats([width], dtype), 1e-5);
    }
}

fn linear(device: &Offline, dtype: DType, model: &Model) {
    let [width, dense] = model.widths;
    let shapes = [
        [model.hidden, width],
        model.query,
        [model.hidden, model.query[0]],
        [2 * width, model.hidden],
        [model.hidden, dense],
    ];
    for shape in &shapes[..if device.is_thorough(dtype) { shapes.len() } else { 1 }] {
        let [rows, columns] = *shape;
        for tokens in FEW_TOKENS {
            for weight in device.weights(*shape, dtype) {
                ops::linear(device.floats([tokens, columns], dtype), &weight, None);
            }
        }
        let (x, bias) = (device.floats([1, columns], dtype), device.floats([rows], dtype));
        ops::linear(x, &Weight::Dense(device.floats(*shape, dtype)), Some(bias));
    }
    let head = Weight::Dense(device.floats([model.vocabulary, model.hidden], dtype));
    let router = Weight::Dense(device.floats([model.experts, model.hidden], DType::F32));
    for tokens in FEW_TOKENS {
        for weight in [&head, &router] {
            ops::wide_linear(device.floats([tokens, model.hidden], dtype), weight);
        }
    }
}

fn moe_experts(device: &Offline, dtype: DType, model: &Model) {
    let (hidden, width) = (model.hidden, model.widths[0]);
    // The shared expert is one of them.
    let (experts, choices) = (model.experts + 1, model.per_token + 1);
    let bytes = 2 * width * hidden * dtype.size();
    let per_group = (device.most_bytes() / bytes).clamp(1, experts);
    let sizes = || (0..experts).step_by(per_group).map(|first| per_group.min(experts - first));
    for kind in 0..device.weights([1, 4], dtype).len() {
        let weight = |shape| device.weights(shape, dtype).swap_remove(kind);
        let group = |experts| ExpertGroup {
            experts,
            gate_up: weight([experts * 2 * width, hidden]),
            down: weight([experts * hidden, width]),
        };
        let weights = ExpertWeights::new(sizes().map(group).collect(), per_group);
        for tokens in TOKENS {
            let routed = Routed {
                experts: device.ints([tokens, choices]),
                weights: device.floats([tokens, choices], DType::F32),
                grouped: None,
            };
            ops::moe_experts(&device.floats([tokens, hidden], dtype), &routed, &weights);
        }
    }
}

fn moe_route(device: &Offline, _dtype: DType, model: &Model) {
    let routing = Routing {
        n_group: 1,
        topk_group: 1,
        num_experts_per_tok: model.per_token,
        norm_topk_prob: true,
        routed_scaling_factor: 1.8,
        shared_experts: 1,
    };
    let logits = device.floats([8, model.experts], DType::F32);
    let bias = device.floats([model.experts], DType::F32);
    ops::moe_route(logits, bias, device.ints([8]), &routing);
}

fn quantise_fp8(device: &Offline, dtype: DType, model: &Model) {
    for group in [None, Some(128)] {
        ops::quantise_fp8(device.floats([8, model.hidden], dtype), group);
    }
}

fn embedding(device: &Offline, dtype: DType, model: &Model) {
    ops::embedding(device.floats([model.vocabulary, model.hidden], dtype), device.ints([8]));
}

fn sample(device: &Offline, _dtype: DType, model: &Model) {
    let vocabulary = model.vocabulary;
    let logits = || device.floats([8, vocabulary], DType::F32);
    let rows = || device.floats([8], DType::F32);
    ops::argmax(logits(), vocabulary);
    for part in [None, Some(rows())] {
        let draw = Draw {
            temperature: rows(),
            greedy: part.clone(),
            top_k: part.clone(),
            top_p: part.clone(),
            min_p: part.clone(),
            uniform: rows(),
        };
        ops::sample(logits(), vocabulary, &draw);
        let penalties = Penalties {
            repetition: Some(rows()),
            presence: part.clone(),
            frequency: part.clone(),
            seen: device.floats([8, vocabulary], DType::F32),
            slots: device.ints([8]),
            drafts: part.map(|_| device.ints([2, 3])),
        };
        ops::penalise(logits(), &penalties);
    }
    ops::allow(logits(), device.ints([8, vocabulary.div_ceil(32)]));
    ops::verify(device.ints([2, 4]), device.ints([2, 3]), device.ints([2]), vocabulary);
}

fn swiglu(device: &Offline, dtype: DType, model: &Model) {
    for width in model.widths {
        let half = || device.floats([8, width], dtype);
        ops::swiglu(half(), half());
        ops::swiglu_joint(device.floats([8, 2 * width], dtype));
    }
}

impl Offline {
    /// A matrix as checkpoints hold it: dense, in FP8 for FP8 activations, and where it counts with a
    /// scale a row for other activations and in blocks.
    pub(super) fn weights(&self, [rows, width]: [usize; 2], dtype: DType) -> Vec<Weight> {
        let fp8 = |group: usize, activations| {
            Weight::from(Fp8Matrix::with_values(
                self.ints([rows, width.div_ceil(4)]),
                self.floats([rows, width.div_ceil(group)], DType::F32),
                self.floats([256], DType::F32),
                [width, group],
                activations,
            ))
        };
        let dense = Weight::Dense(self.floats([rows, width], dtype));
        let mut weights = vec![dense, fp8(width, Activations::PerToken)];
        if self.is_usual(dtype) {
            weights.push(fp8(width, Activations::Float));
            weights.push(fp8(128, Activations::PerGroup(128)));
        }
        weights
    }
}
