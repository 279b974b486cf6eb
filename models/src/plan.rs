//! What a model needs of a machine: bytes of weights, cache and workspace, on one device or divided
//! over several, and the speed that memory bandwidth allows. Arithmetic on a configuration; no
//! weight, no device and no file is looked at.
//!
//! A device has to hold
//!
//! - its part of the weights as glm keeps them: the router in f32, FP8 matrices at one byte a
//!   weight with f32 scales, other matrices in a dtype of theirs, the rest in the model's. A prediction (MTP) layer shares the main
//!   model's embedding and head, so its own copies are not counted;
//! - the KV cache of its sequences at their full length, in pages;
//! - a workspace, estimated: see [`Plan::workspace_bytes`].
//!
//! Attention, dense and shared feed-forward parts are divided over heads and inner width; key and
//! value heads are held several times where there are more devices than such heads, the latents of
//! MLA by every device; experts are divided; embedding, head, norms and router are whole on every
//! device. glm itself runs on one device so far: the other layouts are what the sizes allow.

mod gpu;
mod layout;
mod stored;
#[cfg(test)]
mod tests;
mod work;

pub use burn::tensor::DType;
use glm_backends::kv::{KvFormat, KvSpec};

use crate::config::{Config, ScaleLayout, Skeleton, narrow, wide};
use crate::inventory::{Division, Form, Part, TensorGroup};
use crate::weights::Quantise;

pub use gpu::{Gpu, GpuChoice, common, known};
pub use layout::{ExpertSplit, Layout};
pub use stored::{Prediction, StoredSize, stored_sizes};
pub use work::{StepLoad, StepWork};

/// Driver context, kernels and what an allocator loses, on each device.
const RUNTIME_BYTES: u128 = 1 << 30;

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Of activations, and of the weights that are no matrices.
    pub dtype: DType,
    /// Of matrices that are not FP8, and of the embedding.
    pub matrices: DType,
    /// Whether weights become FP8 on loading.
    pub quantise: Quantise,
    /// What the KV cache is stored in.
    pub kv: KvFormat,
    /// Whether prediction layers are loaded, with a cache of their own.
    pub mtp: bool,
    /// Tokens of each sequence, prompt and answer.
    pub context: usize,
    /// Sequences at a time.
    pub batch: usize,
    /// Most tokens of a step.
    pub prefill_chunk: usize,
    /// Most attention scores that are held at once for a head, in tokens of a step × tokens of the
    /// sequence.
    pub max_scores: usize,
}

/// The sizes of one model under one demand.
#[derive(Debug, Clone)]
pub struct Plan {
    skeleton: Skeleton,
    attention: Attention,
    held: Vec<Held>,
    demand: Demand,
}

/// Weights of one group as they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    group: TensorGroup,
    /// Bytes of all of them, in one copy.
    bytes: u128,
}

/// What of attention decides sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attention {
    /// Keys and values of each KV head are cached.
    Grouped { heads: usize, kv_heads: usize, head_dim: usize },
    /// A latent and a rotated key are cached for all heads together.
    Latent { heads: usize, latent: usize, rope: usize, value_dim: usize },
}

impl Attention {
    /// Bytes that a token adds to the cache of a layer on each of `tensor` devices.
    pub(crate) fn kv_bytes(self, tensor: usize, kv: KvFormat) -> u128 {
        match self {
            Attention::Grouped { kv_heads, head_dim, .. } => {
                2 * wide(kv_heads.div_ceil(tensor)) * wide(kv.bytes(head_dim))
            }
            Attention::Latent { latent, rope, .. } => wide(kv.bytes(latent)) + wide(kv.bytes(rope)),
        }
    }
}

/// Bytes on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Its part of the weights.
    pub weights_bytes: u64,
    /// Cache of its sequences.
    pub kv_bytes: u64,
    /// Estimated workspace.
    pub workspace_bytes: u64,
}

impl Load {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights_bytes.saturating_add(self.kv_bytes).saturating_add(self.workspace_bytes)
    }
}

impl Plan {
    /// The sizes of `config` under `demand`.
    #[must_use]
    pub fn new(config: &Config, demand: Demand) -> Self {
        let groups = config.tensor_groups().into_iter();
        let held = groups.filter(|group| match group.part {
            // A prediction layer uses the main model's.
            Part::Embedding | Part::Head => !group.mtp,
            _ => demand.mtp || !group.mtp,
        });
        let held = held.map(|group| {
            let bytes = held_bytes(&group, config, &demand);
            Held { group, bytes }
        });
        Self {
            skeleton: config.skeleton(),
            attention: config.attention(),
            held: held.collect(),
            demand,
        }
    }

    /// What was asked.
    #[must_use]
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// Bytes of all weights in one copy.
    #[must_use]
    pub fn weights_bytes(&self) -> u64 {
        narrow(sum(self.held.iter().map(|held| held.bytes)))
    }

