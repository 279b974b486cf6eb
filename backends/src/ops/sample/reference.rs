use burn::tensor::{Bool, Int, Tensor};

use super::{Draw, Penalties};

/// Tokens this many nats below the best one are never drawn (probability below 1e-39).
const FLOOR: f32 = -90.0;
/// Halvings of `FLOOR..0`; the last step is below the spacing of f32 there.
const HALVINGS: usize = 32;

pub(super) fn argmax(logits: Tensor<2>) -> Tensor<1, Int> {
    let best = logits.clone().max_dim(1).expand(logits.dims());
    let finite = best.clone().abs().lower_elem(f32::MAX);
    first_where(logits.greater_equal(best).bool_and(finite))
}

pub(super) fn sample(logits: Tensor<2>, draw: &Draw) -> Tensor<1, Int> {
    let shape = logits.dims();
    let column = |values: &Tensor<1>| values.clone().unsqueeze_dim::<2>(1);
    let scaled = logits.clone() / column(&draw.temperature);
    // Relative to the best token: its weight is 1, and all logits are at most 0.
    let relative = scaled.clone() - scaled.max_dim(1);

    let mut floor = relative.clone().max_dim(1).full_like(FLOOR);
    if let Some(min_p) = &draw.min_p {
        floor = floor.max_pair(column(min_p).log().clamp_min(FLOOR));
    }
    if let Some(top_k) = &draw.top_k {
        let kept = |threshold: Tensor<2>| {
            relative.clone().greater_equal(threshold.expand(shape)).float().sum_dim(1)
        };
        floor = floor.max_pair(highest(&relative, kept, &column(top_k)));
    }
    let weights = keep(relative.clone(), floor.clone());
    if let Some(top_p) = &draw.top_p {
        let wanted = column(top_p) * weights.clone().sum_dim(1);
        let kept = |threshold: Tensor<2>| {
            let below = relative.clone().lower(threshold.expand(shape));
            weights.clone().mask_fill(below, 0.0).sum_dim(1)
        };
        floor = floor.max_pair(highest(&relative, kept, &wanted));
    }
    let weights = keep(relative, floor);
    let cumulative = weights.clone().cumsum(1);
    let target = column(&draw.uniform) * cumulative.clone().max_dim(1);
    let reached = cumulative.greater(target.expand(shape)).bool_and(weights.greater_elem(0.0));
    let drawn = first_where(reached);
    // Rounding may leave no token past the target; the best one then stands for the last.
    let best = argmax(logits);
    let wanting = drawn.clone().max_pair(best.clone()).equal_elem(shape[1] as i64);
    drawn.mask_where(wanting, best)
}

pub(super) fn penalise(logits: Tensor<2>, penalties: &Penalties) -> Tensor<2> {
    let shape = logits.dims();
    let column = |values: &Tensor<1>| values.clone().unsqueeze_dim::<2>(1).expand(shape);
    let in_output = penalties.output_counts.clone().greater_elem(0.0);
    let seen = penalties.in_prompt.clone().greater_elem(0.0).bool_or(in_output.clone());
    let repetition = column(&penalties.repetition);
    let positive = logits.clone().greater_elem(0.0);
    let repeated =
        (logits.clone() * repetition.clone()).mask_where(positive, logits.clone() / repetition);
    logits.mask_where(seen, repeated)
        - in_output.float() * column(&penalties.presence)
        - penalties.output_counts.clone() * column(&penalties.frequency)
}

/// `exp(relative)` where it is at least the row's floor, else 0. `floor [rows, 1]`.
fn keep(relative: Tensor<2>, floor: Tensor<2>) -> Tensor<2> {
    let below = relative.clone().lower(floor.expand(relative.dims()));
    relative.exp().mask_fill(below, 0.0)
}

/// The highest threshold of each row, `[rows, 1]`, at which `kept(threshold)` still reaches
/// `wanted`: halving, because a sort would go through the host.
fn highest(
    relative: &Tensor<2>,
    kept: impl Fn(Tensor<2>) -> Tensor<2>,
    wanted: &Tensor<2>,
) -> Tensor<2> {
    let mut high = relative.clone().max_dim(1).zeros_like();
    let mut low = high.full_like(FLOOR);
    // All at the top may already be enough.
    let enough = kept(high.clone()).greater_equal(wanted.clone());
    low = low.mask_where(enough, high.clone());
    for _ in 0..HALVINGS {
        let middle = (low.clone() + high.clone()) * 0.5;
        let enough = kept(middle.clone()).greater_equal(wanted.clone());
        low = low.mask_where(enough.clone(), middle.clone());
        high = middle.mask_where(enough, high);
    }
    low
}

