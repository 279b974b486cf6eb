use super::rms_norm;
use crate::ops::case::{Case, Kernel};

pub(crate) const KERNEL: Kernel = Kernel {
    name: "rms_norm",
    cases: &[
        Case { label: "decode", shape: &[1, 4096], seed: 1 },
        Case { label: "prefill", shape: &[64, 512], seed: 2 },
        Case { label: "odd_width", shape: &[7, 129], seed: 3 },
        Case { label: "one_value", shape: &[3, 1], seed: 4 },
    ],
    tolerance: 1e-5,
    run: |case, inputs| {
        let [rows, width] = case.dims();
        let x = inputs.floats([rows, width], 3.0);
        let weight = inputs.floats([width], 1.0);
        inputs.values(rms_norm(x, weight, 1e-5))
    },
};
