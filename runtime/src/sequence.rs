//! A sequence as the engine sees it: tokens, how many of them are computed, and pages.

use crate::kv::Blocks;

/// Tokens on their way through the model. A step catches `computed` up with the length.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    pub(crate) computed: usize,
    pub(crate) pages: Vec<u32>,
}

impl Sequence {
    /// A sequence of which nothing is computed.
    pub(crate) fn new(tokens: Vec<u32>) -> Self {
        Sequence { tokens, computed: 0, pages: Vec::new() }
    }

    /// Tokens that are not computed yet.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Takes pages until they hold `tokens`; `None` and no change when too few are free.
    pub(crate) fn reserve(
        &mut self,
        tokens: usize,
        page_size: usize,
        blocks: &mut Blocks,
    ) -> Option<()> {
        let missing = tokens.div_ceil(page_size).saturating_sub(self.pages.len());
        self.pages.extend(blocks.take(missing)?);
        Some(())
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
}
