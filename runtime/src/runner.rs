//! One step on the device: plain integers in, hidden states out.

use std::collections::HashMap;

use burn::tensor::{Device, Int, Tensor};
use glm_backends::kv::KvPool;
use glm_models::forward::{BatchShape, ForwardBatch, SequenceInput};
use glm_models::model::Model;
use glm_models::trace::Trace;

/// Owns what one rank holds: weights, cache, and a batch for each shape that occurred.
#[derive(Debug)]
pub(crate) struct Runner {
    model: Model,
    kv: KvPool,
    /// Cache of the multi-token-prediction layer, over the same pages.
    draft_kv: Option<KvPool>,
    batches: HashMap<BatchShape, ForwardBatch>,
    device: Device,
}

impl Runner {
    /// A runner of `model` with an empty cache.
    pub(crate) fn new(model: Model, kv: KvPool, draft_kv: Option<KvPool>, device: Device) -> Self {
        Runner { model, kv, draft_kv, batches: HashMap::new(), device }
    }

    /// Computes a step. With `fed`, the token ids of the first rows come from there, the output
    /// of the sampler, and those in `inputs` are ignored.
    ///
    /// Returns the hidden states of all rows, `[tokens, hidden]`, padding included.
    pub(crate) fn run(
        &mut self,
        inputs: &[SequenceInput],
        fed: Option<Tensor<1, Int>>,
        trace: &mut Trace,
    ) -> Step<'_> {
        let batch = filled(&mut self.batches, inputs, self.kv.spec().page_size(), &self.device);
        if let Some(sampled) = fed {
            batch.feed(sampled);
        }
        trace.begin_step(inputs.iter().map(|input| input.tokens.len()).sum());
        let hidden = self.model.forward(batch, &mut self.kv, trace);
        Step { model: &self.model, batch, hidden }
    }

    /// Computes one draft for every row: `inputs` hold the tokens after the rows, `hidden` is what
    /// the step or the last draft left for them. Returns `[tokens, hidden]`, padding included.
    ///
    /// # Panics
    /// Without a multi-token-prediction layer; see [`Runner::drafts`].
    pub(crate) fn draft(&mut self, inputs: &[SequenceInput], hidden: Tensor<2>) -> Tensor<2> {
        let batch = filled(&mut self.batches, inputs, self.kv.spec().page_size(), &self.device);
        let kv = self.draft_kv.as_mut().expect("a cache for drafts");
        self.model.draft(hidden, batch, kv)
    }

    /// Whether a multi-token-prediction layer was loaded.
    pub(crate) fn drafts(&self) -> bool {
        self.draft_kv.is_some()
    }

    /// Logits of hidden states, `[rows, hidden]` → `[rows, vocab_size]`.
    pub(crate) fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.model.logits(hidden)
    }

    /// Makes room in the cache for `pages` pages, the sink included.
    pub(crate) fn grow(&mut self, pages: usize) {
        self.kv.grow(pages);
        if let Some(kv) = &mut self.draft_kv {
            kv.grow(pages);
        }
    }

    /// The device that everything lies on.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Tokens per page.
    pub(crate) fn page_size(&self) -> usize {
        self.kv.spec().page_size()
    }
}

/// The batch of the smallest shape that holds `inputs`, filled with them.
fn filled<'a>(
    batches: &'a mut HashMap<BatchShape, ForwardBatch>,
    inputs: &[SequenceInput],
    page_size: usize,
    device: &Device,
) -> &'a mut ForwardBatch {
    let tokens = inputs.iter().map(|input| input.tokens.len()).sum();
    let pages = inputs.iter().map(|input| input.pages.len()).max().unwrap_or(1);
    let shape = BatchShape::holding(tokens, inputs.len(), pages);
    let new = || ForwardBatch::new(shape, page_size, device);
    let batch = batches.entry(shape).or_insert_with(new);
    batch.fill(inputs);
    batch
}

/// A step that was computed.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    model: &'a Model,
    batch: &'a ForwardBatch,
    hidden: Tensor<2>,
}

impl Step<'_> {
    /// Logits after the last token of each sequence, `[sequences, vocab_size]`.
    pub(crate) fn last_logits(self) -> Tensor<2> {
        self.model.logits(self.hidden.select(0, self.batch.last_rows.clone()))
    }

    /// Hidden states of all rows, padding included, `[tokens, hidden]`.
    pub(crate) fn hidden(&self) -> Tensor<2> {
        self.hidden.clone()
    }

    /// Logits after every row, padding included, `[tokens, vocab_size]`.
    pub(crate) fn all_logits(self) -> Tensor<2> {
        self.model.logits(self.hidden)
    }
}
