//! Anthropic's messages and tools, in OpenAI's form.

use serde_json::{Value, json};

use crate::body::{Fields, found};
use crate::chat::{ToolChoice, openai_tools};
use crate::error::ApiError;

/// What Claude Code puts in front of its system prompt, different in each request: with it no
/// prefix would ever be found in the cache.
const BILLING: &str = "x-anthropic-billing-header:";

/// The system prompt: a text or blocks of text.
pub(super) fn system(system: Option<Value>, strips: bool) -> Result<Option<String>, ApiError> {
    let mut blocks = match system {
        None => return Ok(None),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(blocks)) => {
            let text = |(index, block)| {
                let place = format!("system[{index}]");
                let mut fields = Fields::of(block, &place)?;
                match fields.needed_text("type")?.as_str() {
                    "text" => fields.needed_text("text"),
                    other => {
                        let place = format!("{place}.type");
                        Err(ApiError::field(&place, format!("{other:?}"), "\"text\""))
                    }
                }
            };
            blocks.into_iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?
        }
        Some(other) => {
            return Err(ApiError::field("system", found(&other), "a text or a list of blocks"));
        }
    };
    if strips && let Some(first) = blocks.first_mut() {
        let rest = without_billing_line(first);
        match rest.is_empty() {
            true => drop(blocks.remove(0)),
            false => *first = rest.to_owned(),
        }
    }
    let text = blocks.join("\n");
    Ok((!text.is_empty()).then_some(text))
}

fn without_billing_line(text: &str) -> &str {
    let line = text.split('\n').next().unwrap_or_default();
    match line.trim_start().starts_with(BILLING) {
        true => text[line.len()..].trim_start_matches('\n'),
        false => text,
    }
}

/// Messages whose contents are blocks: results of tools become messages of their own.
pub(super) fn messages(messages: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let mut all = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let place = format!("messages[{index}]");
        let mut fields = Fields::of(message, &place)?;
        let role = fields.needed_text("role")?;
        let content = fields.take("content").unwrap_or_default();
        let place = fields.place("content");
        match role.as_str() {
            "user" => user(content, &place, &mut all)?,
            "assistant" => all.push(assistant(content, &place)?),
            // Claude Code puts reminders between turns.
            "system" => {
                let content = crate::chat::text_of(content, &place)?;
                all.push(json!({"role": "system", "content": content}));
            }
            other => {
                let found = format!("{other:?}");
                return Err(ApiError::field(&fields.place("role"), found, "user or assistant"));
            }
        }
    }
    Ok(all)
}

fn blocks(content: Value, place: &str) -> Result<Vec<Fields>, ApiError> {
    match content {
        Value::String(text) => Ok(vec![Fields::of(json!({"type": "text", "text": text}), place)?]),
        Value::Array(blocks) => {
            let block = |(index, block)| Fields::of(block, &format!("{place}[{index}]"));
            blocks.into_iter().enumerate().map(block).collect()
        }
        other => Err(ApiError::field(place, found(&other), "a text or a list of blocks")),
    }
}

fn user(content: Value, place: &str, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let mut text = String::new();
    let mut has_text = false;
    for mut block in blocks(content, place)? {
        match block.needed_text("type")?.as_str() {
            "text" => {
                if has_text {
                    text.push('\n');
                }
                has_text = true;
                text.push_str(&block.needed_text("text")?);
            }
            "tool_result" => {
                let content = block.take("content").unwrap_or_default();
                let mut content = crate::chat::text_of(content, &block.place("content"))?;
                if block.flag("is_error")? == Some(true) && !content.starts_with("Error") {
                    content.insert_str(0, "Error: ");
                }
                let id = block.text("tool_use_id")?;
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            }
            kind @ ("image" | "document" | "audio" | "video") => {
                let why = format!("{kind}: the model reads text only");
                return Err(ApiError::unsupported(&block.place("type"), &why));
            }
            other => {
                let wanted = "text or tool_result";
                let found = format!("{other:?}");
                return Err(ApiError::field(&block.place("type"), found, wanted));
            }
        }
    }
    let last_is_result = messages.last().is_some_and(|last| last["role"] == "tool");
    if has_text || !last_is_result {
        messages.push(json!({"role": "user", "content": text}));
    }
    Ok(())
}

