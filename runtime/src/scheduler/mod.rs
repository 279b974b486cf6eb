//! Which tokens the next step computes, and where.
//!
//! One rule: what a sequence has to do is its length, drafts included, less what is computed of
//! it, and each step hands out a budget of rows. Sequences with one token to do come first, then
//! the others by [`Rank`]. Chunks of a prompt, answers, hits of the prefix cache, what is computed
//! again after a preemption and drafts to verify are all the same to it.
//!
//! A step is planned while the one before it runs. So of a token that was sampled and not read, the
//! scheduler knows only that there is one, and of drafts in flight how many there are: lengths are
//! at least so and at most so, rows are placed by the least and pages cover the most.
#![forbid(unsafe_code)]

mod admit;
mod room;
mod share;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use crate::kv::{Blocks, PageHash};
use crate::sequence::{Rank, Sequence};
use crate::step::{SequenceId, StepPlan};

/// Steps without a chunk of any prompt after which chunks come first once, where there are some.
const PATIENCE: u64 = 8;

/// What a step and the cache can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Tokens per page.
    pub(crate) page_size: usize,
    /// Pages, the sink included.
    pub(crate) pages: usize,
    /// Sequences that run at once.
    pub(crate) max_batch: usize,
    /// Rows of a step. With less than a row for each running sequence, its drafts and a chunk, some
    /// will have to wait for others.
    pub(crate) step_tokens: usize,
    /// Rows of a step with which one sequence catches up; all of them together where others have
    /// one token to do.
    pub(crate) prefill_chunk: usize,
    /// Tokens of a sequence.
    pub(crate) context_length: usize,
    /// Rows of a step × rows of the cache that they look at, both with padding; a share of one
    /// row goes past it if it must.
    pub(crate) max_scores: Option<usize>,
    /// Keep full pages for sequences that begin alike.
    pub(crate) prefix_cache: bool,
    /// What a share computes depends on its sequence only: whole chunks of the prompt, then tokens
    /// one by one; no drafts.
    pub(crate) deterministic: bool,
}

/// What the scheduler has to know of a sequence.
#[derive(Debug)]
pub(crate) struct NewSequence {
    pub(crate) id: SequenceId,
    /// The prompt.
    pub(crate) tokens: Vec<u32>,
    /// Most tokens, prompt and answer; more than the prompt has.
    pub(crate) limit: usize,
    /// Higher is served first.
    pub(crate) priority: i32,
    /// Pages are shared between sequences of the same salt.
    pub(crate) salt: Vec<u8>,
    /// Keep the cache of the draft layer.
    pub(crate) drafting: bool,
    /// Something is reported of every row of the prompt: none of it may come from the cache.
    pub(crate) logits_of_prompt: bool,
    /// A sequence with the same prompt, whose pages are worth waiting for.
    pub(crate) after: Option<SequenceId>,
}

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    /// Without the sink.
    pub(crate) total_pages: usize,
    pub(crate) free_pages: usize,
    pub(crate) held_pages: usize,
    pub(crate) cached_pages: usize,
    /// Sequences that had to give their pages back, since the start.
    pub(crate) preemptions: u64,
}

/// Sequences, pages and slots.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    blocks: Blocks,
    sequences: HashMap<SequenceId, Sequence>,
    waiting: BTreeMap<Rank, SequenceId>,
    /// By rank.
    running: Vec<SequenceId>,
    free_slots: Vec<u32>,
    /// Slots that were given in the last step.
    opened: Vec<(SequenceId, u32)>,
    /// Sequences with one token to do that have their pages, and the drafts they verify.
    due: Vec<(SequenceId, usize)>,
    /// The sequence for which there were too few pages, until some come back.
    blocked: Option<SequenceId>,
    step: u64,
    /// The last step in which nobody was kept waiting for a chunk.
    last_chunk: u64,
    arrivals: u64,
    preemptions: u64,
}

impl Scheduler {
    /// A scheduler of an empty cache.
    pub(crate) fn new(limits: Limits) -> Self {
        assert!(limits.page_size > 0 && limits.max_batch > 0 && limits.prefill_chunk > 0);
        assert!(limits.step_tokens >= limits.prefill_chunk, "a chunk has to fit into a step");
        Scheduler {
            blocks: Blocks::new(limits.pages),
            sequences: HashMap::new(),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            free_slots: (0..limits.max_batch as u32).rev().collect(),
            opened: Vec::new(),
            due: Vec::new(),
            blocked: None,
            step: 0,
            last_chunk: 0,
            arrivals: 0,
            preemptions: 0,
            limits,
        }
    }

