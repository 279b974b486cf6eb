use super::{Normed, linear, norm_linear};
use crate::fp8::Activations;
use crate::ops::Norm;
use crate::ops::case::{Case, Kernel};
use crate::weight::Weight;

/// Shape of a case: tokens, in, out, columns per scale of FP8 weights (0 for floats), and 1 where
/// the activations are FP8 too.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "linear",
    cases: &[
        Case { label: "decode", shape: &[1, 512, 384, 0, 0], seed: 1 },
        Case { label: "prefill", shape: &[64, 256, 192, 0, 0], seed: 2 },
        Case { label: "odd_widths", shape: &[7, 84, 53, 0, 0], seed: 3 },
        Case { label: "w8a16_decode", shape: &[1, 512, 384, 512, 0], seed: 4 },
        Case { label: "w8a16_odd_widths", shape: &[7, 83, 53, 83, 0], seed: 5 },
        Case { label: "w8a16_blocks", shape: &[5, 300, 40, 128, 0], seed: 6 },
        Case { label: "w8a8_prefill", shape: &[33, 256, 192, 256, 1], seed: 7 },
        Case { label: "w8a8_many", shape: &[150, 212, 140, 212, 1], seed: 8 },
        Case { label: "w8a8_decode", shape: &[3, 256, 192, 256, 1], seed: 10 },
        Case { label: "w8a8_odd_width", shape: &[20, 83, 53, 83, 1], seed: 9 },
    ],
    tolerance: 1e-4,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [rows, width, out, group, fp8_activations] = case.dims();
        let activations = match fp8_activations {
            0 => Activations::Float,
            _ => Activations::PerToken,
        };
        let x = inputs.model_floats([rows, width], 1.0);
        let weight = match group {
            0 => Weight::Dense(inputs.model_floats([out, width], 0.1)),
            group => inputs.fp8([out, width], group, activations).into(),
        };
        let bias = inputs.model_floats([out], 1.0);
        let added = inputs.model_floats([rows, width], 1.0);
        let gain = inputs.model_floats([width], 1.0);
        let norm = Norm { weight: &gain, eps: 1e-5 };
        let input = || Normed { x: x.clone(), added: Some(added.clone()), norm };
        let mut values = inputs.values(linear(x.clone(), &weight, Some(bias.clone())));
        let (sum, normed) = norm_linear(input(), &weight, Some(bias), false);
        values.extend(inputs.values(sum));
        values.extend(inputs.values(normed));
        let alone = Normed { added: None, ..input() };
        values.extend(inputs.values(norm_linear(alone, &weight, None, true).1));
        values
    },
};