fn assistant(content: Value, place: &str) -> Result<Value, ApiError> {
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for mut block in blocks(content, place)? {
        match block.needed_text("type")?.as_str() {
            "text" => text.push_str(&block.needed_text("text")?),
            "thinking" => reasoning.push_str(&block.needed_text("thinking")?),
            // Another model's, and encrypted.
            "redacted_thinking" => {}
            "tool_use" => {
                let name = block.needed_text("name")?;
                let input = block.take("input").unwrap_or_else(|| json!({}));
                if !input.is_object() {
                    let place = block.place("input");
                    return Err(ApiError::field(&place, found(&input), "an object"));
                }
                calls.push(json!({
                    "id": block.text("id")?,
                    "type": "function",
                    "function": {"name": name, "arguments": input},
                }));
            }
            other => {
                let wanted = "text, thinking or tool_use";
                let found = format!("{other:?}");
                return Err(ApiError::field(&block.place("type"), found, wanted));
            }
        }
    }
    let mut message = json!({"role": "assistant", "content": text});
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

/// Tools that Anthropic's servers run, with a date after the name. Clients declare them whatever
/// server they ask.
const HOSTED: [&str; 3] = ["web_search_", "web_fetch_", "code_execution_"];

/// Tools, whose schemas are called otherwise. Those that nobody here runs are left out, so that the
/// model does not call them.
pub(super) fn tools(tools: Option<Vec<Value>>) -> Result<Vec<Value>, ApiError> {
    let mut taken = Vec::new();
    for (index, tool) in tools.unwrap_or_default().into_iter().enumerate() {
        let place = format!("tools[{index}]");
        let mut fields = Fields::of(tool, &place)?;
        let kind = fields.text("type")?.unwrap_or_else(|| "custom".into());
        if HOSTED.iter().any(|hosted| kind.starts_with(hosted)) {
            tracing::warn!(tool = kind, "a tool of Anthropic's servers is left out");
            continue;
        }
        if kind != "custom" {
            let why = format!("{kind}: the model does not know it, declare its schema");
            return Err(ApiError::unsupported(&format!("{place}.type"), &why));
        }
        let mut function = json!({"name": fields.needed_text("name")?});
        if let Some(description) = fields.text("description")? {
            function["description"] = description.into();
        }
        let schema = fields.take("input_schema");
        function["parameters"] = schema.unwrap_or_else(|| json!({"type": "object"}));
        if let Some(strict) = fields.flag("strict")? {
            function["strict"] = strict.into();
        }
        taken.push(json!({"type": "function", "function": function}));
    }
    openai_tools(Some(taken))
}

/// Which tools are called, and whether several at once.
pub(super) fn tool_choice(fields: &mut Fields) -> Result<(ToolChoice, bool), ApiError> {
    let Some(mut choice) = fields.object("tool_choice")? else {
        return Ok((ToolChoice::Auto, true));
    };
    let parallel = !choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    let asked = match choice.needed_text("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.needed_text("name")?),
        other => {
            let found = format!("{other:?}");
            return Err(ApiError::field("tool_choice.type", found, "auto, any, tool or none"));
        }
    };
    Ok((asked, parallel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_messages() {
        let messages = messages(vec![
            json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            json!({"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "I look"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
            ]}),
            json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "1"}]},
                {"type": "text", "text": "go on"},
            ]}),
        ]);
        let call = json!({"id": "t1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
        assert_eq!(
            messages.unwrap(),
            [
                json!({"role": "user", "content": "a\nb"}),
                json!({"role": "assistant", "content": "I look", "reasoning_content": "hm", "tool_calls": [call]}),
                json!({"role": "tool", "tool_call_id": "t1", "content": "1"}),
                json!({"role": "user", "content": "go on"}),
            ]
        );
    }

    #[test]
    fn the_line_that_always_differs_is_left_out() {
        let line = "x-anthropic-billing-header: cc_version=2.1; cch=abc;";
        let block = |text: &str| json!({"type": "text", "text": text});
        let whole = |blocks| system(Some(json!(blocks)), true).unwrap();
        assert_eq!(whole(vec![block(line), block("You code.")]).as_deref(), Some("You code."));
        let both = format!("{line}\nYou code.");
        assert_eq!(whole(vec![block(&both)]).as_deref(), Some("You code."));
        assert_eq!(system(Some(both.clone().into()), false).unwrap(), Some(both));
        assert_eq!(whole(vec![block(line)]), None);
        let quoted = format!("Never print {line}");
        assert_eq!(whole(vec![block(&quoted)]), Some(quoted));
    }
}
