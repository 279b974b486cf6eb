use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor};

use super::{Draw, FLOOR, Logprobs, NEVER, Penalties};

/// Halvings of `-128..0`, from 64 to 2⁻²⁵: all these thresholds are exact in f32, and at the end
/// they are as near to each other as values there can be.
const HALVINGS: i32 = 32;

pub(super) fn argmax(logits: Tensor<2>, tokens: usize) -> Tensor<1, Int> {
    let vocab_size = logits.dims()[1] as i64;
    let logits = without_padding(logits, tokens);
    let best = logits.clone().max_dim(1).expand(logits.dims());
    // A sum is finite when all its terms are; a maximum may pass over NaN.
    let finite = logits.clone().sum_dim(1).abs().lower_elem(f32::MAX).squeeze_dim::<1>(1);
    first_without(logits.lower(best)).mask_fill(finite.bool_not(), vocab_size)
}

pub(super) fn sample(logits: Tensor<2>, tokens: usize, draw: &Draw) -> Tensor<1, Int> {
    let vocab_size = logits.dims()[1] as i64;
    let best = argmax(logits.clone(), tokens);
    let logits = without_padding(logits, tokens);
    let shape = logits.dims();
    let column = |values: &Tensor<1>| values.clone().unsqueeze_dim::<2>(1);
    let scaled = logits / column(&draw.temperature);
    // Relative to the best token: its weight is 1, and all logits are at most 0.
    let relative = scaled.clone() - scaled.max_dim(1);

    let mut floor = draw.temperature.clone().full_like(FLOOR).unsqueeze_dim::<2>(1);
    if let Some(min_p) = &draw.min_p {
        floor = floor.max_pair(column(min_p).clamp_min(f32::MIN_POSITIVE).log());
    }
    if let Some(top_k) = &draw.top_k {
        let kept = |threshold: Tensor<2>| {
            relative.clone().greater_equal(threshold.expand(shape)).float().sum_dim(1)
        };
        floor = floor.clone().max_pair(highest(&floor, kept, &column(top_k)));
    }
    let mut weights = keep(relative.clone(), floor.clone());
    if let Some(top_p) = &draw.top_p {
        let wanted = column(top_p) * weights.clone().sum_dim(1);
        let kept = |threshold: Tensor<2>| {
            let below = relative.clone().lower(threshold.expand(shape));
            weights.clone().mask_fill(below, 0.0).sum_dim(1)
        };
        floor = floor.clone().max_pair(highest(&floor, kept, &wanted));
        let below = relative.lower(floor.expand(shape));
        weights = weights.mask_fill(below, 0.0);
    }
    let cumulative = weights.clone().cumsum(1);
    let target = column(&draw.uniform) * cumulative.clone().narrow(1, shape[1] - 1, 1);
    let not_reached =
        cumulative.lower_equal(target.expand(shape)).bool_or(weights.lower_equal_elem(0.0));
    let drawn = first_without(not_reached);
    // Rounding may leave no token past the target; the best one then stands for the last. It also
    // stands for rows without a draw.
    let mut wanting =
        drawn.clone().equal_elem(shape[1] as i64).bool_or(best.clone().equal_elem(vocab_size));
    if let Some(greedy) = &draw.greedy {
        wanting = wanting.bool_or(greedy.clone().greater_elem(0.5));
    }
    drawn.mask_where(wanting, best)
}

pub(super) fn penalise(mut logits: Tensor<2>, penalties: &Penalties) -> Tensor<2> {
    let shape = logits.dims();
    let column = |values: &Tensor<1>| values.clone().unsqueeze_dim::<2>(1).expand(shape);
    let mut seen = penalties.seen.clone().select(0, penalties.slots.clone());
    if let Some(drafts) = &penalties.drafts {
        let (ids, counts) = before_each_row(drafts, shape);
        seen = seen.scatter(1, ids, counts, IndexingUpdateOp::Add);
    }
    if let Some(repetition) = &penalties.repetition {
        let repetition = column(repetition);
        let positive = logits.clone().greater_elem(0.0);
        let repeated =
            (logits.clone() * repetition.clone()).mask_where(positive, logits.clone() / repetition);
        logits = logits.mask_where(seen.clone().greater_elem(0.0), repeated);
    }
    if let Some(presence) = &penalties.presence {
        logits = logits - seen.clone().greater_equal_elem(1.0).float() * column(presence);
    }
    if let Some(frequency) = &penalties.frequency {
        logits = logits - seen.floor() * column(frequency);
    }
    logits
}

