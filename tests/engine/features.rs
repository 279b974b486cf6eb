//! What a request can ask for, on a real model.

use std::sync::Arc;

use glm_runtime::{MaskState, TokenMask, TokenSet};

use super::*;

fn sampled(prompt: &[u32], seed: u64) -> Request {
    let sampling = SamplingParams {
        temperature: 4.0,
        top_p: 0.99,
        seed: Some(seed),
        repetition_penalty: 1.1,
        ..SamplingParams::greedy()
    };
    Request { ignore_eos: true, max_tokens: Some(20), ..Request::new(prompt.to_vec(), sampling) }
}

#[test]
fn a_seed_gives_the_same_answer_in_any_batch_and_with_drafts() {
    let model = Model::built_in();
    let mut answers: Vec<Vec<Vec<u32>>> = Vec::new();
    for (drafts, steps, company) in [(0, 1, 0), (0, 2, 9), (3, 1, 5), (4, 2, 20)] {
        let engine = model.load(|config| {
            config.drafts = DraftChoice::Fixed(drafts);
            config.steps_in_flight = Some(steps);
        });
        let others: Vec<_> = (0..company)
            .map(|index| {
                let prompt = &model.prompts[index % model.prompts.len()];
                engine.submit(sampled(prompt, 1000 + index as u64)).expect("a request")
            })
            .collect();
        let streams = (0..6).map(|seed| engine.submit(sampled(&model.prompts[2], seed)));
        let streams: Vec<_> = streams.map(|stream| stream.expect("a request")).collect();
        let ids = |stream| collect(stream).expect("an answer").ids;
        answers.push(streams.into_iter().map(ids).collect());
        drop(others);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    assert!(answers[0].windows(2).any(|pair| pair[0] != pair[1]), "seeds make a difference");
}

#[test]
fn n_answers_share_a_prompt_and_differ() {
    let model = Model::built_in();
    let engine = model.load(|_| ());
    let prompt: Vec<u32> = model.prompts.iter().flatten().copied().take(400).collect();
    let request = Request { n: 4, ..sampled(&prompt, 5) };
    let mut answers = vec![Vec::new(); 4];
    let mut cached = Vec::new();
    for event in engine.submit(request).expect("a request") {
        match event {
            Event::Token { choice, id, .. } => answers[choice].push(id),
            Event::Finished { timings, .. } => cached.push(timings.cached_tokens),
            Event::Failed(failure) => panic!("{failure}"),
            Event::Prompt { .. } | Event::PromptLogprobs(_) => {}
        }
    }
    let one = collect(engine.submit(sampled(&prompt, 5)).expect("a request")).expect("an answer");
    assert_eq!(answers[0], one.ids, "the first answer is that of a request for one");
    assert!((1..4).all(|choice| answers[choice] != answers[0]), "{answers:?}");
    cached.sort_unstable();
    assert_eq!(cached, [0, 384, 384, 384], "full pages of the prompt are computed once");
}

#[test]
fn logprobs_of_prompt_and_answer_are_those_of_the_logits() {
    let model = Model::built_in();
    let engine = model.load(|config| config.prefill_chunk = 7);
    let prompt = &model.prompts[4];
    let request = Request { prompt_logprobs: Some(3), logprobs: Some(1), ..greedy(prompt, 6) };
    let mut of_prompt = Vec::new();
    let mut of_answer = Vec::new();
    for event in engine.submit(request).expect("a request") {
        match event {
            Event::PromptLogprobs(logprobs) => of_prompt = logprobs,
            Event::Token { logprobs, .. } => of_answer.push(logprobs.expect("log-probabilities")),
            Event::Failed(failure) => panic!("{failure}"),
            Event::Prompt { .. } | Event::Finished { .. } => {}
        }
    }
    let mut all = prompt.clone();
    all.extend(of_answer.iter().map(|token| token.id));
    let records = engine.trace_forward(&all, false).expect("forward");
    let logits = oracle::floats(&records, "logits");
    let vocab = engine.files().config.vocab_size();
    let tokens = engine.files().tokenizer.vocab_len();
    let told: Vec<_> = of_prompt.iter().chain(&of_answer).collect();
    assert_eq!(told.len(), all.len() - 1);
    for (row, token) in told.into_iter().enumerate() {
        let logits = &logits[row * vocab..row * vocab + tokens];
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - best).exp()).sum();
        let logprob = |id: u32| f64::from(logits[id as usize] - best) - sum.ln();
        assert_eq!(token.id, all[row + 1]);
        assert!((f64::from(token.logprob) - logprob(token.id)).abs() < 1e-3, "row {row}");
        assert_eq!(token.top.len(), if row < prompt.len() - 1 { 3 } else { 1 });
        for (id, value) in &token.top {
            assert!((f64::from(*value) - logprob(*id)).abs() < 1e-3, "row {row}");
        }
        assert!(token.top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    }
}

