//! The model's text, taken apart while it streams: thought, answer, tool calls.
//!
//! - [`Parser`]: the automaton; pieces of any length go in, [`Part`]s come out
//! - [`Tools`]: which calls there may be, and of which types their arguments are
//! - [`Message`]: the parts of a whole answer

mod call;
mod message;
mod parser;
mod python;
mod repair;
mod schema;
#[cfg(test)]
mod tests;
mod tools;
mod value;

pub use message::{Message, ToolCall};
pub use parser::{Ending, Parser, Start};
pub use tools::{ToolError, Tools};

/// A piece of the model's text. Neighbours of one kind belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The thought, without its tags.
    Reasoning(String),
    /// The answer. Without tools, with what would be calls in it.
    Text(String),
    /// A call begins. No other one does before its [`Part::CallEnd`], and no text comes.
    Call {
        /// The whole name of a tool.
        name: String,
    },
    /// More of the call's arguments: joined, the JSON of an object.
    Arguments(String),
    /// The call is complete, and so is its JSON.
    CallEnd,
}
