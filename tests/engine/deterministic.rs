//! `--deterministic`: the same bits, whatever the batch.

use super::*;

#[test]
fn the_bits_of_an_answer_do_not_depend_on_the_batch() {
    let models = [Some(Model::built_in()), Model::reference("lite-tiny")];
    for model in models.into_iter().flatten() {
        let load = |tokens: Option<usize>| {
            model.load(|config| {
                config.deterministic = true;
                config.prefill_chunk = 64;
                config.kv_tokens = tokens;
            })
        };
        let engine = load(None);
        let answer = |prompt: &Vec<u32>| {
            collect(engine.submit(greedy(prompt, 20)).expect("a request")).expect("an answer")
        };
        let alone: Vec<_> = model.prompts.iter().map(answer).collect();
        // A second time, with the cache warm, in one batch; then where pages run out.
        let most = model.prompts.iter().map(Vec::len).max().unwrap_or(0) + 24;
        for engine in [engine, load(Some(most.next_multiple_of(64) + 64))] {
            let submit = |prompt: &Vec<u32>| engine.submit(greedy(prompt, 20)).expect("a request");
            let streams: Vec<_> = model.prompts.iter().map(submit).collect();
            for (index, (stream, want)) in streams.into_iter().zip(&alone).enumerate() {
                let got = collect(stream).expect("an answer");
                assert_eq!(&got, want, "{}, prompt {index}", model.name);
            }
        }
    }
}
