use burn::tensor::Tensor;

use super::{ExpertGroup, ExpertWeights, moe_experts, norm_moe_experts};
use crate::fp8::Activations;
use crate::ops::case::{Case, Inputs, Kernel};
use crate::ops::{Norm, Routed, Routing, moe_route};
use crate::weight::Weight;

/// Shape of a case: tokens, hidden, width, experts, experts per token, experts in a buffer, and what
/// the weights are (`DENSE`, …).
pub(crate) const KERNEL: Kernel = Kernel {
    name: "moe_experts",
    cases: &[
        Case { label: "decode", shape: &[1, 64, 48, 8, 3, 8, DENSE], seed: 1 },
        Case { label: "decode_of_8", shape: &[8, 128, 48, 16, 4, 16, DENSE], seed: 2 },
        Case { label: "decode_of_16", shape: &[16, 64, 44, 6, 2, 6, DENSE], seed: 3 },
        Case { label: "several_buffers", shape: &[5, 64, 48, 8, 3, 3, DENSE], seed: 4 },
        Case { label: "prefill", shape: &[33, 96, 72, 8, 3, 8, DENSE], seed: 5 },
        Case { label: "prefill_in_buffers", shape: &[70, 64, 48, 5, 3, 2, DENSE], seed: 6 },
        Case { label: "one_expert", shape: &[90, 64, 48, 4, 1, 4, ALL_ON_ONE], seed: 7 },
        Case { label: "inner_width_of_4", shape: &[5, 32, 44, 5, 2, 5, DENSE], seed: 8 },
        Case { label: "w8a16", shape: &[6, 64, 44, 8, 3, 8, W8A16], seed: 9 },
        Case { label: "w8a16_prefill", shape: &[40, 64, 44, 8, 3, 8, W8A16], seed: 10 },
        Case { label: "blocks", shape: &[3, 64, 48, 4, 2, 4, BLOCKS], seed: 11 },
        Case { label: "blocks_prefill", shape: &[20, 64, 48, 4, 2, 4, BLOCKS], seed: 12 },
        Case { label: "w8a8", shape: &[4, 64, 48, 8, 3, 8, W8A8], seed: 13 },
        Case { label: "routed", shape: &[9, 64, 48, 12, 3, 12, ROUTED], seed: 15 },
        Case { label: "routed_16", shape: &[16, 64, 48, 5, 4, 5, ROUTED], seed: 16 },
        Case { label: "w8a8_prefill", shape: &[24, 64, 48, 8, 3, 8, W8A8], seed: 14 },
        Case { label: "w8a8_one_expert", shape: &[150, 68, 44, 3, 1, 2, W8A8], seed: 17 },
    ],
    tolerance: 1e-4,
    // Some activations round to another code than in f32, an eighth apart.
    bf16_tolerance: 3e-2,
    run: |case, inputs| {
        let [rows, hidden, width, experts, k, per_group, kind] = case.dims();
        let weight = |inputs: &mut Inputs, [out, width]: [usize; 2]| match kind {
            W8A16 => inputs.fp8([out, width], width, Activations::Float).into(),
            BLOCKS => inputs.fp8([out, width], 16, Activations::Float).into(),
            W8A8 => inputs.fp8([out, width], width, Activations::PerToken).into(),
            _ => Weight::Dense(inputs.model_floats([out, width], 0.3)),
        };
        let group = |inputs: &mut Inputs, count| ExpertGroup {
            experts: count,
            gate_up: weight(inputs, [count * 2 * width, hidden]),
            down: weight(inputs, [count * hidden, width]),
        };
        let groups = (0..experts)
            .step_by(per_group)
            .map(|first| group(inputs, per_group.min(experts - first)))
            .collect();
        let weights = ExpertWeights::new(groups, per_group);
        let x = inputs.model_floats([rows, hidden], 1.0);
        // Distinct experts for each token: consecutive ids from a different start. Every seventh
        // token is padding.
        let id = |place: usize| match (kind, place / k) {
            (ALL_ON_ONE, _) => 2,
            (_, token) if token % 7 == 6 => experts,
            (_, token) => (token * 5 + place % k) % experts,
        };
        let ids: Vec<i32> = (0..rows * k).map(|place| id(place) as i32).collect();
        let ids = Tensor::<1, _>::from_data(ids.as_slice(), inputs.device());
        let routed = Routed {
            experts: ids.reshape([rows, k]),
            weights: inputs.floats([rows, k], 1.0),
            grouped: None,
        };
        let routed = match kind {
            ROUTED => {
                let logits = inputs.floats([rows, experts], 2.0);
                let (bias, live) =
                    (inputs.floats([experts], 0.5), inputs.ints([rows], 6).clamp_max(1));
                let routing = Routing {
                    n_group: 1,
                    topk_group: 1,
                    num_experts_per_tok: k,
                    norm_topk_prob: true,
                    routed_scaling_factor: 1.5,
                    shared_experts: 0,
                };
                moe_route(logits, bias, live, &routing)
            }
            _ => routed,
        };
        let mut values = inputs.values(moe_experts(&x, &routed, &weights));
        let gain = inputs.model_floats([hidden], 1.0);
        let norm = Norm { weight: &gain, eps: 1e-5 };
        values.extend(inputs.values(norm_moe_experts(x, norm, &routed, &weights)));
        values
    },
};

const DENSE: usize = 0;
const W8A16: usize = 1;
const BLOCKS: usize = 2;
const W8A8: usize = 3;
const ALL_ON_ONE: usize = 4;
/// Floats, with the choice of a router.
const ROUTED: usize = 5;
