//! Ctrl-C. While an answer is being written the first one stops the answer and keeps what
//! came; the second, or one at any other time, leaves with exit code 130.

use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};

/// The exit code of a program that was interrupted.
pub(crate) const EXIT_CODE: u8 = 130;

const IDLE: u8 = 0;
const ANSWERING: u8 = 1;
const STOP_ASKED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// Takes over Ctrl-C for the whole process.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        let first =
            STATE.compare_exchange(ANSWERING, STOP_ASKED, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_err() {
            leave();
        }
    })
    .context("cannot take over Ctrl-C")
}

/// Held while an answer is being written.
#[derive(Debug)]
pub(crate) struct Answering;

impl Answering {
    /// From now on the first Ctrl-C only asks to stop.
    pub(crate) fn begin() -> Self {
        STATE.store(ANSWERING, Ordering::SeqCst);
        Self
    }

    /// Whether Ctrl-C was pressed since [`Answering::begin`].
    pub(crate) fn stop_asked(&self) -> bool {
        STATE.load(Ordering::SeqCst) == STOP_ASKED
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        STATE.store(IDLE, Ordering::SeqCst);
    }
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "runs on the signal thread; the main thread may be busy for seconds"
)]
fn leave() {
    std::process::exit(i32::from(EXIT_CODE));
}
