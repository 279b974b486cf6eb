//! What the engine gains by computing many requests at once, by sharing prefixes and by drafting,
//! and what it costs by itself: ratios within one run on the CPU.
//!
//! `cargo bench-engine [NAME]`. Exit code 1 when a ratio is worse than it may be.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use glm_backends::device::{self, DeviceSpeed, OpenDevice};
use glm_runtime::load::{EmbeddedModel, ModelFiles};
use glm_runtime::measure::{Driven, Goal, Prompts, Summary, Usage, drive};
use glm_runtime::{DraftChoice, DtypeChoice, Engine, EngineConfig, Request, SamplingParams, null};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TINY: EmbeddedModel = EmbeddedModel {
    config: include_str!("../cli/assets/glm-tiny/config.json"),
    generation_config: include_str!("../cli/assets/glm-tiny/generation_config.json"),
    tokenizer: include_bytes!("../cli/assets/glm-tiny/tokenizer.json"),
    tokenizer_config: include_str!("../cli/assets/glm-tiny/tokenizer_config.json"),
    chat_template: include_str!("../cli/assets/glm-tiny/chat_template.jinja"),
    weights: include_bytes!("../cli/assets/glm-tiny/model.safetensors"),
};

/// 310 M parameters, 22 % of them in 8 experts of which a token takes 2.
const DENSE_HEAVY: &str = r#"{
    "model_type": "glm4_moe", "torch_dtype": "bfloat16", "vocab_size": 32000, "hidden_size": 1024,
    "num_hidden_layers": 12, "first_k_dense_replace": 8, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "attention_bias": false, "use_qk_norm": true,
    "partial_rotary_factor": 0.5, "intermediate_size": 5632, "moe_intermediate_size": 704,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "num_nextn_predict_layers": 1, "eos_token_id": 0
}"#;

/// 300 M parameters, most of them in 32 experts of which a token takes 4.
const MANY_EXPERTS: &str = r#"{
    "model_type": "glm4_moe", "torch_dtype": "bfloat16", "vocab_size": 8192, "hidden_size": 768,
    "num_hidden_layers": 8, "first_k_dense_replace": 1, "num_attention_heads": 12,
    "num_key_value_heads": 4, "head_dim": 64, "attention_bias": false, "use_qk_norm": true,
    "partial_rotary_factor": 0.5, "intermediate_size": 2048, "moe_intermediate_size": 480,
    "n_routed_experts": 32, "num_experts_per_tok": 4, "n_shared_experts": 1,
    "num_nextn_predict_layers": 1, "eos_token_id": 0
}"#;

