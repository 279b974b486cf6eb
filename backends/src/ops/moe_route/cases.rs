use super::{Routing, moe_route};
use crate::ops::case::{Case, Kernel};

pub(crate) const KERNEL: Kernel = Kernel {
    name: "moe_route",
    cases: &[
        Case { label: "air", shape: &[5, 128, 8, 1, 1], seed: 1 },
        Case { label: "flash", shape: &[1, 64, 4, 1, 1], seed: 2 },
        Case { label: "groups", shape: &[9, 24, 3, 4, 2], seed: 3 },
    ],
    tolerance: 1e-5,
    run: |case, inputs| {
        let [rows, experts, k, n_group, topk_group] = case.dims();
        let routing = Routing {
            n_group,
            topk_group,
            num_experts_per_tok: k,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
        };
        let logits = inputs.floats([rows, experts], 2.0);
        let bias = inputs.floats([experts], 0.5);
        let live = inputs.ints([rows], 1).add_scalar(1);
        let routed = moe_route(logits, bias, live, &routing);
        let mut values = inputs.values(routed.weights);
        values.extend(inputs.values(routed.experts.float()));
        values
    },
};
