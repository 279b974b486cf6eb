//! What single rows give.

use super::*;

fn sampler(params: &[SamplingParams]) -> Sampler {
    let mut sampler = Sampler::new(params.len(), VOCAB, TOKENS, &Device::flex());
    for (slot, sampling) in (0..).zip(params) {
        sampler.open(slot, &SlotState { sampling, seed: 5, prompt: &[0, 1], output: &[1] });
    }
    sampler
}

fn share(slot: u32, masks: &[RowMask]) -> SampledShare<'_> {
    SampledShare { slot, drafts: 0, output_index: 1, shifted: false, masks, logprobs: None }
}

fn greedy() -> SamplingParams {
    SamplingParams::greedy()
}

/// The token that one row gives.
fn chosen(params: SamplingParams, mask: RowMask, logits: Vec<f32>) -> u32 {
    let masks = [mask];
    let shares = [share(0, &masks)];
    let sampled = sampler(&[params]).sample(tensor(logits, VOCAB), &shares, 1, None, None);
    ids(&sampled.ids)[0]
}

#[test]
fn padding_is_never_chosen() {
    let mut logits = vec![1.0; VOCAB];
    logits[TOKENS] = 99.0;
    assert_eq!(chosen(greedy(), RowMask::Free, logits.clone()), 0);
    let drawn = SamplingParams { temperature: 100.0, ..greedy() };
    assert!(chosen(drawn, RowMask::Free, logits) < TOKENS as u32);
}

#[test]
fn a_forced_or_only_token_wins_whatever_the_bias() {
    let biased = |temperature| SamplingParams {
        temperature,
        logit_bias: [vec![(3, 1000.0), (6, -1000.0)], banned(&[6, 6, 6])].concat(),
        repetition_penalty: 100.0,
        ..greedy()
    };
    for temperature in [0.0, 0.001, 1.0, 100.0] {
        for mask in [RowMask::Force(6), RowMask::Allow(set(&[6]))] {
            assert_eq!(chosen(biased(temperature), mask, logits_after(&[2])), 6);
        }
        assert_eq!(chosen(biased(temperature), RowMask::Free, logits_after(&[2])), 3);
        let ban = RowMask::Ban(vec![3]);
        assert!(![3, 6].contains(&chosen(biased(temperature), ban, logits_after(&[2]))));
    }
}

#[test]
fn penalties_see_prompt_and_output() {
    let penalised = |params| chosen(params, RowMask::Free, vec![1.0; VOCAB]);
    // 0 and 1 are in the prompt, 1 in the output.
    assert_eq!(penalised(SamplingParams { repetition_penalty: 2.0, ..greedy() }), 2);
    assert_eq!(penalised(SamplingParams { frequency_penalty: 0.1, ..greedy() }), 0);
    assert_eq!(penalised(SamplingParams { presence_penalty: -0.1, ..greedy() }), 1);
}

#[test]
fn a_row_that_is_not_finite_stays_alone() {
    let params: Vec<SamplingParams> = (0..4)
        .map(|index| SamplingParams {
            temperature: if index % 2 == 0 { 0.0 } else { 0.7 },
            top_p: if index == 3 { 0.9 } else { 1.0 },
            presence_penalty: 0.5,
            ..greedy()
        })
        .collect();
    let width = 3;
    let drafts = || Tensor::<2, Int>::from_data([[12, 12]; 4], &Device::flex());
    // At a token that is allowed, at one that is not, and at a banned one.
    let masks = vec![RowMask::Allow(set(&[2, 3, 4])), RowMask::Free, RowMask::Ban(vec![5])];
    let run = |wrong: Option<(usize, usize, f32)>, right: [[u32; 2]; 4]| {
        let mut logits: Vec<f32> =
            (0..4 * width).flat_map(|row| logits_after(&[row as u32])).collect();
        if let Some((row, id, value)) = wrong {
            logits[row * VOCAB + id] = value;
        }
        let shares: Vec<SampledShare<'_>> =
            (0..4).map(|slot| SampledShare { drafts: 2, ..share(slot, &masks) }).collect();
        let right = right.map(|row| row.map(|id| id as i32));
        let right = Tensor::from_data(right, &Device::flex());
        let mut sampler = sampler(&params);
        let sampled = sampler.sample(tensor(logits, VOCAB), &shares, width, Some(right), None);
        (ids(&sampled.ids), ids(&sampled.accepted), ids(&sampled.last))
    };
    // Row 1 and 2 come after drafts that change their penalties: take what is chosen until it
    // stays.
    let mut right = [[0; 2]; 4];
    for _ in 0..3 {
        let (ids, ..) = run(None, right);
        right = std::array::from_fn(|s| [ids[s * width], ids[s * width + 1]]);
    }
    let (want, accepted, _) = run(None, right);
    assert_eq!(accepted, [2; 4]);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for row in 0..4 * width {
            for id in [2, 5, 7] {
                let (found, accepted, last) = run(Some((row, id, value)), right);
                for (index, (found, want)) in found.iter().zip(&want).enumerate() {
                    let wanted = if index == row { VOCAB as u32 } else { *want };
                    assert_eq!(*found, wanted, "row {index}, {value} in row {row} at {id}");
                }
                let stopped = row / width;
                assert_eq!(accepted[stopped] as usize, row % width);
                assert!(last[stopped] < VOCAB as u32);
            }
        }
    }
    // A draft that is no token is not accepted where nothing was chosen.
    let logits = vec![f32::NAN; 4 * width * VOCAB];
    let shares: Vec<SampledShare<'_>> =
        (0..4).map(|slot| SampledShare { drafts: 2, ..share(slot, &masks) }).collect();
    let mut sampler = sampler(&params);
    let sampled = sampler.sample(tensor(logits, VOCAB), &shares, width, Some(drafts()), None);
    assert_eq!(ids(&sampled.ids), [12; 12]);
    assert_eq!(ids(&sampled.accepted), [0; 4]);
}

