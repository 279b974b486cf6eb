//! Drafts by the multi-token-prediction layer, at the end of a step.

use burn::tensor::{Int, Tensor};
use glm_backends::ops;
use glm_models::forward::{BatchShape, SequenceInput};

use super::layout::{Layout, ints};
use super::{Batches, Runner};
use crate::sampler::Sampled;
use crate::step::Share;

/// What a step leaves for drafts.
pub(super) struct Drafting<'a> {
    pub(super) layout: &'a Layout,
    pub(super) shares: &'a [Share],
    /// Shape of the step's batch.
    pub(super) shape: BatchShape,
    /// Hidden states of all rows, `[tokens, hidden]`.
    pub(super) hidden: Tensor<2>,
    pub(super) sampled: Option<&'a Sampled>,
    /// How much further on the sampled shares are than the host knows, `[padded sampled]`.
    pub(super) shift: Option<Tensor<1, Int>>,
}

impl Runner {
    /// Computes the rows of the step in the multi-token-prediction layer too, which fills its
    /// cache, and chains `propose` drafts from the last row that was accepted: `[padded drafted,
    /// propose]`, or `None` when nothing was sampled or nothing is to be proposed.
    pub(super) fn draft(&mut self, step: Drafting<'_>, propose: usize) -> Option<Tensor<2, Int>> {
        let Drafting { layout, shares, shape, hidden, sampled, shift } = step;
        let device = self.device.clone();
        let page_size = self.kv.spec().page_size();
        let kv = self.draft_kv.as_mut().expect("a cache for drafts");
        let batch = self.batches.get(shape, page_size, &device);

        // The token after each row: of the host where it knows it, else what was sampled.
        let rows = shape.tokens;
        let mut next = vec![0; rows];
        let mut source: Vec<i32> = (0..rows as i32).collect();
        for (share, place) in shares.iter().zip(&layout.shares) {
            for (offset, token) in share.tokens.iter().skip(1).enumerate() {
                next[place.first_row + offset] = *token as i32;
            }
            if let Some(index) = place.sampled {
                for offset in 0..=place.drafts {
                    let entry = rows + index * layout.width + offset;
                    source[place.last_token() + offset] = entry as i32;
                }
            } else {
                next[place.last_token()] = share.next_token.unwrap_or_default() as i32;
            }
        }
        let next = ints(&next, &device);
        let next = match sampled {
            None => next,
            Some(sampled) => {
                let most = self.config.vocab_size as i64 - 1;
                let ids = sampled.ids.clone().reshape([-1]).clamp_max(most);
                Tensor::cat(vec![next, ids], 0).select(0, ints(&source, &device))
            }
        };
        batch.set_token_ids(next);
        let hidden = self.model.draft(hidden, batch, kv);

        let sampled = sampled.filter(|_| propose > 0)?;
        let drafted: Vec<_> = layout.drafted().collect();
        if drafted.is_empty() {
            return None;
        }
        let padded = drafted.len().next_power_of_two();
        // The places of the drafted shares among the sampled, and the rows of their last tokens;
        // padding repeats the first.
        let place = |index: usize| drafted.get(index).unwrap_or(&drafted[0]).1;
        let among: Vec<i32> =
            (0..padded).map(|index| place(index).sampled.unwrap_or_default() as i32).collect();
        let last: Vec<i32> = (0..padded).map(|index| place(index).last_token() as i32).collect();
        let among = ints(&among, &device);
        let accepted = sampled.accepted.clone().select(0, among.clone());
        let mut hidden = hidden.select(0, ints(&last, &device) + accepted.clone());
        let shift = match shift {
            Some(shift) => accepted + shift.select(0, among),
            None => accepted,
        };

        let mut drafts = Vec::with_capacity(propose);
        loop {
            let logits = self.model.logits(hidden.clone());
            let draft = ops::argmax(logits, self.config.tokens);
            // No id where the logits are not finite: any draft will do then.
            let draft = draft.clamp_max(self.config.vocab_size as i64 - 1);
            drafts.push(draft.clone().unsqueeze_dim::<2>(1));
            if drafts.len() == propose {
                return Some(Tensor::cat(drafts, 1));
            }
            let inputs: Vec<_> = drafted
                .iter()
                .map(|(index, place)| {
                    let share = &shares[*index];
                    let computed = share.computed + place.tokens + drafts.len() - 1;
                    // Where no page was left for a draft it goes to the sink: it is the worse for
                    // it, and the answer is not.
                    let mut pages = share.pages.clone();
                    pages.resize(pages.len().max(computed / page_size + 1), 0);
                    SequenceInput { tokens: vec![0], computed, pages }
                })
                .collect();
            let shape = Batches::shape(&inputs, 1);
            let batch = self.batches.fill(shape, &inputs, page_size, &device);
            batch.shift(shift.clone(), self.config.context_length - 1);
            batch.set_token_ids(draft);
            hidden = self.model.draft(hidden, batch, kv);
        }
    }
}
