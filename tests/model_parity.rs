//! Random reference checkpoints against transformers: every layer, the logits, greedy text.

use std::ops::ControlFlow;
use std::path::Path;

use glm_backends::cpu::Isa;
use glm_models::model::Parts;
use glm_runtime::{DtypeChoice, Engine, EngineConfig, Request, SamplingParams};

use crate::support::checkpoint::Checkpoint;
use crate::support::oracle::{self, Golden, cosine, floats, ids, relative_l2};

/// Recorded by `fixtures/generate.py`, in the repository.
const FIXTURES: [&str; 4] =
    ["glm4_moe_tiny", "glm4_moe_tiny_groups", "glm4_moe_lite_tiny", "glm4_moe_lite_tiny_direct"];
/// Beside the repository; skipped where they are absent.
const REFERENCES: [&str; 3] = ["air-tiny", "m355-tiny", "lite-tiny"];
/// The same with FP8 weights; recorded with the weights written out in f32.
const FP8_REFERENCES: [&str; 2] = ["air-tiny-fp8", "m355-tiny-fp8"];

#[test]
fn f32_on_the_cpu_equals_transformers() {
    for name in FIXTURES.into_iter().chain(REFERENCES).chain(FP8_REFERENCES) {
        check_f32(name, "cpu", 1e-4, 0.0, usize::MAX);
    }
}

/// One checkpoint of each kind, and short texts: a software GPU takes 100 ms a token.
#[test]
fn f32_on_a_gpu_equals_transformers() {
    for name in ["glm4_moe_tiny_groups", "air-tiny", "m355-tiny-fp8", "lite-tiny"] {
        check_f32(name, oracle::gpu(), 1e-3, 0.02, 6);
    }
}

#[test]
#[ignore = "takes a quarter of an hour on a software GPU"]
fn f32_on_a_gpu_equals_transformers_in_all() {
    for name in FIXTURES.into_iter().chain(REFERENCES).chain(FP8_REFERENCES) {
        check_f32(name, oracle::gpu(), 1e-3, 0.02, usize::MAX);
    }
}

/// Logits of all prompts, the trace of the short one and `steps` tokens of the greedy texts. A
/// greedy text counts up to the first step whose recorded margin is below `margin`.
fn check_f32(name: &str, device: &str, tolerance: f64, margin: f32, steps: usize) {
    let _turn = oracle::turn(device);
    let Some((engine, golden)) = open(name, device, DtypeChoice::F32) else { return };
    for length in lengths(&golden) {
        let prompt = golden.tokens(&format!("prompt{length}.ids"));
        let want = golden.floats(&format!("prompt{length}.logits"));
        let records = engine.trace_forward(&prompt, false).expect("forward");
        let got = floats(&records, "logits");
        // Of the longest prompt only the last rows are recorded.
        let got = &got[got.len() - want.len()..];
        let distance = relative_l2(got, &want);
        let place = format!("{name} on {device}, {length} tokens");
        if distance >= tolerance {
            // Where two experts have the same score up to a rounding, either choice is right, and
            // all that comes after depends on it.
            let tie = closest_choice(&engine, name, &prompt);
            assert!(
                tie.gap < router_tie(device) && distance < 1e-2,
                "{place}: {distance:.2e}, {tie:?}"
            );
            eprintln!("skipped: logits of {place}: {tie:?}, and {distance:.2e} after it");
        }

        let mut want = golden.tokens(&format!("prompt{length}.greedy"));
        want.truncate(steps);
        let margins = golden.floats(&format!("prompt{length}.greedy_margin"));
        // The references sample padding rows of the embedding too, which have no token.
        let tokens = engine.files().tokenizer.vocab_len();
        let sure = (0..want.len())
            .find(|step| margins[*step] < margin || want[*step] as usize >= tokens)
            .unwrap_or(want.len());
        let got = greedy(&engine, prompt, want.len());
        assert_eq!(got[..sure], want[..sure], "{name} on {device}, greedy after {length} tokens");
    }
    check_trace(&engine, &golden, "", name, tolerance);
}

/// Scores of experts closer than this may change places by rounding: they are about 1, in f32; with
/// AMX, of sums of activations of 16 bits.
fn router_tie(device: &str) -> f32 {
    if device == "cpu" && Isa::current() == Isa::Amx { 2e-6 } else { 2e-7 }
}

/// Where the last expert that is chosen and the first that is not have the closest scores.
#[derive(Debug)]
struct Choice {
    gap: f32,
    #[expect(dead_code, reason = "printed")]
    layer: usize,
    #[expect(dead_code, reason = "printed")]
    token: usize,
}

