//! The engine against a model whose every token is known in advance: see [`crate::null`].

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;
use crate::handoff::{StreamReceiver, mailbox, stream};
use crate::null::{NullExecutor, next};
use crate::request::{Finish, MaskState, Request, SamplingParams, TokenMask};
use crate::scheduler::Limits;
use crate::step::TokenSet;

/// Tokens of the tokenizer: letters, `<think>`, `</think>`.
const VOCAB: u32 = 28;
const OPEN: u32 = 26;
const CLOSE: u32 = 27;
const LIMITS: Limits = Limits {
    page_size: 4,
    pages: 200,
    max_batch: 8,
    step_tokens: 40,
    prefill_chunk: 16,
    context_length: 400,
    max_scores: None,
    prefix_cache: true,
    deterministic: false,
};

fn tokenizer() -> Tokenizer {
    let vocab: Vec<String> = ('a'..='z').enumerate().map(|(i, c)| format!("\"{c}\":{i}")).collect();
    let added = |id: u32, text: &str| {
        format!(
            r#"{{"id":{id},"content":"{text}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false}}"#
        )
    };
    let json = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{},{}],"normalizer":null,
        "pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}},
        "post_processor":null,"decoder":{{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}},
        "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
        "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{{{}}},"merges":[]}}}}"#,
        added(OPEN, "<think>"),
        added(CLOSE, "</think>"),
        vocab.join(",")
    );
    Tokenizer::from_bytes(json.as_bytes()).unwrap()
}

/// A core that is stepped by hand.
struct Bench {
    core: Core<NullExecutor>,
    commands: Vec<Command<NullExecutor>>,
}

impl Bench {
    fn new(limits: Limits, drafts: usize, steps_in_flight: usize) -> Self {
        let (_, inbox) = mailbox();
        let config = CoreConfig {
            tokenizer: tokenizer(),
            dtype: "f32",
            drafts: DraftChoice::Fixed(drafts),
            can_draft: drafts > 0,
            layers: 2,
            steps_in_flight,
            on_panic: OnPanic::Restart,
        };
        let executor = NullExecutor::new(limits.max_batch, VOCAB);
        let stats = Arc::default();
        let core =
            Core::new(executor, Box::new(move || Scheduler::new(limits)), inbox, stats, config);
        Bench { core, commands: Vec::new() }
    }

    fn submit(&mut self, request: Request) -> StreamReceiver<Event> {
        let (sender, receiver) = stream();
        let limit = request.prompt.len() + request.max_tokens.unwrap_or(20);
        let submission = Submission {
            end_ids: request.stop_token_ids.clone(),
            request,
            limit,
            vocab_size: VOCAB as usize,
            submitted: Instant::now(),
            sender,
        };
        self.commands.push(Command::Submit(Box::new(submission)));
        receiver
    }

    fn tick(&mut self) {
        let commands = std::mem::take(&mut self.commands);
        assert!(self.core.tick(commands).is_continue());
        self.core.scheduler.check();
    }

    /// Steps until everything is answered.
    fn finish(&mut self) {
        for _ in 0..20_000 {
            self.tick();
            if self.core.answers.is_empty() && self.core.in_flight.is_empty() {
                self.core.publish();
                assert_eq!(self.core.stats.pages.held, 0, "pages that nobody uses are held");
                let counts = self.core.scheduler.counts();
                assert_eq!((counts.running, counts.waiting), (0, 0));
                assert!(self.core.groups.is_empty());
                return;
            }
        }
        panic!("the answers do not end");
    }
}

fn request(prompt: &[u32], tokens: usize) -> Request {
    Request { max_tokens: Some(tokens), ..Request::new(prompt.to_vec(), SamplingParams::greedy()) }
}

/// What the null model answers.
fn expected(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut all = prompt.to_vec();
    for _ in 0..tokens {
        all.push(next(all[all.len() - 1], all.len() - 1, VOCAB));
    }
    all.split_off(prompt.len())
}

