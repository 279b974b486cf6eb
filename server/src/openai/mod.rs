//! OpenAI's APIs: chat, completions, responses, models.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod models;
pub(crate) mod responses;

use glm_runtime::{Finish, TokenLogprobs};
use serde_json::{Value, json};

use crate::app::App;
use crate::generate::End;

/// OpenAI's word for the end of an answer, and what it leaves unsaid.
fn finish_reason(end: &End, has_calls: bool) -> &'static str {
    match end.finish {
        Finish::Stop if has_calls => "tool_calls",
        Finish::Stop => "stop",
        Finish::Length | Finish::Deadline | Finish::Aborted => "length",
    }
}

/// What ended the answer besides the model's own end token: a stop text, a stop token of the
/// request, `deadline`.
fn stop_reason(app: &App, end: &End) -> Value {
    if let Some(text) = &end.stop_text {
        return text.as_str().into();
    }
    let own = |id: &u32| {
        let engine = app.engine();
        engine.is_ok_and(|engine| engine.files().generation.eos_token_ids.contains(id))
    };
    match end.stop_token.filter(|id| !own(id)) {
        Some(id) => id.into(),
        None if end.finish == Finish::Deadline => "deadline".into(),
        None => Value::Null,
    }
}

/// A token's text, its bytes where they are no text by themselves.
fn token_text(app: &App, id: u32) -> (String, Vec<u8>) {
    let bytes = app.engine().ok().and_then(|e| e.files().tokenizer.bytes(id).ok());
    let bytes = bytes.unwrap_or_default();
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

/// A token as it is reported in chats.
fn chat_logprobs(app: &App, logprobs: &TokenLogprobs) -> Value {
    let entry = |id: u32, logprob: f32| {
        let (token, bytes) = token_text(app, id);
        json!({"token": token, "logprob": finite(logprob), "bytes": bytes})
    };
    let mut token = entry(logprobs.id, logprobs.logprob);
    token["top_logprobs"] = logprobs.top.iter().map(|(id, logprob)| entry(*id, *logprob)).collect();
    token
}

/// JSON has no infinity; OpenAI writes this.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
