//! What the model computes for given ids, value by value: for finding wrong numbers.

use burn::tensor::{Device, Int, Tensor};
use glm_backends::kv::KvPool;
use glm_backends::ops;
use glm_models::forward::SequenceInput;
use glm_models::model::Model;
use glm_models::trace::{TensorRecord, Trace, Values};

use super::{Batches, Runner};
use crate::engine::MAX_SCORES;

/// Drafts that are chained from the last row.
const CHAIN: usize = 3;

/// One sequence with a cache of its own, beside those of the requests.
struct Probe<'a> {
    model: &'a Model,
    batches: &'a mut Batches,
    device: &'a Device,
    kv: KvPool,
    draft_kv: Option<KvPool>,
    pages: Vec<u32>,
    chunk: usize,
}

impl Runner {
    /// Computes `token_ids` once and returns `logits [tokens, vocab_size]`, and with `trace` the
    /// values in between, under the names of the reference files.
    pub(crate) fn trace_forward(
        &mut self,
        token_ids: &[u32],
        trace: bool,
    ) -> Vec<(String, TensorRecord)> {
        let mut values = if trace { Trace::on() } else { Trace::off() };
        let mut logits = Trace::on();
        let mut probe = self.probe(token_ids.len());
        for (computed, tokens) in probe.chunks(token_ids) {
            values.begin_step(tokens.len());
            let hidden = probe.forward(tokens, computed, &mut values);
            logits.begin_step(tokens.len());
            logits.floats("logits", &probe.model.logits(hidden));
        }
        let mut records = values.into_records();
        records.extend(logits.into_records());
        records
    }

    /// Computes `token_ids` and what the multi-token-prediction layer drafts after them:
    ///
    /// - `mtp.token_in [tokens]`: the token after each row, after the last one the main model's
    ///   most probable one
    /// - `mtp.logits_step1 [tokens, vocab_size]`: logits of the token after that
    /// - `mtp.chain_tokens [3]`, `mtp.chain_logits [3, vocab_size]`: three greedy drafts from the
    ///   last row, each from the last one's hidden state after `shared_head.norm`
    ///
    /// `None` when no such layer was loaded.
    pub(crate) fn trace_drafts(
        &mut self,
        token_ids: &[u32],
    ) -> Option<Vec<(String, TensorRecord)>> {
        let length = token_ids.len();
        let mut token_in = token_ids[1..].to_vec();
        let mut logits = Trace::on();
        let mut probe = self.probe(length + CHAIN);
        probe.draft_kv.as_ref()?;
        let mut last = None;
        for (computed, tokens) in probe.chunks(token_ids) {
            let count = tokens.len();
            let hidden = probe.forward(tokens, computed, &mut Trace::off());
            if computed + count == length {
                let next = probe.model.logits(row(hidden.clone(), count - 1));
                token_in.push(greedy(next));
            }
            let after = token_in[computed..computed + count].to_vec();
            let hidden = probe.draft(after, computed, hidden);
            logits.begin_step(count);
            logits.floats("mtp.logits_step1", &probe.model.logits(hidden.clone()));
            last = Some(row(hidden, count - 1));
        }

        let mut chain = Vec::new();
        let mut hidden = last.expect("at least one token");
        loop {
            let draft_logits = probe.model.logits(hidden.clone());
            logits.begin_step(1);
            logits.floats("mtp.chain_logits", &draft_logits);
            let draft = greedy(draft_logits);
            chain.push(draft);
            if chain.len() == CHAIN {
                break;
            }
            hidden = probe.draft(vec![draft], length + chain.len() - 1, hidden);
        }

        let ids = |ids: Vec<u32>| TensorRecord {
            shape: vec![ids.len()],
            values: Values::I64(ids.into_iter().map(i64::from).collect()),
        };
        let mut records = vec![("mtp.token_in".to_owned(), ids(token_in))];
        records.extend(logits.into_records());
        records.push(("mtp.chain_tokens".to_owned(), ids(chain)));
        Some(records)
    }

    fn probe(&mut self, tokens: usize) -> Probe<'_> {
        let pages = tokens.div_ceil(self.kv.spec().page_size());
        let fresh =
            |pool: &KvPool| KvPool::new(pool.spec(), pages + 1, pool.format(), &self.device);
        Probe {
            model: &self.model,
            device: &self.device,
            kv: fresh(&self.kv),
            draft_kv: self.draft_kv.as_ref().map(fresh),
            pages: (1..=pages as u32).collect(),
            chunk: self.config.prefill_chunk.min(MAX_SCORES / tokens).max(1),
            batches: &mut self.batches,
        }
    }
}

impl Probe<'_> {
    /// The tokens of each step, and how many come before.
    fn chunks<'t>(&self, token_ids: &'t [u32]) -> Vec<(usize, &'t [u32])> {
        token_ids.chunks(self.chunk).enumerate().map(|(i, part)| (i * self.chunk, part)).collect()
    }

    /// Hidden states, `[tokens, hidden]`, padding included.
    fn forward(&mut self, tokens: &[u32], computed: usize, trace: &mut Trace) -> Tensor<2> {
        let input =
            [SequenceInput { tokens: tokens.to_vec(), computed, pages: self.pages.clone() }];
        let page_size = self.kv.spec().page_size();
        let batch = self.batches.fill(Batches::shape(&input, 0), &input, page_size, self.device);
        self.model.forward(batch, &mut self.kv, trace)
    }

    /// The same for the multi-token-prediction layer.
    fn draft(&mut self, tokens: Vec<u32>, computed: usize, hidden: Tensor<2>) -> Tensor<2> {
        let input = [SequenceInput { tokens, computed, pages: self.pages.clone() }];
        let page_size = self.kv.spec().page_size();
        let batch = self.batches.fill(Batches::shape(&input, 0), &input, page_size, self.device);
        self.model.draft(hidden, batch, self.draft_kv.as_mut().expect("a cache for drafts"))
    }
}

/// The most probable token of `logits [1, vocab_size]`.
fn greedy(logits: Tensor<2>) -> u32 {
    let vocab_size = logits.dims()[1];
    ops::argmax(logits, vocab_size).into_scalar::<u32>()
}

/// Row `index` of `hidden [tokens, hidden]`, as `[1, hidden]`.
fn row(hidden: Tensor<2>, index: usize) -> Tensor<2> {
    let index = Tensor::<1, Int>::from_data([index as i32], &hidden.device());
    hidden.select(0, index)
}
