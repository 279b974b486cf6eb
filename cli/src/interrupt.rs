//! Ctrl-C. While an answer is being written the first one stops the answer and keeps what
//! came; the second, or one at any other time, leaves with exit code 130. The chat's prompt is
//! asked to end first: it holds the terminal. (There the key itself is the editor's, not ours.) A
//! server is asked to stop: gently at first, at once the second time.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result};
use glm_server::Shutdown;

/// The exit code of a program that was interrupted.
pub(crate) const EXIT_CODE: u8 = 130;

const IDLE: u8 = 0;
const ANSWERING: u8 = 1;
const PROMPTING: u8 = 2;
const STOP_ASKED: u8 = 3;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// What stops the server, where there is one.
static SERVER: Mutex<Option<Shutdown>> = Mutex::new(None);

static END_PROMPT: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Takes over Ctrl-C for the whole process.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        let first = |state: u8| {
            STATE.compare_exchange(state, STOP_ASKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = &*server {
            server.ask();
        } else if first(PROMPTING) {
            END_PROMPT.store(true, Ordering::SeqCst);
        } else if !first(ANSWERING) {
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

/// Held while a server runs.
#[derive(Debug)]
pub(crate) struct Serving;

impl Serving {
    /// From now on Ctrl-C asks the server to stop.
    pub(crate) fn begin(server: Shutdown) -> Self {
        *SERVER.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        Self
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        *SERVER.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Held while the chat's prompt has the terminal in its own mode.
#[derive(Debug)]
pub(crate) struct Prompting;

impl Prompting {
    /// From now on the first signal only sets [`Prompting::end`].
    pub(crate) fn begin() -> Self {
        STATE.store(PROMPTING, Ordering::SeqCst);
        Self
    }

    /// What the prompt watches: once true, it is to give the terminal back.
    pub(crate) fn end() -> Arc<AtomicBool> {
        Arc::clone(&END_PROMPT)
    }
}

impl Drop for Prompting {
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
