//! How the models of these families mark up a conversation.

/// The markers of a chat format: constants, parsed by whoever reads the model's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatFormat {
    /// Opens a thought.
    pub think_open: &'static str,
    /// Closes a thought.
    pub think_close: &'static str,
    /// Opens a tool call.
    pub tool_call_open: &'static str,
    /// Closes a tool call.
    pub tool_call_close: &'static str,
    /// Where a turn begins: system, user, assistant, tool results.
    pub roles: [&'static str; 4],
}

/// The format of GLM-4.5, 4.6, 4.7 and GLM-4.7-Flash: the families differ in the white space
/// around the markers, not in the markers.
pub const GLM4: ChatFormat = ChatFormat {
    think_open: "<think>",
    think_close: "</think>",
    tool_call_open: "<tool_call>",
    tool_call_close: "</tool_call>",
    roles: ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
};
