//! What an answer may go on with, as far as only the host can tell.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::request::MaskState;
use crate::step::{RowMask, TokenSet};

/// Tokens before the end of a thinking budget from which on the host looks at each of them.
const NEAR: usize = 8;

/// The rules of one answer that depend on the tokens before.
#[derive(Debug, Default)]
pub(crate) struct Constraints {
    pub(crate) mask: Option<Box<dyn MaskState>>,
    /// Two or more ids in a row that must not occur.
    pub(crate) bad_words: Vec<Vec<u32>>,
    /// Tokens before which no end token is chosen.
    pub(crate) min_tokens: usize,
    pub(crate) end_ids: Vec<u32>,
    pub(crate) thinking: Option<Thinking>,
    pub(crate) vocab_size: usize,
}

/// A limit for the tokens of a thought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thinking {
    pub(crate) budget: usize,
    /// `<think>`, where the tokenizer has it as one token.
    pub(crate) open: Option<u32>,
    /// `</think>`
    pub(crate) close: u32,
    /// The prompt ends inside a thought.
    pub(crate) opened: bool,
}

impl Thinking {
    /// Tokens of the thought that `output` ends in; `None` outside of a thought.
    fn spent(&self, output: &[u32]) -> Option<usize> {
        let mut since = self.opened.then_some(0);
        for (index, id) in output.iter().enumerate() {
            if *id == self.close {
                since = None;
            } else if Some(*id) == self.open {
                since = since.or(Some(index + 1));
            }
        }
        since.map(|since| output.len() - since)
    }
}

impl Constraints {
    /// Whether what may come after `output` has to be made by the host, from tokens that it has
    /// read.
    pub(crate) fn waits(&self, output: &[u32]) -> bool {
        self.mask.is_some()
            || !self.bad_words.is_empty()
            || output.len() < self.min_tokens
            || self.thinking.is_some_and(|thinking| {
                // Before a thought begins it can only be near its end when the budget is small.
                let spent = thinking.spent(output).unwrap_or(0);
                spent + NEAR >= thinking.budget
                    && (output.len() < NEAR || thinking.spent(output).is_some())
            })
    }

    /// What may come after `output`, and after each of the drafts that follow it; empty where
    /// nothing is forbidden.
    ///
    /// # Errors
    /// What the request's mask said, or that it allows nothing, or how it panicked.
    pub(crate) fn masks(&mut self, output: &[u32], drafts: &[u32]) -> Result<Vec<RowMask>, String> {
        let mut tokens = output.to_vec();
        let mut masks = Vec::with_capacity(1 + drafts.len());
        masks.push(self.row(&tokens)?);
        let mut permitted = true;
        for draft in drafts {
            tokens.push(*draft);
            // After a draft that is forbidden nothing is accepted: whatever may follow it.
            permitted &= masks.last().is_some_and(|mask| permits(mask, *draft));
            masks.push(if permitted { self.row(&tokens)? } else { RowMask::Free });
        }
        match masks.iter().all(|mask| *mask == RowMask::Free) {
            true => Ok(Vec::new()),
            false => Ok(masks),
        }
    }

    fn row(&mut self, output: &[u32]) -> Result<RowMask, String> {
        if let Some(thinking) = &self.thinking
            && thinking.spent(output).is_some_and(|spent| spent >= thinking.budget)
        {
            return Ok(RowMask::Force(thinking.close));
        }
        let mut banned: Vec<u32> = self
            .bad_words
            .iter()
            .filter_map(|word| word.split_last())
            .filter(|(_, before)| output.ends_with(before))
            .map(|(last, _)| *last)
            .collect();
        if output.len() < self.min_tokens {
            banned.extend(&self.end_ids);
        }
        let Some(mask) = &mut self.mask else {
            return Ok(if banned.is_empty() { RowMask::Free } else { RowMask::Ban(banned) });
        };
        let mut allowed = TokenSet::new(self.vocab_size);
        // A panic of somebody else's code is this request's failure, not the engine's.
        let asked = catch_unwind(AssertUnwindSafe(|| mask.allowed(output, &mut allowed)));
        asked.map_err(|panic| format!("it panicked: {}", panic_message(&*panic)))??;
        for id in banned {
            allowed.remove(id);
        }
        match allowed.is_empty() {
            true => Err("it allows no token".into()),
            false => Ok(RowMask::Allow(allowed)),
        }
    }
}

