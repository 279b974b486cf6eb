use burn::tensor::s;

use super::{add_rms_norm, rms_norm};
use crate::ops::case::{Case, Kernel};
use crate::ops::columns;

pub(crate) const KERNEL: Kernel = Kernel {
    name: "rms_norm",
    cases: &[
        Case { label: "decode", shape: &[1, 4096], seed: 1 },
        Case { label: "prefill", shape: &[64, 512], seed: 2 },
        Case { label: "odd_width", shape: &[7, 129], seed: 3 },
        Case { label: "one_value", shape: &[3, 1], seed: 4 },
        Case { label: "columns_of_a_matrix", shape: &[5, 96], seed: 5 },
    ],
    tolerance: 1e-5,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [rows, width] = case.dims();
        let x = inputs.model_floats([rows, width], 3.0);
        let weight = inputs.model_floats([width], 1.0);
        // The norm of some of the columns, of all, and of a sum.
        let mut values = Vec::new();
        for range in [0..width.div_ceil(2), width / 2..width, width.min(65) - 1..width] {
            let part = columns(x.clone(), range.clone());
            let part_weight = weight.clone().slice(s![range]);
            values.extend(inputs.values(rms_norm(part, part_weight, 1e-5)));
        }
        values.extend(inputs.values(rms_norm(x.clone(), weight.clone(), 1e-5)));
        let added = inputs.model_floats([rows, width], 2.0);
        let (sum, normed) = add_rms_norm(x, added, weight, 1e-5);
        values.extend(inputs.values(sum));
        values.extend(inputs.values(normed));
        values
    },
};
