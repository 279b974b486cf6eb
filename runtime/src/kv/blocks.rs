/// The free pages of a pool. Page 0, the sink of padded rows, is never handed out.
#[derive(Debug)]
pub(crate) struct Blocks {
    free: Vec<u32>,
    total: usize,
}

impl Blocks {
    /// All of `total` pages but the sink are free.
    pub(crate) fn new(total: usize) -> Self {
        let mut blocks = Blocks { free: Vec::new(), total: 1 };
        blocks.grow(total);
        blocks
    }

    /// Adds free pages until there are `total`.
    pub(crate) fn grow(&mut self, total: usize) {
        // The lowest page is taken first.
        self.free.splice(0..0, (self.total as u32..total as u32).rev());
        self.total = self.total.max(total);
    }

    /// `count` pages, or `None` and no change when fewer are free.
    pub(crate) fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        let left = self.free.len().checked_sub(count)?;
        let mut taken = self.free.split_off(left);
        taken.reverse();
        Some(taken)
    }

    /// Gives pages back.
    pub(crate) fn release(&mut self, pages: Vec<u32>) {
        self.free.extend(pages);
        debug_assert!(self.free.len() < self.total, "a page was given back twice");
    }

    /// Pages in all, the sink included.
    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sink_is_never_taken_and_nothing_is_lost() {
        let mut blocks = Blocks::new(4);
        assert_eq!(blocks.take(4), None);
        let pages = blocks.take(3).unwrap();
        assert_eq!(pages, [1, 2, 3]);
        assert_eq!(blocks.take(1), None);
        blocks.grow(6);
        assert_eq!(blocks.take(2), Some(vec![4, 5]));
        blocks.release(pages);
        let mut again = blocks.take(3).unwrap();
        again.sort_unstable();
        assert_eq!(again, [1, 2, 3]);
        assert_eq!(blocks.total(), 6);
    }
}
