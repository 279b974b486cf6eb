use super::embedding;
use crate::ops::case::{Case, Kernel};

pub(crate) const KERNEL: Kernel = Kernel {
    name: "embedding",
    cases: &[
        Case { label: "decode", shape: &[1, 300, 96], seed: 1 },
        Case { label: "prefill", shape: &[40, 300, 80], seed: 2 },
    ],
    tolerance: 0.0,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [rows, vocab_size, width] = case.dims();
        let table = inputs.model_floats([vocab_size, width], 1.0);
        let ids = inputs.ints([rows], vocab_size);
        inputs.values(embedding(table, ids))
    },
};