/// Logarithms of the probabilities of all tokens, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits[..TOKENS].iter().map(|logit| f64::from(*logit).exp()).sum();
    logits[..TOKENS].iter().map(|logit| f64::from(*logit) - sum.ln()).collect()
}

fn check(found: &crate::request::TokenLogprobs, logits: &[f32], id: u32, top: usize) {
    let want = log_softmax(logits);
    let near = |found: f32, id: u32| (f64::from(found) - want[id as usize]).abs() < 1e-5;
    assert_eq!(found.id, id);
    assert!(near(found.logprob, id), "{found:?}");
    let mut order: Vec<u32> = (0..TOKENS as u32).collect();
    order.sort_by(|a, b| want[*b as usize].total_cmp(&want[*a as usize]));
    assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order[..top]);
    assert!(found.top.iter().all(|(id, value)| near(*value, *id)), "{found:?}");
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    let odd = SamplingParams {
        temperature: 0.3,
        presence_penalty: 2.0,
        logit_bias: vec![(4, 50.0)],
        top_k: 2,
        ..greedy()
    };
    let params = [odd.clone(), greedy(), odd];
    for asked in [[Some(3), None, Some(0)], [Some(1), Some(2), Some(5)], [None, Some(0), None]] {
        let masks = [RowMask::Ban(vec![2]), RowMask::Free];
        let width = 2;
        let logits: Vec<f32> =
            (0..3 * width).flat_map(|row| logits_after(&[row as u32, 3])).collect();
        let shares: Vec<SampledShare<'_>> = (0..3)
            .map(|slot| SampledShare {
                drafts: 1,
                logprobs: asked[slot as usize],
                ..share(slot, &masks)
            })
            .collect();
        let drafts = Tensor::from_data([[4], [4], [4]], &Device::flex());
        let mut sampler = sampler(&params);
        let sampled =
            sampler.sample(tensor(logits.clone(), VOCAB), &shares, width, Some(drafts), None);
        let chosen = ids(&sampled.ids);
        let logprobs = sampled.logprobs.unwrap();
        for (share, asked) in asked.into_iter().enumerate() {
            let tokens = &chosen[share * width..][..width];
            let found = logprobs.take(share, tokens);
            assert_eq!(found.len(), if asked.is_some() { width } else { 0 });
            for (row, found) in found.iter().enumerate() {
                let logits = &logits[(share * width + row) * VOCAB..][..VOCAB];
                check(found, logits, tokens[row], asked.unwrap());
            }
        }
    }
    let mut sampler = sampler(&params);
    let nobody = sampler.sample(tensor(logits_after(&[1]), VOCAB), &[share(1, &[])], 1, None, None);
    assert!(nobody.logprobs.is_none());
}

#[test]
fn logprobs_of_a_prompt_are_those_of_its_next_tokens() {
    let sampler = sampler(&[greedy()]);
    let rows: Vec<Vec<f32>> = (0..4).map(|row| logits_after(&[row])).collect();
    let next = [3, 0, 10, 5];
    for top in [0, 4] {
        let found = sampler.prompt_logprobs(tensor(rows.concat(), VOCAB), &next, top).read(&next);
        assert_eq!(found.len(), 4);
        for ((found, logits), id) in found.iter().zip(&rows).zip(next) {
            check(found, logits, id, top);
        }
    }
}
