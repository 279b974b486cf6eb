use super::{RotaryTable, rope};
use crate::ops::case::{Case, Kernel};

pub(crate) const KERNEL: Kernel = Kernel {
    name: "rope",
    cases: &[
        Case { label: "partial", shape: &[9, 4, 32, 16], seed: 1 },
        Case { label: "whole_head", shape: &[3, 2, 20, 20], seed: 2 },
        Case { label: "odd_pairs", shape: &[5, 8, 20, 10], seed: 3 },
    ],
    tolerance: 1e-5,
    run: |case, inputs| {
        let [rows, heads, head_dim, rotary_dim] = case.dims();
        let table = RotaryTable::new(1024, rotary_dim, 1e6, inputs.device());
        let x = inputs.floats([rows, heads, head_dim], 1.0);
        let positions = inputs.ints([rows], 1024);
        inputs.values(rope(x, &table.at(positions)))
    },
};
