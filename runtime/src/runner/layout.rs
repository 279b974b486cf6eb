//! Where the rows of a step lie.

use burn::tensor::{Device, Int, Tensor};
use glm_models::forward::SequenceInput;

use crate::sampler::SampledShare;
use crate::step::Share;

/// Places of the shares of one forward, in its rows and among what is sampled.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) shares: Vec<Place>,
    /// Shares of which something is sampled.
    pub(super) sampled: usize,
    /// Rows that are sampled of each such share, padded: one and the most drafts.
    pub(super) width: usize,
}

/// The place of a share.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) slot: u32,
    /// First row of the share in the forward.
    pub(super) first_row: usize,
    /// Rows of tokens.
    pub(super) tokens: usize,
    /// Rows of drafts after them.
    pub(super) drafts: usize,
    /// Number among the sampled shares.
    pub(super) sampled: Option<usize>,
    /// Number among the shares that get new drafts.
    pub(super) drafted: Option<usize>,
    pub(super) fed: bool,
    pub(super) shifted: bool,
}

impl Place {
    /// The row of the last token.
    pub(super) fn last_token(&self) -> usize {
        self.first_row + self.tokens - 1
    }
}

impl Layout {
    pub(super) fn new(shares: &[Share]) -> Self {
        let mut layout = Layout { shares: Vec::with_capacity(shares.len()), sampled: 0, width: 1 };
        let (mut row, mut drafted) = (0, 0);
        for share in shares {
            let count = |used: bool, counter: &mut usize| {
                used.then(|| {
                    *counter += 1;
                    *counter - 1
                })
            };
            if share.sample {
                layout.width = layout.width.max(1 + share.drafts);
            }
            layout.shares.push(Place {
                slot: share.slot,
                first_row: row,
                tokens: share.tokens.len(),
                drafts: share.drafts,
                sampled: count(share.sample, &mut layout.sampled),
                drafted: count(share.sample && share.drafting, &mut drafted),
                fed: share.fed,
                shifted: share.shifted,
            });
            row += share.rows();
        }
        layout
    }

    /// Sampled shares with padding; 0 where there are none.
    pub(super) fn padded(&self) -> usize {
        match self.sampled {
            0 => 0,
            sampled => sampled.next_power_of_two(),
        }
    }

    /// Shares that get new drafts, in order.
    pub(super) fn drafted(&self) -> impl Iterator<Item = (usize, &Place)> {
        self.shares.iter().enumerate().filter(|(_, place)| place.drafted.is_some())
    }

    /// The row of the forward behind each sampled row, `[padded * width]`: a share with fewer
    /// drafts repeats its last row, padding repeats row 0.
    pub(super) fn sampled_rows(&self) -> Vec<i32> {
        let mut rows = vec![0; self.padded() * self.width];
        for place in &self.shares {
            let Some(index) = place.sampled else { continue };
            for offset in 0..self.width {
                let row = place.last_token() + offset.min(place.drafts);
                rows[index * self.width + offset] = row as i32;
            }
        }
        rows
    }

    /// For each of `count` padded places that `number` gives to shares: the slot where `used`,
    /// else `none`.
    pub(super) fn slots(
        &self,
        count: usize,
        none: usize,
        number: impl Fn(usize, &Place) -> Option<usize>,
        used: impl Fn(&Place) -> bool,
    ) -> Vec<i32> {
        let mut slots = vec![none as i32; count];
        for (index, place) in self.shares.iter().enumerate() {
            if let Some(number) = number(index, place)
                && used(place)
            {
                slots[number] = place.slot as i32;
            }
        }
        slots
    }
}

/// The input of the models for a share. Ids that lie on the device are 0.
pub(super) fn input(share: &Share) -> SequenceInput {
    let mut tokens = share.tokens.clone();
    tokens.resize(share.rows(), 0);
    SequenceInput { tokens, computed: share.computed, pages: share.pages.clone() }
}

/// What the sampler has to know of the shares that are sampled.
pub(super) fn sampled_shares(shares: &[Share]) -> Vec<SampledShare<'_>> {
    let sampled = shares.iter().filter(|share| share.sample);
    sampled
        .map(|share| SampledShare {
            slot: share.slot,
            drafts: share.drafts,
            output_index: share.output_index,
            shifted: share.shifted,
            masks: &share.masks,
            logprobs: share.logprobs,
        })
        .collect()
}

/// Integers of the host as a tensor.
pub(super) fn ints(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(values, device)
}
