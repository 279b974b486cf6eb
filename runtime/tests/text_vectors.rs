//! Tokenizers, chat templates and detokenisation against recorded results of the Python
//! libraries, which lie beside the repository in `shared`.

use std::io::Write as _;
use std::path::Path;

use glm_runtime::text::{ChatInput, ChatTemplate, Detokenizer, Tokenizer};
use serde_json::Value;

#[test]
fn official_tokenizers_encode_and_decode() {
    let Some(vectors) = shared_json("data/vectors/tokenizer_vectors.json") else { return };
    for (name, file) in [
        ("GLM-4.5/4.6/4.7", "GLM-4.5_4.6_4.7.tokenizer.json"),
        ("GLM-4.7-Flash", "GLM-4.7-Flash.tokenizer.json"),
    ] {
        let tokenizer = tokenizer(&format!("data/tokenizers/{file}"));
        let cases: Vec<&Value> = items(&vectors).filter(|case| case["tokenizer"] == name).collect();
        assert!(!cases.is_empty(), "no case for {name}");
        for case in cases {
            check_text(&tokenizer, case, ["decode_keep", "decode_skip"]);
        }
    }
}

#[test]
fn the_small_tokenizer_and_its_chats() {
    let Some(golden) = shared_json("oracles/public/tokenizer_golden.json") else { return };
    let tokenizer = tokenizer("oracles/public/glm-tiny/tokenizer.json");
    assert_eq!(tokenizer.vocab_len(), 2024);
    assert_eq!(tokenizer.token(1995).as_deref(), Some("<|user|>"));
    assert_eq!(tokenizer.token_id("<think>"), Some(2009));
    assert!(
        tokenizer.is_special(1995) && !tokenizer.is_special(2009) && !tokenizer.is_special(2024)
    );
    for case in items(&golden["texts"]) {
        check_text(&tokenizer, case, ["decoded", "decoded_skip_special"]);
    }
    let template = template("oracles/public/glm-tiny/chat_template.jinja");
    for case in items(&golden["chats"]) {
        let input = ChatInput {
            messages: case["messages"].clone(),
            tools: case.get("tools").cloned(),
            kwargs: case["kwargs"].as_object().cloned().unwrap_or_default(),
            add_generation_prompt: case["add_generation_prompt"] == true,
        };
        check_prompt(&template, &tokenizer, &input, &case["rendered"], &case["ids"]);
    }
}

#[test]
fn official_templates_render_byte_for_byte() {
    let Some(vectors) = shared_json("data/vectors/chat_render_vectors.json") else { return };
    let of_45_to_47 = tokenizer("data/tokenizers/GLM-4.5_4.6_4.7.tokenizer.json");
    let of_flash = tokenizer("data/tokenizers/GLM-4.7-Flash.tokenizer.json");
    for case in items(&vectors["cases"]) {
        let model = case["model"].as_str().unwrap();
        let template = template(&format!("data/templates/{model}.jinja"));
        let tokenizer = if model == "GLM-4.7-Flash" { &of_flash } else { &of_45_to_47 };
        let mut kwargs = case["kwargs"].as_object().unwrap().clone();
        // The vectors hold what jinja2 does with a null content, so they are rendered as they
        // are, without the changes that `ChatInput::new` makes.
        let input = ChatInput {
            messages: kwargs.remove("messages").unwrap(),
            tools: kwargs.remove("tools"),
            add_generation_prompt: kwargs.remove("add_generation_prompt").unwrap() == true,
            kwargs,
        };
        check_prompt(&template, tokenizer, &input, &case["rendered"], &case["token_ids"]);

        // The same conversation from OpenAI's JSON: the arguments of tool calls as strings.
        let mut messages = input.messages.clone();
        for function in functions(&mut messages) {
            function["arguments"] = function["arguments"].to_string().into();
        }
        let sent = ChatInput { messages: ChatInput::new(messages).unwrap().messages, ..input };
        let none = if model == "GLM-4.5" { "\nNone" } else { "None" };
        let wanted = case["rendered"].as_str().unwrap();
        let wanted = match case["name"].as_str().unwrap() {
            "assistant_content_null" => wanted.replace(none, ""),
            _ => wanted.to_owned(),
        };
        assert_eq!(template.render(&sent).unwrap(), wanted, "{} as sent", case["name"]);
    }
}

#[test]
fn prompts_of_the_transcripts() {
    for model in ["glm-tiny", "glm-tiny-fp8"] {
        let folder = format!("oracles/public/{model}");
        let Some(cases) = shared_json(&format!("{folder}/transcripts.json")) else { return };
        let tokenizer = tokenizer(&format!("{folder}/tokenizer.json"));
        let template = template(&format!("{folder}/chat_template.jinja"));
        for case in items(&cases).filter(|case| case.get("prompt").is_some()) {
            let input = ChatInput::from_json(&case.to_string()).unwrap();
            check_prompt(&template, &tokenizer, &input, &case["prompt"], &case["prompt_ids"]);
            let Some(ids) = case.get("fp32").map(|fp32| ids(&fp32["ids"])) else { continue };
            assert_eq!(streamed(&tokenizer, &ids), case["fp32"]["text"], "{}", case["name"]);
        }
    }
}

fn check_text(tokenizer: &Tokenizer, case: &Value, [keep, skip]: [&str; 2]) {
    let text = case["text"].as_str().unwrap();
    let ids = ids(&case["ids"]);
    assert_eq!(tokenizer.encode(text).unwrap(), ids, "encode {text:?}");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), case[keep], "decode {text:?}");
    assert_eq!(
        tokenizer.decode(&ids, true).unwrap(),
        case[skip],
        "decode without special {text:?}"
    );
    assert_eq!(streamed(tokenizer, &ids), case[skip], "stream {text:?}");
}

fn check_prompt(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    input: &ChatInput,
    text: &Value,
    token_ids: &Value,
) {
    let prompt = template.render(input).unwrap();
    assert_eq!(prompt, *text, "{input:?}");
    assert_eq!(tokenizer.encode(&prompt).unwrap(), ids(token_ids), "{prompt:?}");
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
    text.push_str(&detokenizer.finish());
    text
}

fn functions(messages: &mut Value) -> impl Iterator<Item = &mut Value> {
    let calls = messages.as_array_mut().unwrap().iter_mut().filter_map(|m| m.get_mut("tool_calls"));
    calls.flat_map(|calls| calls.as_array_mut().unwrap()).map(|call| &mut call["function"])
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn ids(value: &Value) -> Vec<u32> {
    items(value).map(|id| id.as_u64().unwrap().try_into().unwrap()).collect()
}

fn template(path: &str) -> ChatTemplate {
    ChatTemplate::new(&shared(path).unwrap()).unwrap()
}

fn tokenizer(path: &str) -> Tokenizer {
    Tokenizer::from_bytes(shared(path).unwrap().as_bytes()).unwrap()
}

fn shared_json(path: &str) -> Option<Value> {
    shared(path).map(|text| serde_json::from_str(&text).unwrap())
}

/// A file of `shared`; where it is absent, says so and gives nothing.
fn shared(path: &str) -> Option<String> {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path);
    let text = std::fs::read_to_string(&file).ok();
    if text.is_none() {
        drop(writeln!(std::io::stderr(), "skipped: no {}", file.display()));
    }
    text
}
