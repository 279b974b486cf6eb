use super::{Draw, argmax, sample};
use crate::ops::case::{Case, Kernel};

pub(crate) const KERNEL: Kernel = Kernel {
    name: "sample",
    cases: &[
        Case { label: "one_row", shape: &[1, 2048], seed: 1 },
        Case { label: "odd_vocabulary", shape: &[5, 1003], seed: 2 },
    ],
    tolerance: 0.0,
    run: |case, inputs| {
        let [rows, vocab_size] = case.dims();
        let logits = inputs.floats([rows, vocab_size], 3.0);
        let around = |inputs: &mut crate::ops::case::Inputs, middle, spread| {
            inputs.floats([rows], spread).add_scalar(middle)
        };
        let draw = Draw {
            temperature: around(inputs, 1.0f32, 0.3),
            greedy: None,
            top_k: Some(around(inputs, 40.0, 10.0)),
            top_p: Some(around(inputs, 0.9, 0.05)),
            min_p: Some(around(inputs, 0.02, 0.01)),
            uniform: around(inputs, 0.5, 0.49),
        };
        let mut values = inputs.values(argmax(logits.clone(), vocab_size).float());
        values.extend(inputs.values(sample(logits, vocab_size, &draw).float()));
        values
    },
};
