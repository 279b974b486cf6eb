//! Items of a request, as the messages that the model's template takes.

use serde_json::{Map, Value, json};

use crate::access::new_id;
use crate::body::{Fields, found};
use crate::chat::{openai_messages, openai_tools, text_of};
use crate::error::ApiError;
use crate::limits;

/// The items of `input`: a text is one message of the user. Each has an id afterwards.
pub(super) fn items(input: Option<Value>) -> Result<Vec<Value>, ApiError> {
    let wanted = "a text or a list of items";
    let mut items = match input {
        None => return Err(ApiError::field("input", "nothing", wanted)),
        Some(Value::String(text)) => vec![json!({
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": text}],
        })],
        Some(Value::Array(items)) => items,
        Some(other) => return Err(ApiError::field("input", found(&other), wanted)),
    };
    if items.is_empty() || items.len() > limits::MESSAGES {
        let wanted = format!("1 to {} items", limits::MESSAGES);
        return Err(ApiError::field("input", items.len(), &wanted));
    }
    for (index, item) in items.iter_mut().enumerate() {
        let place = format!("input[{index}]");
        let Value::Object(fields) = item else {
            return Err(ApiError::field(&place, found(item), "an object"));
        };
        let is_message = fields.contains_key("role");
        fields.entry("type").or_insert_with(|| if is_message { "message" } else { "" }.into());
        fields.entry("id").or_insert_with(|| new_id("item_").into());
    }
    Ok(items)
}

/// Messages of the model's template from items; thoughts and calls belong to the assistant's
/// message beside them.
pub(super) fn messages(
    items: &[Value],
    instructions: Option<&str>,
) -> Result<Vec<Value>, ApiError> {
    let mut messages: Vec<Value> = Vec::new();
    if let Some(instructions) = instructions {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    for (index, item) in items.iter().enumerate() {
        let place = format!("input[{index}]");
        let mut fields = Fields::of(item.clone(), &place)?;
        let kind = fields.text("type")?.unwrap_or_default();
        match kind.as_str() {
            "message" => {
                let role = fields.needed_text("role")?;
                let content = fields.take("content").unwrap_or_default();
                let content = text_of(content, &fields.place("content"))?;
                if role == "assistant" {
                    let message = assistant(&mut messages, |message| {
                        !message.contains_key("tool_calls") && !has_text(message)
                    });
                    message.insert("content".into(), content.into());
                } else {
                    messages.push(json!({"role": role, "content": content}));
                }
            }
            "reasoning" => {
                let content = fields.take("content").or_else(|| fields.take("summary"));
                let reasoning = reasoning(content, &fields.place("content"))?;
                let fresh = |message: &Map<String, Value>| {
                    !message.contains_key("reasoning_content")
                        && !message.contains_key("tool_calls")
                        && !has_text(message)
                };
                let message = assistant(&mut messages, fresh);
                message.insert("reasoning_content".into(), reasoning.into());
            }
            "function_call" => {
                let call = json!({
                    "id": fields.text("call_id")?,
                    "type": "function",
                    "function": {
                        "name": fields.needed_text("name")?,
                        "arguments": fields.text("arguments")?.unwrap_or_default(),
                    },
                });
                let message = assistant(&mut messages, |_| true);
                let calls = message.entry("tool_calls").or_insert_with(|| json!([]));
                if let Value::Array(calls) = calls {
                    calls.push(call);
                }
            }
            "function_call_output" => {
                let output = fields.take("output").unwrap_or_default();
                let output = text_of(output, &fields.place("output"))?;
                let id = fields.text("call_id")?;
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
            }
            other => {
                let wanted = "message, reasoning, function_call or function_call_output";
                return Err(ApiError::field(
                    &format!("{place}.type"),
                    format!("{other:?}"),
                    wanted,
                ));
            }
        }
    }
    openai_messages(messages, "input")
}

fn has_text(message: &Map<String, Value>) -> bool {
    message.get("content").and_then(Value::as_str).is_some_and(|text| !text.is_empty())
}

/// The assistant's last message, where it may take more, else a new one.
fn assistant(
    messages: &mut Vec<Value>,
    takes_more: impl Fn(&Map<String, Value>) -> bool,
) -> &mut Map<String, Value> {
    let last = messages.last().and_then(Value::as_object);
    let fits =
        last.is_some_and(|last| last.get("role") == Some(&"assistant".into()) && takes_more(last));
    if !fits {
        messages.push(json!({"role": "assistant", "content": ""}));
    }
    match messages.last_mut() {
        Some(Value::Object(message)) => message,
        _ => unreachable!("a message was there or pushed"),
    }
}

fn reasoning(content: Option<Value>, place: &str) -> Result<String, ApiError> {
    let parts = match content {
        None => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(ApiError::field(place, found(&other), "a list of parts")),
    };
    let text = |part: &Value| part.get("text").and_then(Value::as_str).map(str::to_owned);
    Ok(parts.iter().filter_map(text).collect())
}

/// Tools that OpenAI's servers run. Clients declare them whatever server they ask.
const HOSTED: [&str; 5] =
    ["web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation"];

/// Tools, whose fields stand beside their type here; the model gets them in the other form. Those
/// that nobody here runs are left out, so that the model does not call them.
pub(super) fn tools(tools: Option<Vec<Value>>) -> Result<Vec<Value>, ApiError> {
    let mut taken = Vec::new();
    for (index, tool) in tools.unwrap_or_default().into_iter().enumerate() {
        let place = format!("tools[{index}]");
        let mut fields = Fields::of(tool, &place)?;
        let kind = fields.needed_text("type")?;
        if HOSTED.contains(&kind.as_str()) {
            tracing::warn!(tool = kind, "a tool of OpenAI's servers is left out");
            continue;
        }
        if kind != "function" {
            let why = format!("{kind}: only tools of type \"function\" can be called here");
            return Err(ApiError::unsupported(&format!("{place}.type"), &why));
        }
        let function = fields.take("function").unwrap_or_else(|| fields.rest().into());
        taken.push(json!({"type": "function", "function": function}));
    }
    openai_tools(Some(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let items = items(Some(json!([
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "why"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\": 1}"},
            {"type": "function_call", "call_id": "d", "name": "g", "arguments": ""},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
            {"role": "assistant", "content": "done"},
        ])))
        .unwrap();
        let call = |name: &str, arguments: Value| json!({"type": "function", "function": {"name": name, "arguments": arguments}});
        let messages = messages(&items, Some("be brief")).unwrap();
        assert_eq!(
            messages,
            [
                json!({"role": "system", "content": "be brief"}),
                json!({"role": "user", "content": "hi"}),
                json!({"role": "assistant", "reasoning_content": "why", "tool_calls": [call("f", json!({"a": 1})), call("g", json!({}))], "content": "so"}),
                json!({"role": "tool", "content": "1"}),
                json!({"role": "assistant", "content": "done"}),
            ]
        );
        let wrong = |input: Value| {
            let items = super::items(Some(input))?;
            super::messages(&items, None)
        };
        let error = wrong(json!([{"type": "computer_call"}])).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("input[0].type"));
        let error = wrong(json!([{"role": "user", "content": [{"type": "input_image"}]}]));
        assert!(error.unwrap_err().message.contains("reads text only"));
    }
}
