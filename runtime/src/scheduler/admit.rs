//! Which waiting sequences start, and with which pages.
#![forbid(unsafe_code)]

use std::ops::Bound;

use super::{Limits, Scheduler};
use crate::sequence::Rank;
use crate::step::SequenceId;

impl Scheduler {
    /// Starts waiting sequences in their order, as long as there are slots, pages and rows.
    pub(super) fn admit(&mut self) {
        let mut rows = self.rows_left();
        let mut after = Bound::Unbounded;
        while rows > 0 && !self.free_slots.is_empty() {
            let Some((&rank, &id)) = self.waiting.range((after, Bound::Unbounded)).next() else {
                break;
            };
            after = Bound::Excluded(rank);
            if !self.may_start(id) {
                continue;
            }
            // The first one that finds no room keeps those behind it waiting: it must not starve.
            if self.blocked == Some(id) || !self.start(id) {
                self.blocked = Some(id);
                break;
            }
            let sequence = &self.sequences[&id];
            let pending = sequence.pending();
            if pending == 1 {
                self.due.push((id, 0));
            }
            rows = rows.saturating_sub(pending.min(self.limits.prefill_chunk));
        }
    }

    /// About how many rows of the step are left for sequences that start.
    fn rows_left(&self) -> usize {
        let left = self.limits.step_tokens.saturating_sub(self.due.len());
        let left = if self.due.is_empty() { left } else { left.min(self.limits.prefill_chunk) };
        left.saturating_sub(self.rows_of_chunks())
    }

    /// Rows that running sequences with more than one token to do would take.
    pub(super) fn rows_of_chunks(&self) -> usize {
        let pending = |id| self.sequences[id].pending();
        let long = self.running.iter().map(pending).filter(|pending| *pending > 1);
        long.map(|pending| pending.min(self.limits.prefill_chunk)).sum()
    }

    fn may_start(&self, id: SequenceId) -> bool {
        let sequence = &self.sequences[&id];
        let first = sequence.after.and_then(|first| self.sequences.get(&first));
        // What is to be computed again has to be known first.
        sequence.is_due()
            && sequence.unread.is_empty()
            && first.is_none_or(|first| first.computed >= first.prompt)
    }

    /// Gives a waiting sequence a slot, and pages for all its tokens and one more; `false` where
    /// there are too few.
    fn start(&mut self, id: SequenceId) -> bool {
        let shared = self.shared_pages(id);
        let sequence = &self.sequences[&id];
        let rows = (sequence.tokens.len() + 1).min(sequence.limit);
        let missing = rows.div_ceil(self.limits.page_size) - shared.len();
        let (rank, priority) = (sequence.rank, sequence.priority);
        // Held first, so that they are not taken for what is missing.
        self.blocks.share(&shared);
        let Some(taken) = self.take_for(missing, rank, priority) else {
            self.blocks.release(shared);
            return false;
        };
        let Some(slot) = self.free_slots.pop() else {
            self.blocks.release(taken);
            self.blocks.release(shared);
            return false;
        };
        let Some(sequence) = self.sequences.get_mut(&id) else { return false };
        sequence.computed = shared.len() * self.limits.page_size;
        sequence.cached.get_or_insert(sequence.computed);
        sequence.published = shared.len();
        sequence.pages = shared;
        sequence.pages.extend(taken);
        sequence.slot = Some(slot);
        self.opened.push((id, slot));
        self.waiting.remove(&rank);
        let place = self.running.partition_point(|other| self.sequences[other].rank < rank);
        self.running.insert(place, id);
        true
    }

    /// `count` pages for a sequence that waits. Running ones stop for it when they have both a lower
    /// priority and a later rank, from the last on.
    fn take_for(&mut self, count: usize, rank: Rank, priority: i32) -> Option<Vec<u32>> {
        loop {
            if let Some(pages) = self.blocks.take(count) {
                return Some(pages);
            }
            let below = |id: &&SequenceId| {
                let other = &self.sequences[*id];
                other.rank > rank && other.priority < priority
            };
            let pages: usize =
                self.running.iter().filter(below).map(|id| self.sequences[id].pages.len()).sum();
            // In vain it stops nobody.
            if self.blocks.available() + pages < count {
                return None;
            }
            let last = *self.running.iter().rev().find(below)?;
            self.preempt(last);
        }
    }

    /// Full pages with what the sequence begins with: at least one row is left to compute.
    fn shared_pages(&mut self, id: SequenceId) -> Vec<u32> {
        let page_size = self.limits.page_size;
        let Some(sequence) = self.sequences.get_mut(&id) else { return Vec::new() };
        if sequence.logits_of_prompt {
            return Vec::new();
        }
        let mut most = sequence.tokens.len() - 1;
        if self.limits.deterministic {
            most = most.min(sequence.prompt);
        }
        let mut pages = Vec::new();
        if self.limits.prefix_cache {
            let full = most / page_size;
            sequence.name_pages(full, page_size);
            let hashes = &sequence.hashes[1..=full];
            let tokens = sequence.tokens.chunks_exact(page_size);
            let find = |(hash, tokens)| self.blocks.find(hash, tokens, sequence.drafting);
            pages.extend(hashes.iter().zip(tokens).map_while(find));
        }
        let sequence = &self.sequences[&id];
        if let Some(first) = sequence.after.and_then(|first| self.sequences.get(&first))
            && (first.drafting || !sequence.drafting)
        {
            let computed = first.computed.min(first.prompt);
            let alike = first.tokens[..computed].iter().zip(&sequence.tokens[..most]);
            let alike = alike.take_while(|(a, b)| a == b).count() / page_size;
            if alike > pages.len() {
                pages = first.pages[..alike].to_vec();
            }
        }
        if self.limits.deterministic {
            // A chunk is computed as a whole, or not at all.
            let unit = chunk_and_page(&self.limits);
            pages.truncate(pages.len() * page_size / unit * unit / page_size);
        }
        pages
    }
}

/// The least number of rows that are both whole chunks and whole pages.
fn chunk_and_page(limits: &Limits) -> usize {
    let (mut a, mut b) = (limits.prefill_chunk, limits.page_size);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    limits.prefill_chunk / a * limits.page_size
}
