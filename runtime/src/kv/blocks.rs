//! Who holds which page.
#![forbid(unsafe_code)]

use super::prefix::{PageHash, Prefix};

/// The pages of a pool. Each is held by one or more sequences, or cached (nobody holds it, but what
/// it holds is known and may be of use), or free. Page 0, the sink of padded rows, is none of these.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// How many sequences hold each page.
    holders: Vec<u32>,
    held: usize,
    free: Vec<u32>,
    cached: Cached,
    prefix: Prefix,
}

impl Blocks {
    /// All of `total` pages but the sink are free.
    pub(crate) fn new(total: usize) -> Self {
        let mut blocks = Blocks {
            holders: vec![0],
            held: 0,
            free: Vec::new(),
            cached: Cached::default(),
            prefix: Prefix::default(),
        };
        blocks.grow(total);
        blocks
    }

    /// Adds free pages until there are `total`.
    pub(crate) fn grow(&mut self, total: usize) {
        // The lowest page is taken first.
        self.free.splice(0..0, (self.total() as u32..total as u32).rev());
        self.holders.resize(total.max(self.total()), 0);
        self.cached.grow(self.total());
        self.prefix.grow(self.total());
    }

    /// `count` pages, held once: free ones first, then cached ones, the one that was of no use for
    /// longest first. `None` and no change when there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        if count > self.available() {
            return None;
        }
        let taken: Vec<u32> = (0..count).filter_map(|_| self.take_one()).collect();
        Some(taken)
    }

    fn take_one(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let page = self.cached.oldest()?;
                self.cached.remove(page);
                self.prefix.forget(page);
                page
            }
        };
        self.holders[page as usize] = 1;
        self.held += 1;
        Some(page)
    }

    /// One more sequence holds `pages`.
    pub(crate) fn share(&mut self, pages: &[u32]) {
        for page in pages {
            let holders = &mut self.holders[*page as usize];
            if *holders == 0 {
                self.cached.remove(*page);
                self.held += 1;
            }
            *holders += 1;
        }
    }

    /// A sequence gives its pages back, in their order.
    pub(crate) fn release(&mut self, pages: Vec<u32>) {
        // The last page is the first to be taken again: those before it are of no less use.
        for page in pages.into_iter().rev() {
            let holders = &mut self.holders[page as usize];
            assert!(*holders > 0, "page {page} was given back twice");
            *holders -= 1;
            if *holders > 0 {
                continue;
            }
            self.held -= 1;
            match self.prefix.holds(page) {
                true => self.cached.push(page),
                false => self.free.push(page),
            }
        }
    }

    /// Notes that a held page is full, and with what; `drafting` says that its rows of the draft
    /// layer are computed as well.
    pub(crate) fn publish(&mut self, page: u32, hash: PageHash, tokens: &[u32], drafting: bool) {
        debug_assert!(self.holders[page as usize] > 0, "page {page} is held by nobody");
        if let Some(replaced) = self.prefix.publish(page, hash, tokens, drafting)
            && self.holders[replaced as usize] == 0
        {
            self.cached.remove(replaced);
            self.free.push(replaced);
        }
    }

    /// The page that holds `tokens` after what `hash` says, held or cached; with `drafting` one
    /// that also has the rows of the draft layer.
    pub(crate) fn find(&self, hash: &PageHash, tokens: &[u32], drafting: bool) -> Option<u32> {
        self.prefix.find(hash, tokens, drafting)
    }

    /// Pages that may be taken: free and cached.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.cached.len
    }

    /// Pages that nobody holds and whose content is of no use.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Pages that nobody holds but that may be shared again.
    pub(crate) fn cached(&self) -> usize {
        self.cached.len
    }

    /// Pages of sequences.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Pages in all, the sink included.
    pub(crate) fn total(&self) -> usize {
        self.holders.len()
    }

    /// Panics unless every page is what it should be, given the pages of all sequences.
    pub(crate) fn check<'a>(&self, sequences: impl Iterator<Item = &'a [u32]>) {
        let mut holders = vec![0; self.total()];
        for page in sequences.flatten() {
            holders[*page as usize] += 1;
        }
        assert_eq!(holders, self.holders, "holders of pages");
        assert_eq!(holders[0], 0, "the sink is held by nobody");
        assert_eq!(self.held, holders.iter().filter(|count| **count > 0).count(), "held pages");
        let mut unheld = vec![false; self.total()];
        for page in self.free.iter().copied().chain(self.cached.pages()) {
            assert!(holders[page as usize] == 0, "page {page} is held and to be taken");
            assert!(!std::mem::replace(&mut unheld[page as usize], true), "page {page} twice");
        }
        for page in &self.free {
            assert!(!self.prefix.holds(*page), "page {page} is free and has content");
        }
        for page in self.cached.pages() {
            assert!(self.prefix.holds(page), "page {page} is cached without content");
        }
        assert_eq!(
            self.free() + self.held() + self.cached() + 1,
            self.total(),
            "free, held and cached pages and the sink"
        );
        self.prefix.check();
    }
}

