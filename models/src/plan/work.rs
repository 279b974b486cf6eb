//! What one step reads and multiplies, on one device.

use super::{Attention, Plan};
use crate::inventory::Part;

/// What a step computes, summed over its sequences.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepLoad {
    /// Rows: tokens and drafts.
    pub rows: f64,
    /// Rows that get logits.
    pub sampled: f64,
    /// Rows of the cache that are there after the step, all sequences together.
    pub cached: f64,
    /// Rows of the cache that each row looks at, itself included, summed over the rows.
    pub attended: f64,
}

/// What a step costs, whoever computes it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepWork {
    /// Bytes of the weights that have to be read once.
    pub weight_bytes: f64,
    /// Bytes of the cache that have to be read once.
    pub kv_bytes: f64,
    /// Floating-point operations of the matrix products: a multiplication and an addition count
    /// as two.
    pub flops: f64,
}

impl StepLoad {
    /// One token of each of `sequences` sequences with `context` rows in the cache.
    #[must_use]
    pub fn decode(sequences: usize, context: f64) -> Self {
        let sequences = sequences as f64;
        let cached = sequences * context;
        StepLoad { rows: sequences, sampled: sequences, cached, attended: cached }
    }

    /// `rows` tokens of one sequence after `computed` others, of which the last is sampled.
    #[must_use]
    pub fn prefill(rows: usize, computed: usize) -> Self {
        let (rows, computed) = (rows as f64, computed as f64);
        StepLoad {
            rows,
            sampled: 1.0,
            cached: computed + rows,
            attended: rows * (computed + (rows + 1.0) / 2.0),
        }
    }
}

impl Plan {
    /// What a step of the main model has to read and multiply: every weight but the embedding once,
    /// of the experts those that `E · (1 - (1 - k/E)^rows)` distinct ones have in the mean, where
    /// tokens spread evenly; the cache once. Attention multiplies scores and values of every head
    /// (for MLA in its absorbed form); norms and the like are left out.
    #[must_use]
    pub fn step_work(&self, load: &StepLoad) -> StepWork {
        let skeleton = &self.skeleton;
        let chosen = self.chosen_experts();
        let touched = self.touched_experts(load.rows);
        let mut work = StepWork {
            kv_bytes: self.kv_bytes_of_a_token(1, skeleton.num_hidden_layers) as f64 * load.cached,
            ..StepWork::default()
        };
        for held in self.held.iter().filter(|held| !held.group.mtp) {
            let (bytes, elements) = (held.bytes as f64, held.group.elements() as f64);
            let (read, rows) = match held.group.part {
                Part::Embedding if !skeleton.tie_word_embeddings => continue,
                Part::Embedding | Part::Head => (1.0, load.sampled),
                Part::RoutedExperts => (touched, load.rows * chosen),
                _ => (1.0, load.rows),
            };
            work.weight_bytes += bytes * read;
            if held.group.shape.len() == 2 {
                work.flops += 2.0 * elements * rows;
            }
        }
        let pairs = match self.attention {
            Attention::Grouped { heads, head_dim, .. } => 2 * heads * head_dim,
            Attention::Latent { heads, latent, rope, .. } => heads * (2 * latent + rope),
        };
        let layers = skeleton.num_hidden_layers as f64;
        work.flops += 2.0 * layers * pairs as f64 * load.attended;
        work
    }

    /// Share of the experts that at least one of `rows` tokens chooses, in the mean and spread
    /// evenly: `1 - (1 - k/E)^rows`.
    pub(super) fn touched_experts(&self, rows: f64) -> f64 {
        1.0 - (1.0 - self.chosen_experts()).powf(rows)
    }

    /// Share of the experts that a token chooses.
    fn chosen_experts(&self) -> f64 {
        self.skeleton.num_experts_per_tok as f64 / self.skeleton.n_routed_experts as f64
    }
}
