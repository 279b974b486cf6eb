use super::linear;
use crate::ops::case::{Case, Kernel};

pub(crate) const KERNEL: Kernel = Kernel {
    name: "linear",
    cases: &[
        Case { label: "decode", shape: &[1, 512, 384], seed: 1 },
        Case { label: "prefill", shape: &[64, 256, 192], seed: 2 },
        Case { label: "odd_widths", shape: &[7, 84, 53], seed: 3 },
    ],
    tolerance: 1e-4,
    run: |case, inputs| {
        let [rows, width, out] = case.dims();
        let x = inputs.floats([rows, width], 1.0);
        let weight = inputs.floats([out, width], 0.1);
        let bias = inputs.floats([out], 1.0);
        inputs.values(linear(x, weight, Some(bias)))
    },
};
