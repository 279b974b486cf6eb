//! The model's text, taken apart while it streams.

mod reasoning;

pub use reasoning::{ReasoningSplitter, Start};

/// A piece of the model's text. Neighbours of one kind belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The thought, without its tags.
    Reasoning(String),
    /// The answer, tool calls with their tags included.
    Text(String),
}
