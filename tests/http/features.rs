//! What a chat can ask for.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{SHARED, SUM, TestServer, user};

const CHAT: &str = "/v1/chat/completions";

fn chat(more: &Value) -> Value {
    let mut body = json!({"messages": user(SUM)});
    let (Value::Object(fields), Value::Object(more)) = (&mut body, more) else { panic!("objects") };
    fields.extend(more.clone());
    body
}

#[test]
fn thinking_is_turned_off_by_every_name_and_bounded_by_a_budget() {
    let thought = |more: Value| {
        let answer = SHARED.ask(CHAT, &chat(&more));
        let message = &answer["choices"][0]["message"];
        assert!(message["content"].is_string(), "{answer}");
        let tokens = answer["usage"]["completion_tokens_details"]["reasoning_tokens"].clone();
        let reasoning = message["reasoning_content"].as_str().unwrap_or_default().to_owned();
        assert_eq!(reasoning.is_empty(), tokens == 0, "{answer}");
        (reasoning, tokens.as_u64().expect("a count"))
    };
    for off in [
        json!({"chat_template_kwargs": {"enable_thinking": false}}),
        json!({"thinking": {"type": "disabled"}}),
        json!({"thinking": false}),
        json!({"reasoning_effort": "none"}),
    ] {
        assert_eq!(thought(off.clone()).0, "", "{off}");
    }
    let (free, tokens) = thought(json!({}));
    assert!(tokens > 6, "{free}");
    let (bounded, tokens) = thought(json!({"thinking_budget": 5}));
    assert!(free.starts_with(&bounded) && bounded.len() < free.len(), "{bounded} of {free}");
    assert_eq!(tokens, 6, "five and the closing tag");
}

#[test]
fn a_thought_of_an_earlier_turn_is_kept_where_it_is_asked_for() {
    let messages = json!([
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi.", "reasoning_content": "They greet."},
        {"role": "user", "content": SUM},
    ]);
    let text = |arguments: Value| {
        let body = json!({"messages": messages, "chat_template_kwargs": arguments});
        let ids = SHARED.ask("/tokenize", &body)["tokens"].clone();
        let text = SHARED.ask("/detokenize", &json!({"tokens": ids}))["prompt"].clone();
        text.as_str().expect("text").to_owned()
    };
    assert!(text(json!({"clear_thinking": false})).contains("They greet."));
    assert!(!text(json!({})).contains("They greet."));
}

#[test]
fn logprobs_and_token_ids_add_up() {
    let body = chat(&json!({
        "logprobs": true, "top_logprobs": 3, "return_token_ids": true, "prompt_logprobs": 0,
        "max_tokens": 9,
    }));
    let answer = SHARED.ask(CHAT, &body);
    let choice = &answer["choices"][0];
    let logprobs = choice["logprobs"]["content"].as_array().expect("a list");
    assert_eq!(logprobs.len(), 9);
    assert_eq!(choice["token_ids"].as_array().expect("ids").len(), 9);
    assert_eq!(choice["finish_reason"], "length");
    for entry in logprobs {
        let top = entry["top_logprobs"].as_array().expect("a list");
        assert_eq!(top.len(), 3);
        // Greedy: the token is the most probable one.
        assert_eq!(top[0]["token"], entry["token"]);
        assert!(entry["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0));
    }
    let prompt = answer["prompt_token_ids"].as_array().expect("ids").len();
    let of_prompt = answer["prompt_logprobs"].as_array().expect("a list");
    assert_eq!((of_prompt.len(), &of_prompt[0]), (prompt, &Value::Null));
    let events = SHARED.stream(CHAT, &body);
    let choices = events.iter().filter_map(|(_, event)| event["choices"].get(0));
    let ids: Vec<Value> =
        choices.filter_map(|choice| choice["token_ids"].as_array()).flatten().cloned().collect();
    assert_eq!(Value::Array(ids), choice["token_ids"]);
}

#[test]
fn stops_seeds_biases_and_several_answers() {
    let answer = SHARED.ask(CHAT, &chat(&json!({"stop": ["12"], "thinking": false})));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&"stop".into(), &"12".into()));
    assert!(!choice["message"]["content"].as_str().unwrap_or_default().contains("12"), "{choice}");

    let sampled = json!({"temperature": 3.0, "seed": 7, "n": 3, "max_tokens": 12});
    let texts = || -> Vec<String> {
        let answer = SHARED.ask(CHAT, &chat(&sampled));
        let choices = answer["choices"].as_array().expect("a list").clone();
        choices.iter().map(|choice| choice["message"].to_string()).collect()
    };
    let first = texts();
    assert_eq!(first.len(), 3);
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3, "{first:?}");
    assert_eq!(first, texts(), "the same seed");

    let id = SHARED.ask("/tokenize", &json!({"prompt": "a"}))["tokens"][0].to_string();
    let body = chat(&json!({"logit_bias": {&*id: 100}, "max_tokens": 4, "thinking": false}));
    let answer = SHARED.ask(CHAT, &body);
    assert_eq!(answer["choices"][0]["message"]["content"], "aaaa");
}

