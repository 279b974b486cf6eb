use burn::tensor::{DType, Tensor};

use super::kv_write;
use crate::kv::{KvRows, Parts};
use crate::ops::case::{Case, Kernel, kv_format};

/// Shape of a case: rows, slots, parts of a row, values of a part, format.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "kv_write",
    cases: &[
        Case { label: "decode", shape: &[1, 128, 2, 32, kv_format::F32], seed: 1 },
        Case { label: "prefill", shape: &[40, 256, 3, 16, kv_format::F32], seed: 2 },
        Case { label: "bf16", shape: &[5, 64, 2, 12, kv_format::BF16], seed: 3 },
        Case { label: "f16", shape: &[5, 64, 2, 12, kv_format::F16], seed: 4 },
        Case { label: "fp8", shape: &[40, 256, 3, 16, kv_format::FP8], seed: 5 },
        Case { label: "fp8_odd_width", shape: &[5, 64, 3, 19, kv_format::FP8], seed: 6 },
        Case { label: "fp8_latents", shape: &[3, 64, 1, 512, kv_format::FP8], seed: 7 },
        Case { label: "one_value", shape: &[2, 64, 1, 1, kv_format::FP8], seed: 8 },
    ],
    // A scale may differ in its last bit.
    tolerance: 1e-6,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [rows, slots, count, width, format] = case.dims();
        let format = inputs.kv_format(format);
        let parts = [Parts { count, width }, Parts { count: 1, width: width / 2 + 1 }];
        let mut pages = KvRows::zeros(&parts, slots, format, inputs.device());
        // Every third slot, from the end: distinct and out of order.
        let at: Vec<i32> = (0..rows).map(|row| (slots - 1 - 3 * row) as i32).collect();
        let at = Tensor::from_data(at.as_slice(), inputs.device());
        let fresh = inputs.cached([rows, pages.width()], format);
        kv_write(&mut pages, fresh, at);
        let all = Tensor::arange(0..slots as i64, inputs.device());
        inputs.values(pages.gather(all, DType::F32))
    },
};
