//! The parser of thoughts and calls against recorded cases, which lie beside the checkout.

use std::io::Write as _;
use std::path::Path;

use glm_server::parse::{Ending, Message, Parser, Start, Tools};
use serde_json::{Value, json};

fn vectors(file: &str) -> Option<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/vectors");
    match std::fs::read_to_string(folder.join(file)) {
        Ok(text) => Some(serde_json::from_str(&text).expect("JSON")),
        Err(_) => {
            drop(writeln!(std::io::stderr(), "skipped: no {file} in {}", folder.display()));
            None
        }
    }
}

/// What becomes of a text in these pieces.
fn pieces<'a>(
    start: Start,
    tools: &Tools,
    ending: Option<Ending>,
    pieces: impl IntoIterator<Item = &'a str>,
) -> Message {
    let mut parser = Parser::new(start, tools.clone());
    let mut message = Message::default();
    for piece in pieces {
        message.extend(parser.push(piece));
    }
    if let Some(ending) = ending {
        message.extend(parser.finish(ending));
    }
    message
}

/// The same whole, in any two pieces, and in pieces of 1 to 17 characters.
fn parse(start: Start, tools: &Tools, ending: Option<Ending>, text: &str) -> Message {
    let whole = pieces(start, tools, ending, [text]);
    for (at, _) in text.char_indices() {
        let (left, right) = text.split_at(at);
        assert_eq!(pieces(start, tools, ending, [left, right]), whole, "{left:?} {right:?}");
    }
    let characters: Vec<char> = text.chars().collect();
    for length in 1..=17 {
        let cut: Vec<String> = characters.chunks(length).map(|run| run.iter().collect()).collect();
        let cut = cut.iter().map(String::as_str);
        assert_eq!(pieces(start, tools, ending, cut), whole, "{text:?} in {length}s");
    }
    whole
}

fn tools(list: &Value) -> Tools {
    Tools::new(list.as_array().map_or(&[], Vec::as_slice)).expect("tools")
}

#[test]
fn tool_calls() {
    let Some(vectors) = vectors("tool_parser_vectors.json") else { return };
    let cases = vectors["cases"].as_array().expect("cases");
    assert!(cases.len() >= 40);
    for case in cases {
        let id = case["id"].as_str().expect("an id");
        let Some(output) = case["output"].as_str() else { continue };
        // These are looked at before the text ends: then nothing of the call may be text yet.
        let ending = match id.starts_with("sg_text_before") {
            true => None,
            false => Some(Ending::Complete),
        };
        let tools = tools(&case["tools"]);
        let message = parse(Start::Answer, &tools, ending, output);
        if let Some(chunks) = case["stream_chunks"].as_array() {
            let chunks = chunks.iter().map(|chunk| chunk.as_str().expect("text"));
            assert_eq!(pieces(Start::Answer, &tools, ending, chunks), message, "{id}");
        }
        let calls: Vec<Value> = message
            .calls
            .iter()
            .map(|call| {
                let arguments: Value = serde_json::from_str(&call.arguments).expect("JSON");
                json!({"name": call.name, "arguments": arguments})
            })
            .collect();
        let expect = &case["expect"];
        match id {
            // One peer drops a call whose end did not come; here the turn's end completes it.
            "incomplete_call_not_extracted" => {
                let cut = parse(Start::Answer, &tools, Some(Ending::Cut), output);
                assert!(!cut.calls[0].complete, "{cut:?}");
                assert_eq!(calls.len(), 1);
                continue;
            }
            "malformed_unclosed_key_no_crash" => continue,
            _ => assert_eq!(&Value::Array(calls), &expect["tool_calls"], "{id}"),
        }
        match expect["content"].as_str() {
            None => assert_eq!(message.text, "", "{id}"),
            Some("__ANY__") => {}
            Some(content) if content.starts_with("__CONTAINS__") => {
                let parts = content["__CONTAINS__".len()..].split('|');
                parts.for_each(|part| assert!(message.text.contains(part.trim()), "{id}"));
            }
            Some(content) if id == "content_between_calls_nonstream" => {
                // A peer keeps the text before the first call only; here all of it is kept.
                assert!(message.text.starts_with(content) && message.text.contains("Shanghai"));
            }
            Some(content) => assert_eq!(message.text, content, "{id}"),
        }
    }
}

