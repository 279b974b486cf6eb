//! How the rows of a step are handed out.
#![forbid(unsafe_code)]

use super::room::Room;
use super::{Limits, PATIENCE, Scheduler};
use crate::sequence::{Sequence, Unread};
use crate::step::{SequenceId, Share, StepPlan};

impl Scheduler {
    /// Hands out the rows of the step.
    pub(super) fn share_out(&mut self, plan: &mut StepPlan) {
        let mut room = Room::new(self.limits);
        let starved = self.step - self.last_chunk > PATIENCE;
        if starved {
            // Those with one token to do have used up all steps for long.
            let rest = room.keep_a_chunk();
            self.share_chunks(&mut room, plan);
            room.give_back(rest);
        }
        let mut due = std::mem::take(&mut self.due);
        let rows: usize = due.iter().map(|(_, drafts)| 1 + drafts).sum();
        if rows > room.rows() || self.limits.max_scores.is_some() {
            // Perhaps not all of them get their turn: those first that had none for longest.
            due.sort_by_key(|(id, _)| self.sequences[id].last_step);
        }
        // Drafts leave room for a row of each, and for a chunk.
        let chunk = self.rows_of_chunks().min(self.limits.prefill_chunk);
        for (index, (id, drafts)) in due.iter().enumerate() {
            let Some(sequence) = self.sequences.get_mut(id) else { continue };
            let others = due.len() - index - 1 + if starved { 0 } else { chunk };
            let Some(drafts) = room.one_token(sequence, *drafts, others) else { break };
            sequence.last_step = self.step;
            plan.shares.push(share(sequence, *id, (1, drafts), plan.propose, &self.limits));
        }
        if !starved {
            // The next step is not to be long in coming for those with one token to do.
            if !plan.shares.is_empty() {
                room.keep_a_chunk();
            }
            self.share_chunks(&mut room, plan);
        }
        self.due = due;
    }

    /// Hands out rows to those with more than one token to do.
    fn share_chunks(&mut self, room: &mut Room, plan: &mut StepPlan) {
        let mut left_out = false;
        for id in &self.running {
            let Some(sequence) = self.sequences.get_mut(id) else { continue };
            if !sequence.is_due() || sequence.pending() == 1 || sequence.last_step == self.step {
                continue;
            }
            let count = room.chunk(sequence);
            if count == 0 {
                left_out = true;
                break;
            }
            sequence.last_step = self.step;
            self.last_chunk = self.step;
            plan.shares.push(share(sequence, *id, (count, 0), plan.propose, &self.limits));
        }
        if !left_out {
            self.last_chunk = self.step;
        }
    }
}

/// A sequence's part of a step: `rows` of tokens and of drafts, for which it has the pages.
fn share(
    sequence: &mut Sequence,
    id: SequenceId,
    rows: (usize, usize),
    propose: usize,
    limits: &Limits,
) -> Share {
    let (count, drafts) = rows;
    let fed = !sequence.unread.is_empty();
    let shift = sequence.drafts_in_flight();
    let (first, end) = (sequence.computed, sequence.computed + count);
    let sample = end == sequence.tokens.len() + sequence.unread.len();
    let proposed = if sample && sequence.drafting { propose } else { 0 };
    let most = end + shift + drafts + proposed.saturating_sub(1);
    let pages = most.div_ceil(limits.page_size).min(sequence.pages.len());
    let share = Share {
        sequence: Some(id),
        slot: sequence.slot.unwrap_or_default(),
        tokens: if fed { vec![0] } else { sequence.tokens[first..end].to_vec() },
        fed,
        drafts,
        computed: first,
        shifted: shift > 0,
        pages: sequence.pages[..pages].to_vec(),
        next_token: sequence.tokens.get(end).copied().filter(|_| !fed),
        sample,
        drafting: sequence.drafting,
        ..Share::default()
    };
    sequence.computed = end;
    if sample {
        sequence.unread.push_back(Unread { drafts, counts: true });
        sequence.proposed = proposed;
        sequence.logits_of_prompt = false;
    }
    share
}
