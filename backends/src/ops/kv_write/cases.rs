use burn::tensor::Tensor;

use super::kv_write;
use crate::ops::case::{Case, Kernel};

pub(crate) const KERNEL: Kernel = Kernel {
    name: "kv_write",
    cases: &[
        Case { label: "decode", shape: &[1, 128, 64], seed: 1 },
        Case { label: "prefill", shape: &[40, 256, 48], seed: 2 },
    ],
    tolerance: 0.0,
    run: |case, inputs| {
        let [rows, slots, width] = case.dims();
        let pages = inputs.floats([slots, width], 1.0);
        let fresh = inputs.floats([rows, width], 1.0);
        // Every third slot, from the end: distinct and out of order.
        let at: Vec<i32> = (0..rows).map(|row| (slots - 1 - 3 * row) as i32).collect();
        let at = Tensor::from_data(at.as_slice(), inputs.device());
        inputs.values(kv_write(pages, fresh, at))
    },
};
