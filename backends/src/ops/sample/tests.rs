use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::*;
use crate::ops::case::Inputs;

/// Probabilities 0.4, 0.3, 0.2, 0.1, in another order than the ids, and padding above all of them.
fn logits() -> Tensor<2> {
    let values = [0.2f32, 0.4, 0.1, 0.3, 9.0].map(f32::ln);
    Tensor::from_data([values], &Device::flex())
}

const TOKENS: usize = 4;

fn column<const N: usize>(values: [f32; N]) -> Tensor<1> {
    Tensor::from_data(values, &Device::flex())
}

fn plain(uniform: f32) -> Draw {
    let temperature = column([1.0]);
    let uniform = column([uniform]);
    Draw { temperature, greedy: None, top_k: None, top_p: None, min_p: None, uniform }
}

/// The same by both ways of computing it.
#[expect(clippy::needless_pass_by_value, reason = "shorter where it is called")]
fn same<T: PartialEq + std::fmt::Debug>(on_cpu: T, reference: T) -> T {
    assert_eq!(on_cpu, reference, "the CPU's way and the reference");
    on_cpu
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as().unwrap()
}

fn ids<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
    tensor.into_data().try_into_vec_as().unwrap()
}

fn drawn(logits: Tensor<2>, tokens: usize, draw: &Draw) -> Vec<i64> {
    same(
        ids(cpu::sample(logits.clone(), tokens, draw)),
        ids(reference::sample(logits, tokens, draw)),
    )
}

fn best(logits: Tensor<2>, tokens: usize) -> Vec<i64> {
    same(ids(cpu::argmax(logits.clone(), tokens)), ids(reference::argmax(logits, tokens)))
}

/// The ids that are drawn as the uniform number goes through (0, 1).
fn support(draw: impl Fn(Draw) -> Draw) -> Vec<i64> {
    let at = |index: usize| {
        let draw = draw(plain((index as f32 + 0.5) / 100.0));
        drawn(logits(), TOKENS, &draw)[0]
    };
    let mut found: Vec<i64> = (0..100).map(at).collect();
    found.dedup();
    found
}

#[test]
fn the_uniform_number_walks_the_distribution() {
    let at = |uniform| drawn(logits(), TOKENS, &plain(uniform))[0];
    assert_eq!([at(1e-7), at(0.19), at(0.21), at(0.59), at(0.61), at(0.71)], [0, 0, 1, 1, 2, 3]);
}

#[test]
fn top_k_top_p_and_min_p_cut_the_tail() {
    let some = |value| Some(column([value]));
    assert_eq!(support(|draw| draw), [0, 1, 2, 3]);
    assert_eq!(support(|draw| Draw { top_k: some(2.0), ..draw }), [1, 3]);
    assert_eq!(support(|draw| Draw { top_k: some(1.0), ..draw }), [1]);
    assert_eq!(support(|draw| Draw { top_p: some(0.69), ..draw }), [1, 3]);
    assert_eq!(support(|draw| Draw { top_p: some(0.71), ..draw }), [0, 1, 3]);
    assert_eq!(support(|draw| Draw { top_p: some(1e-6), ..draw }), [1]);
    assert_eq!(support(|draw| Draw { min_p: some(0.6), ..draw }), [1, 3]);
    // top-p counts what top-k left: 0.4 of 0.7 does not reach 0.6.
    assert_eq!(support(|draw| Draw { top_k: some(2.0), top_p: some(0.6), ..draw }), [1, 3]);
    // What a row does not use.
    let off = |draw| Draw { top_k: some(f32::MAX), top_p: some(2.0), min_p: some(0.0), ..draw };
    assert_eq!(support(off), [0, 1, 2, 3]);
}

#[test]
fn a_low_temperature_leaves_the_best_token() {
    assert_eq!(support(|draw| Draw { temperature: column([0.001]), ..draw }), [1]);
}

#[test]
fn a_greedy_row_is_not_drawn() {
    assert_eq!(support(|draw| Draw { greedy: Some(column([1.0])), ..draw }), [1]);
}

#[test]
fn argmax_takes_the_lowest_of_equals() {
    let rows = [[1.0, 5.0, 5.0], [-3.0, -4.0, -3.0]];
    assert_eq!(best(Tensor::from_data(rows, &Device::flex()), 3), [1, 0]);
    // In every lane, and past the last whole group of lanes.
    for place in 0..40 {
        let mut row = [0.0; 40];
        row[place..].fill(2.5);
        assert_eq!(best(Tensor::from_data([row], &Device::flex()), 40), [place as i64]);
    }
}