fn permits(mask: &RowMask, id: u32) -> bool {
    match mask {
        RowMask::Free => true,
        RowMask::Ban(banned) => !banned.contains(&id),
        RowMask::Force(forced) => *forced == id,
        RowMask::Allow(allowed) => allowed.contains(id),
    }
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSE: u32 = 9;

    #[test]
    fn a_spent_budget_forces_the_end_of_the_thought() {
        let thinking = Thinking { budget: 3, open: Some(8), close: CLOSE, opened: true };
        let mut rules = Constraints { thinking: Some(thinking), ..Constraints::default() };
        assert_eq!(rules.masks(&[1, 2], &[]), Ok(vec![]));
        assert_eq!(rules.masks(&[1, 2, 3], &[]), Ok(vec![RowMask::Force(CLOSE)]));
        // With drafts each row has its own count; after the end nothing is forced any more.
        let masks = rules.masks(&[1, 2], &[3, CLOSE, 5]).unwrap();
        assert_eq!(masks, [RowMask::Free, RowMask::Force(CLOSE), RowMask::Free, RowMask::Free]);
        assert!(rules.waits(&[]) && rules.waits(&[1, 2, 3]));
        assert!(!rules.waits(&[1, CLOSE, 3, 4, 5, 6, 7, 0, 1]));
    }

    #[test]
    fn a_thought_that_the_answer_opens_counts_from_there() {
        let thinking = Thinking { budget: 2, open: Some(8), close: CLOSE, opened: false };
        let mut rules = Constraints { thinking: Some(thinking), ..Constraints::default() };
        assert_eq!(rules.masks(&[1, 2, 3, 4], &[]), Ok(vec![]));
        assert_eq!(rules.masks(&[8, 2, 3], &[]), Ok(vec![RowMask::Force(CLOSE)]));
    }

    #[test]
    fn bad_words_and_early_ends_are_banned() {
        let mut rules = Constraints {
            bad_words: vec![vec![1, 2, 3], vec![2, 4]],
            min_tokens: 3,
            end_ids: vec![7],
            ..Constraints::default()
        };
        assert_eq!(rules.masks(&[], &[]), Ok(vec![RowMask::Ban(vec![7])]));
        assert_eq!(rules.masks(&[1, 2], &[]), Ok(vec![RowMask::Ban(vec![3, 4, 7])]));
        assert_eq!(rules.masks(&[5, 1, 2], &[]), Ok(vec![RowMask::Ban(vec![3, 4])]));
        assert_eq!(rules.masks(&[5, 1, 6], &[]), Ok(vec![]));
    }

    #[derive(Debug)]
    struct Only(u32);

    impl MaskState for Only {
        fn allowed(&mut self, output: &[u32], allowed: &mut TokenSet) -> Result<(), String> {
            assert!(output.len() < 3, "too far");
            allowed.insert(self.0 + output.len() as u32);
            if output.len() == 2 { Err("no way on".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn a_mask_that_fails_says_why() {
        let mask = || Constraints {
            mask: Some(Box::new(Only(4))),
            vocab_size: 10,
            ..Constraints::default()
        };
        let masks = mask().masks(&[4], &[]).unwrap();
        assert!(matches!(&masks[..], [RowMask::Allow(set)] if set.contains(5) && !set.contains(4)));
        assert_eq!(mask().masks(&[4, 5], &[]), Err("no way on".into()));
        assert_eq!(mask().masks(&[4, 5, 6], &[]), Err("it panicked: too far".into()));
        // A draft that is forbidden ends the asking.
        assert!(mask().masks(&[4], &[9, 5, 9, 9]).is_ok());
        let mut empty = mask();
        empty.min_tokens = 5;
        empty.end_ids = vec![4];
        assert_eq!(empty.masks(&[], &[]), Err("it allows no token".into()));
    }
}