#[test]
fn types_of_arguments() {
    let Some(vectors) = vectors("tool_parser_vectors.json") else { return };
    let argument = |schema: &Value, pairs: &[(&str, &str)]| -> Value {
        let tools = tools(&json!([{"name": "f", "parameters": schema}]));
        let pair = |(key, value): &(&str, &str)| {
            format!("<arg_key>{key}</arg_key><arg_value>{value}</arg_value>")
        };
        let arguments: String = pairs.iter().map(pair).collect();
        let text = format!("<tool_call>f{arguments}</tool_call>");
        let message = parse(Start::Answer, &tools, Some(Ending::Complete), &text);
        serde_json::from_str(&message.calls[0].arguments).expect("JSON")
    };
    let cases = vectors["argument_typing"].as_array().expect("cases");
    assert!(cases.len() >= 30);
    for case in cases {
        let schema = match &case["root_schema"] {
            Value::Null => json!({"type": "object", "properties": {"value": case["schema"]}}),
            root => root.clone(),
        };
        let found = argument(&schema, &[("value", case["raw"].as_str().expect("text"))]);
        let (found, wanted) = (&found["value"], &case["expected"]);
        let same_number = found.as_f64().is_some() && found.as_f64() == wanted.as_f64();
        assert!(found == wanted || same_number, "{case}: {found}");
    }
    let union = &vectors["root_union_by_sibling"];
    for case in union["pairs"].as_array().expect("pairs") {
        let case = case.as_array().expect("a list");
        let (wanted, pairs) = case.split_last().expect("not empty");
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|pair| (pair[0].as_str().expect("text"), pair[1].as_str().expect("text")))
            .collect();
        assert_eq!(&argument(&union["schema"], &pairs), wanted);
    }
}

#[test]
fn a_long_text_comes_line_by_line() {
    let tools = tools(
        &json!([{"name": "write", "parameters": {"properties": {"content": {"type": "string"}}}}]),
    );
    let mut parser = Parser::new(Start::Answer, tools);
    parser.push("<tool_call>write\n<arg_key>content</arg_key>\n<arg_value>");
    let fragments = (0..25).filter(|line| !parser.push(&format!("line {line}\n")).is_empty());
    assert!(fragments.count() >= 24);
}

#[test]
fn thoughts() {
    let Some(vectors) = vectors("reasoning_vectors.json") else { return };
    for case in vectors["cases"].as_array().expect("cases") {
        let start = match case["starts"].as_str() {
            Some("inside") => Start::Inside,
            _ => Start::Outside,
        };
        let output = case["output"].as_str().expect("text");
        let message = parse(start, &Tools::default(), Some(Ending::Complete), output);
        let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        let found = json!({"reasoning": text(&message.reasoning), "content": text(&message.text)});
        assert_eq!(found, case["expect"], "{}", case["id"]);
    }
    for case in vectors["is_reasoning_end_for_prompt"].as_array().expect("cases") {
        let start = Start::after(case["text"].as_str().expect("text"));
        assert_eq!(start == Start::Outside, case["expected"] == true, "{case}");
    }
}

/// A turn of a trajectory: what the model writes, and what its calls give back.
type Turns = &'static [(&'static str, &'static [&'static str])];

