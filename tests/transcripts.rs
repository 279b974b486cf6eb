//! Whole conversations with the built-in model, token for token.

use std::ops::ControlFlow;
use std::path::Path;

use glm_runtime::text::ChatInput;
use glm_runtime::{DtypeChoice, Engine, Request, SamplingParams};
use serde_json::Value;

use crate::support::checkpoint::BUILT_IN;
use crate::support::oracle::{self, Golden, floats, relative_l2};

pub(crate) const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/glm-tiny");

#[test]
fn f32_on_the_cpu() {
    check("cpu", DtypeChoice::F32, |_| true);
}

#[test]
fn bf16_on_the_cpu() {
    check("cpu", DtypeChoice::Bf16, |case| case["robust"] == true);
}

#[test]
fn f32_on_a_gpu() {
    check(oracle::gpu(), DtypeChoice::F32, |_| true);
}

#[test]
fn first_logits_equal_the_recorded_ones() {
    let Some(device) = oracle::device("cpu") else { return };
    let engine = oracle::engine(Path::new(BUILT_IN), &device, DtypeChoice::F32);
    let golden = Golden::open(&Path::new(FIXTURES).join("first_logits.safetensors"));
    for case in cases() {
        let name = case["name"].as_str().expect("name");
        let prompt = ids(&case["prompt_ids"]);
        let records = engine.trace_forward(&prompt, false).expect("forward");
        let logits = floats(&records, "logits");
        let want = golden.floats(&format!("public.{name}.first_logits"));
        let distance = relative_l2(&logits[logits.len() - want.len()..], &want);
        assert!(distance < 1e-4, "{name}: {distance:.2e}");
    }
}

/// Compares the cases that `robust` takes.
fn check(device: &str, dtype: DtypeChoice, robust: impl Fn(&Value) -> bool) {
    let _turn = oracle::turn(device);
    let Some(device) = oracle::device(device) else { return };
    let engine = oracle::engine(Path::new(BUILT_IN), &device, dtype);
    let mut cases = cases();
    cases.retain(robust);
    assert!(cases.len() >= 30, "only {} transcripts to compare", cases.len());
    compare(&engine, &cases, "fp32");
}

/// Renders, encodes, generates greedily and compares ids and text with what each case has under
/// `recorded`.
pub(crate) fn compare(engine: &Engine, cases: &[Value], recorded: &str) {
    for case in cases {
        let name = case["name"].as_str().expect("name");
        let mut input = ChatInput::from_json(&case.to_string()).expect("messages");
        input.add_generation_prompt = true;
        let template = engine.files().template.as_ref().expect("chat template");
        let prompt = template.render(&input).expect("render");
        assert_eq!(prompt, case["prompt"], "{name}");
        let prompt = engine.files().tokenizer.encode(&prompt).expect("encode");
        assert_eq!(prompt, ids(&case["prompt_ids"]), "{name}");

        let (completion, want) = (generate(engine, prompt), &case[recorded]);
        assert_eq!(completion.token_ids, ids(&want["ids"]), "{name}: {}", completion.text);
        assert_eq!(completion.text, want["text"], "{name}");
        let stop = completion.stop_token.and_then(|id| engine.files().tokenizer.token(id));
        assert_eq!(stop.as_deref(), want["stop_token"].as_str(), "{name}");
    }
}

fn generate(engine: &Engine, prompt: Vec<u32>) -> glm_runtime::Completion {
    let request =
        Request { max_tokens: Some(400), ..Request::new(prompt, SamplingParams::greedy()) };
    engine.generate(&request, &mut |_| ControlFlow::Continue(())).expect("generate")
}

fn cases() -> Vec<Value> {
    read(Path::new(FIXTURES))
}

/// The transcripts recorded in `folder`.
pub(crate) fn read(folder: &Path) -> Vec<Value> {
    let path = folder.join("transcripts.json");
    let text = std::fs::read_to_string(&path).expect("transcripts");
    serde_json::from_str(&text).expect("transcripts")
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("ids").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}
