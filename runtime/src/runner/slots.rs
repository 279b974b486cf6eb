//! What stays on the device between the steps of a sequence, so that a step need not wait until
//! the host has read the last one.

use burn::tensor::{Device, Int, Tensor, s};
use glm_models::forward::ForwardBatch;

use super::layout::{Layout, Place, ints};
use crate::config::DraftChoice;
use crate::sampler::Sampled;

/// One row for each slot.
#[derive(Debug)]
pub(super) struct Slots {
    count: usize,
    /// The token that was sampled last, `[slots]`.
    last: Tensor<1, Int>,
    /// How many drafts the last step accepted, `[slots + 1]`; the last entry is 0.
    accepted: Tensor<1, Int>,
    /// Drafts for the next step, `[slots, 4]`.
    proposed: Tensor<2, Int>,
}

impl Slots {
    pub(super) fn new(count: usize, device: &Device) -> Self {
        Slots {
            count,
            last: Tensor::zeros([count], device),
            accepted: Tensor::zeros([count + 1], device),
            proposed: Tensor::zeros([count, DraftChoice::MOST], device),
        }
    }

    /// How far the sequences of a forward, and those of them that are sampled, are further on than
    /// the host knows: `[sequences]` and `[padded sampled]`. `None` when none is.
    pub(super) fn shifts(
        &self,
        layout: &Layout,
        sequences: usize,
        device: &Device,
    ) -> Option<(Tensor<1, Int>, Tensor<1, Int>)> {
        if !layout.shares.iter().any(|place| place.shifted) {
            return None;
        }
        let none = self.count;
        let shifted = |place: &Place| place.shifted;
        let by_sequence = layout.slots(sequences, none, |index, _| Some(index), shifted);
        let by_sampled = layout.slots(layout.padded(), none, |_, place| place.sampled, shifted);
        let pick = |slots: &[i32]| self.accepted.clone().select(0, ints(slots, device));
        Some((pick(&by_sequence), pick(&by_sampled)))
    }

    /// The token ids of a forward where some of them are on the device only.
    pub(super) fn token_ids(
        &self,
        layout: &Layout,
        batch: &ForwardBatch,
        device: &Device,
    ) -> Option<Tensor<1, Int>> {
        if !layout.shares.iter().any(|place| place.fed || place.drafts > 0) {
            return None;
        }
        let most = DraftChoice::MOST;
        let first_host = self.count * (1 + most);
        let rows = batch.shape().tokens;
        let mut source: Vec<i32> = (0..rows).map(|row| (first_host + row) as i32).collect();
        for place in &layout.shares {
            let slot = place.slot as usize;
            if place.fed {
                source[place.last_token()] = slot as i32;
            }
            for draft in 0..place.drafts {
                let entry = self.count + slot * most + draft;
                source[place.last_token() + 1 + draft] = entry as i32;
            }
        }
        let known =
            vec![self.last.clone(), self.proposed.clone().reshape([-1]), batch.token_ids.clone()];
        Some(Tensor::cat(known, 0).select(0, ints(&source, device)))
    }

    /// The drafts that the sampled rows of a forward verify, `[padded sampled, width - 1]`.
    pub(super) fn drafts(&self, layout: &Layout, device: &Device) -> Option<Tensor<2, Int>> {
        (layout.width > 1).then(|| {
            let slots = layout.slots(layout.padded(), 0, |_, place| place.sampled, |_| true);
            let drafts = self.proposed.clone().select(0, ints(&slots, device));
            drafts.slice(s![.., 0..layout.width - 1])
        })
    }

    /// Keeps what was sampled. No id, which is `vocab_size`, becomes the last id: the sequence
    /// fails, but the next step may have been launched.
    pub(super) fn keep(
        &mut self,
        layout: &Layout,
        sampled: &Sampled,
        vocab_size: usize,
        device: &Device,
    ) {
        let last = sampled.last.clone().clamp_max(vocab_size as i64 - 1);
        // [slots]: where the new values stand after the old ones.
        let mut source: Vec<i32> = (0..self.count as i32).collect();
        for place in &layout.shares {
            if let Some(index) = place.sampled {
                source[place.slot as usize] = (self.count + index) as i32;
            }
        }
        self.last.inplace(|held| Tensor::cat(vec![held, last], 0).select(0, ints(&source, device)));
        // The zero at the end of `accepted` stays where it is.
        for entry in &mut source {
            *entry += i32::from(*entry >= self.count as i32);
        }
        source.push(self.count as i32);
        let accepted = sampled.accepted.clone();
        self.accepted
            .inplace(|held| Tensor::cat(vec![held, accepted], 0).select(0, ints(&source, device)));
    }

    /// Keeps new drafts, `[padded drafted, propose]`.
    pub(super) fn keep_proposed(
        &mut self,
        layout: &Layout,
        drafts: Tensor<2, Int>,
        device: &Device,
    ) {
        let [rows, propose] = drafts.dims();
        let mut source: Vec<i32> = (0..self.count as i32).collect();
        for (_, place) in layout.drafted() {
            let row = self.count + place.drafted.unwrap_or_default();
            source[place.slot as usize] = row as i32;
        }
        let missing = DraftChoice::MOST - propose;
        let padding = Tensor::<2, Int>::zeros([rows, missing], device);
        let drafts = if missing > 0 { Tensor::cat(vec![drafts, padding], 1) } else { drafts };
        self.proposed
            .inplace(|held| Tensor::cat(vec![held, drafts], 0).select(0, ints(&source, device)));
    }
}
