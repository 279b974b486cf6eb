//! Chooses the next tokens of a batch on the device. Only what the host uploads of its requests
//! goes in, and nothing has to be read for the next step.

mod batch;
mod logprobs;
mod random;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use glm_backends::ops;

use crate::request::SamplingParams;
use crate::step::{RowMask, SlotState};
use batch::{Batch, Choice};
pub(crate) use logprobs::Logprobs;

/// The least that all biases of a token come to: what a request bans has it. It is below all else
/// but above what a mask forbids, so that the only token that is allowed is chosen all the same.
const BANNED: f32 = ops::NEVER / 8.0;

/// The choice of tokens for up to `max_batch` sequences, each in a slot.
#[derive(Debug)]
pub(crate) struct Sampler {
    device: Device,
    vocab_size: usize,
    /// Rows of the vocabulary from here on have no token.
    tokens: usize,
    slots: Vec<Slot>,
    /// What each slot's sequence has seen, as [`ops::Penalties::seen`]; there once a request uses
    /// penalties.
    seen: Option<Tensor<2>>,
    uploads: Uploads,
}

/// What the host knows of a slot.
#[derive(Debug, Clone)]
struct Slot {
    params: SamplingParams,
    seed: u64,
    /// Added to single logits.
    bias: Vec<(u32, f32)>,
    /// Drafts of its last step.
    drafts: usize,
}

/// What is sampled for one sequence: `1 + drafts` rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SampledShare<'a> {
    pub(crate) slot: u32,
    /// Drafts to verify.
    pub(crate) drafts: usize,
    /// Place in the answer of the first row's token; with `shifted` the least it may be.
    pub(crate) output_index: usize,
    /// The places are further on by what the last step of this slot accepted.
    pub(crate) shifted: bool,
    /// One for each row, or none.
    pub(crate) masks: &'a [RowMask],
    /// Log-probabilities of the chosen tokens, and of this many of the most probable.
    pub(crate) logprobs: Option<usize>,
}

/// What was sampled. All of it is on the device.
#[derive(Debug)]
pub(crate) struct Sampled {
    /// `[sequences, width]`. A row with a logit that is not finite has the id `vocab_size`.
    pub(crate) ids: Tensor<2, Int>,
    /// Drafts that equal what was sampled in their place, up to the first that does not,
    /// `[sequences]`.
    pub(crate) accepted: Tensor<1, Int>,
    /// What was sampled after them, `[sequences]`; some id of the vocabulary where that is not
    /// finite, so that a step that is launched already can embed it.
    pub(crate) last: Tensor<1, Int>,
    /// Where a share asked.
    pub(crate) logprobs: Option<Logprobs>,
}

impl Sampler {
    /// A sampler for logits of `vocab_size`, of which those from `tokens` on are padding.
    pub(crate) fn new(max_batch: usize, vocab_size: usize, tokens: usize, device: &Device) -> Self {
        let slot = Slot { params: SamplingParams::greedy(), seed: 0, bias: Vec::new(), drafts: 0 };
        Sampler {
            device: device.clone(),
            vocab_size,
            tokens: tokens.min(vocab_size),
            slots: vec![slot; max_batch],
            seen: None,
            uploads: Uploads::default(),
        }
    }

    /// Gives a slot to a sequence; what the slot held is forgotten.
    pub(crate) fn open(&mut self, slot: u32, state: &SlotState<'_>) {
        let params = state.sampling;
        let mut bias: BTreeMap<u32, f32> = BTreeMap::new();
        let known = params.logit_bias.iter().filter(|(id, _)| (*id as usize) < self.vocab_size);
        known.for_each(|(id, value)| *bias.entry(*id).or_default() += value);
        self.slots[slot as usize] = Slot {
            params: params.clone(),
            seed: state.seed,
            bias: bias.into_iter().map(|(id, value)| (id, value.max(BANNED))).collect(),
            drafts: 0,
        };
        if params.penalises() {
            self.open_seen(slot as usize, state);
        }
    }

    /// Log-probabilities of known tokens: of row `i` of `logits [rows, vocab_size]` that of
    /// `next[i]`, and of the `top` most probable tokens.
    pub(crate) fn prompt_logprobs(&self, logits: Tensor<2>, next: &[u32], top: usize) -> Logprobs {
        let ids: Vec<i32> = next.iter().map(|id| *id as i32).collect();
        let ids = Tensor::from_data(ids.as_slice(), &self.device);
        Logprobs::new(logits, self.tokens, ids, vec![(next.len(), top)])
    }

    fn open_seen(&mut self, slot: usize, state: &SlotState<'_>) {
        let mut row = vec![0.0; self.vocab_size];
        for id in state.prompt {
            row[*id as usize] = 0.5;
        }
        for id in state.output {
            row[*id as usize] += 1.0;
        }
        let device = &self.device;
        let row = TensorData::new(row, [1, self.vocab_size]);
        let row = Tensor::from_data(row, (device, DType::F32));
        let shape = [self.slots.len(), self.vocab_size];
        self.seen
            .get_or_insert_with(|| Tensor::zeros(shape, (device, DType::F32)))
            .inplace(|seen| seen.slice_assign([slot..slot + 1, 0..shape[1]], row));
    }

