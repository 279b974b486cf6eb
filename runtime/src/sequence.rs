//! A sequence as the engine sees it: tokens, how many of them are computed, and pages.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::kv::{Blocks, PageHash};
use crate::step::SequenceId;

/// Tokens on their way through the model. A step catches `computed` up with the length.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// What the host knows: the prompt, then what was sampled and read.
    pub(crate) tokens: Vec<u32>,
    /// Rows of the cache that are computed, or will be by steps that were launched. Drafts count
    /// once they are accepted.
    pub(crate) computed: usize,
    pub(crate) pages: Vec<u32>,
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Most tokens, prompt and answer.
    pub(crate) limit: usize,
    pub(crate) priority: i32,
    pub(crate) rank: Rank,
    /// The cache of the draft layer is kept.
    pub(crate) drafting: bool,
    /// Every row of the prompt has to be computed once, for what is reported of it.
    pub(crate) logits_of_prompt: bool,
    /// Starts once that one's prompt is computed.
    pub(crate) after: Option<SequenceId>,
    /// Is not scheduled while it has an unread token.
    pub(crate) waits: bool,
    /// Its place among the running ones.
    pub(crate) slot: Option<u32>,
    /// Steps that sampled and are not read, the oldest first.
    pub(crate) unread: VecDeque<Unread>,
    /// Drafts that its last step leaves on the device.
    pub(crate) proposed: usize,
    /// The step of its last share.
    pub(crate) last_step: u64,
    /// Rows that were there at its first start.
    pub(crate) cached: Option<usize>,
    /// Hashes of its full pages as far as they were needed, behind that of the salt.
    pub(crate) hashes: Vec<PageHash>,
    /// Full pages whose content is known to the prefix cache.
    pub(crate) published: usize,
}

/// A step that sampled for a sequence and is not read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unread {
    /// Drafts that it verifies.
    pub(crate) drafts: usize,
    /// The rows that it computes are still the sequence's.
    pub(crate) counts: bool,
}

/// The order in which sequences are served, the first one the least: by priority, one that arrived
/// `AGEING` steps earlier standing as one of a priority higher by 1, then by arrival.
///
/// The order of two sequences never changes. So nobody is overtaken for ever, and two sequences
/// never take turns in driving each other out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Rank {
    weight: i64,
    arrival: u64,
}

impl Rank {
    /// Steps of waiting that are worth a priority higher by 1.
    pub(crate) const AGEING: u64 = 256;

    /// The rank of the sequence number `arrival`, which came in `step`.
    pub(crate) fn new(priority: i32, step: u64, arrival: u64) -> Self {
        let weight = step as i64 - i64::from(priority) * Self::AGEING as i64;
        Rank { weight, arrival }
    }
}

impl Sequence {
    /// A sequence of which nothing is computed.
    pub(crate) fn new(tokens: Vec<u32>) -> Self {
        Sequence {
            prompt: tokens.len(),
            tokens,
            computed: 0,
            pages: Vec::new(),
            limit: usize::MAX,
            priority: 0,
            rank: Rank::default(),
            drafting: false,
            logits_of_prompt: false,
            after: None,
            waits: false,
            slot: None,
            unread: VecDeque::new(),
            proposed: 0,
            last_step: 0,
            cached: None,
            hashes: Vec::new(),
            published: 0,
        }
    }

    /// Tokens that are not computed yet. With an unread token it is at most one, whose value only
    /// the device knows.
    pub(crate) fn pending(&self) -> usize {
        (self.tokens.len() + self.unread.len()).saturating_sub(self.computed)
    }

    /// Tokens that it has at most once all launched steps are read.
    pub(crate) fn longest(&self) -> usize {
        self.tokens.len() + self.unread.iter().map(|unread| 1 + unread.drafts).sum::<usize>()
    }

    /// Drafts of the step that is not read.
    pub(crate) fn drafts_in_flight(&self) -> usize {
        self.unread.iter().map(|unread| unread.drafts).sum()
    }

    /// Whether a step may take it further now.
    pub(crate) fn is_due(&self) -> bool {
        let unread = self.unread.len();
        self.pending() > 0
            && self.tokens.len() + unread < self.limit
            && unread <= usize::from(!self.waits)
    }

    /// Drafts that its next step verifies: those that are there, as far as there is room.
    pub(crate) fn drafts(&self) -> usize {
        self.proposed.min(self.limit.saturating_sub(self.longest() + 1))
    }

    /// Takes pages until they hold `tokens`; `None` and no change when too few are free.
    pub(crate) fn reserve(
        &mut self,
        tokens: usize,
        page_size: usize,
        blocks: &mut Blocks,
    ) -> Option<()> {
        let missing = tokens.div_ceil(page_size).saturating_sub(self.pages.len());
        if missing > 0 {
            self.pages.extend(blocks.take(missing)?);
        }
        Some(())
    }

    /// Sees to it that the first `count` pages, which are full of known tokens, have their hashes.
    pub(crate) fn name_pages(&mut self, count: usize, page_size: usize) {
        while self.hashes.len() <= count {
            let page = self.hashes.len() - 1;
            let tokens = &self.tokens[page * page_size..][..page_size];
            let hash = self.hashes[page].then(tokens);
            self.hashes.push(hash);
        }
    }

    /// Forgets what was computed, and gives its pages and its slot for others.
    pub(crate) fn stop(&mut self) -> (Vec<u32>, Option<u32>) {
        self.computed = 0;
        self.proposed = 0;
        self.published = 0;
        for unread in &mut self.unread {
            unread.counts = false;
        }
        (std::mem::take(&mut self.pages), self.slot.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_taken_when_a_page_is_full() {
        let mut blocks = Blocks::new(3);
        let mut sequence = Sequence::new(vec![7; 5]);
        assert_eq!(sequence.pending(), 5);
        sequence.reserve(4, 4, &mut blocks).unwrap();
        assert_eq!(sequence.pages, [1]);
        sequence.reserve(5, 4, &mut blocks).unwrap();
        assert_eq!(sequence.pages, [1, 2]);
        assert_eq!(sequence.reserve(9, 4, &mut blocks), None);
        assert_eq!(sequence.pages, [1, 2]);
    }

    #[test]
    fn waiting_is_worth_a_priority() {
        let old = Rank::new(0, 0, 0);
        assert!(old < Rank::new(0, 0, 1), "first come");
        assert!(Rank::new(1, 10, 2) < old, "priority");
        assert!(old < Rank::new(1, Rank::AGEING, 3), "age");
        assert!(Rank::new(i32::MAX, 0, 4) < Rank::new(i32::MIN, 0, 5));
    }

    #[test]
    fn drafts_end_where_the_answer_must() {
        let mut sequence = Sequence::new(vec![7; 5]);
        sequence.computed = 5;
        sequence.proposed = 4;
        sequence.unread.push_back(Unread { drafts: 2, counts: true });
        // 5 known tokens, at most 3 more on their way: one of at most 4 may follow.
        for (limit, drafts) in [(20, 4), (12, 3), (10, 1), (9, 0), (8, 0)] {
            sequence.limit = limit;
            assert_eq!(sequence.drafts(), drafts, "limit {limit}");
            assert!(sequence.is_due());
        }
        sequence.limit = 6;
        assert!(!sequence.is_due());
    }
}
