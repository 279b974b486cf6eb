//! Structured output: which tokens an answer may go on with, by a schema, a regular expression, a
//! grammar, or the form of GLM's tool calls.
//!
//! - [`Vocabulary`]: the tokens as bytes, built once for a model; it compiles
//! - [`Format`]: what is asked for, to a
//! - [`Grammar`]: the mask of a request, whose states ([`answer`]) follow the answers
//!
//! A format says nothing about thoughts: it holds from where the thought has ended. Requests write
//! formats, so they are measured before they are compiled ([`screen`]), and compiled within limits.

mod answer;
mod calls;
mod compile;
#[cfg(test)]
mod hostile;
mod screen;
#[cfg(test)]
mod tests;
mod value;
mod vocabulary;

use std::fmt;
use std::sync::Arc;

use glm_runtime::{MaskState, TokenMask};
use llguidance::Matcher;
use serde_json::Value;

pub(crate) use vocabulary::Vocabulary;

/// What an answer must look like, after its thought.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Format {
    /// A JSON object, whatever is in it.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// A text that the whole regular expression matches.
    Regex(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// A grammar in Lark's notation, as llguidance reads it.
    Grammar(String),
    /// Tool calls in GLM's XML form.
    Calls {
        /// Those that may be called.
        tools: Vec<ToolForm>,
        /// The answer is calls and nothing else; without, there may be text around them.
        required: bool,
        /// There may be several.
        parallel: bool,
    },
}

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolForm {
    /// Its name, without white space and angle brackets.
    pub(crate) name: String,
    /// JSON schema of its arguments; null where there is none.
    pub(crate) parameters: Value,
    /// A schema that cannot be kept to is an error; without, such an argument may be any text.
    pub(crate) strict: bool,
}

/// Where an answer's thought begins and ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Thinking {
    /// `<think>`, where the model may open a thought itself.
    pub(crate) open: Option<u32>,
    /// `</think>`
    pub(crate) close: Option<u32>,
    /// The prompt has opened a thought.
    pub(crate) starts_inside: bool,
}

/// A format that no grammar can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct GrammarError {
    /// What is wrong, and where.
    pub(crate) what: String,
}

impl GrammarError {
    fn new(what: impl Into<String>) -> Self {
        GrammarError { what: what.into() }
    }
}

/// The mask of a request. Clones share what was compiled.
#[derive(Clone)]
pub(crate) struct Grammar {
    compiled: Arc<Compiled>,
}

/// What all answers of a grammar share.
struct Compiled {
    vocabulary: Arc<vocabulary::Tokens>,
    /// Of the whole answer, or of one call from the end of its opening tag on. It has seen nothing;
    /// clones of it follow the answers.
    matcher: Matcher,
    /// What the matcher allows first.
    first: vocabulary::Allowed,
    shape: Shape,
    thinking: Thinking,
}

/// What the matcher is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The whole answer.
    Whole,
    /// A call, each.
    Calls {
        /// Id of `<tool_call>`.
        open: u32,
        required: bool,
        parallel: bool,
    },
}

impl TokenMask for Grammar {
    fn start(&self) -> Box<dyn MaskState> {
        Box::new(answer::Answer::new(self.compiled.clone()))
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compiled { shape, thinking, .. } = &*self.compiled;
        f.debug_struct("Grammar").field("shape", shape).field("thinking", thinking).finish()
    }
}
