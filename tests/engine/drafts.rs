//! Drafts of the multi-token-prediction layer: as many are accepted as were recorded.

use std::ops::ControlFlow;

use serde_json::Value;

use super::*;

/// Accepted drafts of each verification, by case, as `spec_steps.json` has them.
fn recorded(folder: &Path, drafts: usize) -> Value {
    let text = std::fs::read_to_string(folder.join("spec_steps.json")).expect("a file");
    let mut steps: Value = serde_json::from_str(&text).expect("JSON");
    steps["accepted_per_step"][format!("hf_sglang_draft{drafts}")].take()
}

#[test]
fn as_many_drafts_are_accepted_as_the_references_accept() {
    for name in ["glm-tiny", "glm-tiny-weakmtp"] {
        let Some(folder) = oracle::reference(name) else { continue };
        let cases = transcripts::read(Path::new(transcripts::FIXTURES));
        for drafts in [1, 3] {
            let steps = recorded(&folder, drafts);
            let model = Model { name, folder: folder.clone(), prompts: Vec::new() };
            let engine = model.load(|config| config.drafts = DraftChoice::Fixed(drafts));
            let (mut accepted, mut verifications, mut tokens) = (0, 0, 0);
            for case in &cases {
                let prompt = transcripts::ids(&case["prompt_ids"]);
                let request = Request { max_tokens: Some(400), ..greedy(&prompt, 400) };
                let completion = engine.generate(&request, &mut |_| ControlFlow::Continue(()));
                let completion = completion.expect("an answer");
                let name = case["name"].as_str().expect("a name");
                assert_eq!(completion.token_ids, transcripts::ids(&case["fp32"]["ids"]), "{name}");
                let want: Vec<usize> = steps[name]
                    .as_array()
                    .expect("steps")
                    .iter()
                    .map(|step| step.as_u64().expect("a count") as usize)
                    .collect();
                let timings = completion.timings;
                assert_eq!(
                    (timings.drafted_tokens, timings.accepted_tokens),
                    (want.len() * drafts, want.iter().sum()),
                    "{name}, drafts of {drafts}: {want:?}"
                );
                accepted += timings.accepted_tokens;
                verifications += want.len();
                tokens += completion.token_ids.len();
            }
            let stats = engine.stats();
            // The engine counts drafts past the end of an answer too.
            assert!(stats.accepted.iter().sum::<u64>() >= accepted as u64);
            assert_eq!(stats.drafted[0], verifications as u64);
            eprintln!(
                "{name}, drafts of {drafts}: {accepted} accepted in {verifications} verifications, {:.3} tokens a step",
                tokens as f64 / (verifications + cases.len()) as f64
            );
        }
    }
}
