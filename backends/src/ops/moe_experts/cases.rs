use burn::tensor::Tensor;

use super::{ExpertGroup, ExpertWeights, moe_experts};
use crate::fp8::Activations;
use crate::ops::Routed;
use crate::ops::case::{Case, Inputs, Kernel};
use crate::weight::Weight;

/// Shape of a case: tokens, hidden, width, experts, experts per token, and 1 for FP8 weights.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "moe_experts",
    cases: &[
        Case { label: "decode", shape: &[1, 64, 48, 8, 3, 0], seed: 1 },
        Case { label: "prefill", shape: &[17, 64, 48, 8, 3, 0], seed: 2 },
        Case { label: "inner_width_of_4", shape: &[5, 32, 44, 5, 2, 0], seed: 3 },
        Case { label: "w8a16", shape: &[6, 64, 44, 8, 3, 1], seed: 4 },
    ],
    tolerance: 1e-4,
    run: |case, inputs| {
        let [rows, hidden, width, experts, k, fp8] = case.dims();
        let weight = |inputs: &mut Inputs, [out, width]: [usize; 2]| match fp8 {
            0 => Weight::Dense(inputs.floats([out, width], 0.3)),
            _ => inputs.fp8([out, width], width, Activations::Float).into(),
        };
        let group = |inputs: &mut Inputs, count| ExpertGroup {
            experts: count,
            gate_up: weight(inputs, [count * 2 * width, hidden]),
            down: weight(inputs, [count * hidden, width]),
        };
        let groups =
            (0..experts).step_by(3).map(|first| group(inputs, 3.min(experts - first))).collect();
        let weights = ExpertWeights::new(groups, 3);
        let x = inputs.floats([rows, hidden], 1.0);
        // Distinct experts for each token: consecutive ids from a different start.
        let ids: Vec<i32> = (0..rows * k).map(|i| ((i / k * 5 + i % k) % experts) as i32).collect();
        let ids = Tensor::<1, _>::from_data(ids.as_slice(), inputs.device());
        let routed =
            Routed { experts: ids.reshape([rows, k]), weights: inputs.floats([rows, k], 1.0) };
        inputs.values(moe_experts(&x, &routed, &weights))
    },
};
