//! What each op is asked to compute here: its shapes in the models, short and long steps.

use burn::tensor::DType;

use super::Offline;
use crate::fp8::Fp8Matrix;
use crate::ops::{self, Routing};
use crate::weight::Weight;

/// An op on the shapes of the models. A device's dtypes are tried one after the other.
pub(super) struct Row {
    pub(super) op: &'static str,
    /// Whether its kernels run for every token: these may not spill registers.
    pub(super) hot: bool,
    pub(super) launch: fn(&Offline, DType),
}

/// Every op that has kernels. An op is added by a function that calls it with
/// [`Offline::floats`], [`Offline::ints`] and [`Offline::fp8`], and a line here.
pub(super) const ROWS: &[Row] = &[
    Row { op: "linear", hot: true, launch: linear },
    Row { op: "moe_route", hot: true, launch: moe_route },
    Row { op: "rms_norm", hot: true, launch: rms_norm },
];

/// Rows of a step: single answers, several with drafts, a chunk of a prompt.
const TOKENS: [usize; 5] = [1, 2, 8, 32, 512];

/// What ops see of a model, by the names of `config.json`.
struct Model {
    hidden: usize,
    /// Width of the experts, and of the dense layers before them.
    widths: [usize; 2],
    experts: usize,
    per_token: usize,
    /// Rows of `q_proj` or `q_b_proj`, and its columns.
    query: [usize; 2],
    vocabulary: usize,
}

/// GLM-4.7-Flash, GLM-4.5-Air and GLM-4.6.
const MODELS: [Model; 3] = [
    Model {
        hidden: 2048,
        widths: [1536, 10_240],
        experts: 64,
        per_token: 4,
        query: [5120, 768],
        vocabulary: 154_880,
    },
    Model {
        hidden: 4096,
        widths: [1408, 10_944],
        experts: 128,
        per_token: 8,
        query: [12_288, 4096],
        vocabulary: 151_552,
    },
    Model {
        hidden: 5120,
        widths: [1536, 12_288],
        experts: 160,
        per_token: 8,
        query: [12_288, 5120],
        vocabulary: 151_552,
    },
];

fn rms_norm(device: &Offline, dtype: DType) {
    for model in MODELS {
        for tokens in TOKENS {
            let x = || device.floats([tokens, model.hidden], dtype);
            let weight = || device.floats([model.hidden], dtype);
            ops::rms_norm(x(), weight(), 1e-5);
            ops::add_rms_norm(x(), x(), weight(), 1e-5);
            // Heads of GLM-4.6, and the latents of GLM-4.7-Flash.
            ops::rms_norm(
                device.floats([tokens, 96, 128], dtype),
                device.floats([128], dtype),
                1e-5,
            );
            for width in [512, 768] {
                let latent = device.floats([tokens, width], dtype);
                ops::rms_norm(latent, device.floats([width], dtype), 1e-5);
            }
        }
    }
}

fn linear(device: &Offline, dtype: DType) {
    for model in MODELS {
        let [width, dense] = model.widths;
        for [rows, columns] in [
            model.query,
            [model.hidden, model.query[0]],
            [2 * width, model.hidden],
            [model.hidden, width],
            [model.hidden, dense],
        ] {
            for tokens in TOKENS {
                let x = || device.floats([tokens, columns], dtype);
                let bias = device.floats([rows], dtype);
                let weight = Weight::Dense(device.floats([rows, columns], dtype));
                ops::linear(x(), &weight, None);
                ops::linear(x(), &weight, Some(bias));
                ops::linear(x(), &device.fp8([rows, columns]).into(), None);
            }
        }
        let head = Weight::Dense(device.floats([model.vocabulary, model.hidden], dtype));
        let router = Weight::Dense(device.floats([model.experts, model.hidden], DType::F32));
        for tokens in TOKENS {
            for weight in [&head, &router] {
                ops::wide_linear(device.floats([tokens, model.hidden], dtype), weight);
            }
        }
    }
}

fn moe_route(device: &Offline, _dtype: DType) {
    for model in MODELS {
        let routing = Routing {
            n_group: 1,
            topk_group: 1,
            num_experts_per_tok: model.per_token,
            norm_topk_prob: true,
            routed_scaling_factor: 1.8,
            shared_experts: 1,
        };
        for tokens in TOKENS {
            let logits = device.floats([tokens, model.experts], DType::F32);
            let bias = device.floats([model.experts], DType::F32);
            ops::moe_route(logits, bias, device.ints([tokens]), &routing);
        }
    }
}

impl Offline {
    /// Codes with a scale for each row.
    fn fp8(&self, [rows, width]: [usize; 2]) -> Fp8Matrix {
        Fp8Matrix::of_codes(
            self.ints([rows, width.div_ceil(4)]),
            self.floats([rows, 1], DType::F32),
            self.floats([256], DType::F32),
            width,
        )
    }
}