    /// Chooses a token for each row.
    ///
    /// `logits [sequences * width, vocab_size]`, row `s * width + j` for row `j` of share `s`; rows
    /// past the shares and past a share's drafts mean nothing. `drafts [sequences, width - 1]` are
    /// what the shares verify, and `shift [sequences]` is by how much the places of the answer are
    /// further on in shares that are shifted.
    pub(crate) fn sample(
        &mut self,
        logits: Tensor<2>,
        shares: &[SampledShare<'_>],
        width: usize,
        drafts: Option<Tensor<2, Int>>,
        shift: Option<Tensor<1, Int>>,
    ) -> Sampled {
        let batch = Batch::new(&self.slots, shares, [logits.dims()[0] / width, width]);
        let verified = drafts.filter(|_| shares.iter().any(|share| share.drafts > 0));
        let raw = batch.asks_logprobs().then(|| logits.clone());
        let plan = batch.upload(&mut self.uploads, self.vocab_size, &self.device);

        let mut logits = logits;
        if plan.penalises() {
            let seen = self.seen.clone().expect("made by `open`");
            logits = ops::penalise(logits, &plan.penalties(seen, verified.clone()));
        }
        if let Some((ids, values)) = plan.bias() {
            logits = logits.scatter(1, ids, values, IndexingUpdateOp::Add);
        }
        if let Some(words) = plan.allowed() {
            logits = ops::allow(logits, words);
        }
        let mut ids = match plan.choice(shift) {
            Choice::Best => ops::argmax(logits, self.tokens),
            Choice::Draw(draw) => ops::sample(logits, self.tokens, &draw),
        };
        if let Some(forced) = plan.forced() {
            let free = forced.clone().lower_elem(0);
            let kept = free.bool_or(ids.clone().greater_equal_elem(self.vocab_size as i64));
            ids = forced.mask_where(kept, ids);
        }

        let logprobs = raw.map(|raw| {
            let (raw, ids) = match plan.rows_with_logprobs() {
                Some(rows) => (raw.select(0, rows.clone()), ids.clone().select(0, rows)),
                None => (raw, ids.clone()),
            };
            Logprobs::new(raw, self.tokens, ids, batch.rows_and_tops())
        });
        let (sequences, depth) = (batch.sequences(), width - 1);
        let ids: Tensor<2, Int> = ids.reshape([sequences, width]);
        let (accepted, last) = match verified {
            None => (self.uploads.zeros(sequences, &self.device), ids.clone().narrow(1, 0, 1)),
            Some(drafts) => {
                let drafts = drafts.narrow(1, 0, depth);
                let accepted = ops::verify(ids.clone(), drafts, plan.drafts(), self.vocab_size);
                (accepted.clone(), ids.clone().gather(1, accepted.unsqueeze_dim(1)))
            }
        };
        if plan.penalises() {
            let (places, counts) = plan.occurrences(&ids, &accepted);
            let [slots, vocab_size] = [self.slots.len(), self.vocab_size];
            self.seen.as_mut().expect("made by `open`").inplace(|seen| {
                seen.reshape([slots * vocab_size])
                    .select_assign(0, places, counts, IndexingUpdateOp::Add)
                    .reshape([slots, vocab_size])
            });
        }
        for share in shares {
            self.slots[share.slot as usize].drafts = share.drafts;
        }
        let last = last.reshape([sequences]).clamp_max(self.vocab_size as i64 - 1);
        Sampled { ids, accepted, last, logprobs }
    }
}

/// What was uploaded last, kept for as long as it stays the same.
#[derive(Debug, Default)]
struct Uploads {
    ints: Option<(Vec<i32>, Tensor<1, Int>)>,
    floats: Option<(Vec<f32>, Tensor<1>)>,
    zeros: Option<Tensor<1, Int>>,
}

impl Uploads {
    fn ints(&mut self, values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
        if self.ints.as_ref().is_none_or(|(last, _)| *last != values) {
            let sent = Tensor::from_data(values.as_slice(), device);
            self.ints = Some((values, sent));
        }
        self.ints.clone().expect("uploaded").1
    }

    fn floats(&mut self, values: Vec<f32>, device: &Device) -> Tensor<1> {
        if !self.floats.as_ref().is_some_and(|(last, _)| *last == values) {
            let sent = Tensor::from_data(values.as_slice(), (device, DType::F32));
            self.floats = Some((values, sent));
        }
        self.floats.clone().expect("uploaded").1
    }

    fn zeros(&mut self, count: usize, device: &Device) -> Tensor<1, Int> {
        match &self.zeros {
            Some(zeros) if zeros.dims() == [count] => zeros.clone(),
            _ => self.zeros.insert(Tensor::zeros([count], device)).clone(),
        }
    }
}
