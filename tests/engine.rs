//! Many requests at once: an answer is the same alone and in company.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use glm_runtime::{
    DraftChoice, DtypeChoice, Engine, EngineConfig, Event, Failure, Finish, KvDtypeChoice, Request,
    RequestError, SamplingParams, TokenLogprobs,
};

use crate::support::checkpoint::BUILT_IN;
use crate::support::oracle::{self, Golden};
use crate::transcripts;

mod deterministic;
mod drafts;
mod features;
mod recorded;

/// Two logits closer than this may change places when a sum is taken in another order.
const TIE: f32 = 1e-3;

/// A checkpoint and prompts for it.
pub(crate) struct Model {
    name: &'static str,
    pub(crate) folder: PathBuf,
    pub(crate) prompts: Vec<Vec<u32>>,
}

impl Model {
    /// The built-in model and the prompts of its transcripts.
    pub(crate) fn built_in() -> Self {
        let cases = transcripts::read(Path::new(transcripts::FIXTURES));
        let ids = |case: &serde_json::Value| transcripts::ids(&case["prompt_ids"]);
        let prompts = cases.iter().map(ids).collect();
        Model { name: "glm-tiny", folder: BUILT_IN.into(), prompts }
    }

    /// A reference checkpoint and prompts cut out of its recorded ones.
    fn reference(name: &'static str) -> Option<Self> {
        let folder = oracle::reference(name)?;
        let golden = Golden::open(&folder.join("golden.safetensors"));
        let long = golden.tokens("prompt300.ids");
        let mut prompts =
            vec![golden.tokens("prompt1.ids"), golden.tokens("prompt7.ids"), long.clone()];
        // Prompts that begin alike, and prompts that do not.
        prompts.extend((1..8).map(|part| long[..part * 37].to_vec()));
        prompts.extend((1..8).map(|part| long[part * 11..part * 11 + 20 + part].to_vec()));
        Some(Model { name, folder, prompts })
    }

    pub(crate) fn load(&self, change: impl FnOnce(&mut EngineConfig)) -> Engine {
        let device = oracle::device("cpu").expect("the CPU");
        let mut config = EngineConfig {
            dtype: DtypeChoice::F32,
            max_context: Some(1024),
            drafts: DraftChoice::Fixed(0),
            ..EngineConfig::default()
        };
        change(&mut config);
        oracle::load(&self.folder, &device, &config)
    }
}

/// Tokens of an answer, and by how much each was more probable than the next best.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) ids: Vec<u32>,
    pub(crate) margins: Vec<f32>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    pub(crate) finish: Finish,
}

pub(crate) fn greedy(prompt: &[u32], tokens: usize) -> Request {
    Request {
        max_tokens: Some(tokens),
        logprobs: Some(2),
        ..Request::new(prompt.to_vec(), SamplingParams::greedy())
    }
}

pub(crate) fn collect(stream: impl Iterator<Item = Event>) -> Result<Answer, Failure> {
    let mut answer = Answer {
        ids: Vec::new(),
        margins: Vec::new(),
        logprobs: Vec::new(),
        finish: Finish::Aborted,
    };
    for event in stream {
        match event {
            Event::Token { id, logprobs, .. } => {
                answer.ids.push(id);
                if let Some(logprobs) = logprobs {
                    if let [(_, best), (_, next)] = logprobs.top[..] {
                        answer.margins.push(best - next);
                    }
                    answer.logprobs.push(logprobs);
                }
            }
            Event::Finished { finish, .. } => answer.finish = finish,
            Event::Failed(failure) => return Err(failure),
            Event::Prompt { .. } | Event::PromptLogprobs(_) => {}
        }
    }
    Ok(answer)
}

/// Every prompt answered alone, in whole prompts and with nothing cached.
pub(crate) fn alone(model: &Model, tokens: usize, kv_dtype: KvDtypeChoice) -> Vec<Answer> {
    let engine = model.load(|config| {
        config.prefix_cache = false;
        config.prefill_chunk = 1024;
        config.kv_dtype = kv_dtype;
    });
    let answer = |prompt: &Vec<u32>| {
        collect(engine.submit(greedy(prompt, tokens)).expect("a request")).expect("an answer")
    };
    model.prompts.iter().map(answer).collect()
}