#[test]
fn a_prompt_that_was_seen_is_cached_and_said_so() {
    let long = "Tell me about the colours of the sky, the sea and the forest. ".repeat(12);
    let body = json!({"messages": user(&long), "max_tokens": 2});
    SHARED.ask(CHAT, &body);
    let usage = SHARED.ask(CHAT, &body)["usage"].clone();
    assert!(usage["prompt_tokens_details"]["cached_tokens"].as_u64() >= Some(64), "{usage}");
    let body = json!({"messages": user(&long), "max_tokens": 2, "cache_salt": "other"});
    let usage = SHARED.ask(CHAT, &body)["usage"].clone();
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0, "{usage}");
}

#[test]
fn forms_of_answers_are_kept_to_after_the_thought() {
    let schema = json!({
        "type": "object",
        "properties": {"sum": {"type": "integer"}, "sure": {"type": "boolean"}},
        "required": ["sum", "sure"],
        "additionalProperties": false,
    });
    let of_schema = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for thinking in [true, false] {
        let asked = json!({"response_format": of_schema, "thinking": thinking, "max_tokens": 400});
        let answer = SHARED.ask(CHAT, &chat(&asked));
        let message = &answer["choices"][0]["message"];
        let text = message["content"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(value["sum"].is_i64() && value["sure"].is_boolean(), "{value}");
        assert_eq!(message["reasoning_content"].is_string(), thinking, "{answer}");
    }
    let choice =
        json!({"structured_outputs": {"choice": ["twelve", "thirteen"]}, "thinking": false});
    let answer = SHARED.ask(CHAT, &chat(&choice));
    let text = answer["choices"][0]["message"]["content"].as_str().expect("text").trim().to_owned();
    assert!(["twelve", "thirteen"].contains(&text.as_str()), "{text}");
    let regex = json!({"structured_outputs": {"regex": "[0-9]{3}-[a-c]{1,4}x"}, "thinking": false});
    let answer = SHARED.ask(CHAT, &chat(&regex));
    let text = answer["choices"][0]["message"]["content"].as_str().expect("text").trim().to_owned();
    let (digits, rest) = text.split_at(3);
    assert!(
        digits.bytes().all(|b| b.is_ascii_digit()) && rest.starts_with('-') && rest.ends_with('x'),
        "{text}"
    );
}

#[test]
fn drafts_and_forms_go_together() {
    let server = TestServer::start(
        |_| (),
        |config| {
            config.drafts = glm_runtime::DraftChoice::Fixed(3);
        },
    );
    let asked = json!({"response_format": {"type": "json_object"}, "thinking": false, "max_tokens": 60, "temperature": 1.0, "seed": 1});
    for seed in 0..4 {
        let mut body = chat(&asked);
        body["seed"] = seed.into();
        let answer = server.ask(CHAT, &body);
        let choice = &answer["choices"][0];
        let text = choice["message"]["content"].as_str().expect("text").trim().to_owned();
        match choice["finish_reason"].as_str() {
            Some("stop") => drop(serde_json::from_str::<Value>(&text).expect("JSON")),
            _ => assert!(text.starts_with('{'), "{text}"),
        }
    }
    let usage = server.ask(CHAT, &chat(&json!({})))["usage"].clone();
    let details = &usage["completion_tokens_details"];
    assert!(details["accepted_prediction_tokens"].as_u64() > Some(0), "{usage}");
}

fn weather() -> Value {
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "The weather of a city", "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 3]}},
            "required": ["city", "days"],
        }}},
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    ])
}