    /// Whether a sequence of `limit` tokens can ever be computed.
    pub(crate) fn fits(&self, limit: usize) -> bool {
        limit <= self.limits.context_length
            && limit.div_ceil(self.limits.page_size) < self.blocks.total()
    }

    /// Puts a sequence into the queue.
    ///
    /// # Panics
    /// When it does not fit; see [`Scheduler::fits`].
    pub(crate) fn add(&mut self, new: NewSequence) {
        assert!(self.fits(new.limit), "{} tokens do not fit", new.limit);
        assert!((1..new.limit).contains(&new.tokens.len()), "a prompt and room for an answer");
        self.arrivals += 1;
        let rank = Rank::new(new.priority, self.step, self.arrivals);
        let sequence = Sequence {
            limit: new.limit,
            priority: new.priority,
            rank,
            drafting: new.drafting,
            logits_of_prompt: new.logits_of_prompt,
            after: new.after,
            hashes: vec![PageHash::root(&new.salt)],
            ..Sequence::new(new.tokens)
        };
        self.waiting.insert(rank, new.id);
        let old = self.sequences.insert(new.id, sequence);
        assert!(old.is_none(), "{:?} was added twice", new.id);
    }

    /// Plans a step, which the caller launches; perhaps an empty one. `propose` drafts are made at
    /// its end for each sequence that keeps the draft layer's cache and samples; none where
    /// `deterministic`, because what is verified together is a matter of timing.
    pub(crate) fn schedule(&mut self, propose: usize) -> StepPlan {
        let propose = if self.limits.deterministic { 0 } else { propose };
        self.step += 1;
        self.opened.clear();
        self.due.clear();
        self.reserve_pages(propose);
        self.admit();
        let mut plan = StepPlan { shares: Vec::with_capacity(self.running.len()), propose };
        self.share_out(&mut plan);
        for share in &plan.shares {
            let sequence = share.sequence.and_then(|id| self.sequences.get_mut(&id));
            if let Some(sequence) = sequence {
                publish(sequence, &self.limits, &mut self.blocks);
            }
        }
        plan
    }

    /// The sequences that got a slot in the last [`Scheduler::schedule`]: what the slot held is
    /// to be forgotten before the step is launched.
    pub(crate) fn opened(&mut self) -> Vec<(SequenceId, u32)> {
        std::mem::take(&mut self.opened)
    }

