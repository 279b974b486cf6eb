use burn::tensor::{IndexingUpdateOp, Int, Tensor, activation::sigmoid};

use super::{Routed, Routing};

/// Score of an expert outside the chosen groups: below every sigmoid plus bias, and finite,
/// because shader languages have no infinity.
const EXCLUDED: f32 = -1e30;

pub(super) fn moe_route(
    logits: Tensor<2>,
    bias: Tensor<1>,
    live: Tensor<1, Int>,
    routing: &Routing,
) -> Routed {
    let [_, n_routed_experts] = logits.dims();
    let scores = sigmoid(logits);
    // The bias steers selection only: the weights come from the unbiased scores.
    let choice = limit_groups(scores.clone() + bias.unsqueeze(), routing);
    let (_, experts) = choice.topk_with_indices(routing.num_experts_per_tok, 1);
    let mut weights = scores.gather(1, experts.clone());
    if routing.norm_topk_prob {
        weights = weights.clone() / (weights.sum_dim(1) + 1e-20);
    }
    let shared = routing.shared_experts;
    let weights = weights * routing.routed_scaling_factor;
    let (experts, weights) = with_shared(experts, weights, n_routed_experts, shared);
    let padding = live.unsqueeze_dim::<2>(1).equal_elem(0);
    let padding = padding.expand(experts.dims());
    let experts = experts.mask_fill(padding, (n_routed_experts + shared) as i64);
    Routed { experts, weights, grouped: None }
}

/// Appends the experts that every token takes.
fn with_shared(
    experts: Tensor<2, Int>,
    weights: Tensor<2>,
    first: usize,
    shared: usize,
) -> (Tensor<2, Int>, Tensor<2>) {
    if shared == 0 {
        return (experts, weights);
    }
    let [tokens, _] = experts.dims();
    let ids = Tensor::<1, Int>::arange(first as i64..(first + shared) as i64, &experts.device());
    let ids = ids.reshape([1, shared]).expand([tokens, shared]).cast(experts.dtype());
    let ones = Tensor::ones([tokens, shared], (&weights.device(), weights.dtype()));
    (Tensor::cat(vec![experts, ids], 1), Tensor::cat(vec![weights, ones], 1))
}

fn limit_groups(choice: Tensor<2>, routing: &Routing) -> Tensor<2> {
    if routing.n_group == 1 {
        return choice;
    }
    let [tokens, experts] = choice.dims();
    let per_group = experts / routing.n_group;
    let by_group = choice.clone().reshape([tokens, routing.n_group, per_group]);
    let best_two = by_group.topk(2.min(per_group), 2).sum_dim(2).squeeze_dim::<2>(2);
    let (_, groups) = best_two.clone().topk_with_indices(routing.topk_group, 1);
    let chosen = best_two.zeros_like().scatter(
        1,
        groups.clone(),
        Tensor::ones(groups.dims(), (&choice.device(), choice.dtype())),
        IndexingUpdateOp::Add,
    );
    let allowed = chosen
        .unsqueeze_dim::<3>(2)
        .expand([tokens, routing.n_group, per_group])
        .reshape([tokens, experts]);
    choice.mask_fill(allowed.equal_elem(0.0), EXCLUDED)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn route(
        logits: [f32; 4],
        bias: [f32; 4],
        live: i32,
        routing: Routing,
    ) -> (Vec<i64>, Vec<f32>) {
        let device = Device::flex();
        let routed = moe_route(
            Tensor::from_data([logits], &device),
            Tensor::from_data(bias, &device),
            Tensor::from_data([live], &device),
            &routing,
        );
        (
            routed.experts.to_data().try_to_vec_as::<i64>().unwrap(),
            routed.weights.to_data().try_to_vec_as::<f32>().unwrap(),
        )
    }

    const ROUTING: Routing = Routing {
        n_group: 1,
        topk_group: 1,
        num_experts_per_tok: 2,
        norm_topk_prob: true,
        routed_scaling_factor: 3.0,
        shared_experts: 0,
    };

    #[test]
    fn the_bias_chooses_but_does_not_weigh() {
        // sigmoid(0) = 0.5 for all; the bias prefers experts 3 and 1.
        let (experts, weights) = route([0.0; 4], [0.0, 1.0, 0.0, 20.0], 1, ROUTING);
        assert_eq!(experts, [3, 1]);
        assert_eq!(weights, [1.5, 1.5]);
    }

    #[test]
    fn groups_limit_the_choice() {
        // Group 0 holds the best expert, group 1 the best pair.
        let grouped = Routing { n_group: 2, topk_group: 1, norm_topk_prob: false, ..ROUTING };
        let (experts, _) = route([3.0, -9.0, 2.0, 2.5], [0.0; 4], 1, grouped);
        assert_eq!(experts, [3, 2]);
    }

    #[test]
    fn a_padded_token_has_no_expert() {
        let (experts, _) = route([1.0, 2.0, 3.0, 4.0], [0.0; 4], 0, ROUTING);
        assert_eq!(experts, [4, 4]);
    }
}