    /// The same by part; parts that the model lacks are left out.
    #[must_use]
    pub fn weights_by_part(&self) -> Vec<(Part, u64)> {
        let of = |part| {
            let held = self.held.iter().filter(move |held| held.group.part == part);
            (part, narrow(sum(held.map(|held| held.bytes))))
        };
        Part::ALL.map(of).into_iter().filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// Bytes that one token adds to the cache of all layers, in one copy.
    #[must_use]
    pub fn kv_bytes_per_token(&self) -> u64 {
        narrow(self.kv_bytes_of_a_token(1, self.cached_layers()))
    }

    /// Bytes on each device of `layout`.
    #[must_use]
    pub fn load(&self, layout: &Layout) -> Load {
        self.load_at(layout, self.demand.context)
    }

    /// The longest context, in tokens, at which all sequences fit devices of `usable_bytes`; at most
    /// what the model was made for. `None` where not even a page fits.
    #[must_use]
    pub fn max_context(&self, layout: &Layout, usable_bytes: u64) -> Option<usize> {
        let page = KvSpec::PAGE_SIZE;
        let most = self.skeleton.max_position_embeddings;
        let fits = |pages: usize| self.load_at(layout, pages * page).total() <= usable_bytes;
        // Between a number of pages that fits and one that does not.
        let (mut low, mut high) = (0, most.div_ceil(page) + 1);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if fits(middle) { low = middle } else { high = middle }
        }
        (low > 0).then(|| most.min(low * page))
    }

    /// The fewest devices of `usable_bytes` that the demand fits on, as they can be divided.
    #[must_use]
    pub fn smallest_layout(&self, usable_bytes: u64) -> Option<Layout> {
        self.layouts().into_iter().find(|layout| self.load(layout).total() <= usable_bytes)
    }

    /// Bytes that each device reads for one decode step of `batch` sequences at the demanded
    /// context: all weights of the main model but the embedding, of the experts those that
    /// `E · (1 - (1 - k/E)^batch)` distinct ones have in the mean, and the cache.
    #[must_use]
    pub fn step_bytes(&self, layout: &Layout, batch: usize) -> f64 {
        let touched = self.touched_experts(batch as f64);
        let weights = self.held.iter().filter(|held| !held.group.mtp).map(|held| {
            let bytes = self.bytes_on_a_device(held, layout) as f64;
            match held.group.part {
                Part::Embedding if self.skeleton.tie_word_embeddings => bytes,
                Part::Embedding => 0.0,
                Part::RoutedExperts => bytes * touched,
                _ => bytes,
            }
        });
        let sequences = batch.div_ceil(layout.groups);
        let cache = self.kv_bytes_of_a_token(layout.tensor, self.skeleton.num_hidden_layers) as f64;
        weights.sum::<f64>() + cache * (sequences * self.demand.context) as f64
    }

    /// Tokens per second of all `batch` sequences together that reading memory at `gb_per_s` on
    /// each device allows: a bound from above, without computing, links between devices, or drafts. For
    /// several sequences it assumes that tokens spread over the experts evenly.
    #[must_use]
    pub fn decode_bound(&self, layout: &Layout, batch: usize, gb_per_s: f64) -> f64 {
        batch as f64 * gb_per_s * 1e9 / self.step_bytes(layout, batch)
    }

    /// Bytes of activations, at most, on each device: in the model's dtype, for a step of `T`
    /// tokens against a sequence of `S`, with `t` devices that share attention and `n` in all,
    ///
    /// ```text
    /// T · 6 · hidden                                          residual stream and norms
    /// T · heads/t · (2 · query width + value width) + S · cached values of a layer
    /// T · max(3 · dense/t, k · (hidden + 3 · expert/n))       feed-forward part
    /// ```
    ///
    /// and in f32 twice the scores (at most `max_scores` a head) and the logits of each sequence,
    /// one more row of them with prediction layers. 1 GiB is added for driver and kernels.
    #[must_use]
    pub fn workspace_bytes(&self, layout: &Layout) -> u64 {
        narrow(self.workspace(layout, self.demand.context))
    }

    fn workspace(&self, layout: &Layout, context: usize) -> u128 {
        let skeleton = &self.skeleton;
        let sequences = wide(self.demand.batch.div_ceil(layout.groups));
        let tokens = wide(self.demand.prefill_chunk).max(sequences);
        let (context, hidden) = (wide(context), wide(skeleton.hidden_size));
        let (heads, query, value) = match self.attention {
            Attention::Grouped { heads, head_dim, .. } => (heads, head_dim, head_dim),
            Attention::Latent { heads, latent, rope, value_dim } => {
                (heads, latent + rope, value_dim)
            }
        };
        let heads = wide(heads.div_ceil(layout.tensor));
        let attention = heads * (2 * wide(query) + wide(value));
        let dense = 3 * wide(skeleton.intermediate_size) / wide(layout.tensor);
        let expert = hidden + 3 * wide(skeleton.moe_intermediate_size) / wide(layout.devices);
        let fed = dense.max(wide(skeleton.num_experts_per_tok) * expert);
        let values = times(tokens, 6 * hidden + attention + fed)
            .saturating_add(times(context, self.cached_values(layout.tensor)));

        let scores = times(times(tokens, context).min(wide(self.demand.max_scores)), heads);
        let rows = sequences * if self.demand.mtp { 2 } else { 1 };
        let logits = times(rows, wide(skeleton.vocab_size));
        sum([
            RUNTIME_BYTES,
            times(values, wide(self.demand.dtype.size())),
            times(8, scores),
            times(8, logits),
        ])
    }

