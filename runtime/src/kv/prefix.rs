//! Which page holds what, so that sequences that begin alike share pages.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// Names a full page by its tokens and all tokens before them:
/// `SHA-256(hash of the page before, tokens)`, the salt standing before the first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PageHash([u8; 32]);

impl PageHash {
    /// What stands before the first page of sequences with this salt.
    pub(crate) fn root(salt: &[u8]) -> Self {
        PageHash(Sha256::digest(salt).into())
    }

    /// The hash of the page that follows with `tokens`.
    pub(crate) fn then(&self, tokens: &[u32]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        for token in tokens {
            hasher.update(token.to_le_bytes());
        }
        PageHash(hasher.finalize().into())
    }
}

/// What a page holds.
#[derive(Debug)]
struct Content {
    hash: PageHash,
    tokens: Box<[u32]>,
    /// Its rows of the draft layer are computed too.
    drafting: bool,
}

/// Full pages by what they hold. At most one page stands for the same tokens.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    pages: HashMap<PageHash, u32>,
    contents: Vec<Option<Content>>,
}

impl Prefix {
    /// Room for pages below `total`.
    pub(crate) fn grow(&mut self, total: usize) {
        self.contents.resize_with(total.max(self.contents.len()), || None);
    }

    /// The page that holds `tokens` after what `hash` says; with `drafting` one that also has the
    /// rows of the draft layer. The tokens are compared, so that a wrong answer takes two equal
    /// hashes of different tokens *and* equal tokens in the page.
    pub(crate) fn find(&self, hash: &PageHash, tokens: &[u32], drafting: bool) -> Option<u32> {
        let page = *self.pages.get(hash)?;
        let content = self.contents[page as usize].as_ref()?;
        (*content.tokens == *tokens && (content.drafting || !drafting)).then_some(page)
    }

    /// Notes what `page` holds, and gives back the page that held the same and no longer stands
    /// for it. `None` and no change when the old one is as good.
    pub(crate) fn publish(
        &mut self,
        page: u32,
        hash: PageHash,
        tokens: &[u32],
        drafting: bool,
    ) -> Option<u32> {
        if self.holds(page) || self.find(&hash, tokens, drafting).is_some() {
            return None;
        }
        let tokens = tokens.into();
        self.contents[page as usize] = Some(Content { hash, tokens, drafting });
        let replaced = self.pages.insert(hash, page)?;
        self.contents[replaced as usize] = None;
        Some(replaced)
    }

    /// Whether `page` stands for what it holds.
    pub(crate) fn holds(&self, page: u32) -> bool {
        self.contents[page as usize].is_some()
    }

    /// `page` will hold something else.
    pub(crate) fn forget(&mut self, page: u32) {
        if let Some(content) = self.contents[page as usize].take() {
            self.pages.remove(&content.hash);
        }
    }

    /// Panics unless pages and contents name each other.
    pub(crate) fn check(&self) {
        let named = self.contents.iter().flatten().count();
        assert_eq!(named, self.pages.len(), "pages with content and hashes");
        for (hash, page) in &self.pages {
            let content = self.contents[*page as usize].as_ref();
            assert_eq!(content.map(|content| content.hash), Some(*hash), "hash of page {page}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_says_all_that_came_before() {
        let root = PageHash::root(b"");
        let page = root.then(&[1, 2]);
        assert_eq!(page, PageHash::root(b"").then(&[1, 2]));
        assert_ne!(page, PageHash::root(b"other").then(&[1, 2]));
        assert_ne!(page, root.then(&[1, 3]));
        assert_ne!(page.then(&[1, 2]), page);
    }

    #[test]
    fn equal_hashes_of_different_tokens_are_no_hit() {
        let hash = PageHash::root(b"").then(&[1, 2]);
        let mut prefix = Prefix::default();
        prefix.grow(4);
        assert_eq!(prefix.publish(2, hash, &[1, 2], false), None);
        assert_eq!(prefix.find(&hash, &[1, 2], false), Some(2));
        assert_eq!(prefix.find(&hash, &[1, 3], false), None);
        prefix.forget(2);
        assert_eq!(prefix.find(&hash, &[1, 2], false), None);
        prefix.check();
    }

    #[test]
    fn a_page_with_draft_rows_takes_the_place_of_one_without() {
        let hash = PageHash::root(b"").then(&[1, 2]);
        let mut prefix = Prefix::default();
        prefix.grow(4);
        prefix.publish(1, hash, &[1, 2], false);
        assert_eq!(prefix.find(&hash, &[1, 2], true), None);
        assert_eq!(prefix.publish(2, hash, &[1, 2], true), Some(1));
        assert_eq!(prefix.find(&hash, &[1, 2], true), Some(2));
        assert_eq!(prefix.find(&hash, &[1, 2], false), Some(2));
        assert_eq!(prefix.publish(3, hash, &[1, 2], false), None);
        assert!(!prefix.holds(1) && !prefix.holds(3));
        prefix.check();
    }
}
