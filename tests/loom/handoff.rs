//! The hand-offs between threads (`runtime/src/handoff`) in every order in which their threads can
//! meet. Loom runs each test once for each order and fails on one that blocks for ever, so that a
//! wake-up that can be lost is found.
//!
//! Loom's switch would recompile every dependency of runtime. The module is included by path
//! instead and needs nothing but futures-core.

#![cfg(loom)]

#[path = "../../runtime/src/handoff/mod.rs"]
mod handoff;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use handoff::{Mailbox, MailboxSender, StreamReceiver, StreamSender, mailbox, stream};
use loom::sync::{Condvar, Mutex};
use loom::thread;

type Sender = MailboxSender<u32, &'static str>;

/// Every order in which three threads meet with at most three switches away from a thread that
/// could go on: all orders are too many, and faults need few such switches.
fn with_three_threads(body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(body);
}

/// Everything that comes until the end.
fn drain(mailbox: &Mailbox<u32, &'static str>) -> Vec<u32> {
    std::iter::from_fn(|| mailbox.wait()).flatten().collect()
}

/// Sends in a thread of its own; returns the items that came back.
fn sending(sender: Sender, items: &'static [u32]) -> thread::JoinHandle<Vec<u32>> {
    thread::spawn(move || {
        let refused = items.iter().filter_map(|item| sender.send(*item).err());
        refused
            .map(|refused| {
                assert!(matches!(refused.reason, Some("closed") | None));
                refused.item
            })
            .collect()
    })
}

/// Two producers: every item arrives once, those of one producer in order, and the wait after them
/// ends when the last of the producers goes, whichever goes last and whenever (send against last
/// drop).
#[test]
fn every_item_arrives_once_and_then_the_end() {
    with_three_threads(|| {
        let (sender, mailbox) = mailbox();
        let others = [sending(sender.clone(), &[1, 2]), sending(sender, &[10])];
        let mut got = drain(&mailbox);
        let of_first: Vec<u32> = got.iter().copied().filter(|item| *item < 10).collect();
        assert_eq!(of_first, [1, 2]);
        got.sort_unstable();
        assert_eq!(got, [1, 2, 10]);
        for other in others {
            assert_eq!(other.join().unwrap(), []);
        }
    });
}

/// A thread that waits is woken by a send, however the two meet (no lost wake-up), though the
/// sender stays.
#[test]
fn a_waiting_thread_is_woken_by_a_send() {
    loom::model(|| {
        let (sender, mailbox) = mailbox::<u32, ()>();
        let other = thread::spawn(move || {
            sender.send(1).unwrap();
            sender
        });
        assert_eq!(mailbox.wait(), Some(vec![1]));
        drop(other.join().unwrap());
        assert_eq!(mailbox.wait(), None);
    });
}

/// Close against sends: each item is taken before, handed back by the close, or handed back to its
/// sender; none is lost and none is there twice. Nothing comes after the close.
#[test]
fn a_close_loses_nothing() {
    with_three_threads(|| {
        let (sender, mailbox) = mailbox();
        let others = [sending(sender.clone(), &[1, 2]), sending(sender, &[10])];
        let mut all = mailbox.take_now();
        all.extend(mailbox.close("closed"));
        assert_eq!(mailbox.wait(), None);
        for other in others {
            all.extend(other.join().unwrap());
        }
        assert_eq!(mailbox.take_now(), []);
        all.sort_unstable();
        assert_eq!(all, [1, 2, 10]);
    });
}

/// A mailbox that is dropped against a send: the item is dropped with the mailbox or handed back.
#[test]
fn a_dropped_mailbox_keeps_nothing() {
    loom::model(|| {
        let token = Arc::new(());
        let item = token.clone();
        let (sender, mailbox) = mailbox::<_, ()>();
        let other = thread::spawn(move || drop(sender.send(item)));
        drop(mailbox);
        other.join().unwrap();
        assert_eq!(Arc::strong_count(&token), 1);
    });
}

/// A consumer that blocks gets everything in order and then the end.
#[test]
fn a_blocked_consumer_is_woken_by_items_and_by_the_end() {
    loom::model(|| {
        let (sender, mut receiver) = stream();
        let other = thread::spawn(move || assert!(sender.send(1) && sender.send(2)));
        let got: Vec<u32> = std::iter::from_fn(|| receiver.blocking_next()).collect();
        assert_eq!(got, [1, 2]);
        other.join().unwrap();
    });
}

/// A polled consumer that is told to wait is always woken: by an item, and by the end.
#[test]
fn a_polled_consumer_is_woken_by_items_and_by_the_end() {
    loom::model(|| {
        let (sender, mut receiver) = stream();
        let other = thread::spawn(move || assert!(sender.send(1) && sender.send(2)));
        let task = Arc::new(Task::default());
        let got: Vec<u32> = std::iter::from_fn(|| next(&mut receiver, &task)).collect();
        assert_eq!(got, [1, 2]);
        other.join().unwrap();
    });
}

/// A consumer that moves to another task between two polls is woken there: the newest waker counts.
#[test]
fn the_newest_waker_is_woken() {
    loom::model(|| {
        let (sender, mut receiver) = stream();
        let other = thread::spawn(move || assert!(sender.send(1)));
        let early = poll(&mut receiver, &Arc::new(Task::default()));
        let got = match early {
            Poll::Ready(item) => item,
            Poll::Pending => next(&mut receiver, &Arc::new(Task::default())),
        };
        assert_eq!(got, Some(1));
        other.join().unwrap();
    });
}

/// A receiver that is dropped against a send: the producer is told by this send or the next, and
/// every item is dropped.
#[test]
fn a_dropped_receiver_is_seen_and_keeps_nothing() {
    loom::model(|| {
        let token = Arc::new(());
        let item = token.clone();
        let (sender, receiver): (StreamSender<_>, StreamReceiver<_>) = stream();
        let other = thread::spawn(move || {
            let taken = sender.send(item);
            assert!(taken || sender.is_gone());
            sender
        });
        drop(receiver);
        let sender = other.join().unwrap();
        assert!(sender.is_gone() && !sender.send(Arc::new(())));
        assert_eq!(Arc::strong_count(&token), 1);
    });
}

/// A task that sleeps until it is woken.
#[derive(Default)]
struct Task {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

fn poll(receiver: &mut StreamReceiver<u32>, task: &Arc<Task>) -> Poll<Option<u32>> {
    let waker = Waker::from(task.clone());
    Pin::new(receiver).poll_next(&mut Context::from_waker(&waker))
}

/// Polls and sleeps, as an executor does.
fn next(receiver: &mut StreamReceiver<u32>, task: &Arc<Task>) -> Option<u32> {
    loop {
        if let Poll::Ready(item) = poll(receiver, task) {
            return item;
        }
        let mut woken = task.woken.lock().unwrap();
        while !*woken {
            woken = task.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}