/// The closest choice of experts in all layers and tokens, for models without groups of experts.
fn closest_choice(engine: &Engine, name: &str, prompt: &[u32]) -> Choice {
    let folder = oracle::reference(name).expect("a reference");
    let weights = Checkpoint::open(&folder);
    let count = |key: &str| weights.config[key].as_u64().expect("a number") as usize;
    assert_eq!(count("n_group"), 1, "{name}: scores depend on groups");
    let (experts, chosen) = (count("n_routed_experts"), count("num_experts_per_tok"));
    let records = engine.trace_forward(prompt, true).expect("forward");
    let mut closest = Choice { gap: f32::INFINITY, layer: 0, token: 0 };
    for layer in count("first_k_dense_replace")..count("num_hidden_layers") {
        let bias = format!("model.layers.{layer}.mlp.gate.e_score_correction_bias");
        let bias = weights.tensors[&bias].floats();
        let logits = floats(&records, &format!("router_logits.layer{layer}"));
        for (token, logits) in logits.chunks_exact(experts).enumerate() {
            let score = |(logit, bias): (&f32, &f32)| 1.0 / (1.0 + (-logit).exp()) + bias;
            let mut scores: Vec<f32> = logits.iter().zip(&bias).map(score).collect();
            scores.sort_by(|a, b| b.total_cmp(a));
            let gap = scores[chosen - 1] - scores[chosen];
            if gap < closest.gap {
                closest = Choice { gap, layer, token };
            }
        }
    }
    closest
}

/// Every value that was recorded under `recorded` and `trace…`.
pub(crate) fn check_trace(
    engine: &Engine,
    golden: &Golden,
    recorded: &str,
    name: &str,
    tolerance: f64,
) {
    let mut compared = 0;
    let names = golden.names();
    for length in lengths(golden) {
        let prefix = format!("{recorded}trace{length}.");
        if !names.iter().any(|name| name.starts_with(&prefix)) {
            continue;
        }
        let prompt = golden.tokens(&format!("prompt{length}.ids"));
        let records = engine.trace_forward(&prompt, true).expect("forward");
        for full_name in golden.names() {
            let Some(value) = full_name.strip_prefix(&prefix) else { continue };
            if value.starts_with("router_gap") {
                continue;
            }
            compared += 1;
            if value.starts_with("router_topk_ids") {
                assert_eq!(ids(&records, value), golden.ids(&full_name), "{name}: {full_name}");
            } else {
                let distance = relative_l2(floats(&records, value), &golden.floats(&full_name));
                assert!(distance < tolerance, "{name}: {full_name} is off by {distance:.2e}");
            }
        }
    }
    assert!(compared > 16, "{name}: only {compared} values compared");
}

/// One expert choice that flips moves a position by whole logits, so that only medians and short
/// prompts say something (the references' own bf16 runs differ from f32 by as much).
#[test]
fn bf16_on_the_cpu_is_as_close_as_transformers() {
    for name in REFERENCES {
        let Some((engine, golden)) = open(name, "cpu", DtypeChoice::Bf16) else { return };
        for length in lengths(&golden) {
            let prompt = golden.tokens(&format!("prompt{length}.ids"));
            let exact = golden.floats(&format!("prompt{length}.logits"));
            let theirs = golden.floats(&format!("bf16.prompt{length}.logits"));
            let records = engine.trace_forward(&prompt, false).expect("forward");
            let ours = floats(&records, "logits");
            let ours = &ours[ours.len() - exact.len()..];
            let width = 480;
            let (ours_off, theirs_off) =
                (median_off(ours, &exact, width), median_off(&theirs, &exact, width));
            assert!(
                ours_off < 2.0 * theirs_off + 0.1,
                "{name}, {length} tokens: median {ours_off:.3}, transformers {theirs_off:.3}"
            );
            if length <= 7 {
                let cosine = cosine(ours, &exact);
                assert!(cosine > 0.99, "{name}, {length} tokens: cosine {cosine:.4}");
            }
        }
    }
}

/// Median over positions of the largest distance of a logit.
pub(crate) fn median_off(got: &[f32], want: &[f32], width: usize) -> f32 {
    let mut largest: Vec<f32> = got
        .chunks(width)
        .zip(want.chunks(width))
        .map(|(got, want)| {
            got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max)
        })
        .collect();
    largest.sort_by(f32::total_cmp);
    largest[largest.len() / 2]
}

/// However a prompt is cut into steps, the numbers stay the same. Latent attention takes its
/// absorbed form for one token and its expanded form for the whole prompt.
#[test]
fn chunks_do_not_change_the_numbers() {
    for name in ["glm4_moe_tiny_groups", "glm4_moe_lite_tiny"] {
        for prefill_chunk in [1, 37, 70] {
            check_chunks(name, prefill_chunk);
        }
    }
}

