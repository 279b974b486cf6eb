//! The bytes that a layer of a decode step moves: each access of its kernels counted on the emulated
//! GPU, on the shapes of GLM-4.7-Flash and GLM-4.5-Air.

#![expect(clippy::print_stderr, reason = "the counts are worth reading")]
#![expect(clippy::disallowed_methods, reason = "where counts go is in the environment")]

mod emulator;

use std::path::Path;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use glm_backends::fp8::{Activations, Fp8Matrix};
use glm_backends::kv::{KvPool, KvSpec, PageTables, TileShape, TileTables, Tiles};
use glm_backends::ops::{
    self, ExpertGroup, ExpertWeights, HeadNorms, MlaForm, MlaProjected, Norm, Normed, RopeOrder,
    RotaryTable, Rotation, Routing,
};
use glm_backends::weight::Weight;

/// Where [`count_a_layer`] finds the accesses of each launch.
const COUNTS: &str = "GLM_EMULATOR_COUNTS";
/// Tokens that each sequence has in the cache.
const CONTEXT: usize = 1024;
/// A buffer up to this size stays in the cache that blocks share while a launch reads it again.
const CACHED_BYTES: u64 = 8 << 20;

#[test]
fn a_decode_step_moves_little_more_than_it_must() {
    let counts = Path::new(env!("CARGO_TARGET_TMPDIR")).join("counted-accesses");
    std::fs::write(&counts, "").expect("a file of the target folder");
    let counts = counts.to_str().expect("a path");
    // A buffer may take a quarter of the memory.
    emulator::run_again("count_a_layer", &[(COUNTS, counts), ("GLM_EMULATOR_GIB", "16")]);
}

