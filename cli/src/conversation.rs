//! A conversation as OpenAI messages: read from a file, added to, written back.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use glm_runtime::text::ChatInput;
use serde_json::{Map, Value, json};

use crate::{files, ui};

/// Keys of an OpenAI request that a conversation file may hold but that flags decide here.
const NOT_READ: [&str; 8] = [
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "n",
    "tool_choice",
];

/// Whose message it is, as GLM's templates know them.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// What the chat template renders.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Conversation {
    /// OpenAI messages: objects with a `role`.
    pub(crate) messages: Vec<Value>,
    /// OpenAI tools.
    pub(crate) tools: Option<Value>,
    /// Further variables of the template, `chat_template_kwargs`.
    pub(crate) template_arguments: Map<String, Value>,
}

impl Conversation {
    /// Reads what [`Conversation::parse`] takes; `-` is standard input.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let failed = || format!("cannot read the messages in {}", path.display());
        let text = if path == Path::new("-") {
            io::read_to_string(io::stdin())
        } else {
            fs::read_to_string(path)
        };
        Self::parse(&text.with_context(failed)?).with_context(failed)
    }

    /// From an array of messages, or an object with `messages` and optionally `tools` and
    /// `chat_template_kwargs` (or `template_kwargs`).
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let plain: Value = serde_json::from_str(text).context("not JSON")?;
        if plain
            .as_array()
            .is_some_and(|items| items.iter().any(|item| item.get("messages").is_some()))
        {
            bail!("found a list of whole conversations, wanted one of them");
        }
        for key in NOT_READ.iter().filter(|key| plain.get(**key).is_some()) {
            ui::warning(format!(
                "`{key}` in the messages file is not used; `glm run --help` lists flags for it"
            ));
        }
        let input = ChatInput::from_json(text)?;
        let Value::Array(messages) = input.messages else { bail!("`messages` is no array") };
        ensure!(!messages.is_empty(), "`messages` is empty");
        for (index, message) in messages.iter().enumerate() {
            // A template would pass over a role that it does not know, without a word.
            let role = message["role"].as_str().unwrap_or_default();
            ensure!(
                ROLES.contains(&role),
                "messages[{index}].role: found `{role}`, wanted one of {}",
                ROLES.join(", ")
            );
        }
        let tools = input.tools.filter(|tools| tools != &json!([]));
        Ok(Self { messages, tools, template_arguments: input.kwargs })
    }

    /// Writes what [`Conversation::read`] reads, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut object =
            Map::from_iter([("messages".to_owned(), Value::Array(self.messages.clone()))]);
        if let Some(tools) = &self.tools {
            object.insert("tools".to_owned(), tools.clone());
        }
        if !self.template_arguments.is_empty() {
            object.insert(
                "chat_template_kwargs".to_owned(),
                Value::Object(self.template_arguments.clone()),
            );
        }
        files::write(path, |out| {
            let mut text = serde_json::to_string_pretty(&object)?;
            text.push('\n');
            Ok(out.write_all(text.as_bytes())?)
        })
    }

    /// Appends a message of the user.
    pub(crate) fn push_user(&mut self, text: &str) {
        self.messages.push(json!({"role": "user", "content": text}));
    }

    /// Appends an answer of the model, its thinking kept apart.
    pub(crate) fn push_assistant(&mut self, text: &str, reasoning: Option<&str>) {
        let mut message = json!({"role": "assistant", "content": text});
        if let Some(reasoning) = reasoning {
            message["reasoning_content"] = reasoning.into();
        }
        self.messages.push(message);
    }

    /// The text of the system message that opens the conversation.
    pub(crate) fn system(&self) -> Option<&str> {
        self.messages.first().filter(|first| first["role"] == "system")?["content"].as_str()
    }

    /// Sets, or with an empty text removes, the system message.
    pub(crate) fn set_system(&mut self, text: &str) {
        if self.messages.first().is_some_and(|first| first["role"] == "system") {
            self.messages.remove(0);
        }
        if !text.is_empty() {
            self.messages.insert(0, json!({"role": "system", "content": text}));
        }
    }

    /// Forgets all but the system message and the tools.
    pub(crate) fn clear(&mut self) {
        self.messages.retain(|message| message["role"] == "system");
    }

    /// What the template gets; `arguments` win over those of the conversation.
    pub(crate) fn chat_input(&self, arguments: &Map<String, Value>) -> ChatInput {
        let mut kwargs = self.template_arguments.clone();
        kwargs.extend(arguments.clone());
        ChatInput {
            messages: Value::Array(self.messages.clone()),
            tools: self.tools.clone(),
            kwargs,
            add_generation_prompt: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        format!("{:#}", Conversation::parse(text).expect_err(text))
    }

    #[test]
    fn the_three_forms_of_a_file() -> Result<()> {
        let array = Conversation::parse(r#"[{"role": "user", "content": "Hi"}]"#)?;
        assert_eq!(array.messages.len(), 1);
        let request = Conversation::parse(
            r#"{"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function"}],
                "chat_template_kwargs": {"enable_thinking": false}}"#,
        )?;
        assert!(request.tools.is_some());
        assert_eq!(request.template_arguments["enable_thinking"], false);
        let case = Conversation::parse(
            r#"{"name": "x", "messages": [{"role": "user", "content": "Hi"}], "tools": null,
                "template_kwargs": {"enable_thinking": false}, "prompt_ids": [1]}"#,
        )?;
        assert_eq!((case.tools, case.template_arguments), (None, request.template_arguments));
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wanted) in [
            ("{", "not JSON"),
            ("3", "found a number"),
            ("{}", "messages: found nothing"),
            ("[]", "`messages` is empty"),
            (r#"[{"content": "x"}]"#, "messages[0].role: found nothing"),
            (
                r#"[{"role": "user", "content": "x"}, {"role": "robot"}]"#,
                "messages[1].role: found `robot`",
            ),
            (r#"[{"messages": []}, {"messages": []}]"#, "wanted one of them"),
            (r#"{"messages": [{"role": "user"}], "tools": 1}"#, "tools: found a number"),
        ] {
            assert!(refusal(text).contains(wanted), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn what_is_written_reads_back() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("chat.json");
        let mut chat = Conversation::default();
        chat.push_user("2 + 2?");
        chat.push_assistant("4", Some("easy"));
        chat.set_system("Be brief.");
        chat.template_arguments.insert("enable_thinking".into(), true.into());
        chat.write(&path)?;
        assert_eq!(Conversation::read(&path)?, chat);
        assert_eq!(chat.system(), Some("Be brief."));
        chat.clear();
        assert_eq!(chat.messages.len(), 1);
        chat.set_system("");
        assert!(chat.messages.is_empty());
        Ok(())
    }
}
