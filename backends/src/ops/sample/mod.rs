//! Choice of the next tokens: rows of logits in, ids out.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use burn::tensor::{Device, Int, Tensor};

/// Added to what must not be chosen: below all that bias and penalties can do, far above the lowest
/// f32 even when divided by a small temperature, and finite, because shader languages have no
/// infinity. Added, not put in place, so that a row with a value that is not finite stays one.
pub const NEVER: f32 = -3e30;

/// Tokens this many nats below the best one are never drawn. Their weight is the last that is a
/// normal f32: devices differ in whether they keep smaller ones.
const FLOOR: f32 = -87.0;

/// How each row draws, as device tensors of `[rows]` f32. A part that no row uses is `None`, and is
/// then not computed; a row that does not use a part has the value that is named there, and is drawn
/// as if there were no such part.
#[derive(Debug, Clone)]
pub struct Draw {
    /// Divisor of the logits, above 0.
    pub temperature: Tensor<1>,
    /// 1 for rows that take the most probable token whatever the rest says, else 0.
    pub greedy: Option<Tensor<1>>,
    /// Keep the `top_k` most probable tokens; off: more than there are.
    pub top_k: Option<Tensor<1>>,
    /// Keep the smallest set of most probable tokens whose probability reaches `top_p`; off: 2.
    pub top_p: Option<Tensor<1>>,
    /// Keep tokens with at least `min_p` times the probability of the most probable one; off: 0.
    pub min_p: Option<Tensor<1>>,
    /// A number in `(0, 1)`, both ends left out, that decides the draw.
    pub uniform: Tensor<1>,
}

/// What earlier tokens do to the logits. A part that no row uses is `None`.
#[derive(Debug, Clone)]
pub struct Penalties {
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output, `[rows]`
    /// f32 ([Keskar et al. 2019](https://arxiv.org/abs/1909.05858)); off: 1.
    pub repetition: Option<Tensor<1>>,
    /// Subtracted once from tokens seen in the output, `[rows]` f32; off: 0.
    pub presence: Option<Tensor<1>>,
    /// Subtracted for every occurrence in the output, `[rows]` f32; off: 0.
    pub frequency: Option<Tensor<1>>,
    /// Occurrences in the output, and half an occurrence for a token of the prompt: `[slots,
    /// vocab_size]` f32.
    pub seen: Tensor<2>,
    /// The row of `seen` for each row, `[rows]`.
    pub slots: Tensor<1, Int>,
    /// Drafts `[sequences, depth]` where each sequence has `depth + 1` rows: row `j` comes after the
    /// drafts before `j`. What is no token's id counts for nothing.
    pub drafts: Option<Tensor<2, Int>>,
}

/// Log-probabilities, f32.
#[derive(Debug, Clone)]
pub struct Logprobs {
    /// Of one token a row, `[rows]`.
    pub chosen: Tensor<1>,
    /// The most probable tokens, the best first, and their log-probabilities, `[rows, top]`; `None`
    /// where `top` is 0.
    pub top: Option<(Tensor<2, Int>, Tensor<2>)>,
}

/// The most probable token of each row, the lowest id among equals; `vocab_size`, which is no
/// token's id, where a logit is not finite. Ids from `tokens` on are padding and never chosen.
///
/// Shapes: `logits [rows, vocab_size]` f32 → `[rows]`.
pub fn argmax(logits: Tensor<2>, tokens: usize) -> Tensor<1, Int> {
    #[cfg(feature = "cpu")]
    if on_cpu(&logits.device()) {
        return cpu::argmax(logits, tokens);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&logits.device()) {
        return launch::argmax(logits, tokens);
    }
    reference::argmax(logits, tokens)
}

/// Draws one token a row: temperature, then min-p, top-k and top-p, then the token at `uniform` of
/// the cumulative distribution. Tokens as probable as the last one kept are kept too. Rows with a
/// logit that is not finite give `vocab_size`, and padding is never drawn, as in [`argmax`].
///
/// Shapes: `logits [rows, vocab_size]` f32 → `[rows]`.
pub fn sample(logits: Tensor<2>, tokens: usize, draw: &Draw) -> Tensor<1, Int> {
    #[cfg(feature = "cpu")]
    if on_cpu(&logits.device()) {
        return cpu::sample(logits, tokens, draw);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&logits.device()) {
        return launch::sample(logits, tokens, draw);
    }
    reference::sample(logits, tokens, draw)
}

/// Logits after [`Penalties`], `[rows, vocab_size]` f32.
pub fn penalise(logits: Tensor<2>, penalties: &Penalties) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if on_cpu(&logits.device()) {
        return cpu::penalise(logits, penalties);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&logits.device()) {
        return launch::penalise(logits, penalties);
    }
    reference::penalise(logits, penalties)
}

/// Logits with [`NEVER`] added to the tokens whose bit is 0.
///
/// Shapes: `logits [rows, vocab_size]` f32, `words [rows, vocab_size / 32]`, rounded up: 32 ids a
/// word, the lowest in the lowest bit.
pub fn allow(logits: Tensor<2>, words: Tensor<2, Int>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if on_cpu(&logits.device()) {
        return cpu::allow(logits, &words);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&logits.device()) {
        return launch::allow(logits, words);
    }
    reference::allow(logits, words)
}

/// How many drafts of each sequence are accepted: those before the first that is not the token
/// chosen in its place, at most `counts`. `vocab_size`, which is no token, accepts nothing.
///
/// The token of a row is chosen with the row's own random number, whatever the draft is, so that
/// what is kept is what would have been chosen without drafts. A draft that is the best guess is
/// accepted with its own probability, which is that of rejection sampling
/// ([Leviathan et al. 2023](https://arxiv.org/abs/2211.17192)) for drafts without a distribution.
///
/// Shapes: `chosen [sequences, depth + 1]`, `drafts [sequences, depth]`, `counts [sequences]` →
/// `[sequences]`.
pub fn verify(
    chosen: Tensor<2, Int>,
    drafts: Tensor<2, Int>,
    counts: Tensor<1, Int>,
    vocab_size: usize,
) -> Tensor<1, Int> {
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&chosen.device()) {
        return launch::verify(chosen, drafts, counts, vocab_size);
    }
    reference::verify(chosen, drafts, counts, vocab_size)
}

/// `log softmax(logits)` over the first `tokens` columns: of `ids`, and the `top` largest.
///
/// Shapes: `logits [rows, vocab_size]` f32, `ids [rows]`. An id that is no token gives the value of
/// some token.
pub fn logprobs(logits: Tensor<2>, tokens: usize, ids: Tensor<1, Int>, top: usize) -> Logprobs {
    #[cfg(feature = "cpu")]
    if on_cpu(&logits.device()) {
        return cpu::logprobs(logits, tokens, &ids, top);
    }
    reference::logprobs(logits, tokens, ids, top)
}

#[cfg(feature = "cpu")]
fn on_cpu(device: &Device) -> bool {
    *device == Device::flex()
}