/// Tokens of each answer and the last event of each.
fn read(mut receiver: StreamReceiver<Event>, choices: usize) -> (Vec<Vec<u32>>, Vec<Event>) {
    let mut tokens = vec![Vec::new(); choices];
    let mut ends = Vec::new();
    while let Some(event) = receiver.blocking_next() {
        assert!(!matches!(ends.last(), Some(Event::Failed(_))), "{event:?} after a failure");
        match event {
            Event::Token { choice, id, .. } => tokens[choice].push(id),
            Event::Finished { .. } | Event::Failed(_) => ends.push(event),
            Event::Prompt { computed, total } => assert!(computed <= total),
            Event::PromptLogprobs(_) => {}
        }
    }
    (tokens, ends)
}

fn finish_of(event: &Event) -> Finish {
    match event {
        Event::Finished { finish, .. } => *finish,
        other => panic!("{other:?} instead of an end"),
    }
}

fn failure_of(ends: &[Event]) -> &Failure {
    match ends {
        [Event::Failed(failure)] => failure,
        other => panic!("{other:?} instead of a failure"),
    }
}

#[derive(Debug, Clone)]
struct Arrival {
    before: usize,
    prompt: Vec<u32>,
    tokens: usize,
    n: usize,
    priority: i32,
    cancelled_after: Option<usize>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let prompt = (0..3_u32, 1..60_usize).prop_map(|(kind, length)| {
        // Prompts of a kind begin alike.
        (0..length as u32).map(|i| (i * 7 + kind) % 26).collect::<Vec<_>>()
    });
    let cancel = proptest::option::weighted(0.2, 0..12_usize);
    (0..4_usize, prompt, 1..30_usize, 1..4_usize, -2..3_i32, cancel).prop_map(
        |(before, prompt, tokens, n, priority, cancelled_after)| Arrival {
            before,
            prompt,
            tokens,
            n,
            priority,
            cancelled_after,
        },
    )
}