#[test]
fn a_call_is_forced_named_or_forbidden() {
    let ask = |choice: Value, more: Value| {
        let mut body = chat(&json!({"tools": weather(), "tool_choice": choice, "max_tokens": 300}));
        let (Value::Object(fields), Value::Object(more)) = (&mut body, more) else { panic!() };
        fields.extend(more);
        SHARED.ask(CHAT, &body)["choices"][0].clone()
    };
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    for thinking in [true, false] {
        let choice =
            ask(named.clone(), json!({"thinking": thinking, "parallel_tool_calls": false}));
        let calls =
            choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{choice}"));
        assert_eq!((calls.len(), &choice["finish_reason"]), (1, &"tool_calls".into()), "{choice}");
        let function = &calls[0]["function"];
        assert_eq!(function["name"], "get_weather");
        let arguments: Value =
            serde_json::from_str(function["arguments"].as_str().expect("text")).expect("JSON");
        assert!(arguments["city"].is_string() && arguments["days"].is_i64(), "{arguments}");
    }
    let choice = ask("required".into(), json!({"thinking": false, "parallel_tool_calls": false}));
    assert!(choice["message"]["tool_calls"][0]["function"]["name"].is_string(), "{choice}");
    let choice = ask("none".into(), json!({"thinking": false, "max_tokens": 40}));
    assert!(choice["message"]["tool_calls"].is_null(), "{choice}");
    assert!(!choice["message"]["content"].as_str().unwrap_or_default().contains("<tool_call>"));
    let answer = SHARED.post(CHAT, &chat(&json!({"tools": weather(), "tool_choice": {"type": "function", "function": {"name": "later"}}})));
    assert_eq!(answer.status, 400);
    assert!(answer.message().contains("tool_choice"), "{}", answer.text);
}

#[test]
fn a_strict_tool_is_held_to_its_schema_where_the_model_may_call_or_not() {
    let mut tools = weather();
    tools[0]["function"]["strict"] = true.into();
    for thinking in [true, false] {
        let asked = json!({"tools": tools, "thinking": thinking, "max_tokens": 200});
        let choice = SHARED.ask(CHAT, &chat(&asked))["choices"][0].clone();
        assert!(
            choice["message"]["content"].as_str().is_some_and(|text| text.contains("12")),
            "{choice}"
        );
    }
    // What cannot be kept to is refused for a strict tool, and let go for others.
    tools[0]["function"]["parameters"]["properties"]["days"] =
        json!({"not": {}, "type": "integer"});
    let refused = SHARED.post(CHAT, &chat(&json!({"tools": tools, "max_tokens": 4})));
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.message().contains("days"), "{}", refused.text);
    tools[0]["function"]["strict"] = false.into();
    SHARED.ask(CHAT, &chat(&json!({"tools": tools, "tool_choice": "required", "max_tokens": 4})));
}

/// What cannot be answered is said by name, and the next request works.
#[test]
fn what_is_wrong_is_named() {
    for (more, wanted) in [
        (json!({"temperature": "hot"}), "temperature: found \"hot\", wanted a number"),
        (json!({"n": 17}), "n: found 17, wanted a whole number from 1 to 16"),
        (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs: found 21"),
        (json!({"top_logprobs": 2}), "logprobs: found false"),
        (json!({"messages": []}), "messages: found 0, wanted 1 to 8192"),
        (
            json!({"messages": [{"role": "robot", "content": ""}]}),
            "messages[0].role: found \"robot\"",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "the model reads text only",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!({"stop": vec!["x"; 17]}), "stop: found 17, wanted at most 16"),
        (json!({"stop": [""]}), "stop: found \"\""),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
        (json!({"logit_bias": {"999999": 1}}), "logit-bias is 999999"),
        (json!({"max_tokens": 0}), "max_tokens: found 0"),
        (json!({"max_tokens": -5}), "max_tokens: found -5"),
        (json!({"chat_template": "{{ 1 }}"}), "templates of requests are not run"),
        (json!({"chat_template_kwargs": {"x": 1}}), "chat_template_kwargs.x: no such variable"),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort: found \"huge\""),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}),
            "tools[0].function.name",
        ),
        (json!({"tools": "x"}), "tools: found \"x\", wanted a list"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"model": "gpt-4"}), "model: found \"gpt-4\", wanted one of [\"glm-tiny\"]"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type: found \"xml\""),
        (json!({"structured_outputs": {"regex": "(a"}}), "regex"),
        (json!({"messages": user(&"word ".repeat(3000))}), "wanted at most 1023"),
    ] {
        let answer = SHARED.post(CHAT, &chat(&more));
        let status = if more["model"].is_string() { 404 } else { 400 };
        assert_eq!(answer.status, status, "{more}: {}", answer.text);
        assert!(answer.message().contains(wanted), "{more}: {}", answer.text);
    }
    SHARED.ask(CHAT, &chat(&json!({"max_tokens": 1})));
}

#[test]
fn a_deadline_ends_an_answer_with_what_it_has() {
    let body = chat(&json!({"timeout": 0.05, "ignore_eos": true, "max_tokens": 900}));
    let choice = SHARED.ask(CHAT, &body)["choices"][0].clone();
    assert_eq!(
        (&choice["finish_reason"], &choice["stop_reason"]),
        (&"length".into(), &"deadline".into())
    );
}