/// Equal up to the first near tie.
pub(crate) fn assert_same(what: &str, got: &Answer, want: &Answer) {
    let differs = got.ids.iter().zip(&want.ids).position(|(got, want)| got != want);
    match differs {
        None => assert_eq!(
            (got.ids.len(), got.finish),
            (want.ids.len(), want.finish),
            "{what}: {:?} {:?}",
            got.ids,
            want.ids
        ),
        Some(at) => assert!(
            want.margins[at] < TIE,
            "{what}: token {at} is {} instead of {}, the margin is {}",
            got.ids[at],
            want.ids[at],
            want.margins[at]
        ),
    }
}

/// Numbers by a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit as u64) as usize
    }
}

/// Answers all prompts in company: 32 requests that arrive while others are under way, some twice
/// and some cancelled.
fn in_company(
    what: &str,
    model: &Model,
    engine: &Engine,
    want: &[Answer],
    tokens: usize,
    seed: u64,
) {
    let mut random = Random(seed);
    let mut under_way: Vec<(usize, std::thread::JoinHandle<Result<Answer, Failure>>)> = Vec::new();
    for _ in 0..32 {
        let index = random.below(model.prompts.len());
        let request =
            Request { priority: random.below(3) as i32, ..greedy(&model.prompts[index], tokens) };
        let mut stream = engine.submit(request).expect("a request");
        match random.below(4) {
            // Goes away before it is answered, or on the way.
            0 => drop(stream),
            1 if random.below(2) == 0 => drop(stream.by_ref().take(3).collect::<Vec<_>>()),
            // The next one comes when this one is under way.
            2 => {
                let first: Vec<_> = stream.by_ref().take(2).collect();
                let rest = std::thread::spawn(move || collect(first.into_iter().chain(stream)));
                under_way.push((index, rest));
            }
            _ => under_way.push((index, std::thread::spawn(move || collect(stream)))),
        }
    }
    for (index, answer) in under_way {
        let answer = answer.join().expect("a reader").expect("an answer");
        assert_same(&format!("{what}, {}, prompt {index}", model.name), &answer, &want[index]);
    }
    wait_until_idle(engine);
    let pages = engine.stats().pages;
    assert_eq!(pages.held, 0, "{what}: {pages:?}");
    assert_eq!(pages.free + pages.cached, pages.total, "{what}: {pages:?}");
}

/// Waits until the engine has put away what was cancelled.
fn wait_until_idle(engine: &Engine) {
    // A request that is answered after all others were.
    collect(engine.submit(greedy(&[1, 2, 3], 1)).expect("a request")).expect("an answer");
    let started = Instant::now();
    while engine.stats().running > 0 && started.elapsed() < Duration::from_secs(60) {
        std::thread::yield_now();
    }
}

fn check_model(model: &Model) {
    let tokens = 24;
    let want = alone(model, tokens, KvDtypeChoice::Auto);
    let most = model.prompts.iter().map(Vec::len).max().unwrap_or(0) + tokens + 4;
    type Change = Box<dyn FnOnce(&mut EngineConfig)>;
    let scenarios: [(&str, Change); 7] = [
        ("chunks of 1", Box::new(|config| config.prefill_chunk = 1)),
        ("chunks of 5, a step ahead", {
            Box::new(|config| {
                config.prefill_chunk = 5;
                config.steps_in_flight = Some(2);
            })
        }),
        ("chunks of 512, no prefix cache", {
            Box::new(|config| {
                config.prefill_chunk = 512;
                config.prefix_cache = false;
            })
        }),
        ("a cache for little more than one", {
            Box::new(move |config| {
                config.kv_tokens = Some(most.next_multiple_of(64) + 128);
                config.prefill_chunk = 64;
            })
        }),
        ("drafts of 1, a step ahead", {
            Box::new(|config| {
                config.drafts = DraftChoice::Fixed(1);
                config.steps_in_flight = Some(2);
            })
        }),
        ("drafts of 4, little room", {
            Box::new(move |config| {
                config.drafts = DraftChoice::Fixed(4);
                config.kv_tokens = Some(most.next_multiple_of(64) + 192);
                config.prefill_chunk = 33;
            })
        }),
        ("drafts as they pay off", Box::new(|config| config.drafts = DraftChoice::Auto)),
    ];
    for (seed, (what, change)) in scenarios.into_iter().enumerate() {
        let engine = model.load(change);
        in_company(what, model, &engine, &want, tokens, seed as u64);
    }
}

