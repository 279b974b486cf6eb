//! Text in and out of the model: the checkpoint's tokenizer, its chat template, and the
//! streaming way back from token ids to text.
//!
//! - [`Tokenizer`]: `tokenizer.json` through the `tokenizers` crate.
//! - [`ChatTemplate`] and [`ChatInput`]: OpenAI messages to the prompt text, as transformers
//!   renders it with jinja2.
//! - [`Detokenizer`]: token ids to text, one at a time, never half a UTF-8 character.

mod detokenize;
mod template;
mod tokenizer;

pub use detokenize::Detokenizer;
pub use template::{ChatInput, ChatTemplate};
pub use tokenizer::Tokenizer;

/// What can be wrong with a tokenizer, a chat template or the conversation it renders.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer file cannot be used.
    #[error("tokenizer.json: {0}")]
    Tokenizer(String),
    /// The tokenizer refused a text or a list of ids.
    #[error("tokenizer: {0}")]
    Encoding(String),
    /// An id without a token: a padding row of the embedding, or beyond it.
    #[error("token id {id}: not in the tokenizer, whose ids end at {last}")]
    UnknownToken {
        /// The id that was asked for.
        id: u32,
        /// The tokenizer's last id.
        last: usize,
    },
    /// The `chat_template` entry of the tokenizer's configuration cannot be used.
    #[error("tokenizer_config.json: {0}")]
    TokenizerConfig(String),
    /// The chat template does not parse, failed, or went past a limit.
    #[error("chat template{}: {cause}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Template {
        /// Line of the template, from 1, where it is known.
        line: Option<usize>,
        /// What happened there.
        cause: String,
    },
    /// A conversation that is not JSON.
    #[error("messages: not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A conversation that is JSON of the wrong form.
    #[error("{place}: found {found}, wanted {wanted}")]
    Input {
        /// Path of the wrong value, such as `messages[2].role`.
        place: String,
        /// What is there.
        found: String,
        /// What should be there.
        wanted: &'static str,
    },
}