/// Cached pages, the oldest first: a ring of neighbours that begins and ends at the sink.
#[derive(Debug, Default)]
struct Cached {
    before: Vec<u32>,
    after: Vec<u32>,
    len: usize,
}

impl Cached {
    fn grow(&mut self, total: usize) {
        self.before.resize(total, 0);
        self.after.resize(total, 0);
    }

    fn oldest(&self) -> Option<u32> {
        (self.len > 0).then(|| self.after[0])
    }

    /// Adds a page as the newest.
    fn push(&mut self, page: u32) {
        let newest = self.before[0];
        self.link(newest, page);
        self.link(page, 0);
        self.len += 1;
    }

    fn remove(&mut self, page: u32) {
        self.link(self.before[page as usize], self.after[page as usize]);
        self.len -= 1;
    }

    fn link(&mut self, before: u32, after: u32) {
        self.after[before as usize] = after;
        self.before[after as usize] = before;
    }

    fn pages(&self) -> impl Iterator<Item = u32> {
        let first = self.oldest();
        std::iter::successors(first, |page| Some(self.after[*page as usize]))
            .take_while(|page| *page != 0)
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

    #[test]
    fn a_shared_page_is_held_until_the_last_one_lets_go() {
        let mut blocks = Blocks::new(3);
        let pages = blocks.take(2).unwrap();
        blocks.share(&pages[..1]);
        blocks.release(pages.clone());
        assert_eq!((blocks.free(), blocks.held()), (1, 1));
        blocks.check([&pages[..1]].into_iter());
        blocks.release(pages[..1].to_vec());
        assert_eq!((blocks.free(), blocks.held()), (2, 0));
    }

    #[test]
    fn the_end_of_the_chain_that_was_of_no_use_for_longest_goes_first() {
        let mut blocks = Blocks::new(6);
        let root = PageHash::root(b"");
        let publish = |blocks: &mut Blocks, pages: &[u32], tokens: [u32; 2]| {
            let first = root.then(&tokens[..1]);
            blocks.publish(pages[0], first, &tokens[..1], false);
            blocks.publish(pages[1], first.then(&tokens[1..]), &tokens[1..], false);
        };
        let (old, new) = (blocks.take(2).unwrap(), blocks.take(2).unwrap());
        publish(&mut blocks, &old, [1, 2]);
        publish(&mut blocks, &new, [3, 4]);
        blocks.release(old.clone());
        blocks.release(new.clone());
        assert_eq!((blocks.free(), blocks.cached()), (1, 4));
        blocks.check(std::iter::empty());

        // A hit makes the older chain the newer one.
        let hit = blocks.find(&root.then(&[1]), &[1], false).unwrap();
        assert_eq!(hit, old[0]);
        blocks.share(&[hit]);
        blocks.release(vec![hit]);
        assert_eq!(blocks.take(4).unwrap(), [5, old[1], new[1], new[0]]);
        assert_eq!(blocks.find(&root.then(&[3]), &[3], false), None);
        assert_eq!(blocks.find(&root.then(&[1]), &[1], false), Some(old[0]));
    }

    #[test]
    fn a_page_that_lost_its_content_is_free() {
        let mut blocks = Blocks::new(3);
        let hash = PageHash::root(b"").then(&[1]);
        let pages = blocks.take(2).unwrap();
        blocks.publish(pages[0], hash, &[1], false);
        blocks.release(vec![pages[0]]);
        blocks.publish(pages[1], hash, &[1], true);
        assert_eq!((blocks.free(), blocks.cached(), blocks.held()), (1, 0, 1));
        blocks.check([&pages[1..]].into_iter());
    }
}
