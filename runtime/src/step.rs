//! One step in plain integers: what the scheduler hands to an executor, and what comes back.

use crate::request::{SamplingParams, TokenLogprobs};
use crate::stats::Recording;

/// Names a sequence for as long as the engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(crate) u64);

/// What one step computes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StepPlan {
    /// One for each sequence of the step, at most `max_batch`.
    pub(crate) shares: Vec<Share>,
    /// Drafts to propose at the end of the step, for the next one to verify.
    pub(crate) propose: usize,
}

impl StepPlan {
    /// Rows of the step: tokens and drafts.
    pub(crate) fn rows(&self) -> usize {
        self.shares.iter().map(Share::rows).sum()
    }
}

/// One sequence's part of a step: first rows of `tokens`, then rows of drafts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Share {
    /// Whose it is.
    pub(crate) sequence: Option<SequenceId>,
    /// The sequence's place in what stays on the device between steps, below `max_batch`.
    pub(crate) slot: u32,
    /// Tokens to compute, at least one. With `fed` there is one, and its value means nothing.
    pub(crate) tokens: Vec<u32>,
    /// The token is what the last step of this slot sampled, which the host has not read yet.
    pub(crate) fed: bool,
    /// Rows after the tokens: the drafts that the last step of this slot proposed.
    pub(crate) drafts: usize,
    /// Position of the first row; with `shifted` the least it may be.
    pub(crate) computed: usize,
    /// Positions are further on by the number of drafts that the last step of this slot accepted,
    /// which the host has not read yet.
    pub(crate) shifted: bool,
    /// Pages of the sequence in order, enough for the last row wherever it may lie.
    pub(crate) pages: Vec<u32>,
    /// The token after the last of `tokens`, where the host knows it.
    pub(crate) next_token: Option<u32>,
    /// Choose a token after the last of `tokens` and after every draft.
    pub(crate) sample: bool,
    /// Keep the cache of the multi-token-prediction layer, so that drafts can be proposed.
    pub(crate) drafting: bool,
    /// Place in the answer of the first token that is chosen; with `shifted` the least it may be.
    pub(crate) output_index: usize,
    /// What may be chosen at each row that is sampled; empty where nothing is forbidden.
    pub(crate) masks: Vec<RowMask>,
    /// Report the log-probability of each chosen token, and of this many of the most probable.
    pub(crate) logprobs: Option<usize>,
    /// The same for the tokens of the prompt: of each row, the token after it.
    pub(crate) prompt_logprobs: Option<usize>,
}

impl Share {
    /// Rows of the share.
    pub(crate) fn rows(&self) -> usize {
        self.tokens.len() + self.drafts
    }
}

/// What may be chosen at one row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum RowMask {
    /// Anything.
    #[default]
    Free,
    /// Anything but these.
    Ban(Vec<u32>),
    /// Only this.
    Force(u32),
    /// Only what the set holds.
    Allow(TokenSet),
}

/// A set of token ids, one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u32>,
}

impl TokenSet {
    /// The empty set over ids below `vocab_size`.
    pub fn new(vocab_size: usize) -> Self {
        TokenSet { words: vec![0; vocab_size.div_ceil(32)] }
    }

    /// Adds an id; one past the end of the vocabulary is left out.
    pub fn insert(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word |= 1 << (id % 32);
        }
    }

    /// Takes an id out.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Whether the set holds `id`.
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Whether the set holds nothing.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Adds the ids of such words as [`Self::words`] gives; those past the end are left out.
    pub fn union_words(&mut self, words: &[u32]) {
        self.words.iter_mut().zip(words).for_each(|(word, more)| *word |= more);
    }

    /// Bits of the ids in order, 32 a word, the lowest first.
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

/// What an executor has to know of a sequence before its first step in a slot.
#[derive(Debug)]
pub(crate) struct SlotState<'a> {
    pub(crate) sampling: &'a SamplingParams,
    /// Seed of the draws; the same for the same request, whatever it is batched with.
    pub(crate) seed: u64,
    pub(crate) prompt: &'a [u32],
    /// What was generated already.
    pub(crate) output: &'a [u32],
}

/// What came of a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StepResult {
    /// One for each share of the plan, in its order.
    pub(crate) shares: Vec<ShareResult>,
    /// How long its parts took.
    pub(crate) seconds: StepSeconds,
    /// What became of recordings until now.
    pub(crate) recording: Recording,
}

/// How long the parts of a step took on the host, or on the device where the executor waits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StepSeconds {
    /// Hidden states.
    pub(crate) forward: f64,
    /// Logits of the last rows, choice of tokens, acceptance of drafts.
    pub(crate) sampling: f64,
    /// New drafts, and the cache of the layer that makes them.
    pub(crate) drafting: f64,
}

/// What came of a share.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ShareResult {
    /// The accepted drafts and the token after them; empty where nothing was sampled.
    pub(crate) tokens: Vec<u32>,
    /// The drafts that were proposed for the next step.
    pub(crate) proposed: Vec<u32>,
    /// Some logits that were sampled from are not finite; `tokens` end before.
    pub(crate) not_finite: bool,
    /// For each of `tokens`, where asked for.
    pub(crate) logprobs: Vec<TokenLogprobs>,
    /// For each row of the share with a known next token, where asked for.
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
}

/// Computes steps. Steps are computed in the order in which they are launched, and what a step
/// leaves on the device (sampled ids, drafts, cache rows) is there for the next one.
pub(crate) trait Executor: Send {
    /// Starts a step; does not wait for it where the device is another than the host.
    fn launch(&mut self, plan: &StepPlan);
    /// Waits for the oldest step that was launched and not collected.
    fn collect(&mut self) -> StepResult;
    /// Gives a slot to a sequence: what the slot held before is forgotten.
    fn open(&mut self, slot: u32, state: &SlotState<'_>);
    /// Forgets all steps, slots and cached rows, as after a panic.
    fn reset(&mut self);
}
