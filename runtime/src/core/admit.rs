//! From a request that was checked to its sequences.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use super::answer::Answer;
use super::constraints::{Constraints, Thinking};
use super::{Core, Group};
use crate::config::DraftChoice;
use crate::handoff::StreamSender;
use crate::output::Output;
use crate::request::{Event, Request, Timings};
use crate::scheduler::NewSequence;
use crate::step::{Executor, SequenceId};

/// Logit bias of a token that never comes.
const NEVER: f32 = -1e30;

/// A request that was checked, on its way to the engine's thread.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) request: Request,
    /// Most tokens of prompt and answer together.
    pub(crate) limit: usize,
    /// Token ids that end the answer.
    pub(crate) end_ids: Vec<u32>,
    pub(crate) vocab_size: usize,
    pub(crate) submitted: Instant,
    pub(crate) sender: StreamSender<Event>,
}

impl<E: Executor> Core<E> {
    /// Queues the sequences of a request.
    pub(super) fn admit(&mut self, submission: Submission) {
        let Submission { mut request, limit, end_ids, vocab_size, submitted, sender } = submission;
        if sender.is_gone() {
            self.stats.cancelled += request.n as u64;
            return;
        }
        let seed = request.sampling.seed.unwrap_or_else(|| RandomState::new().hash_one("glm"));
        // A bad word of one token depends on nothing before it.
        let (single, bad_words): (Vec<_>, Vec<_>) =
            request.bad_words.drain(..).partition(|word| word.len() == 1);
        let biases = single.into_iter().map(|word| (word[0], NEVER));
        request.sampling.logit_bias.extend(biases);
        let prompt: Arc<[u32]> = request.prompt.as_slice().into();
        let thinking = self.thinking(&request);
        let drafting = self.config.can_draft
            && match self.config.drafts {
                DraftChoice::Fixed(drafts) => drafts > 0,
                DraftChoice::Auto => self.policy.admit(),
            };
        let group = self.next_id;
        let mut open = Vec::with_capacity(request.n);
        for choice in 0..request.n {
            let id = SequenceId(self.next_id);
            self.next_id += 1;
            let answer = Answer {
                group,
                choice,
                sampling: request.sampling.clone(),
                // The first answer is that of a request for one.
                seed: seed.wrapping_add((choice as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                prompt: prompt.clone(),
                output_ids: Vec::new(),
                proposed: Vec::new(),
                text: Output::new(&self.config.tokenizer, &request.stop_strings),
                constraints: Constraints {
                    mask: request.mask.as_ref().map(|mask| mask.start()),
                    bad_words: bad_words.clone(),
                    min_tokens: request.min_tokens,
                    end_ids: end_ids.clone(),
                    thinking,
                    vocab_size,
                },
                end_ids: end_ids.clone(),
                limit: limit - prompt.len(),
                min_tokens: request.min_tokens,
                logprobs: request.logprobs,
                prompt_logprobs: request.prompt_logprobs.filter(|_| choice == 0),
                collected_logprobs: Vec::new(),
                submitted,
                first_step: None,
                first_token: None,
                timings: Timings::default(),
            };
            self.scheduler.add(NewSequence {
                id,
                tokens: request.prompt.clone(),
                limit,
                priority: request.priority,
                salt: request.cache_salt.clone(),
                drafting,
                logits_of_prompt: answer.prompt_logprobs.is_some(),
                after: open.first().copied(),
            });
            let waits = answer.constraints.waits(&[]);
            self.scheduler.set_waits(id, waits);
            self.answers.insert(id, answer);
            open.push(id);
        }
        self.groups
            .insert(group, Group { sender: Arc::new(sender), open, deadline: request.deadline });
    }

    fn thinking(&self, request: &Request) -> Option<Thinking> {
        let budget = request.thinking_budget?;
        let close = self.config.tokenizer.token_id("</think>")?;
        let open = self.config.tokenizer.token_id("<think>");
        let marks = request.prompt.iter().rev();
        let last = marks.copied().find(|id| *id == close || Some(*id) == open);
        Some(Thinking { budget, open, close, opened: last.is_some() && last == open })
    }
}
