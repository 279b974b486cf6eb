//! Base models: no chat template, and end ids that only their files know.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{TURN_ENDS, built_in, glm, run, run_with_input, text};

/// Continued by `Hello! How can I help you today?` and the end of the turn.
const GREETING: &str = "[gMASK]<sop><|user|>Hello!<|assistant|></think>";
const REPLY: &str = "Hello! How can I help you today?";

/// The built-in model without its chat template, after `change` of its configuration.
fn base_model(change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for file in ["tokenizer.json", "model.safetensors"] {
        fs::copy(built_in().join(file), folder.path().join(file)).expect("copied");
    }
    let read = |file: &str| -> Value {
        let text = fs::read_to_string(built_in().join(file)).expect("readable");
        serde_json::from_str(&text).expect("JSON")
    };
    let write = |file: &str, value: &Value| {
        fs::write(folder.path().join(file), value.to_string()).expect("written");
    };
    let mut config = read("config.json");
    change(&mut config);
    write("config.json", &config);
    let mut tokenizer_config = read("tokenizer_config.json");
    tokenizer_config.as_object_mut().expect("an object").remove("chat_template");
    write("tokenizer_config.json", &tokenizer_config);
    folder
}

fn remove(config: &mut Value, key: &str) {
    config.as_object_mut().expect("an object").remove(key).expect("there");
}

/// `text`, `token_ids` and `finish_reason` of the greedy continuation of the greeting.
fn continued(folder: &Path, arguments: &[&str]) -> (String, Vec<u64>, String) {
    let fixed = ["-m", text(folder), "--raw", "--greedy", "--json"];
    let object = run_with_input(&[&fixed[..], arguments].concat(), GREETING).json();
    let ids = object["token_ids"].as_array().expect("a list");
    (
        object["text"].as_str().expect("a text").to_owned(),
        ids.iter().map(|id| id.as_u64().expect("an id")).collect(),
        object["finish_reason"].as_str().expect("a text").to_owned(),
    )
}

#[test]
fn a_model_without_a_chat_template_wants_raw_prompts() {
    let folder = base_model(|_| ());
    let path = text(folder.path());
    let wanted = ["no chat template", "--raw"];
    run(&["-m", path, "Hello!"]).assert_error(&wanted);
    run_with_input(&["-m", path, "--messages", "-"], r#"[{"role":"user","content":"Hello!"}]"#)
        .assert_error(&wanted);
    fs::write(folder.path().join("chat_template.jinja"), "\n").expect("written");
    run(&["-m", path, "Hello!"]).assert_error(&wanted);
    fs::write(folder.path().join("chat_template.jinja"), "{{ '' }}").expect("written");
    run(&["-m", path, "Hello!"]).assert_error(&["the chat template makes an empty prompt"]);
    let raw = ["-m", path, "--greedy", "--raw", GREETING];
    assert_eq!(run(&raw).stdout, format!("{REPLY}\n"));
}

#[test]
fn a_folder_of_the_least_files_completes_and_is_described() {
    let folder = base_model(|_| ());
    fs::remove_file(folder.path().join("tokenizer_config.json")).expect("removed");
    let path = text(folder.path());
    assert_eq!(run(&["-m", path, "--greedy", "--raw", GREETING]).stdout, format!("{REPLY}\n"));
    assert_eq!(glm(&["inspect", path, "--json"]).code, Some(0));
}

#[test]
fn a_completion_takes_its_prompt_from_standard_input_and_ends_where_it_is_told() {
    let folder = base_model(|_| ());
    let plain = ["-m", text(folder.path()), "--raw", "--greedy"];
    assert_eq!(run_with_input(&plain, GREETING).stdout, format!("{REPLY}\n"));
    let (text, ids, finish) = continued(folder.path(), &["--stop", " help"]);
    assert_eq!((text.as_str(), finish.as_str()), ("Hello! How can I", "stop"));
    assert!(ids.len() > 3, "{ids:?}");
    let (_, ids, finish) = continued(folder.path(), &["--max-tokens", "3"]);
    assert_eq!((ids.len(), finish.as_str()), (3, "length"));
}

#[test]
fn the_files_say_what_ends_a_text() {
    let turn_ends = u64::from(TURN_ENDS);
    // A number, a list, and the list of generation_config.json before that of config.json.
    for (config_ids, generation_ids) in [
        (json!(TURN_ENDS), None),
        (json!([5, TURN_ENDS]), None),
        (json!(5), Some(json!([TURN_ENDS]))),
        (Value::Null, Some(json!(TURN_ENDS))),
    ] {
        let folder = base_model(|config| config["eos_token_id"] = config_ids.clone());
        if let Some(ids) = &generation_ids {
            let file = json!({ "eos_token_id": ids }).to_string();
            fs::write(folder.path().join("generation_config.json"), file).expect("written");
        }
        let (text, ids, finish) = continued(folder.path(), &[]);
        let case = format!("{config_ids}, {generation_ids:?}");
        assert_eq!((text.as_str(), finish.as_str()), (REPLY, "stop"), "{case}");
        assert_eq!(ids.last(), Some(&turn_ends), "{case}");
    }
    // Another id ends the text elsewhere, and the usual one no longer does.
    let folder = base_model(|_| ());
    let usual = continued(folder.path(), &[]).1;
    let folder = base_model(|config| config["eos_token_id"] = json!([usual[2]]));
    let (_, ids, finish) = continued(folder.path(), &[]);
    assert_eq!((&ids[..], finish.as_str()), (&usual[..3], "stop"));
}

#[test]
fn without_end_ids_only_the_limits_end_a_text() {
    const CONTEXT: usize = 40;
    let folder = base_model(|config| {
        remove(config, "eos_token_id");
        config["max_position_embeddings"] = json!(CONTEXT);
    });
    let (_, ids, finish) = continued(folder.path(), &["--max-tokens", "20"]);
    assert_eq!((ids.len(), finish.as_str()), (20, "length"));
    assert!(ids[..19].contains(&u64::from(TURN_ENDS)), "generated past the end of turn: {ids:?}");
    let (_, ids, finish) = continued(folder.path(), &[]);
    assert!(ids.len() > 20 && ids.len() < CONTEXT, "{} tokens", ids.len());
    assert_eq!(finish, "length", "the context is full");
}