#[test]
fn what_is_not_finite_has_no_best_token() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 7, 17, 18] {
            let mut rows = [[0.5f32; 20]; 3];
            rows[1][place] = wrong;
            rows[2][19] = wrong;
            let logits = Tensor::<2>::from_data(rows, &Device::flex());
            // The wrong value of the third row is padding.
            assert_eq!(best(logits.clone(), 19), [0, 20, 0]);
            let draw = Draw {
                temperature: column([1.0; 3]),
                uniform: column([0.001; 3]),
                top_p: Some(column([0.9; 3])),
                ..plain(0.0)
            };
            assert_eq!(drawn(logits, 19, &draw), [0, 20, 0]);
        }
    }
}

#[test]
fn penalties_follow_their_definitions() {
    let device = Device::flex();
    let penalties = |repetition, presence, frequency, drafts| Penalties {
        repetition,
        presence,
        frequency,
        // Prompt; twice in the output; nowhere; both.
        seen: Tensor::from_data([[9.5; 4], [0.5, 2.0, 0.0, 1.5]], &device),
        slots: Tensor::from_data([1, 1], &device),
        drafts,
    };
    let rows = [[4.0, 4.0, 4.0, -4.0]; 2];
    let check = |penalties: Penalties, want: [[f32; 4]; 2]| {
        let logits = Tensor::<2>::from_data(rows, &device);
        let got = same(
            floats(cpu::penalise(logits.clone(), &penalties)),
            floats(reference::penalise(logits, &penalties)),
        );
        assert_eq!(got, want.as_flattened());
    };
    let all = |value: f32| Some(column([value; 2]));
    check(penalties(all(2.0), all(0.5), all(0.25), None), [[2.0, 1.0, 4.0, -8.75]; 2]);
    check(penalties(all(2.0), None, None, None), [[2.0, 2.0, 4.0, -8.0]; 2]);
    check(penalties(None, all(0.5), None, None), [[4.0, 3.5, 4.0, -4.5]; 2]);
    check(penalties(None, None, all(0.25), None), [[4.0, 3.5, 4.0, -4.25]; 2]);
    check(penalties(all(1.0), all(0.0), all(0.0), None), rows);
}

#[test]
fn a_row_counts_the_drafts_before_it() {
    let device = Device::flex();
    let logits = Tensor::<2>::from_data([[1.0f32; 4]; 6], &device);
    let penalties = Penalties {
        repetition: None,
        presence: None,
        frequency: Some(column([0.25; 6])),
        seen: Tensor::from_data([[0.0, 1.0, 0.5, 0.0], [0.0; 4]], &device),
        slots: Tensor::from_data([0, 0, 0, 1, 1, 1], &device),
        // The second sequence has a draft that is no token.
        drafts: Some(Tensor::from_data([[2, 2], [4, 3]], &device)),
    };
    let got = same(
        floats(cpu::penalise(logits.clone(), &penalties)),
        floats(reference::penalise(logits, &penalties)),
    );
    let want = [
        [1.0, 0.75, 1.0, 1.0],
        [1.0, 0.75, 0.75, 1.0],
        [1.0, 0.75, 0.5, 1.0],
        [1.0; 4],
        [1.0; 4],
        [1.0, 1.0, 1.0, 0.75],
    ];
    assert_eq!(got, want.as_flattened());
}

#[test]
fn only_tokens_of_the_set_are_allowed() {
    let device = Device::flex();
    let rows = Tensor::<2>::from_data([[1.0f32; 40], [f32::NAN; 40]], &device);
    let words = Tensor::<2, Int>::from_data([[-1, -1], [i32::MIN, 5]], &device);
    let got = same(
        floats(cpu::allow(rows.clone(), &words)).map_nan(),
        floats(reference::allow(rows, words.clone())).map_nan(),
    );
    assert!(got[..40].iter().all(|logit| *logit == 1.0));
    assert!(got[40..].iter().all(|logit| *logit == -7.0), "NaN stays NaN");

    let rows = Tensor::<2>::from_data([[1.0f32; 40]; 2], &device);
    let got = same(floats(cpu::allow(rows.clone(), &words)), floats(reference::allow(rows, words)));
    let allowed: Vec<usize> = (0..40).filter(|id| got[40 + id] == 1.0).collect();
    assert_eq!(allowed, [31, 32, 34]);
}

trait MapNan {
    /// NaN as a number that equals itself.
    fn map_nan(self) -> Self;
}

impl MapNan for Vec<f32> {
    fn map_nan(self) -> Self {
        self.into_iter().map(|value| if value.is_nan() { -7.0 } else { value }).collect()
    }
}

