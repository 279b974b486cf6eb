//! One producer, and one consumer that blocks or is polled.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::sync::{Arc, Condvar, Mutex, lock, wait};

/// A queue without a bound: the answer that goes through it has one.
pub(crate) fn stream<T>() -> (StreamSender<T>, StreamReceiver<T>) {
    let state =
        State { items: VecDeque::new(), waker: None, sender_gone: false, receiver_gone: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (StreamSender { shared: shared.clone() }, StreamReceiver { shared })
}

/// Puts items in; the stream ends after them when it is dropped.
pub(crate) struct StreamSender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> StreamSender<T> {
    /// Puts `item` in; false, and the item is dropped, when the receiver is gone.
    pub(crate) fn send(&self, item: T) -> bool {
        let mut state = lock(&self.shared.state);
        if state.receiver_gone {
            drop(state);
            drop(item);
            return false;
        }
        state.items.push_back(item);
        let waker = state.waker.take();
        drop(state);
        self.shared.wake(waker);
        true
    }

    /// Whether the receiver is gone.
    pub(crate) fn is_gone(&self) -> bool {
        lock(&self.shared.state).receiver_gone
    }
}

impl<T> Drop for StreamSender<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.sender_gone = true;
        let waker = state.waker.take();
        drop(state);
        self.shared.wake(waker);
    }
}

/// Takes items out, in the order in which they were put in.
pub(crate) struct StreamReceiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> StreamReceiver<T> {
    /// The next item, waited for by blocking the thread; `None` after the last.
    pub(crate) fn blocking_next(&mut self) -> Option<T> {
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if state.sender_gone {
                return None;
            }
            state = wait(&self.shared.changed, state);
        }
    }
}

impl<T> Stream for StreamReceiver<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = lock(&self.shared.state);
        if let Some(item) = state.items.pop_front() {
            return Poll::Ready(Some(item));
        }
        if state.sender_gone {
            return Poll::Ready(None);
        }
        let known = state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        let old = match known {
            true => None,
            false => state.waker.replace(context.waker().clone()),
        };
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl<T> Drop for StreamReceiver<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.receiver_gone = true;
        let left = (std::mem::take(&mut state.items), state.waker.take());
        drop(state);
        drop(left);
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    /// Wakes the receiver, however it waits.
    fn wake(&self, waker: Option<Waker>) {
        self.changed.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct State<T> {
    items: VecDeque<T>,
    /// Of the task that was told to wait.
    waker: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

impl<T> fmt::Debug for StreamSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for StreamReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReceiver").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_comes_before_the_end() {
        let (sender, mut receiver) = stream();
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(Pin::new(&mut receiver).poll_next(&mut context), Poll::Pending);
        assert!(sender.send(1) && sender.send(2) && !sender.is_gone());
        assert_eq!(Pin::new(&mut receiver).poll_next(&mut context), Poll::Ready(Some(1)));
        drop(sender);
        assert_eq!(receiver.blocking_next(), Some(2));
        assert_eq!(receiver.blocking_next(), None);
        assert_eq!(Pin::new(&mut receiver).poll_next(&mut context), Poll::Ready(None));
    }

    #[test]
    fn a_dropped_receiver_is_seen() {
        let (sender, receiver) = stream();
        assert!(sender.send(1));
        drop(receiver);
        assert!(sender.is_gone() && !sender.send(2));
    }
}