/// Index of the first true value of each row, or the row's length where there is none.
fn first_where(mask: Tensor<2, Bool>) -> Tensor<1, Int> {
    let [rows, width] = mask.dims();
    let index = Tensor::<1, Int>::arange(0..width as i64, &mask.device());
    let index = index.reshape([1, width]).expand([rows, width]);
    index.mask_fill(mask.bool_not(), width as i64).min_dim(1).squeeze_dim(1)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Probabilities 0.4, 0.3, 0.2, 0.1, in another order than the ids.
    fn logits() -> Tensor<2> {
        let values = [0.2f32, 0.4, 0.1, 0.3].map(f32::ln);
        Tensor::from_data([values], &Device::flex())
    }

    fn one(value: f32) -> Tensor<1> {
        Tensor::from_data([value], &Device::flex())
    }

    fn plain() -> Draw {
        Draw { temperature: one(1.0), top_k: None, top_p: None, min_p: None, uniform: one(0.0) }
    }

    /// The ids that are drawn as the uniform number goes through (0, 1).
    fn support(draw: &Draw) -> Vec<i64> {
        let mut ids: Vec<i64> = (0..100)
            .map(|i| {
                let draw = Draw { uniform: one((i as f32 + 0.5) / 100.0), ..draw.clone() };
                sample(logits(), &draw).into_scalar::<i64>()
            })
            .collect();
        ids.dedup();
        ids
    }

    #[test]
    fn the_uniform_number_walks_the_distribution() {
        let at = |uniform| {
            sample(logits(), &Draw { uniform: one(uniform), ..plain() }).into_scalar::<i64>()
        };
        assert_eq!([at(0.0), at(0.19), at(0.21), at(0.59), at(0.61), at(0.71)], [0, 0, 1, 1, 2, 3]);
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        assert_eq!(support(&plain()), [0, 1, 2, 3]);
        assert_eq!(support(&Draw { top_k: Some(one(2.0)), ..plain() }), [1, 3]);
        assert_eq!(support(&Draw { top_k: Some(one(1.0)), ..plain() }), [1]);
        assert_eq!(support(&Draw { top_p: Some(one(0.69)), ..plain() }), [1, 3]);
        assert_eq!(support(&Draw { top_p: Some(one(0.71)), ..plain() }), [0, 1, 3]);
        assert_eq!(support(&Draw { top_p: Some(one(1e-6)), ..plain() }), [1]);
        assert_eq!(support(&Draw { min_p: Some(one(0.6)), ..plain() }), [1, 3]);
        // top-p counts what top-k left: 0.4 of 0.7 does not reach 0.6.
        let both = Draw { top_k: Some(one(2.0)), top_p: Some(one(0.6)), ..plain() };
        assert_eq!(support(&both), [1, 3]);
    }

    #[test]
    fn a_low_temperature_leaves_the_best_token() {
        assert_eq!(support(&Draw { temperature: one(0.01), ..plain() }), [1]);
    }

    #[test]
    fn argmax_takes_the_lowest_of_equals() {
        let logits = Tensor::<2>::from_data([[1.0, 5.0, 5.0], [-3.0, -4.0, -3.0]], &Device::flex());
        assert_eq!(argmax(logits).to_data().try_to_vec_as::<i64>().unwrap(), [1, 0]);
    }

    #[test]
    fn what_is_not_finite_has_no_best_token() {
        for wrong in [f32::NAN, f32::INFINITY] {
            let logits = Tensor::<2>::from_data([[1.0, wrong, 5.0]], &Device::flex());
            assert_eq!(argmax(logits.clone()).into_scalar::<i64>(), 3);
            assert_eq!(sample(logits, &plain()).into_scalar::<i64>(), 3);
        }
    }

    #[test]
    fn penalties_follow_their_definitions() {
        let device = Device::flex();
        let penalties = Penalties {
            repetition: one(2.0),
            presence: one(0.5),
            frequency: one(0.25),
            in_prompt: Tensor::from_data([[1.0, 0.0, 0.0, 1.0]], &device),
            output_counts: Tensor::from_data([[0.0, 2.0, 0.0, 1.0]], &device),
        };
        let logits = Tensor::from_data([[4.0, 4.0, 4.0, -4.0]], &device);
        let got = penalise(logits, &penalties).to_data().try_to_vec_as::<f32>().unwrap();
        assert_eq!(got, [2.0, 1.0, 4.0, -8.75]);
    }
}
