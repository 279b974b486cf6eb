//! The router's choice on the CPU, token by token.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor, TensorData};

use super::{Routed, Routing};
use crate::cpu::{Shared, in_pieces, math::exponential};
use crate::ops::flex::{ROWS, integers};

/// Routing as Flex has it.
#[backend_extension(Flex)]
pub(crate) trait Route: Backend {
    /// `logits [tokens, experts]` and `bias [experts]` in f32, `live [tokens]` → ids and weights,
    /// `[tokens, choices]`.
    fn route(
        logits: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        live: IntTensor<Self>,
        routing: Routing,
    ) -> (IntTensor<Self>, FloatTensor<Self>);
}

impl Route for Flex {
    fn route(
        logits: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        live: IntTensor<Self>,
        routing: Routing,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let (logits, bias) = (logits.to_contiguous(), bias.to_contiguous());
        let [tokens, experts] = logits.layout().shape().dims();
        let logits: &[f32] = logits.as_slice().expect("contiguous");
        let bias: &[f32] = bias.as_slice().expect("contiguous");
        let live = integers(&live);
        let choices = routing.num_experts_per_tok + routing.shared_experts;
        let mut ids = vec![(experts + routing.shared_experts) as i64; tokens * choices];
        let mut weights = vec![0f32; tokens * choices];
        let (to_ids, to_weights) = (Shared::new(&mut ids), Shared::new(&mut weights));
        in_pieces(tokens.div_ceil(ROWS), tokens > 2 * ROWS, |piece| {
            let mut router = Router::new(&routing, bias);
            for token in piece * ROWS..tokens.min((piece + 1) * ROWS) {
                // SAFETY: each piece has tokens of its own.
                let (ids, weights) = unsafe {
                    let first = token * choices;
                    (to_ids.part(first, choices), to_weights.part(first, choices))
                };
                // A padded token has no expert, but weights as the reference gives them.
                router.choose(&logits[token * experts..][..experts], ids, weights);
                if live[token] == 0 {
                    ids.fill((experts + routing.shared_experts) as i64);
                }
            }
        });
        let shape = [tokens, choices];
        (
            IntTensor::<Flex>::from_data(TensorData::new(ids, shape)),
            FloatTensor::<Flex>::from_data(TensorData::new(weights, shape)),
        )
    }
}

/// Scores of one token after the other.
struct Router<'a> {
    routing: &'a Routing,
    bias: &'a [f32],
    scores: Vec<f32>,
    /// With the bias; of what is not to be chosen, -∞.
    choice: Vec<f32>,
}

impl<'a> Router<'a> {
    fn new(routing: &'a Routing, bias: &'a [f32]) -> Self {
        let zeros = vec![0.0; bias.len()];
        Router { routing, bias, scores: zeros.clone(), choice: zeros }
    }

    fn choose(&mut self, logits: &[f32], ids: &mut [i64], weights: &mut [f32]) {
        for (score, logit) in self.scores.iter_mut().zip(logits) {
            *score = 1.0 / (1.0 + exponential(-logit));
        }
        for ((choice, score), bias) in self.choice.iter_mut().zip(&self.scores).zip(self.bias) {
            *choice = score + bias;
        }
        self.limit_groups();
        let Routing { num_experts_per_tok: most, routed_scaling_factor: factor, .. } =
            *self.routing;
        let mut sum = 0.0;
        for (id, weight) in ids[..most].iter_mut().zip(&mut *weights) {
            let best = best(&self.choice);
            self.choice[best] = f32::NEG_INFINITY;
            *id = best as i64;
            *weight = self.scores[best];
            sum += *weight;
        }
        let scale = if self.routing.norm_topk_prob { factor / (sum + 1e-20) } else { factor };
        weights[..most].iter_mut().for_each(|weight| *weight *= scale);
        for (index, id) in ids[most..].iter_mut().enumerate() {
            *id = (self.bias.len() + index) as i64;
            weights[most + index] = 1.0;
        }
    }

    /// Excludes all but the groups whose two best scores sum highest.
    fn limit_groups(&mut self) {
        let Routing { n_group, topk_group, .. } = *self.routing;
        if n_group == 1 {
            return;
        }
        let size = self.choice.len() / n_group;
        let sum_of_two = |group: &[f32]| {
            let mut two = [f32::NEG_INFINITY; 2];
            for value in group {
                if *value > two[0] {
                    two = [*value, two[0]];
                } else if *value > two[1] {
                    two[1] = *value;
                }
            }
            if size > 1 { two[0] + two[1] } else { two[0] }
        };
        let mut sums: Vec<f32> = self.choice.chunks(size).map(sum_of_two).collect();
        let mut allowed = vec![false; n_group];
        for _ in 0..topk_group {
            let group = best(&sums);
            sums[group] = f32::NEG_INFINITY;
            allowed[group] = true;
        }
        for (group, allowed) in self.choice.chunks_mut(size).zip(allowed) {
            if !allowed {
                group.fill(f32::NEG_INFINITY);
            }
        }
    }
}

/// The place of the largest value, the first of equal ones.
fn best(values: &[f32]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = place;
        }
    }
    best
}

pub(super) fn moe_route(
    logits: Tensor<2>,
    bias: Tensor<1>,
    live: Tensor<1, Int>,
    routing: &Routing,
) -> Routed {
    let (logits, bias) = (logits.into_dispatch(), bias.into_dispatch());
    let (experts, weights) = Dispatch::route(logits, bias, live.into_dispatch(), *routing);
    Routed {
        experts: Tensor::from_dispatch(experts),
        weights: Tensor::from_dispatch(weights),
        grouped: None,
    }
}
