//! What is left of a step while it is handed out.
#![forbid(unsafe_code)]

use glm_models::forward::BatchShape;

use super::Limits;
use crate::sequence::Sequence;

/// Rows and scores that a step has left.
#[derive(Debug)]
pub(super) struct Room {
    limits: Limits,
    /// Rows that are not given away.
    rows: usize,
    given: BatchShape,
}

impl Room {
    /// All of a step.
    pub(super) fn new(limits: Limits) -> Self {
        let given = BatchShape { tokens: 0, sequences: 0, pages: 0 };
        Room { limits, rows: limits.step_tokens, given }
    }

    /// Rows that are not given away.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Takes a row and as many of `drafts` as there is room for, if each of `others` is to have a
    /// row too. `None` where there is no room at all.
    pub(super) fn one_token(
        &mut self,
        sequence: &Sequence,
        drafts: usize,
        others: usize,
    ) -> Option<usize> {
        if self.rows == 0 {
            return None;
        }
        let pages = self.pages(sequence.longest() + drafts);
        let wanted = (1 + drafts).min(self.rows.saturating_sub(others).max(1));
        // Shares that depend on their sequence only are computed one by one.
        let rows = if self.limits.deterministic { 1 } else { self.scored(pages, wanted) };
        self.give(rows, pages)?;
        Some(rows - 1)
    }

    /// Keeps no more than a chunk; returns the rest.
    pub(super) fn keep_a_chunk(&mut self) -> usize {
        let kept = self.rows.min(self.limits.prefill_chunk);
        std::mem::replace(&mut self.rows, kept) - kept
    }

    /// Gets rows back.
    pub(super) fn give_back(&mut self, rows: usize) {
        self.rows += rows;
    }

    /// Takes as many rows as the sequence may have of those that it has to do; perhaps none.
    pub(super) fn chunk(&mut self, sequence: &Sequence) -> usize {
        let pages = |rows| self.pages(sequence.computed + rows);
        let rows = match self.limits.deterministic {
            true => Some(self.fixed_chunk(sequence)).filter(|rows| *rows <= self.rows),
            false => {
                let wanted = sequence.pending().min(self.limits.prefill_chunk).min(self.rows);
                Some(self.scored(pages(wanted), wanted))
            }
        };
        let rows = rows.unwrap_or(0);
        let pages = pages(rows);
        self.give(rows, pages).map_or(0, |()| rows)
    }

    /// The next rows of a sequence where they depend on nothing but how far it is: up to the next
    /// multiple of a chunk, or the end of the prompt; then one by one. Where a chunk has too many
    /// scores, all chunks from there on are halved until they have not.
    fn fixed_chunk(&self, sequence: &Sequence) -> usize {
        let (computed, chunk) = (sequence.computed, self.limits.prefill_chunk);
        if computed >= sequence.prompt {
            return 1;
        }
        let first = computed / chunk * chunk;
        let end = (first + chunk).min(sequence.prompt);
        let cached = self.pages(first + chunk).next_power_of_two() * self.limits.page_size;
        let most = self.limits.max_scores.map_or(chunk, |scores| rows_within(scores / cached));
        let mut part = chunk;
        while part > most.max(1) {
            part = part.div_ceil(2);
        }
        part.min(end - computed)
    }

    /// How many of `wanted` rows another sequence with `pages` pages may have. The first one may
    /// have one whatever it takes.
    fn scored(&self, pages: usize, wanted: usize) -> usize {
        let Some(scores) = self.limits.max_scores else { return wanted };
        let shape = BatchShape::holding(1, self.given.sequences + 1, self.given.pages.max(pages));
        let cached = shape.sequences * shape.pages * self.limits.page_size;
        let rows = rows_within(scores / cached).saturating_sub(self.given.tokens);
        let least = usize::from(self.given.sequences == 0).min(wanted);
        wanted.min(rows).max(least)
    }

    fn give(&mut self, rows: usize, pages: usize) -> Option<()> {
        if rows == 0 {
            return None;
        }
        self.rows -= rows;
        self.given.tokens += rows;
        self.given.sequences += 1;
        self.given.pages = self.given.pages.max(pages);
        Some(())
    }

    fn pages(&self, rows: usize) -> usize {
        rows.div_ceil(self.limits.page_size)
    }
}

/// The most rows that are no more than `most` with padding.
fn rows_within(most: usize) -> usize {
    match most {
        0 => 0,
        1..64 => 1 << most.ilog2(),
        _ => most / 64 * 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_with_their_padding() {
        for most in 0..300 {
            let rows = rows_within(most);
            let padded = |rows| BatchShape::holding(rows, 1, 1).tokens;
            assert!(rows == 0 || padded(rows) <= most, "{rows} rows within {most}");
            assert!(padded(rows + 1) > most, "{rows} rows are not all within {most}");
        }
    }
}
