//! What the engine counts.

use crate::config::DraftChoice;

/// A snapshot of what an engine did since it was loaded, and of what it holds now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Steps that were collected.
    pub steps: u64,
    /// Rows of those steps, tokens and drafts, without padding.
    pub rows: u64,
    /// Tokens of prompts that were computed.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were found in the cache instead.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Tokens that were sampled and dropped, because the answer had ended.
    pub surplus_tokens: u64,
    /// Drafts that were verified, by their place after the last token.
    pub drafted: [u64; DraftChoice::MOST],
    /// Those that were accepted.
    pub accepted: [u64; DraftChoice::MOST],
    /// Answers that ended by themselves, by their limit or by their deadline.
    pub finished: u64,
    /// Answers that failed.
    pub failed: u64,
    /// Answers whose receiver went away.
    pub cancelled: u64,
    /// Times that a sequence lost its pages to another.
    pub preemptions: u64,
    /// Times that the engine began anew after a panic.
    pub restarts: u64,
    /// Where the time went.
    pub seconds: Seconds,
    /// Sequences that have a slot.
    pub running: usize,
    /// Sequences that wait for one.
    pub waiting: usize,
    /// Pages of the cache, without the sink.
    pub pages: Pages,
}

/// Pages by what they hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pages {
    /// All of them.
    pub total: usize,
    /// Pages that hold nothing.
    pub free: usize,
    /// Pages of running sequences.
    pub held: usize,
    /// Pages of prefixes that no sequence uses; they are free to whoever needs one.
    pub cached: usize,
}

/// Time on the engine's thread, in seconds. On a device that computes by itself `launch` is the
/// time to queue a step and `wait` that until its ids are read; on the CPU a step is computed
/// inside `launch`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seconds {
    /// Deciding what the next step computes.
    pub schedule: f64,
    /// Launching it.
    pub launch: f64,
    /// Waiting for the ids of a step.
    pub wait: f64,
    /// Taking in the ids of a step, and sending them out as text.
    pub emit: f64,
    /// Time in which there was work and the device had none.
    pub device_idle: f64,
    /// Part of the launches that computes hidden states.
    pub forward: f64,
    /// Part of the launches that chooses tokens.
    pub sampling: f64,
    /// Part of the launches that makes drafts.
    pub drafting: f64,
}
