//! Hand-offs between threads: requests into the engine's thread, events out of it.
//!
//! - [`mailbox`]: many producers, and one thread that takes everything at once
//! - [`stream`]: one producer, and one consumer that blocks or is polled
//!
//! Both are a queue behind a mutex. Nothing foreign runs while it is held: items are dropped and
//! wakers woken after it. `tests/loom` tries every order in which the threads can meet.

#![forbid(unsafe_code)]

mod mailbox;
mod stream;
mod sync;

pub(crate) use mailbox::{Mailbox, MailboxSender, mailbox};
pub(crate) use stream::{StreamReceiver, StreamSender, stream};