    /// Takes note of what the oldest unread step sampled for a sequence: accepted drafts and the
    /// token after them. To be called once for each share with `sample`, in the order of the steps;
    /// nothing happens where the sequence is gone.
    pub(crate) fn commit(&mut self, id: SequenceId, sampled: &[u32]) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let Some(unread) = sequence.unread.pop_front() else {
            debug_assert!(false, "{id:?} has nothing unread");
            return;
        };
        let accepted = sampled.len().saturating_sub(1);
        debug_assert!(accepted <= unread.drafts, "{accepted} drafts of {}", unread.drafts);
        sequence.tokens.extend_from_slice(sampled);
        if unread.counts {
            sequence.computed += accepted;
            publish(sequence, &self.limits, &mut self.blocks);
        }
    }

    /// No sequence that is there keeps the draft layer's cache any longer: it cannot be taken up
    /// again, because rows would be missing in it.
    pub(crate) fn stop_drafting(&mut self) {
        for sequence in self.sequences.values_mut().filter(|sequence| sequence.drafting) {
            sequence.drafting = false;
            sequence.proposed = 0;
        }
    }

    /// Says whether the next token of a sequence can only be chosen once the host knows the last.
    pub(crate) fn set_waits(&mut self, id: SequenceId, waits: bool) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.waits = waits;
        }
    }

    /// Forgets a sequence, whatever is in flight of it: its pages and its slot are for others. A
    /// step that was launched before may still write to its pages, but is over before a later one
    /// writes there.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        if let Some(rank) = self.sequences.get(&id).map(|sequence| sequence.rank) {
            self.stop(id);
            self.waiting.remove(&rank);
            self.sequences.remove(&id);
        }
    }

    /// A sequence that is not gone.
    pub(crate) fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// How full it is.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            waiting: self.waiting.len(),
            running: self.running.len(),
            total_pages: self.blocks.total() - 1,
            free_pages: self.blocks.free(),
            held_pages: self.blocks.held(),
            cached_pages: self.blocks.cached(),
            preemptions: self.preemptions,
        }
    }

    /// Panics unless pages, slots and queue are what they should be.
    pub(crate) fn check(&self) {
        self.blocks.check(self.sequences.values().map(|sequence| &*sequence.pages));
        let mut slots: Vec<u32> = self.free_slots.clone();
        for (id, sequence) in &self.sequences {
            let waiting = self.waiting.get(&sequence.rank) == Some(id);
            let running = self.running.contains(id);
            assert!(waiting != running, "{id:?} waits: {waiting}, runs: {running}");
            assert_eq!(sequence.slot.is_some(), running, "{id:?} and its slot");
            assert!(running || sequence.pages.is_empty() && sequence.computed == 0);
            slots.extend(sequence.slot);
            let rows = sequence.computed + sequence.drafts_in_flight();
            assert!(!running || rows <= sequence.pages.len() * self.limits.page_size);
        }
        assert_eq!(self.waiting.len() + self.running.len(), self.sequences.len());
        slots.sort_unstable();
        assert!(slots.iter().copied().eq(0..self.limits.max_batch as u32), "slots {slots:?}");
        assert!(self.running.is_sorted_by_key(|id| self.sequences[id].rank), "running by rank");
    }

    /// Takes the pages for the next row, and the drafts after it, of all that have one token to do.
    /// Where they run out, the last by rank stop running.
    fn reserve_pages(&mut self, propose: usize) {
        let mut next = 0;
        while let Some(&id) = self.running.get(next) {
            next += 1;
            let sequence = &self.sequences[&id];
            if !sequence.is_due() || sequence.pending() > 1 {
                continue;
            }
            let (most, drafts) = (sequence.longest(), sequence.drafts());
            // The draft layer computes rows for all drafts but the last. They are of use only as
            // far as there is room for the drafts.
            let proposed = if sequence.drafting { propose.saturating_sub(1) } else { 0 };
            let wished = (most + drafts + proposed).min(sequence.limit);
            let needed = most + drafts;
            if self.reserve(id, wished) || self.reserve(id, needed) {
                self.due.push((id, drafts));
                continue;
            }
            // Nobody stops for drafts.
            while !self.reserve(id, most) {
                match self.running.last() {
                    Some(&last) if last != id => self.preempt(last),
                    _ => break,
                }
            }
            if self.holds(id, most) {
                self.due.push((id, 0));
            }
        }
    }

    fn holds(&self, id: SequenceId, rows: usize) -> bool {
        self.sequences[&id].pages.len() * self.limits.page_size >= rows
    }

    fn reserve(&mut self, id: SequenceId, rows: usize) -> bool {
        let page_size = self.limits.page_size;
        self.sequences
            .get_mut(&id)
            .is_some_and(|it| it.reserve(rows, page_size, &mut self.blocks).is_some())
    }

    /// Puts a running sequence back into the queue; it is computed again later.
    fn preempt(&mut self, id: SequenceId) {
        self.stop(id);
        self.preemptions += 1;
        if let Some(sequence) = self.sequences.get(&id) {
            self.waiting.insert(sequence.rank, id);
        }
    }

    /// Takes pages and slot from a sequence.
    fn stop(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let (pages, slot) = sequence.stop();
        self.blocks.release(pages);
        if let Some(slot) = slot {
            self.free_slots.push(slot);
            self.running.retain(|other| *other != id);
            self.due.retain(|(other, _)| *other != id);
        }
        self.blocked = None;
    }
}

/// Tells the prefix cache of pages that are full of known tokens and computed.
fn publish(sequence: &mut Sequence, limits: &Limits, blocks: &mut Blocks) {
    if !limits.prefix_cache {
        return;
    }
    let page_size = limits.page_size;
    let mut rows = sequence.tokens.len().min(sequence.computed);
    if limits.deterministic {
        rows = rows.min(sequence.prompt / limits.prefill_chunk * limits.prefill_chunk);
    }
    let full = rows / page_size;
    if full <= sequence.published {
        return;
    }
    sequence.name_pages(full, page_size);
    for page in sequence.published..full {
        let tokens = &sequence.tokens[page * page_size..][..page_size];
        let hash = sequence.hashes[page + 1];
        blocks.publish(sequence.pages[page], hash, tokens, sequence.drafting);
    }
    sequence.published = full;
}
