//! The recorded conversations of the built-in model, on all APIs, streamed and whole.

use std::path::Path;

use serde_json::{Value, json};

use super::{SHARED, TestServer};
use crate::transcripts;

/// Thought, text, and names and arguments of calls.
#[derive(Debug, Clone, PartialEq, Default)]
struct Said {
    reasoning: String,
    text: String,
    calls: Vec<(String, Value)>,
}

fn cases() -> Vec<Value> {
    let cases = transcripts::read(Path::new(transcripts::FIXTURES));
    let robust = |case: &Value| case["robust"] == true;
    cases.into_iter().filter(robust).collect()
}

fn wanted(case: &Value) -> Said {
    let parsed = &case["fp32"]["parsed"];
    let text = |key: &str| parsed[key].as_str().unwrap_or_default().trim().to_owned();
    let call = |call: &Value| {
        let function = call.get("function").unwrap_or(call);
        let arguments = match &function["arguments"] {
            Value::String(text) => serde_json::from_str(text).expect("JSON"),
            object => object.clone(),
        };
        (function["name"].as_str().expect("a name").to_owned(), arguments)
    };
    let calls = parsed["tool_calls"].as_array().map(|calls| calls.iter().map(call).collect());
    Said {
        reasoning: text("reasoning_content"),
        text: text("content"),
        calls: calls.unwrap_or_default(),
    }
}

/// With white space at both ends gone, which the recorded ones are without.
fn trimmed(said: Said) -> Said {
    let trim = |text: String| text.trim().to_owned();
    Said { reasoning: trim(said.reasoning), text: trim(said.text), calls: said.calls }
}