#[test]
fn drafts_are_accepted_up_to_the_first_wrong_one() {
    let check = |chosen: [i32; 4], drafts: [i32; 3], count: i32, want: i64| {
        let device = Device::flex();
        let count = Tensor::from_data([count], &device);
        let chosen = Tensor::from_data([chosen], &device);
        let drafts = Tensor::from_data([drafts], &device);
        assert_eq!(ids(verify(chosen, drafts, count, 9)), [want]);
    };
    check([1, 2, 3, 4], [1, 2, 3], 3, 3);
    check([1, 2, 3, 4], [1, 2, 3], 2, 2);
    check([1, 2, 3, 4], [1, 2, 3], 0, 0);
    check([1, 2, 3, 4], [5, 2, 3], 3, 0);
    check([1, 2, 3, 4], [1, 5, 3], 3, 1);
    // What is no token accepts nothing, whatever was proposed.
    check([1, 9, 3, 4], [1, 9, 3], 3, 1);
}

#[test]
fn logprobs_are_those_of_a_plain_computation() {
    let device = Device::flex();
    let logits = Inputs::new(5, &device).floats([3, 1003], 12.0);
    let values = floats(logits.clone());
    let next = Tensor::<1, Int>::from_data([7, 999, 1003], &device);
    let tokens = 1000;
    for found in [
        cpu::logprobs(logits.clone(), tokens, &next, 5),
        reference::logprobs(logits, tokens, next, 5),
    ] {
        let chosen = floats(found.chosen);
        let (top_ids, top) = found.top.unwrap();
        let (top_ids, top) = (ids(top_ids), floats(top));
        for row in 0..3 {
            let row_values = &values[row * 1003..][..tokens];
            let sum: f64 = row_values.iter().map(|value| f64::from(*value).exp()).sum();
            let want = |id: usize| f64::from(row_values[id]) - sum.ln();
            assert!((f64::from(chosen[row]) - want([7, 999, 999][row])).abs() < 1e-5);
            let mut order: Vec<usize> = (0..tokens).collect();
            order.sort_by(|a, b| row_values[*b].total_cmp(&row_values[*a]));
            for place in 0..5 {
                assert_eq!(top_ids[row * 5 + place], order[place] as i64);
                assert!((f64::from(top[row * 5 + place]) - want(order[place])).abs() < 1e-5);
            }
        }
    }
}

/// Rows of all kinds and widths draw the same tokens by both ways of computing it, together and
/// alone.
#[test]
fn mixed_rows_are_drawn_as_if_alone() {
    let device = Device::flex();
    for (seed, width) in [(1, 7), (2, 300), (3, 5000)] {
        let mut inputs = Inputs::new(seed, &device);
        const ROWS: usize = 24;
        let logits = inputs.floats([ROWS, width], 8.0);
        let pick = |every: usize, value: f32, off: f32| -> [f32; ROWS] {
            std::array::from_fn(|row| if row % every == 0 { value } else { off })
        };
        let columns = [
            pick(2, 0.7, 1.3),
            pick(7, 1.0, 0.0),
            pick(3, 5.0, f32::MAX),
            pick(4, 0.8, 2.0),
            pick(5, 0.05, 0.0),
            std::array::from_fn(|row| (row as f32 + 0.5) / ROWS as f32),
        ];
        let draw = |columns: [Tensor<1>; 6]| {
            let [temperature, greedy, top_k, top_p, min_p, uniform] = columns;
            Draw {
                temperature,
                greedy: Some(greedy),
                top_k: Some(top_k),
                top_p: Some(top_p),
                min_p: Some(min_p),
                uniform,
            }
        };
        let together = drawn(logits.clone(), width - 2, &draw(columns.map(column)));
        for row in 0..ROWS {
            let alone = draw(columns.map(|values| column([values[row]])));
            let logits = logits.clone().narrow(0, row, 1);
            assert_eq!(drawn(logits.clone(), width - 2, &alone), together[row..=row]);
            // Without the parts that the row does not use.
            let used = |part: Option<Tensor<1>>, index: usize, off: f32| {
                part.filter(|_| columns[index][row] != off)
            };
            let without = Draw {
                greedy: used(alone.greedy, 1, 0.0),
                top_k: used(alone.top_k, 2, f32::MAX),
                top_p: used(alone.top_p, 3, 2.0),
                min_p: used(alone.min_p, 4, 0.0),
                ..alone
            };
            assert_eq!(drawn(logits, width - 2, &without), together[row..=row]);
        }
    }
}

#[test]
fn shared_logits_are_not_changed() {
    let device = Device::flex();
    let logits = Tensor::<2>::from_data(TensorData::new(vec![1.0f32; 64], [2, 32]), &device);
    let kept = logits.clone();
    let words = Tensor::<2, Int>::from_data([[0], [1]], &device);
    drop(allow(logits, words));
    assert_eq!(floats(kept.cast(DType::F32)), [1.0; 64]);
}
