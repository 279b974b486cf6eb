//! What the model computes for given ids, value by value: for finding wrong numbers.

use burn::tensor::{Int, Tensor};
use glm_backends::ops;
use glm_models::forward::SequenceInput;
use glm_models::trace::{TensorRecord, Trace, Values};

use crate::engine::{Engine, planned};
use crate::error::EngineError;
use crate::sequence::Sequence;

/// Drafts that are chained from the last row.
const CHAIN: usize = 3;

impl Engine {
    /// Computes `token_ids` once and returns `logits [tokens, vocab_size]`, and with `trace` the
    /// values in between, under the names of the reference files.
    ///
    /// # Errors
    /// [`RequestError`](crate::RequestError) for ids that are no prompt.
    pub fn trace_forward(
        &mut self,
        token_ids: &[u32],
        trace: bool,
    ) -> Result<Vec<(String, TensorRecord)>, EngineError> {
        self.check_prompt(token_ids, self.context_length)?;
        let mut values = if trace { Trace::on() } else { Trace::off() };
        let mut logits = Trace::on();
        let mut sequence = Sequence::new(token_ids.to_vec());
        while sequence.pending() > 0 {
            let count = self.chunk(&sequence);
            self.reserve(&mut sequence, count);
            let input = planned(&sequence, count);
            let step = self.runner.run(&[input], None, &mut values);
            logits.begin_step(count);
            logits.floats("logits", &step.all_logits());
            sequence.computed += count;
        }
        self.blocks.release(sequence.pages);
        let mut records = values.into_records();
        records.extend(logits.into_records());
        Ok(records)
    }

    /// Computes `token_ids` and what the multi-token-prediction layer drafts after them:
    ///
    /// - `mtp.token_in [tokens]`: the token after each row, after the last one the main model's
    ///   most probable one
    /// - `mtp.logits_step1 [tokens, vocab_size]`: logits of the token after that
    /// - `mtp.chain_tokens [3]`, `mtp.chain_logits [3, vocab_size]`: three greedy drafts from the
    ///   last row, each from the last one's hidden state after `shared_head.norm`
    ///
    /// # Errors
    /// [`EngineError::NoDrafts`] when no such layer was loaded, `RequestError` for ids that are no
    /// prompt.
    pub fn trace_drafts(
        &mut self,
        token_ids: &[u32],
    ) -> Result<Vec<(String, TensorRecord)>, EngineError> {
        if !self.runner.drafts() {
            return Err(EngineError::NoDrafts);
        }
        self.check_prompt(token_ids, self.context_length.saturating_sub(CHAIN))?;
        let mut sequence = Sequence::new(token_ids.to_vec());
        let records = self.draft_chain(&mut sequence);
        self.blocks.release(sequence.pages);
        Ok(records)
    }

    fn draft_chain(&mut self, sequence: &mut Sequence) -> Vec<(String, TensorRecord)> {
        let mut token_in = sequence.tokens[1..].to_vec();
        let mut logits = Trace::on();
        let (mut hidden, mut last_row);
        loop {
            let count = self.chunk(sequence);
            self.reserve(sequence, count);
            let mut input = planned(sequence, count);
            let step = self.runner.run(&[input.clone()], None, &mut Trace::off());
            hidden = step.hidden();
            last_row = count - 1;
            let first = sequence.computed;
            sequence.computed += count;
            if sequence.pending() == 0 {
                let next = step.last_logits();
                token_in.push(self.greedy(next));
            }
            input.tokens = token_in[first..sequence.computed].to_vec();
            hidden = self.runner.draft(&[input], hidden);
            logits.begin_step(count);
            logits.floats("mtp.logits_step1", &self.runner.logits(hidden.clone()));
            if sequence.pending() == 0 {
                break;
            }
        }

        let mut chain = Vec::new();
        hidden = row(hidden, last_row);
        loop {
            let draft_logits = self.runner.logits(hidden.clone());
            logits.begin_step(1);
            logits.floats("mtp.chain_logits", &draft_logits);
            let draft = self.greedy(draft_logits);
            chain.push(draft);
            if chain.len() == CHAIN {
                break;
            }
            self.reserve(sequence, 1);
            let input = SequenceInput {
                tokens: vec![draft],
                computed: sequence.computed,
                pages: sequence.pages.clone(),
            };
            sequence.computed += 1;
            hidden = self.runner.draft(&[input], hidden);
        }

        let ids = |ids: Vec<u32>| TensorRecord {
            shape: vec![ids.len()],
            values: Values::I64(ids.into_iter().map(i64::from).collect()),
        };
        let mut records = vec![("mtp.token_in".to_owned(), ids(token_in))];
        records.extend(logits.into_records());
        records.push(("mtp.chain_tokens".to_owned(), ids(chain)));
        records
    }

    /// The most probable token of `logits [1, vocab_size]`.
    fn greedy(&self, logits: Tensor<2>) -> u32 {
        ops::argmax(logits).into_scalar::<u32>()
    }
}

/// Row `index` of `hidden [tokens, hidden]`, as `[1, hidden]`.
fn row(hidden: Tensor<2>, index: usize) -> Tensor<2> {
    let index = Tensor::<1, Int>::from_data([index as i32], &hidden.device());
    hidden.select(0, index)
}
