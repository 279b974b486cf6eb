//! Choice of the next token.

pub(super) mod cases;
mod reference;

use burn::tensor::{Int, Tensor};

/// How each row draws, as device tensors of `[rows]` f32. A part that no row uses is `None`, and
/// is then not computed.
#[derive(Debug, Clone)]
pub struct Draw {
    /// Divisor of the logits, above 0.
    pub temperature: Tensor<1>,
    /// Keep the `top_k` most probable tokens.
    pub top_k: Option<Tensor<1>>,
    /// Keep the smallest set of most probable tokens whose probability reaches `top_p`.
    pub top_p: Option<Tensor<1>>,
    /// Keep tokens with at least `min_p` times the probability of the most probable one.
    pub min_p: Option<Tensor<1>>,
    /// A number in `(0, 1)`, both ends left out, that decides the draw.
    pub uniform: Tensor<1>,
}

/// What earlier tokens do to the logits, as device tensors.
#[derive(Debug, Clone)]
pub struct Penalties {
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output,
    /// `[rows]` ([Keskar et al. 2019](https://arxiv.org/abs/1909.05858)).
    pub repetition: Tensor<1>,
    /// Subtracted once from tokens seen in the output, `[rows]`.
    pub presence: Tensor<1>,
    /// Subtracted for every occurrence in the output, `[rows]`.
    pub frequency: Tensor<1>,
    /// 1 for tokens of the prompt, else 0, `[rows, vocab_size]`.
    pub in_prompt: Tensor<2>,
    /// Occurrences in the output, `[rows, vocab_size]`.
    pub output_counts: Tensor<2>,
}

/// The most probable token of each row, the lowest id among equals; `vocab_size`, which is no
/// token's id, where the largest logit is not finite.
///
/// Shapes: `logits [rows, vocab_size]` → `[rows]`.
pub fn argmax(logits: Tensor<2>) -> Tensor<1, Int> {
    reference::argmax(logits)
}

/// Draws one token a row: temperature, then min-p, top-k and top-p, then the token at `uniform`
/// of the cumulative distribution. Tokens as probable as the last one kept are kept too. Rows
/// without a finite largest logit give `vocab_size`, as in [`argmax`].
///
/// Shapes: `logits [rows, vocab_size]` f32 → `[rows]`.
pub fn sample(logits: Tensor<2>, draw: &Draw) -> Tensor<1, Int> {
    reference::sample(logits, draw)
}

/// Logits after [`Penalties`], `[rows, vocab_size]` f32.
pub fn penalise(logits: Tensor<2>, penalties: &Penalties) -> Tensor<2> {
    reference::penalise(logits, penalties)
}