/// Ids of all drafts of a row's sequence, `[rows, depth]`, and 1 for those before the row, else 0.
fn before_each_row(drafts: &Tensor<2, Int>, shape: [usize; 2]) -> (Tensor<2, Int>, Tensor<2>) {
    let [rows, vocab_size] = shape;
    let [sequences, depth] = drafts.dims();
    let wide = [sequences, depth + 1, depth];
    let device = drafts.device();
    let index = |count: usize| Tensor::<1, Int>::arange(0..count as i64, &device);
    let before = index(depth).reshape([1, 1, depth]).expand(wide);
    let before = before.lower(index(depth + 1).reshape([1, depth + 1, 1]).expand(wide));
    let ids = drafts.clone().unsqueeze_dim::<3>(1).expand(wide);
    let token = ids.clone().lower_elem(vocab_size as i64);
    let counts = before.bool_and(token).float().reshape([rows, depth]);
    (ids.clamp_max(vocab_size as i64 - 1).reshape([rows, depth]), counts)
}

pub(super) fn allow(logits: Tensor<2>, words: Tensor<2, Int>) -> Tensor<2> {
    let [rows, vocab_size] = logits.dims();
    let wide = [rows, words.dims()[1], 32];
    let places = Tensor::<1, Int>::arange(0..32, &logits.device()).reshape([1, 1, 32]);
    let bits = words.unsqueeze_dim::<3>(2).expand(wide).bitwise_right_shift(places.expand(wide));
    let allowed = bits.bitwise_and_scalar(1).reshape([rows, wide[1] * 32]).narrow(1, 0, vocab_size);
    logits + (allowed - 1).float() * -NEVER
}

pub(super) fn verify(
    chosen: Tensor<2, Int>,
    drafts: Tensor<2, Int>,
    counts: Tensor<1, Int>,
    vocab_size: usize,
) -> Tensor<1, Int> {
    let depth = drafts.dims()[1];
    let chosen = chosen.narrow(1, 0, depth);
    let right = drafts.equal(chosen.clone()).bool_and(chosen.lower_elem(vocab_size as i64));
    first_without(right).min_pair(counts)
}

pub(super) fn logprobs(
    logits: Tensor<2>,
    tokens: usize,
    ids: Tensor<1, Int>,
    top: usize,
) -> Logprobs {
    let logits = without_padding(logits, tokens);
    let best = logits.clone().max_dim(1);
    let sum = (logits.clone() - best.clone()).exp().sum_dim(1);
    let log_sum = best + sum.log();
    let ids = ids.clamp_max(tokens as i64 - 1).unsqueeze_dim::<2>(1);
    let chosen = (logits.clone().gather(1, ids) - log_sum.clone()).squeeze_dim(1);
    let top = (top > 0).then(|| {
        let (values, ids) = logits.topk_with_indices(top, 1);
        (ids, values - log_sum)
    });
    Logprobs { chosen, top }
}

fn without_padding(logits: Tensor<2>, tokens: usize) -> Tensor<2> {
    match tokens < logits.dims()[1] {
        true => logits.narrow(1, 0, tokens),
        false => logits,
    }
}

/// `exp(relative)` where it is at least the row's floor, else 0. `floor [rows, 1]`.
fn keep(relative: Tensor<2>, floor: Tensor<2>) -> Tensor<2> {
    let below = relative.clone().lower(floor.expand(relative.dims()));
    relative.exp().mask_fill(below, 0.0)
}

/// The highest threshold of each row, `[rows, 1]`, at which `kept(threshold)` still reaches
/// `wanted`, or -128: halving, because a sort would go through the host.
fn highest(
    like: &Tensor<2>,
    kept: impl Fn(Tensor<2>) -> Tensor<2>,
    wanted: &Tensor<2>,
) -> Tensor<2> {
    let mut low = like.full_like(-128.0);
    for halving in 0..HALVINGS {
        let higher = low.clone() + 2f32.powi(6 - halving);
        let enough = kept(higher.clone()).greater_equal(wanted.clone());
        low = low.mask_where(enough, higher);
    }
    low
}

/// Index of the first false value of each row, or the row's length where there is none.
fn first_without(mask: Tensor<2, Bool>) -> Tensor<1, Int> {
    let [rows, width] = mask.dims();
    let index = Tensor::<1, Int>::arange(0..width as i64, &mask.device());
    let index = index.reshape([1, width]).expand([rows, width]);
    index.mask_fill(mask, width as i64).min_dim(1).squeeze_dim(1)
}
