//! `/v1/completions`, and what evaluations need of it.

use serde_json::{Value, json};

use super::SHARED;

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn prompts_are_texts_or_ids_alone_or_in_lists() {
    let ids = SHARED.ask("/tokenize", &json!({"prompt": "The sky is"}))["tokens"].clone();
    let text = |prompt: Value| {
        let body = json!({"prompt": prompt, "max_tokens": 6});
        let answer = SHARED.ask(COMPLETIONS, &body);
        let choices = answer["choices"].as_array().expect("a list").clone();
        choices.iter().map(|choice| choice["text"].clone()).collect::<Vec<_>>()
    };
    let alone = text("The sky is".into());
    assert_eq!(text(ids.clone()), alone);
    assert_eq!(text(json!([ids.clone()])), alone);
    assert_eq!(text(json!([ids, "The sky is"])), [alone.clone(), alone].concat());
}

#[test]
fn echo_tells_how_probable_a_text_is() {
    let ids = SHARED.ask("/tokenize", &json!({"prompt": "The capital of France is Paris."}));
    let ids = ids["tokens"].as_array().expect("ids").clone();
    for most in [0, 1] {
        let body = json!({"prompt": ids, "max_tokens": most, "logprobs": 1, "echo": true, "temperature": 0, "seed": 1});
        let choice = SHARED.ask(COMPLETIONS, &body)["choices"][0].clone();
        let logprobs = &choice["logprobs"];
        let list = |key: &str| logprobs[key].as_array().expect("a list").clone();
        let wanted = ids.len() + most;
        for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(list(key).len(), wanted, "{key}");
        }
        assert_eq!(list("token_logprobs")[0], Value::Null);
        assert!(list("token_logprobs")[1..].iter().all(|p| p.as_f64().is_some_and(|p| p <= 0.0)));
        let joined: String =
            list("tokens").iter().map(|token| token.as_str().expect("text").to_owned()).collect();
        assert_eq!(choice["text"], joined);
        assert!(joined.starts_with("The capital of France is Paris."));
        // The most probable token is among the top ones, and the token itself too.
        for (token, top) in list("tokens").iter().zip(list("top_logprobs")).skip(1) {
            assert!(top[token.as_str().expect("text")].is_number(), "{token} in {top}");
        }
    }
}

#[test]
fn streams_of_several_prompts_and_answers_say_the_same() {
    let body = json!({
        "prompt": ["The sky is", "One and one"], "n": 2, "max_tokens": 8, "temperature": 2.0,
        "seed": 3, "stream_options": {"include_usage": true}, "logprobs": 0,
    });
    let whole = SHARED.ask(COMPLETIONS, &body);
    let mut texts = vec![String::new(); 4];
    let mut tokens = [0; 4];
    let mut events = SHARED.stream(COMPLETIONS, &body);
    assert_eq!(events.pop().expect("the last").1, "[DONE]");
    let usage = events.pop().expect("usage").1["usage"].clone();
    assert_eq!(usage["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    for (_, event) in events {
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().expect("an index") as usize;
        texts[index] += choice["text"].as_str().expect("text");
        tokens[index] += choice["logprobs"]["tokens"].as_array().expect("a list").len();
    }
    for (index, choice) in whole["choices"].as_array().expect("a list").iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["text"], texts[index]);
        assert_eq!(choice["logprobs"]["tokens"].as_array().expect("a list").len(), tokens[index]);
    }
}

#[test]
fn what_there_is_not_is_refused_by_name() {
    for (body, wanted) in [
        (json!({"prompt": "a", "suffix": "b"}), "suffix: these models do not fill in the middle"),
        (json!({"prompt": "a", "best_of": 3}), "best_of"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens: found 0"),
        (json!({"prompt": []}), "prompt: found 0"),
        (json!({}), "prompt: found nothing"),
        (json!({"prompt": [1, "a"]}), "prompt[1]: found \"a\", wanted a token id"),
        (json!({"prompt": [5000]}), "token id 5000"),
        (json!({"prompt": ""}), "the prompt is empty"),
    ] {
        let answer = SHARED.post(COMPLETIONS, &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
        assert!(answer.message().contains(wanted), "{body}: {}", answer.text);
    }
}
