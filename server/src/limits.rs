//! Bounds of what a request may ask for, so that none can hurt the others.

use std::time::Duration;

/// Bytes of a body.
pub(crate) const BODY: usize = 32 << 20;
/// Time in which a body has to come.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(60);
/// Headers of a request.
pub(crate) const HEADERS: usize = 64;
/// Bytes of the head of a request.
pub(crate) const HEAD: usize = 16 << 10;
/// Time in which the head of a request has to come.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of `x-request-id`.
pub(crate) const REQUEST_ID: usize = 128;

/// Answers to one prompt.
pub(crate) const CHOICES: u64 = 16;
/// Most probable tokens that are reported.
pub(crate) const TOP_LOGPROBS: u64 = 20;
/// Texts that end an answer.
pub(crate) const STOPS: usize = 16;
/// Bytes of each of them.
pub(crate) const STOP_BYTES: usize = 256;
/// Tokens with a bias.
pub(crate) const BIASED: usize = 1024;
/// Tools of a request.
pub(crate) const TOOLS: usize = 256;
/// Bytes of their definitions.
pub(crate) const TOOL_BYTES: usize = 1 << 20;
/// Messages of a conversation.
pub(crate) const MESSAGES: usize = 8192;
/// Prompts of a request for completions.
pub(crate) const PROMPTS: usize = 128;
/// Bytes of a schema or a grammar.
pub(crate) const GRAMMAR_BYTES: usize = 1 << 20;
/// Responses that are kept for later turns.
pub(crate) const STORED: usize = 1024;
/// Bytes of them.
pub(crate) const STORED_BYTES: usize = 64 << 20;
/// Bytes of a key that says whose cache is shared.
pub(crate) const SALT: usize = 256;

/// Time between two signs of life in a stream.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);