#[test]
fn stop_texts_are_met_across_tokens() {
    let model = Model::built_in();
    let engine = model.load(|config| config.drafts = DraftChoice::Fixed(3));
    let text = |stops: &[&str]| {
        let stop_strings = stops.iter().map(ToString::to_string).collect();
        let request = Request { stop_strings, ..greedy(&model.prompts[0], 60) };
        let completion = engine.generate(&request, &mut |_| std::ops::ControlFlow::Continue(()));
        let completion = completion.expect("an answer");
        (completion.text, completion.finish)
    };
    let (whole, _) = text(&[]);
    // Texts that begin and end in the middle of words.
    for (start, end) in [(3, 9), (5, 6), (whole.len() / 2, whole.len() / 2 + 7)] {
        let Some(stop) = whole.get(start..end) else { continue };
        let first = whole.find(stop).expect("a part of the whole");
        assert_eq!(text(&["never met", stop]), (whole[..first].to_owned(), Finish::Stop));
    }
}

/// Only ids that are multiples of a number.
#[derive(Debug)]
struct Multiples(u32);

impl TokenMask for Multiples {
    fn start(&self) -> Box<dyn MaskState> {
        Box::new(Multiples(self.0))
    }
}

impl MaskState for Multiples {
    fn allowed(&mut self, _: &[u32], allowed: &mut TokenSet) -> Result<(), String> {
        match self.0 {
            0 => Err("the grammar has no way on".into()),
            of => {
                (0..2024).step_by(of as usize).for_each(|id| allowed.insert(id));
                Ok(())
            }
        }
    }
}

#[test]
fn a_mask_holds_in_a_batch_with_drafts() {
    let model = Model::built_in();
    let mut answers = Vec::new();
    for drafts in [0, 3] {
        let engine = model.load(|config| config.drafts = DraftChoice::Fixed(drafts));
        let masked = |of| Request {
            mask: Some(Arc::new(Multiples(of))),
            ignore_eos: true,
            ..greedy(&model.prompts[1], 15)
        };
        let sevens = engine.submit(masked(7)).expect("a request");
        let broken = engine.submit(masked(0)).expect("a request");
        let free = engine.submit(greedy(&model.prompts[1], 15)).expect("a request");
        let sevens = collect(sevens).expect("an answer").ids;
        assert!(sevens.len() == 15 && sevens.iter().all(|id| id % 7 == 0), "{sevens:?}");
        let reason = "the grammar has no way on".into();
        assert_eq!(collect(broken), Err(Failure::Mask { reason }));
        answers.push((sevens, collect(free).expect("an answer").ids));
    }
    assert_eq!(answers[0], answers[1], "with and without drafts");
}

#[test]
fn a_thinking_budget_ends_the_thought() {
    let model = Model::built_in();
    let engine = model.load(|config| config.drafts = DraftChoice::Fixed(2));
    let close = engine.files().tokenizer.token_id("</think>").expect("a token");
    let free = collect(engine.submit(greedy(&model.prompts[0], 60)).expect("a request"));
    let free = free.expect("an answer").ids;
    let own = free.iter().position(|id| *id == close).expect("a thought that ends");
    for budget in [0, 1, 4, own + 10] {
        let request = Request { thinking_budget: Some(budget), ..greedy(&model.prompts[0], 60) };
        let ids = collect(engine.submit(request).expect("a request")).expect("an answer").ids;
        let end = own.min(budget);
        assert_eq!((&ids[..end], ids[end]), (&free[..end], close), "budget {budget}");
    }
}

#[test]
fn a_prompt_that_was_seen_is_not_computed_again() {
    let model = Model::built_in();
    let engine = model.load(|_| ());
    let prompt: Vec<u32> = model.prompts.iter().flatten().copied().take(700).collect();
    let cached = |salt: &[u8], prompt: &[u32]| {
        let request = Request { cache_salt: salt.to_vec(), ..greedy(prompt, 3) };
        let stream = engine.submit(request).expect("a request");
        let cached = |event| match event {
            Event::Finished { timings, .. } => Some(timings.cached_tokens),
            _ => None,
        };
        stream.filter_map(cached).last().expect("an end")
    };
    assert_eq!(cached(b"", &prompt), 0);
    assert_eq!(cached(b"", &prompt), 640);
    assert_eq!(cached(b"", &prompt[..640]), 576, "the last token is computed for its logits");
    assert_eq!(cached(b"another tenant", &prompt), 0);
    let mut other = prompt.clone();
    other[100] ^= 1;
    assert_eq!(cached(b"", &other), 64);
}

#[test]
fn a_request_that_is_dropped_makes_room() {
    let model = Model::built_in();
    let engine = model.load(|config| config.max_batch = 1);
    let endless = Request { ignore_eos: true, ..greedy(&model.prompts[0], 900) };
    let mut running = engine.submit(endless.clone()).expect("a request");
    let waiting = engine.submit(endless).expect("a request");
    let next = engine.submit(greedy(&model.prompts[1], 4)).expect("a request");
    drop(running.by_ref().take(5).collect::<Vec<_>>());
    drop((running, waiting));
    assert_eq!(collect(next).expect("an answer").ids.len(), 4);
    assert_eq!(engine.stats().cancelled, 2);
}
