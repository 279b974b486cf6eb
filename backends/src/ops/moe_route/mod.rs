//! Choice of experts.

pub(super) mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::{Int, Tensor};

/// How a router chooses. Field names follow `config.json`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// Groups the experts are divided into; 1 means no group limit.
    pub n_group: usize,
    /// Groups that may be chosen from.
    pub topk_group: usize,
    /// Experts chosen for each token.
    pub num_experts_per_tok: usize,
    /// Whether the chosen weights are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the chosen weights.
    pub routed_scaling_factor: f32,
    /// Experts after the routed ones that every token takes too, with weight 1: those with the ids
    /// from the number of routed experts on.
    pub shared_experts: usize,
}

/// The experts of each token.
#[derive(Debug, Clone)]
pub struct Routed {
    /// Expert ids `[tokens, num_experts_per_tok + shared_experts]`; the number of experts itself,
    /// which is no expert's id, in the rows of padded tokens.
    pub experts: Tensor<2, Int>,
    /// Weights, f32, in the order of `experts`.
    pub weights: Tensor<2>,
    /// The places sorted by expert, where a kernel has done so on its way.
    pub grouped: Option<GroupedPlaces>,
}

/// Places of the flattened table of experts, sorted by expert and cut into items of one expert and
/// at most [`places_of_item`] places each.
#[derive(Debug, Clone)]
pub struct GroupedPlaces {
    /// `[places]`
    pub(crate) order: Tensor<1, Int>,
    /// Expert, first place in the order and number of places, 0 for an item that is not needed:
    /// `[places, 3]`.
    pub(crate) items: Tensor<2, Int>,
}

/// Most places of an item for so few tokens.
#[cfg(feature = "cube")]
pub(crate) fn places_of_item(tokens: usize) -> usize {
    tokens.next_power_of_two().min(8)
}

/// Sigmoid routing with a selection bias ("noaux_tc",
/// [DeepSeek-V3 2024](https://arxiv.org/abs/2412.19437), transformers' `Glm4MoeTopkRouter`).
///
/// `s = sigmoid(logits)`; the experts with the largest `s + bias` are taken, after the groups
/// whose two best such scores sum highest; their weights are `s`, normalised and scaled.
///
/// Shapes: `logits [tokens, experts]` f32, `bias [experts]` f32, `live [tokens]` 1 for a token
/// and 0 for padding.
pub fn moe_route(
    logits: Tensor<2>,
    bias: Tensor<1>,
    live: Tensor<1, Int>,
    routing: &Routing,
) -> Routed {
    #[cfg(feature = "cpu")]
    if super::flex::takes(&logits.device(), logits.dtype()) {
        return cpu::moe_route(logits, bias, live, routing);
    }
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&logits.device()) {
        return launch::moe_route(logits, bias, live, routing);
    }
    reference::moe_route(logits, bias, live, routing)
}