#[test]
fn glm_tiny_answers_the_same_in_company() {
    check_model(&Model::built_in());
}

#[test]
fn the_references_answer_the_same_in_company() {
    for name in ["air-tiny", "m355-tiny", "lite-tiny"] {
        if let Some(model) = Model::reference(name) {
            check_model(&model);
        }
    }
}

#[test]
fn every_cache_format_answers_as_it_does_alone() {
    let models = [Some(Model::built_in()), Model::reference("lite-tiny")];
    for model in models.into_iter().flatten() {
        for kv_dtype in [KvDtypeChoice::Bf16, KvDtypeChoice::F16, KvDtypeChoice::Fp8] {
            let want = alone(&model, 16, kv_dtype);
            let engine = model.load(|config| {
                config.kv_dtype = kv_dtype;
                config.prefill_chunk = 48;
                config.drafts = DraftChoice::Fixed(2);
            });
            in_company(&kv_dtype.to_string(), &model, &engine, &want, 16, 7);
        }
    }
}

#[test]
fn preemption_happens_where_it_is_meant_to() {
    let model = Model::built_in();
    let engine = model.load(|config| config.kv_tokens = Some(6 * 64));
    let streams: Vec<_> = (0..12)
        .map(|index| {
            let mut prompt = model.prompts[index % model.prompts.len()].clone();
            prompt.truncate(60);
            prompt[0] = index as u32;
            let request = Request { ignore_eos: true, ..greedy(&prompt, 90) };
            engine.submit(request).expect("a request")
        })
        .collect();
    for stream in streams {
        assert_eq!(collect(stream).expect("an answer").ids.len(), 90);
    }
    assert!(engine.stats().preemptions > 0, "{:?}", engine.stats());
}

#[test]
fn what_cannot_be_answered_is_refused_before_it_is_queued() {
    let engine = Model::built_in().load(|config| config.kv_tokens = Some(128));
    let prompt = [1_u32, 2, 3];
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut request = greedy(&prompt, 5);
        change(&mut request);
        engine.submit(request).expect_err("a refusal").to_string()
    };
    type Change<'a> = &'a dyn Fn(&mut Request);
    let cases: [(Change<'_>, &str); 11] = [
        (&|r| r.n = 0, "n is 0, wanted a number from 1 to 128"),
        (&|r| r.n = 100_000, "n is 100000, wanted a number from 1 to 128"),
        (
            &|r| r.max_tokens = Some(0),
            "max-tokens is 0, wanted at least 1, or none for what the context holds",
        ),
        (&|r| r.min_tokens = 6, "min-tokens is 6, wanted at most max-tokens, which is 5"),
        (&|r| r.logprobs = Some(21), "logprobs is 21, wanted a number from 0 to 20"),
        (&|r| r.stop_token_ids = vec![9999], "stop-token is 9999, wanted a token id below 2048"),
        (
            &|r| r.bad_words = vec![vec![]],
            "bad-words is an empty one, wanted at least one token each",
        ),
        (
            &|r| r.sampling.logit_bias = vec![(4096, 1.0)],
            "logit-bias is 4096, wanted a token id below 2048",
        ),
        (
            &|r| r.stop_strings = vec![String::new()],
            "stop is an empty text, wanted at least one character",
        ),
        (
            &|r| r.sampling.temperature = -1.0,
            "temperature is -1, wanted 0 or a number from 0.001 to 100",
        ),
        (
            &|r| r.prompt = vec![1; 128],
            "the prompt has 128 tokens, wanted at most 127: the context holds no more",
        ),
    ];
    for (change, want) in cases {
        assert_eq!(refused(change), want);
    }
    assert_eq!(engine.submit(greedy(&[], 5)).unwrap_err(), RequestError::EmptyPrompt);
    assert_eq!(engine.stats().steps, 0, "nothing was queued");
}
