use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use glm_models::weights::TensorSource;
use glm_runtime::load::{EmbeddedModel, ModelFiles};
use serde_json::{Value, json};

use crate::{SINGLE, file, folder, message};

/// The small files of a model with four tokens, the last a padding row.
pub(crate) fn small_files() -> HashMap<&'static str, Value> {
    let config = json!({
        "model_type": "glm4_moe", "vocab_size": 4, "eos_token_id": [2, 1], "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "intermediate_size": 8, "moe_intermediate_size": 8, "n_routed_experts": 2,
        "num_experts_per_tok": 1
    });
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []}
    });
    HashMap::from([("config.json", config), ("tokenizer.json", tokenizer)])
}

/// Opens a folder with the small files after `change`, and one tensor.
fn open_changed(
    change: impl FnOnce(&mut HashMap<&'static str, Value>),
) -> Result<ModelFiles, String> {
    let mut files = small_files();
    change(&mut files);
    let folder = folder(&[(SINGLE, &file(&[("a", 1)]))]);
    for (name, contents) in &files {
        // A string stands for the file's text, anything else for the JSON in it.
        let text = contents.as_str().map_or_else(|| contents.to_string(), str::to_owned);
        fs::write(folder.path().join(name), text).expect("writable");
    }
    ModelFiles::open(folder.path()).map_err(|error| message(&error, folder.path()))
}

/// A pipe would be waited for without an end.
#[test]
fn what_is_no_file_is_not_read() {
    for name in ["config.json", "tokenizer.json", "generation_config.json"] {
        let folder = folder(&[(SINGLE, &file(&[("a", 1)]))]);
        for (small, contents) in small_files() {
            fs::write(folder.path().join(small), contents.to_string()).expect("writable");
        }
        let path = folder.path().join(name);
        // Absent in the first place, for the optional one.
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).expect("a folder");
        let error = ModelFiles::open(folder.path()).expect_err(name);
        let wanted = format!("DIR/{name}: cannot be read: not a regular file");
        assert_eq!(message(&error, folder.path()), wanted);
    }
}

#[test]
fn model_folder_with_the_least_files() {
    let files = open_changed(|_| {}).expect("opens");
    assert_eq!(files.config.vocab_size(), 4);
    assert!(files.config_text.contains("\"glm4_moe\""));
    assert_eq!(files.tokenizer.encode("cab").expect("in the vocabulary"), [2, 0, 1]);
    assert!(files.template.is_none());
    assert_eq!(files.weights.checkpoint().expect("files").names(), ["a"]);
    assert_eq!(files.generation.eos_token_ids, [2, 1]);
    assert_eq!((files.generation.temperature, files.generation.do_sample), (None, None));
}

#[test]
fn model_folder_with_all_files() {
    let files = open_changed(|files| {
        files.insert("generation_config.json", json!({
            "eos_token_id": 3, "temperature": 1, "top_p": 0.95, "top_k": 40, "min_p": 0.05,
            "repetition_penalty": 1.1, "do_sample": true, "max_new_tokens": 100, "pad_token_id": 0
        }));
        files.insert("tokenizer_config.json", json!({"chat_template": "not this one"}));
        files.insert("chat_template.jinja", json!("{{ messages[0].content }}"));
    });
    let files = files.expect("opens");
    let defaults = &files.generation;
    assert_eq!(
        (defaults.temperature, defaults.top_p, defaults.top_k),
        (Some(1.0), Some(0.95), Some(40))
    );
    assert_eq!((defaults.min_p, defaults.repetition_penalty), (Some(0.05), Some(1.1)));
    assert_eq!((defaults.do_sample, defaults.max_new_tokens), (Some(true), Some(100)));
    assert_eq!(defaults.eos_token_ids, [3], "generation_config.json wins over config.json");
    let input = glm_runtime::text::ChatInput::new(json!([{"role": "user", "content": "hello"}]));
    let template = files.template.expect("there");
    assert_eq!(template.render(&input.expect("valid")).expect("renders"), "hello");
}

