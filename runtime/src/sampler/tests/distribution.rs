//! Two tokens in a row come with their joint probability, whatever is drafted.

use super::*;

const SEQUENCES: usize = 512;
const ROUNDS: usize = 24;

/// Probabilities of the token after `output`, by the definitions, in f64.
fn target(asked: &Asked, output: &[u32]) -> Vec<f64> {
    let params = &asked.params;
    let context = [asked.prompt.as_slice(), output].concat();
    let mut logits: Vec<f64> =
        logits_after(&context)[..TOKENS].iter().map(|l| (*l).into()).collect();
    for (id, logit) in logits.iter_mut().enumerate() {
        let count = output.iter().filter(|other| **other as usize == id).count() as f64;
        if context.contains(&(id as u32)) {
            let repetition = f64::from(params.repetition_penalty);
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        }
        *logit -= f64::from(params.frequency_penalty) * count;
        *logit -= if count > 0.0 { f64::from(params.presence_penalty) } else { 0.0 };
        let bias = params.logit_bias.iter().filter(|(other, _)| *other as usize == id);
        *logit += bias.map(|(_, bias)| f64::from(*bias)).sum::<f64>();
        let allowed = match (asked.mask)(output.len()) {
            RowMask::Free => true,
            RowMask::Ban(ids) => !ids.contains(&(id as u32)),
            RowMask::Force(forced) => forced as usize == id,
            RowMask::Allow(set) => set.contains(id as u32),
        };
        if !allowed {
            *logit = f64::NEG_INFINITY;
        }
    }
    let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if params.temperature == 0.0 {
        return logits.iter().map(|logit| f64::from(u8::from(*logit == best))).collect();
    }
    let weight = |logit: &f64| ((logit - best) / f64::from(params.temperature)).exp();
    let mut weights: Vec<f64> = logits.iter().map(weight).collect();
    let mut order: Vec<usize> = (0..TOKENS).collect();
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
    order.iter().for_each(|id| {
        if weights[*id] < f64::from(params.min_p) {
            weights[*id] = 0.0;
        }
    });
    if params.top_k > 0 {
        order.iter().skip(params.top_k).for_each(|id| weights[*id] = 0.0);
    }
    let (total, mut sum) = (weights.iter().sum::<f64>(), 0.0);
    for id in order {
        if sum >= f64::from(params.top_p) * total {
            weights[id] = 0.0;
        }
        sum += weights[id];
    }
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Drafter {
    /// No drafts.
    Silent,
    /// The most probable token.
    Good,
    /// Any token.
    Bad,
    /// The least probable token.
    Perverse,
    /// It knows the seed: always what will be chosen, or never.
    Oracle,
    Devil,
}

impl Drafter {
    const ALL: [Drafter; 6] = [
        Drafter::Silent,
        Drafter::Good,
        Drafter::Bad,
        Drafter::Perverse,
        Drafter::Oracle,
        Drafter::Devil,
    ];

    fn propose(self, asked: &Asked, dice: &mut Dice) -> Vec<u32> {
        let weights = target(asked, &[]);
        let by_weight = |a: &usize, b: &usize| weights[*a].total_cmp(&weights[*b]);
        let chosen = || alone(asked, 1)[0];
        match self {
            Drafter::Silent => vec![],
            Drafter::Good => vec![(0..TOKENS).max_by(by_weight).unwrap() as u32],
            Drafter::Bad => vec![dice.below(TOKENS) as u32],
            Drafter::Perverse => vec![(0..TOKENS).min_by(by_weight).unwrap() as u32],
            Drafter::Oracle => vec![chosen()],
            Drafter::Devil => vec![(chosen() + 1) % TOKENS as u32],
        }
    }
}

/// Counts of the first two tokens of many answers.
fn counts(asked: &Asked, drafter: Drafter, dice: &mut Dice) -> Vec<[u32; 2]> {
    let mut pairs = Vec::new();
    let mut sampler = Sampler::new(SEQUENCES, VOCAB, TOKENS, &Device::flex());
    for round in 0..ROUNDS {
        let seed = |slot: usize| (round * SEQUENCES + slot) as u64;
        let mut running: Vec<Running> = (0..SEQUENCES)
            .map(|slot| {
                let asked = Asked { seed: seed(slot), ..asked.clone() };
                Running::open(&asked, slot as u32, &mut sampler)
            })
            .collect();
        let drafts: Vec<Vec<u32>> =
            running.iter().map(|running| drafter.propose(&running.asked, dice)).collect();
        step(&mut sampler, &mut running, &drafts, None);
        let (mut short, long): (Vec<Running>, Vec<Running>) =
            running.into_iter().partition(|running| running.output.len() < 2);
        match drafter {
            Drafter::Oracle => assert!(short.is_empty()),
            Drafter::Silent | Drafter::Devil => assert!(long.is_empty()),
            _ => {}
        }
        if !short.is_empty() {
            let silent = vec![Vec::new(); short.len()];
            step(&mut sampler, &mut short, &silent, None);
        }
        let all = short.iter().chain(&long);
        pairs.extend(all.map(|running| [running.output[0], running.output[1]]));
    }
    pairs
}

/// The number of standard deviations by which chi-squared is above its mean (Wilson and Hilferty
/// 1931). Cells of less than five are taken together.
fn deviation(observed: &[f64], expected: &[f64]) -> f64 {
    let (mut chi, mut cells, mut rest) = (0.0, -1.0, [0.0; 2]);
    for (observed, expected) in observed.iter().zip(expected) {
        if *expected < 5.0 {
            rest = [rest[0] + observed, rest[1] + expected];
            continue;
        }
        chi += (observed - expected).powi(2) / expected;
        cells += 1.0;
    }
    if rest[1] >= 5.0 {
        chi += (rest[0] - rest[1]).powi(2) / rest[1];
        cells += 1.0;
    } else {
        assert!(rest[0] < 30.0, "many of what hardly is: {rest:?}");
    }
    if cells < 1.0 {
        return 0.0;
    }
    let spread = 2.0 / (9.0 * cells);
    ((chi / cells).cbrt() - (1.0 - spread)) / spread.sqrt()
}

/// One in 10,000.
const LIMIT: f64 = 3.719;

fn check(name: &str, asked: &Asked) {
    let mut dice = Dice(3);
    let first = target(asked, &[]);
    let joint: Vec<f64> = (0..TOKENS as u32)
        .flat_map(|id| {
            let then = target(asked, &[id]);
            let first = first[id as usize];
            then.into_iter().map(move |then| first * then).collect::<Vec<_>>()
        })
        .collect();
    for drafter in Drafter::ALL {
        let pairs = counts(asked, drafter, &mut dice);
        let mut observed = vec![0.0; TOKENS * TOKENS];
        for [first, second] in &pairs {
            observed[*first as usize * TOKENS + *second as usize] += 1.0;
        }
        let expected: Vec<f64> = joint.iter().map(|share| share * pairs.len() as f64).collect();
        for (observed, expected) in observed.iter().zip(&expected) {
            assert!(
                *expected > 0.0 || *observed == 0.0,
                "{name}, {drafter:?}: a token was cut off"
            );
        }
        let found = deviation(&observed, &expected);
        assert!(found < LIMIT, "{name}, {drafter:?}: {found:.2} standard deviations");
    }
}

fn asked(params: SamplingParams, mask: fn(usize) -> RowMask) -> Asked {
    Asked { params, seed: 0, prompt: vec![4, 9], mask }
}

fn drawn() -> SamplingParams {
    SamplingParams { temperature: 0.9, ..SamplingParams::greedy() }
}

#[test]
fn plain_draws_keep_the_distribution() {
    check("plain", &asked(drawn(), all_free));
}

#[test]
fn cut_tails_keep_the_distribution() {
    check("top-k", &asked(SamplingParams { top_k: 5, ..drawn() }, all_free));
    check("top-p", &asked(SamplingParams { top_p: 0.8, ..drawn() }, all_free));
    check("min-p", &asked(SamplingParams { min_p: 0.15, ..drawn() }, all_free));
    let all = SamplingParams { top_k: 7, top_p: 0.9, min_p: 0.05, ..drawn() };
    check("all", &asked(all, all_free));
}

#[test]
fn penalties_and_bias_keep_the_distribution() {
    let params = SamplingParams {
        repetition_penalty: 1.5,
        presence_penalty: 0.8,
        frequency_penalty: 0.6,
        logit_bias: [vec![(2, 1.5), (6, -1.0)], banned(&[3])].concat(),
        ..drawn()
    };
    check("penalties", &asked(params.clone(), all_free));
    check("penalties, top-p", &asked(SamplingParams { top_p: 0.85, ..params }, all_free));
}

#[test]
fn masks_keep_the_distribution() {
    let masks: fn(usize) -> RowMask = |place| match place {
        0 => RowMask::Ban(vec![1, 5]),
        _ => RowMask::Allow(set(&[0, 1, 2, 7, 8, 10])),
    };
    check("masks", &asked(drawn(), masks));
    let masks: fn(usize) -> RowMask = |place| match place {
        0 => RowMask::Allow(set(&[0, 2, 3, 4, 9])),
        _ => RowMask::Force(6),
    };
    check("forced", &asked(drawn(), masks));
}

#[test]
fn the_test_notices_a_wrong_distribution() {
    let asked = asked(drawn(), all_free);
    let pairs = counts(&asked, Drafter::Silent, &mut Dice(4));
    let mut observed = vec![0.0; TOKENS];
    pairs.iter().for_each(|[first, _]| observed[*first as usize] += 1.0);
    let scaled = |asked: &Asked| -> Vec<f64> {
        target(asked, &[]).iter().map(|share| share * pairs.len() as f64).collect()
    };
    assert!(deviation(&observed, &scaled(&asked)) < LIMIT);
    let warmer = Asked { params: SamplingParams { temperature: 1.0, ..drawn() }, ..asked };
    assert!(deviation(&observed, &scaled(&warmer)) > LIMIT);
}