    fn load_at(&self, layout: &Layout, context: usize) -> Load {
        let weights = self.held.iter().map(|held| self.bytes_on_a_device(held, layout));
        let sequences = self.demand.batch.div_ceil(layout.groups);
        let pages = times(wide(sequences), wide(context.div_ceil(KvSpec::PAGE_SIZE)));
        let tokens = times(pages, wide(KvSpec::PAGE_SIZE));
        let token = self.kv_bytes_of_a_token(layout.tensor, self.cached_layers());
        Load {
            weights_bytes: narrow(sum(weights)),
            kv_bytes: narrow(times(tokens, token)),
            workspace_bytes: narrow(self.workspace(layout, context)),
        }
    }

    /// The largest part of a group that a device holds. Scales count as divided where the inputs of
    /// a matrix are, though every device then has all of them: a two-thousandth at most.
    fn bytes_on_a_device(&self, held: &Held, layout: &Layout) -> u128 {
        let shares = match (held.group.division, self.attention) {
            (Division::Whole, _) => 1,
            (Division::KvHeads, Attention::Grouped { kv_heads, .. }) => layout.tensor.min(kv_heads),
            (Division::Heads | Division::KvHeads | Division::Width, _) => layout.tensor,
            (Division::Experts, _) => layout.devices,
        };
        held.bytes.div_ceil(wide(shares))
    }

    /// Values that a token adds to the cache of a layer on each of `tensor` devices.
    fn cached_values(&self, tensor: usize) -> u128 {
        match self.attention {
            Attention::Grouped { kv_heads, head_dim, .. } => {
                2 * wide(kv_heads.div_ceil(tensor)) * wide(head_dim)
            }
            Attention::Latent { latent, rope, .. } => wide(latent) + wide(rope),
        }
    }

    /// Bytes that a token adds to the cache on each of `tensor` devices, scales included.
    fn kv_bytes_of_a_token(&self, tensor: usize, layers: usize) -> u128 {
        wide(layers) * self.attention.kv_bytes(tensor, self.demand.kv)
    }

    fn cached_layers(&self) -> usize {
        let skeleton = &self.skeleton;
        let predicting = if self.demand.mtp { skeleton.num_nextn_predict_layers } else { 0 };
        skeleton.num_hidden_layers + predicting
    }
}

/// Bytes of a group as it is kept: what [`crate::weights`] does to each tensor.
fn held_bytes(group: &TensorGroup, config: &Config, demand: &Demand) -> u128 {
    let value_bytes = match (group.part, group.form) {
        (Part::Router, _) => DType::F32.size(),
        (Part::Embedding, _) | (_, Form::Matrix) => demand.matrices.size(),
        _ => demand.dtype.size(),
    };
    let may_be_quantised =
        group.form == Form::Matrix && !matches!(group.part, Part::Head | Part::Prediction);
    let stored = stored_in_fp8(group, config);
    let quantised = match demand.quantise {
        Quantise::Fp8 | Quantise::Groups(_) if may_be_quantised => group.count() - stored,
        _ => 0,
    };
    let plain = group.count() - stored - quantised;
    // On the device, a block's scale stands beside each of its rows.
    let blocks_in_a_row = match (config.quantization().map(|found| found.scales), &group.shape[..])
    {
        (Some(ScaleLayout::Block([_, columns])), [_, input]) => input.div_ceil(columns),
        _ => 1,
    };
    let elements = group.elements_of_one();
    let scales = |blocks| times(4 * wide(group.shape[0]), wide(blocks));
    let bytes_of_quantised = match (demand.quantise, &group.shape[..]) {
        (Quantise::Groups(bits), [rows, width]) => times(wide(*rows), wide(bits.bytes(*width))),
        _ => elements.saturating_add(scales(1)),
    };
    sum([
        times(plain, times(elements, wide(value_bytes))),
        times(stored, elements.saturating_add(scales(blocks_in_a_row))),
        times(quantised, bytes_of_quantised),
    ])
}

/// How many tensors of a group the checkpoint holds in FP8. The experts of a layer count as the
/// first of them does.
fn stored_in_fp8(group: &TensorGroup, config: &Config) -> u128 {
    let Some(quantization) = config.quantization() else { return 0 };
    if group.form != Form::Matrix {
        return 0;
    }
    let is_quantised = |layer: &usize| !quantization.ignores(&group.name(*layer, 0));
    wide(group.layers.clone().filter(is_quantised).count()) * wide(group.experts)
}

fn times(a: u128, b: u128) -> u128 {
    a.saturating_mul(b)
}

fn sum(terms: impl IntoIterator<Item = u128>) -> u128 {
    terms.into_iter().fold(0, u128::saturating_add)
}
