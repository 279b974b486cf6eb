//! A model that computes nothing: what the engine itself costs, and how it behaves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::{DraftChoice, OnPanic};
use crate::core::{Command, Core, CoreConfig, Submission};
use crate::handoff::{mailbox, stream};
use crate::request::{Request, SamplingParams};
use crate::scheduler::{Limits, Scheduler};
use crate::stats::Stats;
use crate::step::{Executor, RowMask, Share, ShareResult, SlotState, StepPlan, StepResult};
use crate::text::Tokenizer;

/// What the engine costs the host when the model costs nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostCost {
    /// Steps that were measured.
    pub steps: u64,
    /// Schedule, commit and emit, a step.
    pub step: Duration,
    /// The share of it that decides what to compute.
    pub schedule: Duration,
}

/// Runs `batch` sequences of `tokens` tokens each at once against a model that computes nothing.
pub fn host_cost(tokenizer: &Tokenizer, batch: usize, tokens: usize) -> HostCost {
    let prompt: Vec<u32> = (0..64).collect();
    let limits = Limits {
        page_size: PAGE_SIZE,
        pages: 1 + batch * (prompt.len() + tokens).div_ceil(PAGE_SIZE) + batch,
        max_batch: batch,
        step_tokens: 256 + batch,
        prefill_chunk: 256,
        context_length: 1 << 20,
        max_scores: None,
        prefix_cache: true,
        deterministic: false,
    };
    let (commands, inbox) = mailbox();
    let stats = Arc::new(Mutex::new(Stats::default()));
    let config = CoreConfig {
        tokenizer: tokenizer.clone(),
        dtype: "f32",
        drafts: DraftChoice::Fixed(0),
        can_draft: false,
        layers: 1,
        steps_in_flight: 1,
        on_panic: OnPanic::Stop,
    };
    let executor = NullExecutor::new(batch, tokenizer.vocab_len() as u32);
    let scheduler = Box::new(move || Scheduler::new(limits));
    let mut core = Core::new(executor, scheduler, inbox, stats.clone(), config);
    let mut streams = Vec::new();
    for index in 0..batch {
        let (sender, receiver) = stream();
        let mut prompt = prompt.clone();
        prompt[0] = index as u32;
        let request =
            Request { ignore_eos: true, ..Request::new(prompt, SamplingParams::greedy()) };
        let limit = request.prompt.len() + tokens;
        let submission = Submission {
            request,
            limit,
            end_ids: Vec::new(),
            vocab_size: tokenizer.vocab_len(),
            submitted: Instant::now(),
            sender,
        };
        let _ = commands.send(Command::Submit(Box::new(submission)));
        streams.push(receiver);
    }
    // Without a sender the core ends when all is answered.
    drop(commands);
    core.run();
    drop(streams);
    let Stats { steps, seconds, .. } =
        stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let each = |seconds: f64| Duration::from_secs_f64(seconds / steps.max(1) as f64);
    HostCost {
        steps,
        step: each(seconds.schedule + seconds.emit),
        schedule: each(seconds.schedule),
    }
}

const PAGE_SIZE: usize = 64;

/// Stands for a model: the token after `token` at a position is [`next`] of both. It keeps on its
/// "device" what a runner keeps there, so that a step which says wrong what lies there is found.
#[derive(Debug)]
pub(crate) struct NullExecutor {
    vocab_size: u32,
    slots: Vec<Slot>,
    launched: VecDeque<StepResult>,
    /// Tokens that are bad luck.
    pub(crate) faults: Faults,
}

/// What goes wrong, and at which sampled token.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) panic: Option<u32>,
    pub(crate) not_finite: Option<u32>,
    /// Every so many-th draft is wrong; none is when 0.
    pub(crate) wrong_drafts: u32,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    last: u32,
    accepted: usize,
    proposed: Vec<u32>,
}

/// The token after `token`, which is at `position`.
pub(crate) fn next(token: u32, position: usize, vocab_size: u32) -> u32 {
    let mixed = (u64::from(token) << 32 | position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)) % u64::from(vocab_size)) as u32
}

/// The first token from `token` on that a mask permits.
fn permitted(token: u32, mask: Option<&RowMask>, vocab_size: u32) -> u32 {
    let all = (0..vocab_size).map(|step| (token + step) % vocab_size);
    let found = match mask {
        None | Some(RowMask::Free) => Some(token),
        Some(RowMask::Force(forced)) => Some(*forced),
        Some(RowMask::Ban(banned)) => all.into_iter().find(|id| !banned.contains(id)),
        Some(RowMask::Allow(allowed)) => all.into_iter().find(|id| allowed.contains(*id)),
    };
    found.expect("a token that is permitted")
}

impl NullExecutor {
    pub(crate) fn new(max_batch: usize, vocab_size: u32) -> Self {
        NullExecutor {
            vocab_size,
            slots: vec![Slot::default(); max_batch],
            launched: VecDeque::new(),
            faults: Faults::default(),
        }
    }

    fn share(&mut self, share: &Share, propose: usize) -> ShareResult {
        let slot = &mut self.slots[share.slot as usize];
        let first = share.computed + if share.shifted { slot.accepted } else { 0 };
        let mut result = ShareResult::default();
        if !share.sample {
            return result;
        }
        let mut position = first + share.tokens.len() - 1;
        let mut token = if share.fed { slot.last } else { share.tokens[share.tokens.len() - 1] };
        let drafts: Vec<u32> = slot.proposed.iter().copied().take(share.drafts).collect();
        assert_eq!(drafts.len(), share.drafts, "drafts that were proposed");
        for row in 0..=share.drafts {
            token = next(token, position, self.vocab_size);
            token = permitted(token, share.masks.get(row), self.vocab_size);
            position += 1;
            assert!(self.faults.panic != Some(token), "the null model was told to panic");
            if self.faults.not_finite == Some(token) {
                result.not_finite = true;
                return result;
            }
            result.tokens.push(token);
            if drafts.get(row) != Some(&token) {
                break;
            }
        }
        slot.last = token;
        slot.accepted = result.tokens.len() - 1;
        slot.proposed.clear();
        if share.drafting {
            for _ in 0..propose {
                token = next(token, position, self.vocab_size);
                position += 1;
                let wrong = self.faults.wrong_drafts;
                let off = u32::from(wrong > 0 && token % wrong.max(1) == 0);
                slot.proposed.push((token + off) % self.vocab_size);
            }
        }
        result.proposed.clone_from(&slot.proposed);
        result
    }
}

impl Executor for NullExecutor {
    fn launch(&mut self, plan: &StepPlan) {
        let shares = plan.shares.iter().map(|share| self.share(share, plan.propose)).collect();
        self.launched.push_back(StepResult { shares, ..StepResult::default() });
    }

    fn collect(&mut self) -> StepResult {
        self.launched.pop_front().expect("a step that was launched")
    }

    fn open(&mut self, slot: u32, _: &SlotState<'_>) {
        self.slots[slot as usize] = Slot::default();
    }

    fn reset(&mut self) {
        self.launched.clear();
        self.slots.fill(Slot::default());
        // What panicked once would panic for ever.
        self.faults = Faults::default();
    }
}