fn check_arrivals(
    arrivals: &[Arrival],
    limits: Limits,
    drafts: usize,
    wrong_drafts: u32,
    steps_in_flight: usize,
) -> TestCaseResult {
    let mut bench = Bench::new(limits, drafts, steps_in_flight);
    bench.core.executor.faults.wrong_drafts = wrong_drafts;
    let mut open: Vec<(&Arrival, StreamReceiver<Event>, usize)> = Vec::new();
    let mut kept = Vec::new();
    let cancel = |open: &mut Vec<(&Arrival, _, usize)>| {
        open.retain_mut(|(arrival, _, age)| {
            *age += 1;
            arrival.cancelled_after.is_none_or(|after| *age <= after)
        });
    };
    for arrival in arrivals {
        for _ in 0..arrival.before {
            bench.tick();
            cancel(&mut open);
        }
        let request = Request {
            n: arrival.n,
            priority: arrival.priority,
            ..request(&arrival.prompt, arrival.tokens)
        };
        let receiver = bench.submit(request);
        match arrival.cancelled_after {
            Some(_) => open.push((arrival, receiver, 0)),
            None => kept.push((arrival, receiver)),
        }
    }
    for _ in 0..15 {
        bench.tick();
        cancel(&mut open);
    }
    bench.finish();
    for (arrival, receiver) in kept {
        let (answers, ends) = read(receiver, arrival.n);
        for answer in answers {
            prop_assert_eq!(answer, expected(&arrival.prompt, arrival.tokens));
        }
        prop_assert_eq!(ends.len(), arrival.n);
        prop_assert!(ends.iter().all(|end| finish_of(end) == Finish::Length));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every answer is that of the model alone, whatever it is batched with: arrivals at any step,
    /// chunks, prefix hits, preemption, right and wrong drafts, cancelled neighbours, a step ahead
    /// or none.
    #[test]
    fn an_answer_does_not_depend_on_its_neighbours(
        arrivals in prop::collection::vec(arrival(), 1..24),
        chunk in 1..40_usize,
        pages in 24..120_usize,
        (drafts, wrong_drafts) in (0..5_usize, 0..5_u32),
        steps_in_flight in 1..3_usize,
        (prefix_cache, deterministic) in (any::<bool>(), any::<bool>()),
    ) {
        let limits = Limits {
            pages,
            step_tokens: chunk + LIMITS.max_batch * (1 + drafts),
            prefill_chunk: chunk,
            prefix_cache,
            deterministic,
            ..LIMITS
        };
        check_arrivals(&arrivals, limits, drafts, wrong_drafts, steps_in_flight)?;
    }
}

#[test]
fn a_step_ahead_costs_only_surplus() {
    for steps_in_flight in [1, 2] {
        let mut bench = Bench::new(LIMITS, 0, steps_in_flight);
        let receiver = bench.submit(Request {
            stop_token_ids: vec![expected(&[1, 2, 3], 6)[5]],
            ..request(&[1, 2, 3], 20)
        });
        bench.finish();
        let (answers, ends) = read(receiver, 1);
        let want = expected(&[1, 2, 3], 6);
        let end = want.iter().position(|id| *id == want[5]).unwrap();
        assert_eq!(answers[0], want[..=end]);
        assert!(matches!(ends[0], Event::Finished { stop_token: Some(id), .. } if id == want[5]));
        assert_eq!(bench.core.stats.surplus_tokens, steps_in_flight as u64 - 1);
    }
}

#[test]
fn logits_that_are_not_finite_fail_their_request_only() {
    let (bad, good) = ([3_u32, 1, 4], [2_u32, 7, 1]);
    let fatal = expected(&bad, 4)[3];
    let count = expected(&good, 10).iter().position(|id| *id == fatal).unwrap_or(10);
    let mut bench = Bench::new(LIMITS, 0, 2);
    bench.core.executor.faults.not_finite = Some(fatal);
    let fails = bench.submit(request(&bad, 10));
    let works = bench.submit(request(&good, count.max(1)));
    bench.finish();
    let (answers, ends) = read(fails, 1);
    assert!(answers[0].len() <= 3);
    assert_eq!(failure_of(&ends), &Failure::NotFinite { dtype: "f32" });
    if count > 0 {
        assert_eq!(read(works, 1).0[0], expected(&good, count));
    }
    assert_eq!(bench.core.stats.failed, 1);
}

/// Runs a core on this thread until the last sender is gone.
fn run_to_the_end(on_panic: OnPanic, panic: u32) -> (Vec<Event>, Vec<Event>, Option<String>) {
    let mut bench = Bench::new(LIMITS, 0, 2);
    bench.core.config.on_panic = on_panic;
    bench.core.executor.faults.panic = Some(panic);
    let (commands, inbox) = mailbox();
    bench.core.mailbox = inbox;
    let first = bench.submit(request(&[3, 1, 4], 10));
    for command in bench.commands.drain(..) {
        assert!(commands.send(command).is_ok());
    }
    // The second request comes when the first has failed.
    let second = bench.submit(request(&[3, 1, 4], 10));
    let later = bench.commands.remove(0);
    let feeder = std::thread::spawn(move || {
        let ends = read(first, 1).1;
        let _ = commands.send(later);
        ends
    });
    let stopped = bench.core.run();
    if let Some(reason) = &stopped {
        bench.core.close(reason);
    }
    drop(bench);
    (feeder.join().unwrap(), read(second, 1).1, stopped)
}

#[test]
fn after_a_panic_the_engine_restarts_or_stops() {
    let fatal = expected(&[3, 1, 4], 5)[4];
    let (first, second, stopped) = run_to_the_end(OnPanic::Restart, fatal);
    let reason = "the null model was told to panic";
    assert_eq!(failure_of(&first), &Failure::Engine { reason: reason.into() });
    assert_eq!(finish_of(&second[0]), Finish::Length);
    assert_eq!(stopped, None);

    let (first, second, stopped) = run_to_the_end(OnPanic::Stop, fatal);
    assert_eq!(failure_of(&first), &Failure::Engine { reason: reason.into() });
    assert_eq!(stopped.as_deref(), Some(reason));
    // Refused, or failed if it was queued before the engine closed.
    assert!(second.is_empty() || matches!(second[..], [Event::Failed(_)]), "{second:?}");
}

#[derive(Debug, Clone, Copy)]
enum Mask {
    Even,
    Nothing,
    Panics,
}

impl TokenMask for Mask {
    fn start(&self) -> Box<dyn MaskState> {
        Box::new(*self)
    }
}

impl MaskState for Mask {
    fn allowed(&mut self, output: &[u32], allowed: &mut TokenSet) -> Result<(), String> {
        match self {
            Mask::Panics if output.len() > 2 => panic!("no grammar"),
            Mask::Nothing if output.len() > 2 => {}
            Mask::Even if output.iter().any(|id| id % 2 == 1) => return Err("odd".into()),
            _ => (0..VOCAB).step_by(2).for_each(|id| allowed.insert(id)),
        }
        Ok(())
    }
}

#[test]
fn a_mask_holds_with_and_without_drafts_and_fails_alone() {
    let mut answers = Vec::new();
    for (drafts, steps_in_flight) in [(0, 1), (0, 2), (1, 1), (3, 2), (4, 1)] {
        let mut bench = Bench::new(LIMITS, drafts, steps_in_flight);
        bench.core.executor.faults.wrong_drafts = 3;
        let masked = |mask| Request { mask: Some(Arc::new(mask)), ..request(&[5, 6], 12) };
        let even = bench.submit(masked(Mask::Even));
        let nothing = bench.submit(masked(Mask::Nothing));
        let panics = bench.submit(masked(Mask::Panics));
        let free = bench.submit(request(&[5, 6], 12));
        bench.finish();
        let (tokens, ends) = read(even, 1);
        assert!(tokens[0].iter().all(|id| id % 2 == 0), "{tokens:?}");
        assert_eq!(finish_of(&ends[0]), Finish::Length);
        answers.push(tokens);
        assert_eq!(
            failure_of(&read(nothing, 1).1),
            &Failure::Mask { reason: "it allows no token".into() }
        );
        assert_eq!(
            failure_of(&read(panics, 1).1),
            &Failure::Mask { reason: "it panicked: no grammar".into() }
        );
        assert_eq!(read(free, 1).0[0], expected(&[5, 6], 12));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[test]
fn thinking_ends_at_its_budget() {
    for drafts in [0, 3] {
        for budget in [0, 1, 5, 15] {
            let mut bench = Bench::new(LIMITS, drafts, 2);
            let receiver =
                bench.submit(Request { thinking_budget: Some(budget), ..request(&[1, OPEN], 30) });
            bench.finish();
            let tokens = read(receiver, 1).0.remove(0);
            let free = expected(&[1, OPEN], 30);
            let own = free.iter().position(|id| *id == CLOSE).unwrap_or(30);
            let end = own.min(budget);
            assert_eq!(tokens[..end], free[..end], "budget {budget}, drafts {drafts}");
            assert_eq!(tokens[end], CLOSE, "budget {budget}, drafts {drafts}");
        }
    }
}

#[test]
fn an_end_token_does_not_come_early_and_a_bad_word_never() {
    let free = expected(&[9], 20);
    for drafts in [0, 2] {
        let mut bench = Bench::new(LIMITS, drafts, 2);
        let late = bench.submit(Request {
            min_tokens: 8,
            stop_token_ids: vec![free[2]],
            ..request(&[9], 20)
        });
        let polite =
            bench.submit(Request { bad_words: vec![vec![free[1], free[2]]], ..request(&[9], 20) });
        bench.finish();
        let tokens = read(late, 1).0.remove(0);
        assert!(tokens.len() >= 8 && !tokens[..8].contains(&free[2]), "{tokens:?}");
        let tokens = read(polite, 1).0.remove(0);
        assert_eq!(tokens[..2], free[..2]);
        assert!(!tokens.windows(2).any(|pair| pair == &free[1..3]), "{tokens:?}");
    }
}

#[test]
fn a_deadline_ends_an_answer_that_waits_too() {
    let mut bench = Bench::new(Limits { max_batch: 1, ..LIMITS }, 0, 1);
    let long = bench.submit(request(&[1; 8], 60));
    let late = Request { deadline: Some(Instant::now()), ..request(&[2; 8], 60) };
    let late = bench.submit(late);
    let never = bench.submit(Request {
        deadline: Instant::now().checked_add(Duration::from_secs(3600)),
        ..request(&[3; 8], 5)
    });
    bench.finish();
    assert_eq!(finish_of(&read(long, 1).1[0]), Finish::Length);
    let (tokens, ends) = read(late, 1);
    assert_eq!((tokens[0].len(), finish_of(&ends[0])), (0, Finish::Deadline));
    assert_eq!(finish_of(&read(never, 1).1[0]), Finish::Length);
}
