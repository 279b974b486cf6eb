use super::{Routing, moe_route};
use crate::ops::case::{Case, Kernel};

/// Shape of a case: tokens, experts, experts per token, groups, chosen groups, shared experts.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "moe_route",
    cases: &[
        Case { label: "air", shape: &[5, 128, 8, 1, 1, 1], seed: 1 },
        Case { label: "flash", shape: &[1, 64, 4, 1, 1, 0], seed: 2 },
        Case { label: "groups", shape: &[9, 24, 3, 4, 2, 0], seed: 3 },
        Case { label: "groups_of_one", shape: &[3, 5, 2, 5, 3, 1], seed: 4 },
        Case { label: "355b", shape: &[130, 160, 8, 1, 1, 1], seed: 5 },
    ],
    tolerance: 1e-5,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [rows, experts, k, n_group, topk_group, shared_experts] = case.dims();
        let routing = Routing {
            n_group,
            topk_group,
            num_experts_per_tok: k,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            shared_experts,
        };
        let logits = inputs.floats([rows, experts], 2.0);
        let bias = inputs.floats([experts], 0.5);
        let live = inputs.ints([rows], 4).clamp_max(1);
        let routed = moe_route(logits, bias, live, &routing);
        let mut values = inputs.values(routed.weights);
        values.extend(inputs.values(routed.experts.float()));
        values
    },
};