#[test]
fn end_ids() {
    type Case = (Option<Value>, Option<Value>, Result<Vec<u32>, &'static str>);
    let cases: [Case; 8] = [
        (None, None, Ok(vec![])),
        (Some(json!(1)), None, Ok(vec![1])),
        (Some(json!([1, 2])), Some(json!(null)), Ok(vec![1, 2])),
        (Some(json!([1, 2])), Some(json!([])), Ok(vec![1, 2])),
        (Some(json!([9])), Some(json!([2, 0, 2])), Ok(vec![2, 0])),
        (
            Some(json!([1, 4])),
            None,
            Err("DIR/config.json: `eos_token_id` 4, wanted ids below vocab_size (4)"),
        ),
        (
            Some(json!(1)),
            Some(json!([1, 7])),
            Err("DIR/generation_config.json: `eos_token_id` 7, wanted ids below vocab_size (4)"),
        ),
        (
            None,
            Some(json!("2")),
            Err(
                "DIR/generation_config.json: `eos_token_id` is \"2\", wanted a token id or a list of \
                 token ids",
            ),
        ),
    ];
    for (config, generation, wanted) in cases {
        let found = open_changed(|files| {
            let keys = files.get_mut("config.json").expect("there");
            keys["eos_token_id"] = config.clone().unwrap_or_default();
            if let Some(ids) = &generation {
                files.insert("generation_config.json", json!({ "eos_token_id": ids }));
            }
        });
        let found = found.map(|files| files.generation.eos_token_ids);
        assert_eq!(found, wanted.map_err(str::to_owned), "{config:?}, {generation:?}");
    }
}

#[test]
fn small_files_that_are_missing_or_wrong() {
    let refused = |change: &dyn Fn(&mut HashMap<&'static str, Value>), wanted: &str| {
        let found = open_changed(change).expect_err(wanted);
        assert!(found.starts_with(wanted), "found {found}, wanted {wanted}");
    };
    let without = |name: &'static str| move |files: &mut HashMap<_, _>| drop(files.remove(name));
    let with = |name: &'static str, text: &'static str| {
        move |files: &mut HashMap<_, _>| drop(files.insert(name, json!(text)))
    };
    refused(
        &without("config.json"),
        "DIR: no config.json; it holds model.safetensors, tokenizer.json",
    );
    refused(
        &without("tokenizer.json"),
        "DIR: no tokenizer.json; it holds model.safetensors, config.json",
    );
    refused(&with("config.json", "{"), "DIR/config.json: not a valid JSON object: EOF while");
    refused(&with("config.json", "{}"), "DIR/config.json: `model_type` is missing");
    refused(
        &with("generation_config.json", "{\"temperature\": \"hot\"}"),
        "DIR/generation_config.json: `temperature` is \"hot\", wanted a number",
    );
    refused(&with("tokenizer.json", "{"), "DIR/tokenizer.json: ");
    refused(
        &with("chat_template.jinja", "{% if %}"),
        "DIR/chat_template.jinja: chat template, line 1: ",
    );
    refused(
        &|files| files.get_mut("config.json").expect("there")["vocab_size"] = json!(2),
        "DIR/config.json: `eos_token_id` 2, wanted ids below vocab_size (2)",
    );
    let larger = |files: &mut HashMap<&str, Value>| {
        let config = files.get_mut("config.json").expect("there");
        (config["vocab_size"], config["eos_token_id"]) = (json!(2), json!(1));
    };
    refused(
        &larger,
        "DIR/tokenizer.json: 3 token ids, wanted at most vocab_size (2) of config.json",
    );
}

#[test]
fn model_inside_the_program() {
    let files = small_files();
    let model = EmbeddedModel {
        config: files["config.json"].to_string().leak(),
        generation_config: "{\"temperature\": 0.5}",
        tokenizer: files["tokenizer.json"].to_string().leak().as_bytes(),
        chat_template: "hi",
        tokenizer_config: "{}",
        weights: file(&[("a", 1)]).leak(),
    };
    let files = ModelFiles::from_embedded(&model).expect("opens");
    assert_eq!(files.generation.temperature, Some(0.5));
    assert_eq!((files.weights.total_bytes(), files.template.is_some()), (2, true));

    let error = ModelFiles::from_embedded(&EmbeddedModel { config: "{}", ..model });
    let wanted = "built-in/config.json: `model_type` is missing";
    assert_eq!(error.expect_err(wanted).to_string(), wanted);
}

#[test]
fn reference_checkpoints() {
    let shared = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/oracles/public"));
    if !shared.is_dir() {
        drop(writeln!(
            std::io::stderr(),
            "skipped: no folder shared/oracles/public beside the repository"
        ));
        return;
    }
    for name in [
        "air-tiny",
        "m355-tiny",
        "lite-tiny",
        "glm-tiny",
        "glm-tiny-weakmtp",
        "air-tiny-fp8",
        "m355-tiny-fp8",
        "glm-tiny-fp8",
    ] {
        let files = ModelFiles::open(&shared.join(name)).expect(name);
        let elements = |name: &String| {
            let shape = files.weights.info(name).expect("listed").shape;
            shape.into_iter().map(|length| length as u64).product::<u64>()
        };
        let mut names = files.weights.checkpoint().expect("files").names();
        let all = names.len();
        names.retain(|name| !name.ends_with(".weight_scale"));
        assert_eq!(names.len() < all, name.ends_with("-fp8"), "{name}: scales");
        let stored: u64 = names.iter().map(elements).sum();
        let counted = files.config.parameters();
        assert_eq!(stored, counted.total + counted.mtp, "{name}");
        assert_eq!(files.generation.eos_token_ids.len(), 3, "{name}");
        assert!(files.template.is_some(), "{name}");
    }
}
