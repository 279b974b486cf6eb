//! `/v1/messages` beside what a single turn shows.

use serde_json::json;

use super::{SHARED, SUM, user};

const MESSAGES: &str = "/v1/messages";

#[test]
fn the_ends_of_a_message() {
    let ask = |more: serde_json::Value| {
        let mut body = json!({"messages": user(SUM), "max_tokens": 200});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        SHARED.ask(MESSAGES, &body)
    };
    let cut = ask(json!({"max_tokens": 3}));
    assert_eq!(
        (&cut["stop_reason"], &cut["usage"]["output_tokens"]),
        (&"max_tokens".into(), &3.into())
    );
    let stopped = ask(json!({"stop_sequences": ["12"], "thinking": {"type": "disabled"}}));
    assert_eq!(
        (&stopped["stop_reason"], &stopped["stop_sequence"]),
        (&"stop_sequence".into(), &"12".into())
    );
    assert_eq!(ask(json!({}))["stop_reason"], "end_turn");
}

#[test]
fn the_line_that_differs_each_time_does_not_cost_the_cache() {
    let system = "You answer in one word. ".repeat(40);
    let ask = |line: &str| {
        let system = json!([
            {"type": "text", "text": format!("x-anthropic-billing-header: cch={line};")},
            {"type": "text", "text": system},
        ]);
        let body = json!({"system": system, "messages": user(SUM), "max_tokens": 1});
        SHARED.ask(MESSAGES, &body)["usage"]["cache_read_input_tokens"].as_u64()
    };
    ask("1");
    assert!(ask("2") >= Some(64), "the second finds the first one's prompt");
}

/// The shape of what Claude Code sends, with all that means nothing here.
#[test]
fn a_request_of_an_agent_is_taken_as_it_is() {
    let cached = json!({"type": "ephemeral", "ttl": "1h"});
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"command": {"type": "string", "description": "What to run"}, "timeout": {"type": "number"}},
        "required": ["command"],
        "additionalProperties": false,
    });
    let body = json!({
        "model": "glm-tiny",
        "max_tokens": 8,
        "temperature": 1,
        "stream": true,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=1;"},
            {"type": "text", "text": "You help.", "cache_control": cached},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"}, {"type": "text", "text": SUM, "cache_control": cached}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "They ask.", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "expr 7 + 5"}},
                {"type": "tool_use", "id": "toolu_2", "name": "Bash", "input": {"command": "true"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "12"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": true, "content": "no", "cache_control": cached},
            ]},
        ],
        "tools": [
            {"name": "Bash", "description": "Runs a command", "input_schema": schema, "cache_control": cached},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "adaptive"},
        "metadata": {"user_id": "u"},
        "context_management": {"edits": []},
        "output_config": {"effort": "high"},
    });
    let headers = [("anthropic-version", "2023-06-01"), ("anthropic-beta", "claude-code-20250219")];
    let answer = SHARED.post_with("/v1/messages?beta=true", &headers, &body);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.text.ends_with("{\"type\":\"message_stop\"}\n\n"), "{}", answer.text);
}

#[test]
fn errors_have_anthropics_form() {
    for (body, status, wanted) in [
        (json!({"messages": user("a")}), 400, "max_tokens: found nothing"),
        (json!({"messages": [], "max_tokens": 1}), 400, "messages: found 0"),
        (
            json!({"messages": user("a"), "max_tokens": 1, "model": "claude"}),
            404,
            "model: found \"claude\"",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}], "max_tokens": 1}),
            400,
            "image: the model reads text only",
        ),
        (
            json!({"messages": user("a"), "max_tokens": 1, "tools": [{"type": "bash_20250124", "name": "bash"}]}),
            400,
            "tools[0].type: bash_20250124",
        ),
    ] {
        let answer = SHARED.post(MESSAGES, &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        let error = answer.json();
        assert_eq!(error["type"], "error", "{error}");
        assert!(error["error"]["type"].as_str().is_some_and(|kind| kind.ends_with("_error")));
        assert!(answer.message().contains(wanted), "{body}: {}", answer.text);
    }
}
