//! `/v1/responses` beside what a single turn shows.

use serde_json::json;

use super::{SHARED, SUM};

const RESPONSES: &str = "/v1/responses";

#[test]
fn a_response_is_kept_gone_on_from_and_forgotten() {
    let first = SHARED.ask(RESPONSES, &json!({"input": SUM, "instructions": "Be brief."}));
    let id = first["id"].as_str().expect("an id");
    let path = format!("{RESPONSES}/{id}");
    assert_eq!(SHARED.get(&path).json(), first);
    let items = SHARED.get(&format!("{path}/input_items")).json();
    assert_eq!(items["data"][0]["content"][0]["text"], SUM);

    let body = json!({"input": "And 2 + 3?", "previous_response_id": id});
    let second = SHARED.ask(RESPONSES, &body);
    assert_eq!(second["previous_response_id"], id);
    let alone = SHARED.ask(RESPONSES, &json!({"input": "And 2 + 3?"}));
    let tokens = |response: &serde_json::Value| response["usage"]["input_tokens"].as_u64();
    assert!(tokens(&second) > tokens(&alone), "{second}");

    let unkept = SHARED.ask(RESPONSES, &json!({"input": SUM, "store": false}));
    let unkept = unkept["id"].as_str().expect("an id");
    assert_eq!(SHARED.get(&format!("{RESPONSES}/{unkept}")).status, 404);
    let answer =
        super::agent().delete(format!("{}{path}", SHARED.url())).call().expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(SHARED.get(&path).status, 404);
    let lost = SHARED.post(RESPONSES, &json!({"input": "a", "previous_response_id": id}));
    assert_eq!(lost.status, 404);
    assert!(lost.message().contains("previous_response_id"), "{}", lost.text);
}

#[test]
fn an_answer_that_is_too_short_is_incomplete() {
    let body = json!({"input": SUM, "max_output_tokens": 4});
    let events = SHARED.stream(RESPONSES, &body);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        [&names[..4], &names[names.len() - 4..]].concat(),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
    );
    let response = &events.last().expect("events").1["response"];
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(response["usage"]["output_tokens"], 4);
}

#[test]
fn forms_and_refusals() {
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "x", "schema": schema});
    let body = json!({"input": SUM, "text": {"format": format}, "reasoning": {"effort": "none"}});
    let answer = SHARED.ask(RESPONSES, &body);
    let text = answer["output"][0]["content"][0]["text"].as_str().expect("text");
    let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
    assert!(value["x"].is_i64(), "{value}");
    // Clients declare it whatever they ask; nobody here runs it.
    let hosted =
        json!({"input": "Hello!", "tools": [{"type": "web_search"}], "max_output_tokens": 1});
    SHARED.ask(RESPONSES, &hosted);
    for (body, wanted) in [
        (json!({}), "input: found nothing"),
        (json!({"input": []}), "input: found 0"),
        (json!({"input": [{"type": "computer_call"}]}), "input[0].type"),
        (json!({"input": "a", "background": true}), "background"),
        (json!({"input": "a", "tools": [{"type": "local_shell"}]}), "tools[0].type: local_shell"),
    ] {
        let answer = SHARED.post(RESPONSES, &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
        assert!(answer.message().contains(wanted), "{body}: {}", answer.text);
    }
}
