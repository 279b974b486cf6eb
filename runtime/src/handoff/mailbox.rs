//! Many producers, and one thread that takes everything at once.

use std::fmt;

use super::sync::{Arc, Condvar, Mutex, lock, wait};

/// A mailbox for items `T` that is closed with a reason `R`.
pub(crate) fn mailbox<T, R>() -> (MailboxSender<T, R>, Mailbox<T, R>) {
    let state = State { items: Vec::new(), senders: 1, end: End::Open };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (MailboxSender { shared: shared.clone() }, Mailbox { shared })
}

/// Puts items into the mailbox.
pub(crate) struct MailboxSender<T, R> {
    shared: Arc<Shared<T, R>>,
}

/// An item that was not taken, and why; `None` when the mailbox was dropped and not closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused<T, R> {
    /// The item.
    pub(crate) item: T,
    /// What the mailbox was closed with.
    pub(crate) reason: Option<R>,
}

impl<T, R: Clone> MailboxSender<T, R> {
    /// Puts `item` in; never blocks for long.
    ///
    /// # Errors
    /// Gives the item back when nobody will take it.
    pub(crate) fn send(&self, item: T) -> Result<(), Refused<T, R>> {
        let mut state = lock(&self.shared.state);
        match &state.end {
            End::Open => {}
            End::Closed(reason) => return Err(Refused { item, reason: Some(reason.clone()) }),
            End::Dropped => return Err(Refused { item, reason: None }),
        }
        state.items.push(item);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl<T, R> Clone for MailboxSender<T, R> {
    fn clone(&self) -> Self {
        lock(&self.shared.state).senders += 1;
        MailboxSender { shared: self.shared.clone() }
    }
}

impl<T, R> Drop for MailboxSender<T, R> {
    fn drop(&mut self) {
        lock(&self.shared.state).senders -= 1;
        self.shared.changed.notify_one();
    }
}

/// Takes items out.
pub(crate) struct Mailbox<T, R> {
    shared: Arc<Shared<T, R>>,
}

impl<T, R> Mailbox<T, R> {
    /// What is there now, the oldest first.
    pub(crate) fn take_now(&self) -> Vec<T> {
        std::mem::take(&mut lock(&self.shared.state).items)
    }

    /// Sleeps until there is something and takes it; `None` when nothing is left and nothing can
    /// come any more.
    pub(crate) fn wait(&self) -> Option<Vec<T>> {
        let mut state = lock(&self.shared.state);
        while state.is_quiet() {
            state = wait(&self.shared.changed, state);
        }
        state.take()
    }

    /// Refuses everything from now on with `reason`; returns what was not taken yet. Closing once
    /// more changes the reason.
    pub(crate) fn close(&self, reason: R) -> Vec<T> {
        self.end(End::Closed(reason))
    }

    fn end(&self, end: End<R>) -> Vec<T> {
        let mut state = lock(&self.shared.state);
        let before = std::mem::replace(&mut state.end, end);
        let left = std::mem::take(&mut state.items);
        drop(state);
        drop(before);
        left
    }
}

impl<T, R> Drop for Mailbox<T, R> {
    fn drop(&mut self) {
        // A reason that was given stays.
        let closed = matches!(lock(&self.shared.state).end, End::Closed(_));
        if !closed {
            drop(self.end(End::Dropped));
        }
    }
}

struct Shared<T, R> {
    state: Mutex<State<T, R>>,
    changed: Condvar,
}

struct State<T, R> {
    items: Vec<T>,
    senders: usize,
    end: End<R>,
}

/// Whether items are still taken.
enum End<R> {
    Open,
    Closed(R),
    Dropped,
}

impl<T, R> State<T, R> {
    /// There is nothing to take, but there may be.
    fn is_quiet(&self) -> bool {
        self.items.is_empty() && self.senders > 0 && matches!(self.end, End::Open)
    }

    /// What is there; `None` for nothing.
    fn take(&mut self) -> Option<Vec<T>> {
        Some(std::mem::take(&mut self.items)).filter(|items| !items.is_empty())
    }
}

impl<T, R> fmt::Debug for MailboxSender<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailboxSender").finish_non_exhaustive()
    }
}

impl<T, R> fmt::Debug for Mailbox<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_out_at_once_and_in_order() {
        let (sender, mailbox) = mailbox::<u32, ()>();
        let other = sender.clone();
        assert!(mailbox.take_now().is_empty());
        for (sender, item) in [(&sender, 1), (&other, 2), (&sender, 3)] {
            sender.send(item).unwrap();
        }
        assert_eq!(mailbox.wait(), Some(vec![1, 2, 3]));
        other.send(4).unwrap();
        drop((sender, other));
        assert_eq!(mailbox.wait(), Some(vec![4]));
        assert_eq!(mailbox.wait(), None);
    }

    #[test]
    fn a_closed_mailbox_hands_everything_back() {
        let (sender, mailbox) = mailbox();
        sender.send(1).unwrap();
        assert_eq!(mailbox.close("full"), [1]);
        assert_eq!(sender.send(2), Err(Refused { item: 2, reason: Some("full") }));
        assert_eq!(mailbox.wait(), None);
        drop(mailbox);
        assert_eq!(sender.send(3), Err(Refused { item: 3, reason: Some("full") }));
    }

    #[test]
    fn a_dropped_mailbox_refuses_without_a_reason() {
        let (sender, mailbox) = mailbox::<u32, ()>();
        drop(mailbox);
        assert_eq!(sender.send(1), Err(Refused { item: 1, reason: None }));
    }
}