/// Tool-integrated reasoning, a search, and the calls of an API one after the other, as the model's
/// authors describe them: each turn is parsed, goes into the history as a client sends it back, and
/// the next prompt begins with all that was said before, so that its prefix is in the cache.
const TRAJECTORIES: &[(&str, Turns)] = &[
    (
        "What is the sum of the first 100 primes?",
        &[
            (
                "I should compute it.</think>Let me compute.<tool_call>python<arg_key>code</arg_key><arg_value>def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))\nprint(\"sum <b>\", 1 < 2)\n</arg_value></tool_call>",
                &["NameError: name 'primes' is not defined"],
            ),
            (
                "It printed too little.</think><tool_call>python<arg_key>code</arg_key><arg_value>print(24133)</arg_value></tool_call>",
                &["24133"],
            ),
            ("That is it.</think>The sum is 24133.", &[]),
        ],
    ),
    (
        "Who wrote the first paper on this?",
        &[
            (
                "Search first.</think><tool_call>browser.search<arg_key>query</arg_key><arg_value>first paper \"sparse attention\"</arg_value><arg_key>topn</arg_key><arg_value>3</arg_value></tool_call><tool_call>browser.search<arg_key>query</arg_key><arg_value>论文 作者</arg_value><arg_key>topn</arg_key><arg_value>5</arg_value></tool_call>",
                &["[1] Child et al.", "[2] nothing"],
            ),
            (
                "Open the first.</think><tool_call>browser.open<arg_key>id</arg_key><arg_value>1</arg_value></tool_call>",
                &["Generating Long Sequences"],
            ),
            ("Good.</think>It was Child et al. in 2019.", &[]),
        ],
    ),
    (
        "Cancel my order and tell me when.",
        &[
            (
                "Look it up.</think><tool_call>api_request<arg_key>method</arg_key><arg_value>GET</arg_value><arg_key>path</arg_key><arg_value>/orders</arg_value></tool_call>",
                &["{\"orders\": [{\"id\": 7}]}"],
            ),
            (
                "One order.</think><tool_call>api_request<arg_key>method</arg_key><arg_value>POST</arg_value><arg_key>path</arg_key><arg_value>/orders/7/cancel</arg_value><arg_key>body</arg_key><arg_value>{\"reason\": \"asked\", \"notify\": true}</arg_value></tool_call>",
                &["{\"ok\": true}"],
            ),
            ("Done.</think>Order 7 is cancelled.", &[]),
        ],
    ),
];

#[test]
fn trajectories_of_tools_keep_their_prefix() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/templates");
    let Ok(source) = std::fs::read_to_string(folder.join("GLM-4.7.jinja")) else {
        return drop(writeln!(std::io::stderr(), "skipped: no templates in {}", folder.display()));
    };
    let template = glm_runtime::text::ChatTemplate::new(&source).expect("a template");
    let property = |kind: &str| json!({"type": kind});
    let tool = |name: &str, properties: Value| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}});
    let list = json!([
        tool("python", json!({"code": property("string")})),
        tool("browser.search", json!({"query": property("string"), "topn": property("integer")})),
        tool("browser.open", json!({"id": property("integer")})),
        tool(
            "api_request",
            json!({"method": property("string"), "path": property("string"), "body": property("object")})
        ),
    ]);
    let tools = tools(&list);
    for (question, turns) in TRAJECTORIES {
        let mut messages = vec![json!({"role": "user", "content": question})];
        let mut said = String::new();
        for (output, results) in *turns {
            let mut input = glm_runtime::text::ChatInput::new(Value::Array(messages.clone()))
                .expect("messages");
            input.tools = Some(list.clone());
            let prompt = template.render(&input).expect("a prompt");
            assert!(prompt.starts_with(&said), "{prompt}\ndoes not begin with\n{said}");
            let message = parse(Start::after(&prompt), &tools, Some(Ending::Complete), output);
            assert_eq!(message.calls.len(), results.len(), "{output}");
            said = prompt + output;
            let call = |call: &glm_server::parse::ToolCall| json!({"type": "function", "function": {"name": call.name, "arguments": call.arguments}});
            let calls: Vec<Value> = message.calls.iter().map(call).collect();
            let mut turn = json!({"role": "assistant", "content": message.text, "reasoning_content": message.reasoning});
            if !calls.is_empty() {
                turn["tool_calls"] = calls.into();
            }
            messages.push(turn);
            messages
                .extend(results.iter().map(|result| json!({"role": "tool", "content": result})));
        }
    }
}
