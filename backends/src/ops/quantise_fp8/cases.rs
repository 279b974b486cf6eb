use super::quantise_fp8;
use crate::ops::case::{Case, Kernel};

/// Shape of a case: tokens, width, columns per scale (0 for the whole token).
pub(crate) const KERNEL: Kernel = Kernel {
    name: "quantise_fp8",
    cases: &[
        Case { label: "decode", shape: &[1, 512, 0], seed: 1 },
        Case { label: "prefill", shape: &[33, 260, 0], seed: 2 },
        Case { label: "groups_with_an_odd_edge", shape: &[5, 300, 128], seed: 3 },
    ],
    // A value that two devices divide differently by its last bit may land on the next code.
    tolerance: 5e-3,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [rows, width, group] = case.dims();
        let x = inputs.model_floats([rows, width], 3.0);
        inputs.values(quantise_fp8(x, (group > 0).then_some(group)).dequantised())
    },
};