fn main() -> Result<ExitCode> {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let bench = Bench::new()?;
    let mut failed = false;
    for (name, run) in [
        ("host", Bench::host as fn(&Bench) -> Result<bool>),
        ("streams", Bench::streams),
        ("prefix", Bench::prefix),
        ("drafts", Bench::drafts),
    ] {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            println!("== {name}");
            failed |= !run(&bench)?;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Bench {
    device: OpenDevice,
    speed: DeviceSpeed,
}

/// A model to be measured.
enum Model {
    Tiny,
    /// Random weights for this `config.json`.
    Random(&'static str),
    Folder(PathBuf),
}

impl Model {
    fn files(&self) -> Result<ModelFiles> {
        Ok(match self {
            Model::Tiny => ModelFiles::from_embedded(&TINY)?,
            Model::Folder(folder) => ModelFiles::open(folder)?,
            Model::Random(config) => {
                let folder = tempfile::tempdir()?;
                fs::write(folder.path().join("config.json"), config)?;
                ModelFiles::open_random(folder.path(), 1, &TINY)?
            }
        })
    }
}

impl Bench {
    fn new() -> Result<Self> {
        let device = device::open(&"cpu".parse()?)?;
        let speed = device.measure_speed(glm_models::plan::DType::F32)?;
        println!(
            "{}, f32: memory {:.1} GB/s, products of matrices {:.1} GFLOP/s",
            device.label(),
            speed.bytes_per_second / 1e9,
            speed.flops_per_second / 1e9
        );
        Ok(Bench { device, speed })
    }

    fn load(&self, model: &Model, change: impl FnOnce(&mut EngineConfig)) -> Result<Engine> {
        let mut config = EngineConfig {
            dtype: DtypeChoice::F32,
            max_context: Some(4096),
            drafts: DraftChoice::Fixed(0),
            ..EngineConfig::default()
        };
        change(&mut config);
        Ok(Engine::load(model.files()?, &self.device, &config, &mut |_| ())?)
    }

    /// The engine's own work with a model that takes no time.
    fn host(&self) -> Result<bool> {
        let tokenizer = ModelFiles::from_embedded(&TINY)?.tokenizer;
        // Once for what is only there after a first run.
        null::host_cost(&tokenizer, 32, 64);
        let cost = null::host_cost(&tokenizer, 32, 512);
        println!(
            "32 sequences, {} steps: {:.1?} a step, {:.1?} of it to schedule",
            cost.steps, cost.step, cost.schedule
        );
        Ok(check(cost.step < Duration::from_micros(50), "below 50 µs a step"))
    }

    /// 16 streams against one.
    fn streams(&self) -> Result<bool> {
        let mut ok = true;
        // So many tokens that prompts do not count for much.
        for (name, model, tokens, least) in [
            ("glm-tiny", Model::Tiny, 320, None),
            ("many experts", Model::Random(MANY_EXPERTS), 96, None),
            ("dense-heavy", Model::Random(DENSE_HEAVY), 96, Some(4.0)),
        ] {
            let engine = self.load(&model, |_| ())?;
            let mut prompts = Prompts::new(engine.files().tokenizer.vocab_len(), 1);
            let mut speeds = Vec::new();
            for streams in [1, 16] {
                let run = |prompts: &mut Prompts, tokens| {
                    let requests =
                        (0..streams).map(|_| request(prompts.next(32), tokens)).collect();
                    drive(&engine, requests, streams, &mut |_| true)
                };
                run(&mut prompts, 4)?;
                let driven = run(&mut prompts, tokens)?;
                let summary = Summary::new(&driven.timelines, &Goal::default());
                let usage = Usage::of(engine.plan(), &driven.stats, summary.seconds, self.speed);
                let reached = summary.output_tokens_per_second();
                println!(
                    "{name}, {streams} streams: {reached:.1} tokens/s; {:.0} % of the bandwidth, \
                     {:.0} % of the arithmetic, {:.0} % of the bound",
                    100.0 * usage.bandwidth_share(),
                    100.0 * usage.flop_share(),
                    100.0 * usage.bound_share()
                );
                speeds.push((reached, summary.output_tokens as f64 / usage.bound_seconds));
            }
            let (one, many) = (speeds[0], speeds[1]);
            let (reached, allowed) = (many.0 / one.0, many.1 / one.1);
            println!(
                "{name}: {reached:.2} times one stream, bytes and operations allow {allowed:.2}"
            );
            ok &= check(reached >= 0.6 * allowed, "60 % of what bytes and operations allow");
            if let Some(least) = least {
                ok &= check(reached >= least, "4 times one stream");
            }
        }
        Ok(ok)
    }

    /// A prompt of 2,000 tokens that is cached, against one that is not.
    fn prefix(&self) -> Result<bool> {
        let mut ok = true;
        for (name, model) in
            [("glm-tiny", Model::Tiny), ("many experts", Model::Random(MANY_EXPERTS))]
        {
            let engine = self.load(&model, |_| ())?;
            let mut prompts = Prompts::new(engine.files().tokenizer.vocab_len(), 1);
            let ttft = |prompt: &[u32]| -> Result<f64> {
                let driven = drive(&engine, vec![request(prompt.to_vec(), 2)], 1, &mut |_| true)?;
                driven.timelines[0].ttft().ok_or_else(|| "no token".into())
            };
            ttft(&prompts.next(300))?;
            let (mut cold, mut warm) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                let prompt = prompts.next(2000);
                cold.push(ttft(&prompt)?);
                warm.push(ttft(&prompt)?);
            }
            let (cold, warm) = (median(cold), median(warm));
            let ratio = cold / warm;
            println!(
                "{name}, 2,000 tokens: first token after {:.1} ms, cached after {:.1} ms: {ratio:.1} times",
                1e3 * cold,
                1e3 * warm
            );
            ok &= check(ratio >= 10.0, "10 times");
        }
        Ok(ok)
    }

    /// `--drafts auto` against none, in turns.
    fn drafts(&self) -> Result<bool> {
        let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracles/public");
        let weak = references.join("glm-tiny-weakmtp");
        let mut models = vec![("glm-tiny", Model::Tiny, 12_000, true)];
        match weak.is_dir() {
            true => models.push(("glm-tiny-weakmtp", Model::Folder(weak), 12_000, true)),
            false => println!("skipped: glm-tiny-weakmtp is not in {}", references.display()),
        }
        models.push(("many experts", Model::Random(MANY_EXPERTS), 1500, false));
        let mut ok = true;
        for (name, model, tokens, talks) in models {
            let mut seconds = [Vec::new(), Vec::new()];
            let (mut drafted, mut next) = (None, 0);
            let mut engines = None;
            for round in 0..ROUNDS {
                // Where the weights lie in memory alone makes some hundredths.
                if round % (ROUNDS / LOADS) == 0 {
                    drop(engines.take());
                    let load = |drafts| {
                        self.load(&model, |config: &mut EngineConfig| config.drafts = drafts)
                    };
                    engines = Some((load(DraftChoice::Fixed(0))?, load(DraftChoice::Auto)?));
                }
                let Some((off, auto)) = &engines else { continue };
                let prompts = conversations(off, talks);
                let requests: Vec<_> = (0..4)
                    .map(|_| {
                        next += 1;
                        request(prompts[next % prompts.len()].clone(), tokens / ROUNDS / 4)
                    })
                    .collect();
                // Whoever comes first has a colder machine: they take turns.
                let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
                for which in order {
                    let engine = if which == 0 { off } else { auto };
                    let Driven { timelines, stats } =
                        drive(engine, requests.clone(), 1, &mut |_| true)?;
                    let summary = Summary::new(&timelines, &Goal::default());
                    seconds[which].push(summary.seconds / summary.output_tokens as f64);
                    if which == 1 {
                        drafted = Some(stats);
                    }
                }
            }
            let [off, auto] = seconds.map(|seconds| seconds.iter().sum::<f64>());
            let ratio = auto / off;
            let rate = drafted.filter(|stats| stats.drafted[0] > 0).map(|stats| {
                format!(
                    "{:.2} of the first drafts accepted",
                    stats.accepted[0] as f64 / stats.drafted[0] as f64
                )
            });
            println!(
                "{name}: {:.3} ms a token without drafts, {:.3} ms with auto: {ratio:.3}; at the end {}",
                1e3 * off / ROUNDS as f64,
                1e3 * auto / ROUNDS as f64,
                rate.unwrap_or_else(|| "nothing drafted".into())
            );
            ok &= check(ratio <= 1.02, "at most 1.02 of the time without drafts");
        }
        Ok(ok)
    }
}

/// Turns that are taken, and how often the models are loaded anew for them.
const ROUNDS: usize = 12;
const LOADS: usize = 3;

/// Prompts that a chat model answers as it was trained to, or random ones.
fn conversations(engine: &Engine, talks: bool) -> Vec<Vec<u32>> {
    let tokenizer = &engine.files().tokenizer;
    if !talks {
        let mut prompts = Prompts::new(tokenizer.vocab_len(), 1);
        return (0..8).map(|_| prompts.next(16)).collect();
    }
    let questions = (0..12).map(|i| format!("What is {} + {}?", 3 * i + 1, 50 - 2 * i));
    let texts =
        questions.map(|question| format!("[gMASK]<sop><|user|>{question}<|assistant|><think>"));
    texts.filter_map(|text| tokenizer.encode(&text).ok()).collect()
}

fn request(prompt: Vec<u32>, tokens: usize) -> Request {
    Request {
        max_tokens: Some(tokens),
        ignore_eos: true,
        ..Request::new(prompt, SamplingParams::greedy())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn check(holds: bool, what: &str) -> bool {
    println!("{} {what}", if holds { "ok  " } else { "FAIL" });
    holds
}
