use super::{RopeOrder, RotaryTable, rope};
use crate::ops::case::{Case, Kernel};

/// Shape of a case: tokens, heads, head_dim, rotary_dim, and 1 for interleaved pairs.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "rope",
    cases: &[
        Case { label: "partial", shape: &[9, 4, 32, 16, 0], seed: 1 },
        Case { label: "whole_head", shape: &[3, 2, 20, 20, 0], seed: 2 },
        Case { label: "odd_pairs", shape: &[5, 8, 20, 10, 0], seed: 3 },
        Case { label: "interleaved", shape: &[6, 5, 64, 64, 1], seed: 4 },
        Case { label: "interleaved_partial", shape: &[3, 1, 14, 6, 1], seed: 5 },
    ],
    tolerance: 1e-5,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [rows, heads, head_dim, rotary_dim, interleaved] = case.dims();
        let order = [RopeOrder::HalfSplit, RopeOrder::Interleaved][interleaved];
        let table = RotaryTable::new(1024, rotary_dim, 1e6, order, inputs.device());
        let x = inputs.model_floats([rows, heads, head_dim], 1.0);
        let positions = inputs.ints([rows], 1024);
        inputs.values(rope(x, &table.at(positions)))
    },
};