fn parsed(name: &Value, arguments: &Value) -> (String, Value) {
    let arguments = arguments.as_str().expect("a text");
    let name = name.as_str().expect("a name").to_owned();
    (name, serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{e}: {arguments}")))
}

#[test]
fn openai_chats() {
    let cases = cases();
    assert!(cases.iter().any(|case| !wanted(case).calls.is_empty()), "calls are in them");
    assert!(cases.iter().any(|case| !wanted(case).reasoning.is_empty()), "and thoughts");
    for case in &cases {
        let body = chat_body(case);
        let answer = SHARED.ask("/v1/chat/completions", &body);
        let choice = &answer["choices"][0];
        let message = &choice["message"];
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        let calls = message["tool_calls"].as_array().map(|calls| {
            let call =
                |call: &Value| parsed(&call["function"]["name"], &call["function"]["arguments"]);
            calls.iter().map(call).collect()
        });
        let whole = Said {
            reasoning: text("reasoning_content"),
            text: text("content"),
            calls: calls.unwrap_or_default(),
        };
        let reason = if whole.calls.is_empty() { "stop" } else { "tool_calls" };
        assert_eq!(choice["finish_reason"], reason, "{case}");
        assert_eq!(answer["usage"]["completion_tokens"], ids(case), "{}", case["name"]);
        assert_eq!(trimmed(whole.clone()), wanted(case), "{}", case["name"]);
        assert_eq!(streamed_chat(&SHARED, &body, reason), whole, "{}", case["name"]);
    }
}

fn ids(case: &Value) -> usize {
    case["fp32"]["ids"].as_array().expect("ids").len()
}

fn chat_body(case: &Value) -> Value {
    json!({
        "model": "glm-tiny",
        "messages": case["messages"],
        "tools": case["tools"],
        "chat_template_kwargs": case["template_kwargs"],
        "stream_options": {"include_usage": true},
    })
}

/// Puts the pieces of a streamed chat together, and checks how they come.
fn streamed_chat(server: &TestServer, body: &Value, reason: &str) -> Said {
    let mut events = server.stream("/v1/chat/completions", body);
    assert_eq!(events.pop().expect("the last").1, "[DONE]");
    let usage = events.pop().expect("usage").1;
    assert_eq!(usage["choices"], json!([]), "{usage}");
    assert!(usage["usage"]["completion_tokens"].as_u64() > Some(0), "{usage}");
    let mut said = Said::default();
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut reasons = Vec::new();
    for (_, event) in &events {
        assert_eq!(event["object"], "chat.completion.chunk");
        let choice = &event["choices"][0];
        let delta = &choice["delta"];
        said.reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        said.text.push_str(delta["content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().expect("an index") as usize;
            let function = &call["function"];
            if let Some(name) = function["name"].as_str() {
                assert_eq!(index, calls.len(), "calls begin in order, once each");
                assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")));
                calls.push((name.to_owned(), String::new()));
            }
            calls[index].1.push_str(function["arguments"].as_str().unwrap_or_default());
        }
        reasons.extend(choice["finish_reason"].as_str());
    }
    assert_eq!(reasons, [reason], "one end");
    let call = |(name, arguments): (String, String)| parsed(&name.into(), &arguments.into());
    said.calls = calls.into_iter().map(call).collect();
    said
}

#[test]
fn anthropic_messages() {
    for case in &cases() {
        let Some(body) = anthropic_body(case) else { continue };
        let answer = SHARED.ask("/v1/messages", &body);
        let mut whole = Said::default();
        for block in answer["content"].as_array().expect("blocks") {
            match block["type"].as_str() {
                Some("thinking") => whole.reasoning += block["thinking"].as_str().expect("text"),
                Some("text") => whole.text += block["text"].as_str().expect("text"),
                _ => whole.calls.push((
                    block["name"].as_str().expect("a name").to_owned(),
                    block["input"].clone(),
                )),
            }
        }
        let reason = if whole.calls.is_empty() { "end_turn" } else { "tool_use" };
        assert_eq!(answer["stop_reason"], reason, "{case}");
        assert_eq!(trimmed(whole.clone()), wanted(case), "{}", case["name"]);
        assert_eq!(streamed_message(&body, reason), whole, "{}", case["name"]);
        let mut counted = body.clone();
        counted.as_object_mut().expect("an object").remove("max_tokens");
        let count = SHARED.ask("/v1/messages/count_tokens", &counted)["input_tokens"].clone();
        assert_eq!(count, case["prompt_ids"].as_array().expect("ids").len(), "{}", case["name"]);
    }
}

/// In Anthropic's form; not all histories have one.
fn anthropic_body(case: &Value) -> Option<Value> {
    let mut messages = Vec::new();
    let mut system = Value::Null;
    for message in case["messages"].as_array()? {
        let content = message["content"].clone();
        match message["role"].as_str()? {
            "system" => system = content,
            "tool" => {
                let block = json!({"type": "tool_result", "tool_use_id": "t", "content": content});
                messages.push(json!({"role": "user", "content": [block]}));
            }
            "assistant" => {
                let mut blocks = Vec::new();
                if let Some(thinking) = message["reasoning_content"].as_str() {
                    blocks.push(json!({"type": "thinking", "thinking": thinking, "signature": ""}));
                }
                if content.as_str().is_some_and(|text| !text.is_empty()) {
                    blocks.push(json!({"type": "text", "text": content}));
                }
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let (name, input) = (&call["function"]["name"], &call["function"]["arguments"]);
                    let input = match input {
                        Value::String(text) => serde_json::from_str(text).ok()?,
                        object => object.clone(),
                    };
                    blocks
                        .push(json!({"type": "tool_use", "id": "t", "name": name, "input": input}));
                }
                messages.push(json!({"role": "assistant", "content": blocks}));
            }
            _ => messages.push(json!({"role": "user", "content": content})),
        }
    }
    let tool = |tool: &Value| {
        let function = &tool["function"];
        let mut given = json!({"name": function["name"], "input_schema": function["parameters"]});
        if !function["description"].is_null() {
            given["description"] = function["description"].clone();
        }
        given
    };
    let tools: Option<Vec<Value>> =
        case["tools"].as_array().map(|tools| tools.iter().map(tool).collect());
    Some(json!({
        "model": "glm-tiny",
        "max_tokens": 512,
        "system": system,
        "messages": messages,
        "tools": tools,
        "chat_template_kwargs": case["template_kwargs"],
    }))
}

fn streamed_message(body: &Value, reason: &str) -> Said {
    let events = SHARED.stream("/v1/messages", body);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "ping"]);
    assert_eq!(names[names.len() - 2..], ["message_delta", "message_stop"]);
    let mut said = Said::default();
    let mut open: Option<(u64, String, String)> = None;
    let mut blocks = 0;
    for (name, event) in &events {
        assert_eq!(event["type"], name.as_str());
        match name.as_str() {
            "content_block_start" => {
                assert!(open.is_none(), "one block at a time");
                assert_eq!(event["index"], blocks);
                let block = &event["content_block"];
                let kind = block["type"].as_str().expect("a type").to_owned();
                let name = block["name"].as_str().unwrap_or_default().to_owned();
                if kind == "tool_use" {
                    said.calls.push((name, json!({})));
                }
                open = Some((blocks, kind, String::new()));
            }
            "content_block_delta" => {
                let (index, kind, text) = open.as_mut().expect("an open block");
                assert_eq!(event["index"], *index);
                let delta = &event["delta"];
                let key = match kind.as_str() {
                    "thinking" if delta["type"] == "signature_delta" => continue,
                    "thinking" => "thinking",
                    "text" => "text",
                    _ => "partial_json",
                };
                text.push_str(delta[key].as_str().expect("a text"));
            }
            "content_block_stop" => {
                let (_, kind, text) = open.take().expect("an open block");
                blocks += 1;
                match kind.as_str() {
                    "thinking" => said.reasoning += &text,
                    "text" => said.text += &text,
                    _ => {
                        let call = said.calls.last_mut().expect("a call");
                        call.1 = serde_json::from_str(&text).expect("JSON");
                    }
                }
            }
            "message_delta" => assert_eq!(event["delta"]["stop_reason"], reason),
            _ => {}
        }
    }
    said
}

