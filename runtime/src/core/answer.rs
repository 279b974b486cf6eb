//! One answer on its way: from sampled ids to events.

use std::time::Instant;

use super::constraints::Constraints;
use crate::error::Failure;
use crate::output::Output;
use crate::request::{Event, Finish, SamplingParams, Timings, TokenLogprobs};
use crate::step::ShareResult;

/// One of the `n` answers to a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) group: u64,
    pub(super) choice: usize,
    pub(super) sampling: SamplingParams,
    pub(super) seed: u64,
    pub(super) prompt: std::sync::Arc<[u32]>,
    pub(super) output_ids: Vec<u32>,
    /// Drafts that the next step verifies, as far as the host has read them.
    pub(super) proposed: Vec<u32>,
    pub(super) text: Output,
    pub(super) constraints: Constraints,
    pub(super) end_ids: Vec<u32>,
    /// Most tokens of the answer.
    pub(super) limit: usize,
    pub(super) min_tokens: usize,
    pub(super) logprobs: Option<usize>,
    pub(super) prompt_logprobs: Option<usize>,
    pub(super) collected_logprobs: Vec<TokenLogprobs>,
    pub(super) submitted: Instant,
    pub(super) first_step: Option<Instant>,
    pub(super) first_token: Option<Instant>,
    pub(super) timings: Timings,
}

/// Whether an answer goes on.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Goes,
    Finished { finish: Finish, stop_token: Option<u32> },
    Failed(Failure),
}

impl Answer {
    /// Takes in what a step sampled: the events, how many of the tokens count, and whether the
    /// answer goes on.
    pub(super) fn take(
        &mut self,
        result: ShareResult,
        dtype: &'static str,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> (usize, Next) {
        let mut logprobs = result.logprobs.into_iter();
        self.proposed = result.proposed;
        for (taken, id) in result.tokens.iter().copied().enumerate() {
            if self.first_token.is_none() {
                self.first_token = Some(now);
                if self.prompt_logprobs.is_some() && self.choice == 0 {
                    let all = std::mem::take(&mut self.collected_logprobs);
                    events.push(Event::PromptLogprobs(all));
                }
            }
            self.output_ids.push(id);
            let choice = self.choice;
            let logprobs = logprobs.next();
            if self.end_ids.contains(&id) && self.output_ids.len() > self.min_tokens {
                // The end token is told, but has no text.
                let text = self.text.finish().to_owned();
                events.push(Event::Token { choice, id, text, logprobs });
                let stop_token = Some(id);
                return (taken + 1, Next::Finished { finish: Finish::Stop, stop_token });
            }
            let (text, stopped) = match self.text.push(id) {
                Ok((text, stopped)) => (text.to_owned(), stopped),
                Err(error) => {
                    return (taken, Next::Failed(Failure::Text { reason: error.to_string() }));
                }
            };
            events.push(Event::Token { choice, id, text, logprobs });
            if stopped {
                let finish = Finish::Stop;
                return (taken + 1, Next::Finished { finish, stop_token: None });
            }
            if self.output_ids.len() >= self.limit {
                let finish = Finish::Length;
                return (taken + 1, Next::Finished { finish, stop_token: None });
            }
        }
        let next = match result.not_finite {
            true => Next::Failed(Failure::NotFinite { dtype }),
            false => Next::Goes,
        };
        (result.tokens.len(), next)
    }

    /// The last event of an answer that ended.
    pub(super) fn finished(
        &mut self,
        finish: Finish,
        stop_token: Option<u32>,
        now: Instant,
    ) -> Event {
        let text = match finish {
            Finish::Stop => String::new(),
            _ => self.text.finish().to_owned(),
        };
        let first_token = self.first_token.unwrap_or(now);
        let first_step = self.first_step.unwrap_or(now);
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let timings = Timings {
            prompt_tokens: self.prompt.len(),
            queue_seconds: seconds(self.submitted, first_step),
            prompt_seconds: seconds(first_step, first_token),
            decode_tokens: self.output_ids.len().saturating_sub(1),
            decode_seconds: seconds(first_token, now),
            time_to_first_token_seconds: seconds(self.submitted, first_token),
            ..self.timings
        };
        let stop_text = self.text.stop_text().map(str::to_owned);
        Event::Finished { choice: self.choice, text, finish, stop_token, stop_text, timings }
    }
}
