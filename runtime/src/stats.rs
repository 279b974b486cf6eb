//! What the engine counts.

use std::sync::Arc;

use crate::config::DraftChoice;

/// A snapshot of what an engine did since it was loaded, and of what it holds now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Steps that were collected.
    pub steps: u64,
    /// Rows of those steps, tokens and drafts, without padding.
    pub rows: u64,
    /// The same steps by size: entry `i` sums those of `2^i` to `2^(i+1) - 1` rows.
    pub sizes: [StepSizes; StepSizes::COUNT],
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
    /// Steps that ran as recordings.
    pub recording: Recording,
    /// Sequences that have a slot.
    pub running: usize,
    /// Sequences that wait for one.
    pub waiting: usize,
    /// Pages of the cache, without the sink.
    pub pages: Pages,
}

/// What became of the recordings of short steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// Steps that were recorded.
    pub recorded: u64,
    /// Steps that were replayed instead of launched.
    pub replayed: u64,
    /// Why steps are no longer recorded, in one line.
    pub refused: Option<Arc<str>>,
    /// Kernels that the layers of the last short step launched which was not replayed; 0 on the CPU.
    pub launches: u64,
}

/// What steps of about the same size computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepSizes {
    /// How many they are.
    pub steps: u64,
    /// Their rows.
    pub rows: u64,
    /// Rows that got logits.
    pub sampled: u64,
    /// Rows of the cache that were there after each step, summed over its sequences.
    pub cached: u64,
    /// Rows of the cache that each row looked at, summed over the rows.
    pub attended: u64,
}

impl StepSizes {
    /// Powers of two of rows that are told apart.
    pub const COUNT: usize = 24;
}

impl Stats {
    /// What was counted since `before`, an earlier snapshot of the same engine. What it holds now
    /// stays as it is.
    #[must_use]
    pub fn since(&self, before: &Stats) -> Stats {
        let mut stats = self.clone();
        for (count, before) in [
            (&mut stats.steps, before.steps),
            (&mut stats.rows, before.rows),
            (&mut stats.prompt_tokens, before.prompt_tokens),
            (&mut stats.cached_tokens, before.cached_tokens),
            (&mut stats.output_tokens, before.output_tokens),
            (&mut stats.surplus_tokens, before.surplus_tokens),
            (&mut stats.finished, before.finished),
            (&mut stats.failed, before.failed),
            (&mut stats.cancelled, before.cancelled),
            (&mut stats.preemptions, before.preemptions),
            (&mut stats.restarts, before.restarts),
        ] {
            *count -= before;
        }
        // A restart of the engine begins to count anew.
        let (after, before_it) = (&mut stats.recording, &before.recording);
        after.recorded = after.recorded.saturating_sub(before_it.recorded);
        after.replayed = after.replayed.saturating_sub(before_it.replayed);
        for place in 0..DraftChoice::MOST {
            stats.drafted[place] -= before.drafted[place];
            stats.accepted[place] -= before.accepted[place];
        }
        for (size, before) in stats.sizes.iter_mut().zip(&before.sizes) {
            size.steps -= before.steps;
            size.rows -= before.rows;
            size.sampled -= before.sampled;
            size.cached -= before.cached;
            size.attended -= before.attended;
        }
        let (seconds, before) = (&mut stats.seconds, &before.seconds);
        for (seconds, before) in [
            (&mut seconds.schedule, before.schedule),
            (&mut seconds.launch, before.launch),
            (&mut seconds.wait, before.wait),
            (&mut seconds.emit, before.emit),
            (&mut seconds.device_idle, before.device_idle),
            (&mut seconds.forward, before.forward),
            (&mut seconds.sampling, before.sampling),
            (&mut seconds.drafting, before.drafting),
        ] {
            *seconds -= before;
        }
        stats
    }

    /// Takes note of the rows of a step: for each share its rows, the sampled ones of them, and the
    /// rows that were computed before.
    pub(crate) fn count_step(&mut self, shares: impl Iterator<Item = (usize, usize, usize)>) {
        let mut size = StepSizes { steps: 1, ..StepSizes::default() };
        for (rows, sampled, computed) in shares {
            let (rows, computed) = (rows as u64, computed as u64);
            size.rows += rows;
            size.sampled += sampled as u64;
            size.cached += computed + rows;
            size.attended += rows * computed + rows * (rows + 1) / 2;
        }
        self.steps += 1;
        self.rows += size.rows;
        let place = size.rows.max(1).ilog2() as usize;
        let held = &mut self.sizes[place.min(StepSizes::COUNT - 1)];
        held.steps += size.steps;
        held.rows += size.rows;
        held.sampled += size.sampled;
        held.cached += size.cached;
        held.attended += size.attended;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_apart_by_their_rows() {
        let mut stats = Stats::default();
        stats.count_step([(1, 1, 9), (1, 1, 4)].into_iter());
        let before = stats.clone();
        // A chunk of three tokens after two others, and a token.
        stats.count_step([(3, 0, 2), (1, 1, 5)].into_iter());
        assert_eq!((stats.steps, stats.rows), (2, 6));
        let two = StepSizes { steps: 1, rows: 2, sampled: 2, cached: 15, attended: 15 };
        let four = StepSizes { steps: 1, rows: 4, sampled: 1, cached: 11, attended: 3 + 4 + 5 + 6 };
        assert_eq!((stats.sizes[1], stats.sizes[2]), (two, four));
        let since = stats.since(&before);
        assert_eq!((since.steps, since.sizes[1], since.sizes[2]), (1, StepSizes::default(), four));
    }
}
