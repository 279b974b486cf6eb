use super::swiglu;
use crate::ops::case::{Case, Kernel};

pub(crate) const KERNEL: Kernel = Kernel {
    name: "swiglu",
    cases: &[
        Case { label: "decode", shape: &[1, 1536], seed: 1 },
        Case { label: "odd_width", shape: &[5, 173], seed: 2 },
    ],
    tolerance: 1e-5,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [rows, width] = case.dims();
        let gate = inputs.model_floats([rows, width], 4.0);
        let up = inputs.model_floats([rows, width], 1.0);
        inputs.values(swiglu(gate, up))
    },
};
