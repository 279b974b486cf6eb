//! OpenAI's messages and tools, checked, with contents as plain texts.

use serde_json::{Map, Value, json};

use crate::body::{Fields, found};
use crate::error::ApiError;
use crate::limits;

/// Checks messages and brings them into the form that templates take.
pub(crate) fn openai_messages(messages: Vec<Value>, place: &str) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() || messages.len() > limits::MESSAGES {
        let wanted = format!("1 to {} messages", limits::MESSAGES);
        return Err(ApiError::field(place, messages.len(), &wanted));
    }
    let at = |index| format!("{place}[{index}]");
    messages.into_iter().enumerate().map(|(index, value)| message(value, &at(index))).collect()
}

fn message(value: Value, place: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::of(value, place)?;
    let role = fields.needed_text("role")?;
    let role = match role.as_str() {
        "developer" => "system",
        "function" => "tool",
        "system" | "user" | "assistant" | "tool" => &role,
        other => {
            let wanted = "system, developer, user, assistant or tool";
            return Err(ApiError::field(&fields.place("role"), format!("{other:?}"), wanted));
        }
    };
    let mut message = Map::new();
    message.insert("role".into(), role.into());
    let content = fields.take("content").unwrap_or_default();
    let content = text_of(content, &fields.place("content"))?;
    if role == "assistant" {
        for name in ["reasoning", "reasoning_content"] {
            if let Some(reasoning) = fields.text(name)? {
                message.insert("reasoning_content".into(), reasoning.into());
            }
        }
        if let Some(calls) = fields.list("tool_calls")? {
            let place = fields.place("tool_calls");
            let calls = calls.into_iter().enumerate();
            let calls: Result<Vec<_>, _> =
                calls.map(|(index, value)| call(value, &format!("{place}[{index}]"))).collect();
            message.insert("tool_calls".into(), calls?.into());
        }
    }
    message.insert("content".into(), content.into());
    Ok(message.into())
}

fn call(value: Value, place: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::of(value, place)?;
    let mut function = match fields.object("function")? {
        Some(function) => function,
        None => return Err(ApiError::field(&fields.place("function"), "nothing", "an object")),
    };
    let name = function.needed_text("name")?;
    let place = function.place("arguments");
    let arguments = match function.take("arguments") {
        None => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(arguments) => arguments,
            // A call that was cut short comes back as it went out.
            Err(_) => json!({"": text}),
        },
        Some(other) => other,
    };
    if !arguments.is_object() {
        let wanted = "a text that holds a JSON object";
        return Err(ApiError::field(&place, found(&arguments), wanted));
    }
    Ok(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
}

/// The text of a content: a text, or parts that are texts. This model sees and hears nothing.
pub(crate) fn text_of(content: Value, place: &str) -> Result<String, ApiError> {
    let parts = match content {
        Value::Null => return Ok(String::new()),
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(ApiError::field(place, found(&other), "a text or a list of parts")),
    };
    let mut text = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let place = format!("{place}[{index}]");
        if let Value::String(part) = part {
            text.push_str(&part);
            continue;
        }
        let mut fields = Fields::of(part, &place)?;
        match fields.needed_text("type")?.as_str() {
            "text" | "input_text" | "output_text" => text.push_str(&fields.needed_text("text")?),
            "refusal" => text.push_str(&fields.needed_text("refusal")?),
            kind @ ("image_url" | "input_image" | "image" | "input_audio" | "audio"
            | "video_url" | "file" | "input_file" | "document") => {
                let why = format!("{kind}: the model reads text only");
                return Err(ApiError::unsupported(&place, &why));
            }
            other => {
                let place = format!("{place}.type");
                return Err(ApiError::field(&place, format!("{other:?}"), "\"text\""));
            }
        }
    }
    Ok(text)
}

/// Checks tools; they go into the prompt as they are.
pub(crate) fn openai_tools(tools: Option<Vec<Value>>) -> Result<Vec<Value>, ApiError> {
    let tools = tools.unwrap_or_default();
    if tools.len() > limits::TOOLS {
        return Err(ApiError::field("tools", tools.len(), &format!("at most {}", limits::TOOLS)));
    }
    let bytes: usize = tools.iter().map(|tool| tool.to_string().len()).sum();
    if bytes > limits::TOOL_BYTES {
        let wanted = format!("at most {}", limits::TOOL_BYTES);
        return Err(ApiError::field("tools", format!("{bytes} bytes"), &wanted));
    }
    for (index, tool) in tools.iter().enumerate() {
        let kind = tool.get("type").and_then(Value::as_str);
        if kind != Some("function") || !tool.get("function").is_some_and(Value::is_object) {
            let wanted = "{\"type\": \"function\", \"function\": {..}}";
            return Err(ApiError::field(&format!("tools[{index}]"), found(tool), wanted));
        }
    }
    Ok(tools)
}