#[test]
fn openai_responses() {
    for case in &cases() {
        let Some(body) = response_body(case) else { continue };
        let answer = SHARED.ask("/v1/responses", &body);
        assert_eq!(answer["status"], "completed", "{answer}");
        let whole = of_items(&answer["output"]);
        assert_eq!(trimmed(whole.clone()), wanted(case), "{}", case["name"]);

        let events = SHARED.stream("/v1/responses", &body);
        let terminal = |name: &str| {
            ["response.completed", "response.incomplete", "response.failed"].contains(&name)
        };
        let ends = events.iter().filter(|(name, _)| terminal(name)).count();
        assert_eq!(ends, 1, "exactly one terminal event");
        let (last, response) = events.last().expect("events");
        assert_eq!(last, "response.completed");
        for (index, (name, event)) in events.iter().enumerate() {
            assert_eq!(
                (&event["type"], &event["sequence_number"]),
                (&name.as_str().into(), &index.into())
            );
        }
        assert_eq!(of_items(&response["response"]["output"]), whole, "{}", case["name"]);
        let deltas = |wanted: &str| -> String {
            let texts = events.iter().filter(|(name, _)| name == wanted);
            texts.map(|(_, event)| event["delta"].as_str().expect("a text")).collect()
        };
        assert_eq!(deltas("response.reasoning_text.delta"), whole.reasoning);
        assert_eq!(deltas("response.output_text.delta"), whole.text);
    }
}

fn of_items(items: &Value) -> Said {
    let mut said = Said::default();
    for item in items.as_array().expect("items") {
        match item["type"].as_str() {
            Some("reasoning") => {
                said.reasoning += item["content"][0]["text"].as_str().expect("text")
            }
            Some("message") => said.text += item["content"][0]["text"].as_str().expect("text"),
            _ => said.calls.push(parsed(&item["name"], &item["arguments"])),
        }
    }
    said
}

fn response_body(case: &Value) -> Option<Value> {
    let mut input = Vec::new();
    for message in case["messages"].as_array()? {
        let content = &message["content"];
        match message["role"].as_str()? {
            "tool" => input
                .push(json!({"type": "function_call_output", "call_id": "c", "output": content})),
            "assistant" => {
                if let Some(thinking) = message["reasoning_content"].as_str() {
                    let part = json!({"type": "reasoning_text", "text": thinking});
                    input.push(json!({"type": "reasoning", "content": [part]}));
                }
                if content.as_str().is_some_and(|text| !text.is_empty()) {
                    let part = json!({"type": "output_text", "text": content});
                    input.push(json!({"type": "message", "role": "assistant", "content": [part]}));
                }
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let arguments = match &call["function"]["arguments"] {
                        Value::String(text) => text.clone(),
                        object => object.to_string(),
                    };
                    input.push(json!({"type": "function_call", "call_id": "c", "name": call["function"]["name"], "arguments": arguments}));
                }
            }
            role => input.push(json!({"role": role, "content": content})),
        }
    }
    let tool = |tool: &Value| {
        let mut flat = tool["function"].clone();
        flat["type"] = "function".into();
        flat
    };
    let tools: Option<Vec<Value>> =
        case["tools"].as_array().map(|tools| tools.iter().map(tool).collect());
    // The order of a tool's entries is part of the prompt.
    let body = json!({
        "input": input,
        "tools": tools,
        "chat_template_kwargs": case["template_kwargs"],
    });
    Some(body)
}
