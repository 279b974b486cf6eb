//! The conversation a chat template renders, from OpenAI's JSON.

use serde_json::{Map, Value};

use crate::text::TextError;

/// A conversation and the settings of its template.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatInput {
    /// Array of messages: objects with at least a string `role`.
    pub messages: Value,
    /// Array of tool definitions, rendered as they are.
    pub tools: Option<Value>,
    /// Further variables of the template, such as `enable_thinking` or `clear_thinking`.
    pub kwargs: Map<String, Value>,
    /// Whether the prompt ends with the opening of the assistant's turn; an entry of the same
    /// name in `kwargs` wins.
    pub add_generation_prompt: bool,
}

impl ChatInput {
    /// A conversation without tools or settings, asking for the assistant's turn.
    ///
    /// Templates want what OpenAI's clients do not send, so a `null` content becomes `""` (it
    /// would print as `None`), and the `arguments` of a tool call, a string of JSON, become the
    /// object in it (templates walk its entries).
    ///
    /// # Errors
    /// Not an array of such messages; the error names the place.
    pub fn new(mut messages: Value) -> Result<Self, TextError> {
        for (index, message) in array(&mut messages, "messages")?.iter_mut().enumerate() {
            normalise(message, &format!("messages[{index}]"))?;
        }
        Ok(Self { messages, tools: None, kwargs: Map::new(), add_generation_prompt: true })
    }

    /// Reads an array of messages, or an object `{messages, tools, chat_template_kwargs}` whose
    /// other entries are ignored (`template_kwargs` is taken too).
    ///
    /// # Errors
    /// Not JSON, or JSON of another form; the error names the place.
    pub fn from_json(text: &str) -> Result<Self, TextError> {
        let mut request = match serde_json::from_str(text)? {
            Value::Object(request) => request,
            messages @ Value::Array(_) => return Self::new(messages),
            other => {
                return Err(wrong(
                    "the conversation",
                    &other,
                    "an array of messages or an object with `messages`",
                ));
            }
        };
        let mut take = |name| request.remove(name).unwrap_or_default();
        let mut input = Self::new(take("messages"))?;
        let mut tools = take("tools");
        if !tools.is_null() {
            for (index, tool) in array(&mut tools, "tools")?.iter_mut().enumerate() {
                object(tool, &format!("tools[{index}]"))?;
            }
            input.tools = Some(tools);
        }
        for name in ["template_kwargs", "chat_template_kwargs"] {
            let mut kwargs = take(name);
            if !kwargs.is_null() {
                input.kwargs.append(object(&mut kwargs, name)?);
            }
        }
        Ok(input)
    }
}

fn normalise(message: &mut Value, place: &str) -> Result<(), TextError> {
    let message = object(message, place)?;
    let role = message.get("role").unwrap_or(&Value::Null);
    if !role.is_string() {
        return Err(wrong(&format!("{place}.role"), role, "a string"));
    }
    match message.get_mut("content") {
        Some(content @ Value::Null) => *content = "".into(),
        None | Some(Value::String(_) | Value::Array(_)) => {}
        Some(other) => {
            return Err(wrong(
                &format!("{place}.content"),
                other,
                "a string, an array of parts or null",
            ));
        }
    }
    let Some(calls) = message.get_mut("tool_calls").filter(|calls| !calls.is_null()) else {
        return Ok(());
    };
    let place = format!("{place}.tool_calls");
    for (index, call) in array(calls, &place)?.iter_mut().enumerate() {
        let place = format!("{place}[{index}]");
        let call = object(call, &place)?;
        match call.get_mut("function") {
            Some(function) => {
                let place = format!("{place}.function");
                parse_arguments(object(function, &place)?, &place)?;
            }
            None => parse_arguments(call, &place)?,
        }
    }
    Ok(())
}

/// A call without arguments may have none, null or an empty string.
fn parse_arguments(function: &mut Map<String, Value>, place: &str) -> Result<(), TextError> {
    const WANTED: &str = "an object, or a string of JSON holding one";
    let place = format!("{place}.arguments");
    let arguments = function.entry("arguments").or_insert(Value::Null);
    match arguments {
        Value::Null => *arguments = Value::Object(Map::new()),
        Value::String(text) if text.trim().is_empty() => *arguments = Value::Object(Map::new()),
        Value::String(text) => {
            let parsed = serde_json::from_str(text).map_err(|error| TextError::Input {
                place: place.clone(),
                found: format!("a string that is not JSON ({error})"),
                wanted: WANTED,
            })?;
            *arguments = parsed;
        }
        _ => {}
    }
    if arguments.is_object() { Ok(()) } else { Err(wrong(&place, arguments, WANTED)) }
}

