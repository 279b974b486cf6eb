//! Caches, and what reads and writes them.

use burn::tensor::{DType, Tensor};

use super::Offline;
use super::rows::{Attention, Model};
use crate::cube::FEW_TOKENS;
use crate::kv::{
    Fp8Rows, KvFormat, KvLayer, KvRows, KvSpec, PageTables, Parts, TileShape, TileTables, words,
};
use crate::ops::{
    self, HeadNorms, MlaForm, MlaProjected, Norm, PreparedQueries, RopeOrder, RotaryTable, Rotation,
};

/// Slots of a cache, in pages of the usual size.
const SLOTS: usize = 1024 * KvSpec::PAGE_SIZE;
pub(super) const HEADS: usize = 96;
pub(super) const KV_HEADS: usize = 8;
pub(super) const HEAD_DIM: usize = 128;
pub(super) const LATENT_HEADS: usize = 20;
pub(super) const LATENT: usize = 512;
pub(super) const NOPE: usize = 192;
pub(super) const ROPE: usize = 64;
pub(super) const VALUE: usize = 256;

/// Tokens of a step and the sequences they belong to: a single answer, several, drafts of two, a
/// chunk of a prompt.
const STEPS: [[usize; 2]; 4] = [[1, 1], [8, 8], [8, 2], [512, 1]];

pub(super) fn kv_write(device: &Offline, dtype: DType, model: &Model) {
    for format in [KvFormat::Float(dtype), KvFormat::Fp8] {
        let mut rows = device.rows(&parts(model.attention), format);
        let width = rows.width();
        ops::kv_write(&mut rows, device.floats([8, width], dtype), device.ints([8]));
    }
}

pub(super) fn rope(device: &Offline, dtype: DType, model: &Model) {
    let (heads, width) = match model.attention {
        Attention::Latents => (LATENT_HEADS, ROPE),
        Attention::Heads { .. } => (HEADS, HEAD_DIM),
    };
    let rotation = device.rotation(model.attention, 8);
    ops::rope(device.floats([8, heads, width], dtype), &rotation);
}

/// All of an attention between its projections.
pub(super) fn write_and_attend(device: &Offline, dtype: DType, model: &Model) {
    for format in [KvFormat::Float(dtype), KvFormat::Fp8] {
        for step in STEPS {
            match model.attention {
                Attention::Latents => latents(device, dtype, format, step),
                Attention::Heads { norms } => heads(device, dtype, format, step, norms),
            }
        }
    }
}

fn heads(device: &Offline, dtype: DType, format: KvFormat, step: [usize; 2], norms: bool) {
    let attention = Attention::Heads { norms };
    let [tokens, _] = step;
    let parts = parts(attention);
    let mut layer = KvLayer::of(vec![device.rows(&parts, format), device.rows(&parts, format)]);
    let qkv = device.floats([tokens, (HEADS + 2 * KV_HEADS) * HEAD_DIM], dtype);
    let weight = device.floats([HEAD_DIM], dtype);
    let norm = Norm { weight: &weight, eps: 1e-5 };
    let norms = norms.then_some(HeadNorms { query: norm, key: norm });
    let rotation = device.rotation(attention, tokens);
    let slots = device.ints([tokens]);
    let q = ops::gqa_write(qkv, HEAD_DIM, norms, &rotation, &mut layer, slots);
    let scale = (HEAD_DIM as f64).powf(-0.5);
    ops::paged_attention(q, &layer, &device.tables(step), KvSpec::PAGE_SIZE, scale);
}

fn latents(device: &Offline, dtype: DType, format: KvFormat, step: [usize; 2]) {
    let [tokens, _] = step;
    let shape = [LATENT_HEADS * (NOPE + VALUE), LATENT];
    for kv_b in device.weights(shape, dtype) {
        let mut layer = KvLayer::of(vec![device.rows(&parts(Attention::Latents), format)]);
        let weight = device.floats([LATENT], dtype);
        let projected = MlaProjected {
            q: device.floats([tokens, LATENT_HEADS * (NOPE + ROPE)], dtype),
            down: device.floats([tokens, LATENT + ROPE], dtype),
            norm: Norm { weight: &weight, eps: 1e-5 },
            heads: LATENT_HEADS,
        };
        let (rotation, slots) =
            (device.rotation(Attention::Latents, tokens), device.ints([tokens]));
        let form = MlaForm::Absorbed;
        // Longer steps are written by the references' ops, of which the kernels are launched above.
        let q = match tokens > FEW_TOKENS {
            true => PreparedQueries::Absorbed {
                queries: device.floats([tokens, LATENT_HEADS, LATENT + ROPE], dtype),
                nope: NOPE,
            },
            false => ops::mla_write(projected, &kv_b, &rotation, &mut layer, slots, form),
        };
        let scale = ((NOPE + ROPE) as f64).powf(-0.5);
        let tables = device.tables(step);
        ops::mla_attention(q, &kv_b, &layer, &tables, KvSpec::PAGE_SIZE, scale, form);
    }
}

pub(super) fn parts(attention: Attention) -> Vec<Parts> {
    match attention {
        Attention::Heads { .. } => vec![Parts { count: KV_HEADS, width: HEAD_DIM }],
        Attention::Latents => {
            vec![Parts { count: 1, width: LATENT }, Parts { count: 1, width: ROPE }]
        }
    }
}

impl Offline {
    pub(super) fn rows(&self, parts: &[Parts], format: KvFormat) -> KvRows {
        let sum = |of: fn(&Parts) -> usize| parts.iter().map(of).sum::<usize>();
        match format {
            KvFormat::Float(dtype) => {
                KvRows::Float(self.floats([SLOTS, sum(|part| part.count * part.width)], dtype))
            }
            KvFormat::Fp8 => KvRows::Fp8(Fp8Rows {
                words: self.ints([SLOTS, sum(|part| part.count * words(part.width))]),
                scales: self.floats([SLOTS, sum(|part| part.count)], DType::F32),
                values: self.floats([256], DType::F32),
                parts: parts.to_vec(),
            }),
        }
    }

    pub(super) fn rotation(&self, attention: Attention, tokens: usize) -> Rotation {
        let order = match attention {
            Attention::Heads { .. } => RopeOrder::HalfSplit,
            Attention::Latents => RopeOrder::Interleaved,
        };
        let table = || -> Tensor<2> { self.floats([131_072, ROPE / 2], DType::F32) };
        RotaryTable::of(order, table(), table()).at(self.ints([tokens]))
    }

    /// Of sequences with 4096 tokens in the cache.
    pub(super) fn tables(&self, [tokens, sequences]: [usize; 2]) -> PageTables {
        let tiles = TileShape::of(tokens, sequences);
        PageTables {
            sequences: self.ints([tokens]),
            positions: self.ints([tokens]),
            block_tables: self.ints([sequences, 64]),
            query_starts: self.ints([sequences + 1]),
            lengths: self.ints([sequences]),
            tiles: TileTables {
                sequences: self.ints([tiles.count]),
                tokens: self.ints([tiles.count, tiles.size]),
                places: self.ints([tokens]),
            },
        }
    }
}
