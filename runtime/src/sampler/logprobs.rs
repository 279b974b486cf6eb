//! Log-probabilities on their way to the host.

use burn::tensor::{Int, Tensor, TensorData};
use glm_backends::ops;

use crate::request::TokenLogprobs;

/// Log-probabilities of the rows of some shares.
#[derive(Debug)]
pub(crate) struct Logprobs {
    /// `[rows, 1 + 2 * top]` f32: of a token, of the most probable ones, and their ids.
    values: TensorData,
    /// Rows of each share, and how many of the most probable tokens it asked for.
    shares: Vec<(usize, usize)>,
}

impl Logprobs {
    /// Starts to compute and read them: of row `i` of `logits [rows, vocab_size]` that of `ids[i]`
    /// and of the most probable tokens. `shares` says how many rows each share has, one after
    /// another, and how many tokens it asked for.
    pub(super) fn new(
        logits: Tensor<2>,
        tokens: usize,
        ids: Tensor<1, Int>,
        shares: Vec<(usize, usize)>,
    ) -> Self {
        let top = shares.iter().map(|(_, top)| *top).max().unwrap_or(0).min(tokens);
        let found = ops::logprobs(logits, tokens, ids, top);
        let chosen = found.chosen.unsqueeze_dim::<2>(1);
        let values = match found.top {
            None => chosen,
            Some((ids, values)) => {
                // f32 holds every id: no vocabulary has 16 million tokens.
                let ids = ids.float().cast(values.dtype());
                Tensor::cat(vec![chosen, values, ids], 1)
            }
        };
        Logprobs { values: values.into_data(), shares }
    }

    /// Those of the first tokens of a share; none where it did not ask.
    pub(crate) fn take(&self, share: usize, tokens: &[u32]) -> Vec<TokenLogprobs> {
        let width = self.values.shape()[1];
        let before: usize = self.shares[..share].iter().map(|(rows, _)| rows).sum();
        let (rows, asked) = self.shares[share];
        let values = self.values.as_slice::<f32>().expect("f32 values");
        let rows = values.chunks_exact(width).skip(before).take(rows).zip(tokens);
        rows.map(|(row, id)| {
            let (top, ids) = row[1..].split_at((width - 1) / 2);
            let top = ids.iter().map(|id| *id as u32).zip(top.iter().copied());
            TokenLogprobs { id: *id, logprob: row[0], top: top.take(asked).collect() }
        })
        .collect()
    }

    /// Those of all rows of the only share.
    pub(crate) fn read(self, tokens: &[u32]) -> Vec<TokenLogprobs> {
        self.take(0, tokens)
    }
}