fn array<'a>(value: &'a mut Value, place: &str) -> Result<&'a mut Vec<Value>, TextError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(wrong(place, other, "an array")),
    }
}

fn object<'a>(value: &'a mut Value, place: &str) -> Result<&'a mut Map<String, Value>, TextError> {
    match value {
        Value::Object(entries) => Ok(entries),
        other => Err(wrong(place, other, "an object")),
    }
}

fn wrong(place: &str, found: &Value, wanted: &'static str) -> TextError {
    TextError::Input { place: place.to_owned(), found: kind(found).to_owned(), wanted }
}

/// The JSON kind of a value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_take_the_form_that_templates_expect() {
        let call = |arguments: Value| json!({"type": "function", "function": {"name": "f", "arguments": arguments}});
        let message =
            |calls: Value| json!([{"role": "assistant", "content": null, "tool_calls": calls}]);
        let calls = [
            call(json!("{\"b\": 1, \"a\": [1.0]}")),
            call(json!({"x": 1})),
            call(json!("")),
            call(Value::Null),
            json!({"name": "bare", "arguments": "{\"k\": 2}"}),
        ];
        let input = ChatInput::new(message(json!(calls))).unwrap();
        assert_eq!(input.messages[0]["content"], "");
        let calls = input.messages[0]["tool_calls"].as_array().unwrap();
        let arguments: Vec<String> =
            calls[..4].iter().map(|call| call["function"]["arguments"].to_string()).collect();
        assert_eq!(arguments, ["{\"b\":1,\"a\":[1.0]}", "{\"x\":1}", "{}", "{}"]);
        assert_eq!(calls[4]["arguments"], json!({"k": 2}));
    }

    #[test]
    fn a_request_or_a_bare_array_is_read() {
        let messages = json!([{"role": "user", "content": [{"type": "text", "text": "x"}]}]);
        let bare = ChatInput::from_json(&messages.to_string()).unwrap();
        assert_eq!(
            (&bare.messages, &bare.tools, bare.add_generation_prompt),
            (&messages, &None, true)
        );
        for name in ["template_kwargs", "chat_template_kwargs"] {
            let request = json!({"model": "m", "messages": messages, "tools": [{"type": "function"}], name: {"enable_thinking": false}});
            let input = ChatInput::from_json(&request.to_string()).unwrap();
            assert_eq!(
                (&input.messages, input.tools),
                (&messages, Some(json!([{"type": "function"}])))
            );
            assert_eq!(Value::Object(input.kwargs), json!({"enable_thinking": false}));
        }
        let nulls = json!({"messages": [], "tools": null, "template_kwargs": null});
        assert_eq!(
            ChatInput::from_json(&nulls.to_string()).unwrap(),
            ChatInput::new(json!([])).unwrap()
        );
    }

    #[test]
    fn a_wrong_form_is_named_by_its_place() {
        let call = |arguments: &str| json!([{"role": "user"}, {"role": "assistant", "tool_calls": [{"function": {"arguments": arguments}}]}]);
        for (input, wanted) in [
            (
                json!(3),
                "the conversation: found a number, wanted an array of messages or an object with `messages`",
            ),
            (json!({"tools": []}), "messages: found nothing, wanted an array"),
            (json!(["hi"]), "messages[0]: found a string, wanted an object"),
            (json!([{"content": "hi"}]), "messages[0].role: found nothing, wanted a string"),
            (
                json!([{"role": "user", "content": 5}]),
                "messages[0].content: found a number, wanted a string, an array of parts or null",
            ),
            (json!({"messages": [], "tools": {}}), "tools: found an object, wanted an array"),
            (json!({"messages": [], "tools": ["f"]}), "tools[0]: found a string, wanted an object"),
            (
                json!({"messages": [], "template_kwargs": []}),
                "template_kwargs: found an array, wanted an object",
            ),
            (
                call("{"),
                "messages[1].tool_calls[0].function.arguments: found a string that is not JSON (EOF while parsing an object at line 1 column 1), wanted an object, or a string of JSON holding one",
            ),
            (
                call("[1]"),
                "messages[1].tool_calls[0].function.arguments: found an array, wanted an object, or a string of JSON holding one",
            ),
        ] {
            assert_eq!(ChatInput::from_json(&input.to_string()).unwrap_err().to_string(), wanted);
        }
        let broken = ChatInput::from_json("[{]").unwrap_err().to_string();
        assert!(broken.starts_with("messages: not JSON: "), "{broken}");
    }
}