fn check_chunks(name: &str, prefill_chunk: usize) {
    let device = oracle::device("cpu").expect("the CPU");
    let folder = oracle::fixture(name);
    let golden = Golden::open(&folder.path().join("golden.safetensors"));
    let prompt = golden.tokens("prompt70.ids");
    let want = golden.floats("prompt70.logits");
    let config = EngineConfig {
        dtype: DtypeChoice::F32,
        prefill_chunk,
        max_context: Some(512),
        ..EngineConfig::default()
    };
    let engine = oracle::load(folder.path(), &device, &config);
    let records = engine.trace_forward(&prompt, false).expect("forward");
    let got = floats(&records, "logits");
    let distance = relative_l2(&got[got.len() - want.len()..], &want);
    assert!(distance < 1e-4, "{name}, chunks of {prefill_chunk}: {distance:.2e}");
}

/// Drafts of every row, and three chained ones, by the multi-token-prediction layer.
#[test]
fn drafts_equal_the_references() {
    let fixtures = ["glm4_moe_tiny", "glm4_moe_lite_tiny"].map(oracle::fixture);
    let references = REFERENCES.into_iter().chain(FP8_REFERENCES);
    let folders = references.filter_map(oracle::reference);
    for folder in folders.chain(fixtures.iter().map(|fixture| fixture.path().to_owned())) {
        check_drafts(&folder, "cpu", 1e-4);
    }
}

#[test]
fn drafts_on_a_gpu_equal_the_references() {
    let folders = ["m355-tiny", "lite-tiny"].into_iter().filter_map(oracle::reference);
    for folder in folders.chain([oracle::fixture("glm4_moe_tiny").path().to_owned()]) {
        check_drafts(&folder, oracle::gpu(), 1e-3);
    }
}

fn check_drafts(folder: &Path, device: &str, tolerance: f64) {
    let _turn = oracle::turn(device);
    let Some(device) = oracle::device(device) else { return };
    let golden = Golden::open(&folder.join("golden.safetensors"));
    let config = EngineConfig {
        dtype: DtypeChoice::F32,
        // The drafts of a prompt in several steps have to join.
        prefill_chunk: 40,
        parts: Parts::MainAndMtp,
        ..EngineConfig::default()
    };
    let engine = oracle::load(folder, &device, &config);
    let token_in = golden.ids("mtp.token_in");
    let prompt = golden.tokens(&format!("prompt{}.ids", token_in.len()));
    let records = engine.trace_drafts(&prompt).expect("drafts");
    let place = format!("{} on {}", folder.display(), device.label());
    assert_eq!(ids(&records, "mtp.token_in"), token_in, "{place}");
    let chain = golden.ids("mtp.hf.chain_tokens");
    assert_eq!(ids(&records, "mtp.chain_tokens"), chain, "{place}");
    for value in ["logits_step1", "chain_logits"] {
        let want = golden.floats(&format!("mtp.hf.{value}"));
        let got = floats(&records, &format!("mtp.{value}"));
        // Of the fixtures only the last rows are recorded.
        let distance = relative_l2(&got[got.len() - want.len()..], &want);
        assert!(distance < tolerance, "{place}: {value} is off by {distance:.2e}");
    }
}

fn open(name: &str, device: &str, dtype: DtypeChoice) -> Option<(Engine, Golden)> {
    let device = oracle::device(device)?;
    if FIXTURES.contains(&name) {
        let folder = oracle::fixture(name);
        let golden = Golden::open(&folder.path().join("golden.safetensors"));
        return Some((oracle::engine(folder.path(), &device, dtype), golden));
    }
    let folder = oracle::reference(name)?;
    let golden = Golden::open(&folder.join("golden.safetensors"));
    Some((oracle::engine(&folder, &device, dtype), golden))
}

/// Lengths of the recorded prompts, shortest first.
fn lengths(golden: &Golden) -> Vec<usize> {
    let length = |name: &String| name.strip_prefix("prompt")?.strip_suffix(".ids")?.parse().ok();
    let mut lengths: Vec<usize> = golden.names().iter().filter_map(length).collect();
    lengths.sort_unstable();
    lengths
}

fn greedy(engine: &Engine, prompt: Vec<u32>, tokens: usize) -> Vec<u32> {
    let sampling = SamplingParams::greedy();
    let request =
        Request { max_tokens: Some(tokens), ignore_eos: true, ..Request::new(prompt, sampling) };
    engine.generate(&request, &mut |_| ControlFlow::Continue(())).expect("generate").token_ids
}
