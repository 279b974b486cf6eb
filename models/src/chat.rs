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
    /// Opens the name of an argument.
    pub arg_key_open: &'static str,
    /// Closes the name of an argument.
    pub arg_key_close: &'static str,
    /// Opens the value of an argument.
    pub arg_value_open: &'static str,
    /// Closes the value of an argument.
    pub arg_value_close: &'static str,
    /// Where a turn begins: system, user, assistant, tool results.
    pub roles: [&'static str; 4],
}

impl ChatFormat {
    /// The tags of thoughts and calls, in the order in which they may come.
    pub const fn tags(&self) -> [&'static str; 8] {
        [
            self.think_open,
            self.think_close,
            self.tool_call_open,
            self.tool_call_close,
            self.arg_key_open,
            self.arg_key_close,
            self.arg_value_open,
            self.arg_value_close,
        ]
    }
}

/// The format of GLM-4.5, 4.6, 4.7 and GLM-4.7-Flash: the families differ in the white space
/// around the markers, not in the markers.
pub const GLM4: ChatFormat = ChatFormat {
    think_open: "<think>",
    think_close: "</think>",
    tool_call_open: "<tool_call>",
    tool_call_close: "</tool_call>",
    arg_key_open: "<arg_key>",
    arg_key_close: "</arg_key>",
    arg_value_open: "<arg_value>",
    arg_value_close: "</arg_value>",
    roles: ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
};