#[test]
#[ignore = "the test above runs it on the emulated GPU"]
fn count_a_layer() {
    let Ok(counts) = std::env::var(COUNTS) else {
        eprintln!("skipped: {COUNTS} names no file");
        return;
    };
    let opened = glm_backends::device::open(&"cuda".parse().expect("a device"));
    let device = opened.expect("the emulated GPU").device;
    let mut failures = String::new();
    for model in [FLASH, AIR] {
        for fp8 in [false, true] {
            for tokens in [1, 8] {
                let layer = Layer::new(&model, fp8, tokens, &device);
                let before = std::fs::read_to_string(&counts).expect("counts").len();
                let must = layer.run();
                let text = std::fs::read_to_string(&counts).expect("counts");
                let lines = || text[before..].lines();
                let moved: u64 = lines().map(moved_by).sum();
                let ratio = moved as f64 / must as f64;
                let weights = if fp8 { "FP8" } else { "BF16" };
                let place = format!("{} in {weights}, {tokens} tokens", model.name);
                let launches = lines().count();
                eprintln!(
                    "{place}: {moved} bytes, {must} at least, {ratio:.3}; {launches} launches"
                );
                if ratio > 1.10 {
                    failures += &format!("{place}: {ratio:.3} times the bytes it must move\n");
                    for line in lines() {
                        failures += &format!("{:>12} {line}\n", moved_by(line));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Bytes of a launch: what all blocks fetch of a large buffer, each once, and each byte of a small one.
fn moved_by(line: &str) -> u64 {
    let fields: Vec<&str> = line.split(' ').skip(1).collect();
    let of_buffer = |buffer: &[&str]| {
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let (fetched, unique) = (number(buffer[1]), number(buffer[2]));
        if unique > CACHED_BYTES { fetched } else { unique }
    };
    fields.chunks_exact(3).map(of_buffer).sum()
}

struct Shape {
    name: &'static str,
    hidden: usize,
    /// Of an expert.
    width: usize,
    experts: usize,
    per_token: usize,
    attention: Attention,
}

#[derive(Clone, Copy)]
enum Attention {
    Heads { heads: usize, kv_heads: usize, head_dim: usize },
    Latents { heads: usize, rank: usize, latent: usize, nope: usize, rope: usize, value: usize },
}

const FLASH: Shape = Shape {
    name: "GLM-4.7-Flash",
    hidden: 2048,
    width: 1536,
    experts: 64,
    per_token: 4,
    attention: Attention::Latents {
        heads: 20,
        rank: 768,
        latent: 512,
        nope: 192,
        rope: 64,
        value: 256,
    },
};

const AIR: Shape = Shape {
    name: "GLM-4.5-Air",
    hidden: 4096,
    width: 1408,
    experts: 128,
    per_token: 8,
    attention: Attention::Heads { heads: 96, kv_heads: 8, head_dim: 128 },
};

/// A layer of experts with everything it reads. Only what experts are chosen by has values.
struct Layer<'a> {
    model: &'a Shape,
    tokens: usize,
    device: &'a Device,
    projections: Vec<Weight>,
    router: Weight,
    logits: Tensor<2>,
    experts: ExpertWeights,
    expert_bytes: usize,
    pool: KvPool,
    rotation: Rotation,
    tables: PageTables,
    slots: Tensor<1, Int>,
}

impl<'a> Layer<'a> {
    fn new(model: &'a Shape, fp8: bool, tokens: usize, device: &'a Device) -> Self {
        let hidden = model.hidden;
        let weight = |[rows, width]: [usize; 2]| match fp8 {
            false => Weight::Dense(Tensor::empty([rows, width], (device, DType::BF16))),
            true => {
                let words = Tensor::empty([rows, width / 4], (device, DType::I32));
                let scales = Tensor::empty([rows, 1], (device, DType::F32));
                Fp8Matrix::new(words, scales, [width, width], Activations::PerToken).into()
            }
        };
        let page_size = KvSpec::PAGE_SIZE;
        let (shapes, spec) = match model.attention {
            Attention::Heads { heads, kv_heads, head_dim } => (
                vec![[(heads + 2 * kv_heads) * head_dim, hidden], [hidden, heads * head_dim]],
                KvSpec::Gqa { layers: 1, kv_heads, head_dim, page_size },
            ),
            Attention::Latents { heads, rank, latent, nope, rope, value } => (
                vec![
                    [rank + latent + rope, hidden],
                    [heads * (nope + rope), rank],
                    [heads * (nope + value), latent],
                    [hidden, heads * value],
                ],
                KvSpec::Mla { layers: 1, latent, rope, page_size },
            ),
        };
        let router = Tensor::empty([model.experts, hidden], (device, DType::F32));
        let (experts, width) = (model.experts + 1, model.width);
        let group = ExpertGroup {
            experts,
            gate_up: weight([experts * 2 * width, hidden]),
            down: weight([experts * hidden, width]),
        };
        let pages = CONTEXT / page_size;
        let pool = KvPool::new(spec, tokens * pages + 1, DType::BF16, device);
        let (dim, order) = match model.attention {
            Attention::Heads { head_dim, .. } => (head_dim / 2, RopeOrder::HalfSplit),
            Attention::Latents { rope, .. } => (rope, RopeOrder::Interleaved),
        };
        let positions = ints((0..tokens).map(|_| CONTEXT as i32 - 1), device);
        let rotation = RotaryTable::new(CONTEXT, dim, 1e6, order, device).at(positions);
        let logits = logits(tokens, model.experts, device);
        // Whatever was launched so far is counted once values are there.
        drop(logits.clone().into_data());
        let expert_bytes = 3 * hidden * width * if fp8 { 1 } else { 2 };
        Layer {
            model,
            tokens,
            device,
            projections: shapes.into_iter().map(weight).collect(),
            router: Weight::Dense(router),
            logits,
            experts: ExpertWeights::new(vec![group], experts),
            expert_bytes,
            pool,
            rotation,
            tables: tables(tokens, pages, device),
            slots: ints((0..tokens).map(|token| ((token + 1) * CONTEXT - 1) as i32), device),
        }
    }

    /// Computes the layer, and says what it has to read.
    fn run(mut self) -> u64 {
        let floats =
            |shape: [usize; 2]| -> Tensor<2> { Tensor::empty(shape, (self.device, DType::BF16)) };
        let gain = |width: usize| Tensor::<1>::empty([width], (self.device, DType::BF16));
        let (hidden, tokens) = (self.model.hidden, self.tokens);
        let hidden_gain = gain(hidden);
        let norm = Norm { weight: &hidden_gain, eps: 1e-5 };
        let input =
            Normed { x: floats([tokens, hidden]), added: Some(floats([tokens, hidden])), norm };
        let (page_size, weights) = (KvSpec::PAGE_SIZE, &self.projections);
        let layer = self.pool.layer(0);
        let (sum, attended) = match self.model.attention {
            Attention::Heads { heads, kv_heads, head_dim } => {
                let bias = Some(gain((heads + 2 * kv_heads) * head_dim));
                let (sum, qkv) = ops::norm_linear(input, &weights[0], bias, false);
                let norms: Option<HeadNorms<'_>> = None;
                let slots = self.slots.clone();
                let q = ops::gqa_write(qkv, head_dim, norms, &self.rotation, layer, slots);
                let attended = ops::paged_attention(q, layer, &self.tables, page_size, 0.1);
                (sum, attended.flatten(1, 2))
            }
            Attention::Latents { heads, rank, latent, rope, .. } => {
                let (sum, joint) = ops::norm_linear(input, &weights[0], None, false);
                let rank_gain = gain(rank);
                let norm = Norm { weight: &rank_gain, eps: 1e-6 };
                let x = ops::columns(joint.clone(), 0..rank);
                let (_, q) =
                    ops::norm_linear(Normed { x, added: None, norm }, &weights[1], None, false);
                let latent_gain = gain(latent);
                let norm = Norm { weight: &latent_gain, eps: 1e-6 };
                let down = ops::columns(joint, rank..rank + latent + rope);
                let projected = MlaProjected { q, down, norm, heads };
                let (slots, form, up) = (self.slots.clone(), MlaForm::Absorbed, &weights[2]);
                let q = ops::mla_write(projected, up, &self.rotation, layer, slots, form);
                let attended = ops::mla_attention(q, up, layer, &self.tables, page_size, 0.1, form);
                (sum, attended.flatten(1, 2))
            }
        };
        let out = weights.last().expect("the projection of heads");
        let attended = ops::linear(attended, out, None);
        let input = Normed { x: sum, added: Some(attended), norm };
        let (sum, computed) = ops::norm_linear(input, &self.router, None, true);
        drop(computed);
        let routing = Routing {
            n_group: 1,
            topk_group: 1,
            num_experts_per_tok: self.model.per_token,
            norm_topk_prob: true,
            routed_scaling_factor: 1.0,
            shared_experts: 1,
        };
        let live = ints((0..tokens).map(|_| 1), self.device);
        let bias = Tensor::from_data(
            TensorData::new(vec![0.0f32; self.model.experts], [self.model.experts]),
            (self.device, DType::F32),
        );
        let routed = ops::moe_route(self.logits, bias, live, &routing);
        let y = ops::norm_moe_experts(sum, norm, &routed, &self.experts);
        // Whoever waits for the values knows that all before was computed.
        drop(y.into_data());
        let chosen = routed.experts.into_data().try_into_vec_as::<i32>().expect("ids");
        let active: std::collections::BTreeSet<i32> = chosen.into_iter().collect();
        let of_weights: usize = self.projections.iter().map(bytes).sum();
        let row_values = match self.model.attention {
            Attention::Heads { kv_heads, head_dim, .. } => 2 * kv_heads * head_dim,
            Attention::Latents { latent, rope, .. } => latent + rope,
        };
        let cache = tokens * CONTEXT * row_values * 2;
        let experts = active.len() * self.expert_bytes;
        (of_weights + bytes(&self.router) + experts + cache) as u64
    }
}

fn bytes(weight: &Weight) -> usize {
    let [rows, width] = weight.dims();
    let size = match weight {
        Weight::Dense(weight) => weight.dtype().size(),
        Weight::Fp8(_) | Weight::Groups(_) => 1,
    };
    rows * width * size
}

fn ints(values: impl Iterator<Item = i32>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.collect();
    Tensor::from_data(values.as_slice(), device)
}

/// Each token prefers other experts.
fn logits(tokens: usize, experts: usize, device: &Device) -> Tensor<2> {
    let value = |index: usize| (index * 7919 % 1009) as f32 / 1009.0 - 0.5;
    let values: Vec<f32> = (0..tokens * experts).map(value).collect();
    Tensor::from_data(TensorData::new(values, [tokens, experts]), (device, DType::F32))
}

/// A token for each sequence, the last one of `CONTEXT`.
fn tables(tokens: usize, pages: usize, device: &Device) -> PageTables {
    let shape = TileShape::of(tokens, tokens);
    let tiles = Tiles::new((0..tokens).map(|_| 1), shape, tokens);
    let count = |value: usize| value as i32;
    PageTables {
        sequences: ints((0..tokens).map(count), device),
        positions: ints((0..tokens).map(|_| count(CONTEXT) - 1), device),
        block_tables: ints((0..tokens * pages).map(count), device).reshape([tokens, pages]),
        query_starts: ints((0..=tokens).map(count), device),
        lengths: ints((0..tokens).map(|_| count(CONTEXT)), device),
        tiles: TileTables {
            sequences: ints(tiles.sequences.into_iter(), device),
            tokens: ints(tiles.tokens.into_iter(), device).reshape([shape.count, shape.size]),
            places: ints(tiles.places.into_iter(), device),
        },
    }
}
