//! The sampler under a model of a dozen tokens, whose logits are a function of the last tokens.

mod answers;
mod distribution;
mod rows;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{Sampled, SampledShare, Sampler, random};
use crate::request::SamplingParams;
use crate::step::{RowMask, SlotState, TokenSet};

const VOCAB: usize = 12;
/// The last id is padding.
const TOKENS: usize = 11;

/// A request.
#[derive(Debug, Clone)]
struct Asked {
    params: SamplingParams,
    seed: u64,
    prompt: Vec<u32>,
    /// What may be chosen at a place of the answer.
    mask: fn(usize) -> RowMask,
}

/// A request that is being answered.
#[derive(Debug)]
struct Running {
    asked: Asked,
    slot: u32,
    output: Vec<u32>,
    /// Place in the answer of the first row of the last step.
    place: usize,
}

impl Running {
    fn open(asked: &Asked, slot: u32, sampler: &mut Sampler) -> Self {
        let mut running = Running { asked: asked.clone(), slot, output: Vec::new(), place: 0 };
        running.reopen(slot, sampler);
        running
    }

    fn reopen(&mut self, slot: u32, sampler: &mut Sampler) {
        self.slot = slot;
        let Asked { params: sampling, seed, prompt, .. } = &self.asked;
        sampler.open(slot, &SlotState { sampling, seed: *seed, prompt, output: &self.output });
    }

    fn context(&self) -> Vec<u32> {
        [self.asked.prompt.as_slice(), &self.output].concat()
    }
}

/// Biases as of bad words.
fn banned(ids: &[u32]) -> Vec<(u32, f32)> {
    ids.iter().map(|id| (*id, -1e30)).collect()
}

fn all_free(_: usize) -> RowMask {
    RowMask::Free
}

/// Requests that use every part of sampling, each with its own seed.
fn requests() -> Vec<Asked> {
    let greedy = SamplingParams::greedy;
    let drawn = || SamplingParams { temperature: 0.8, ..greedy() };
    let penalised = || SamplingParams {
        repetition_penalty: 1.4,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        ..drawn()
    };
    let biased = || vec![(3, 2.0), (5, -1.5), (3, 0.5)];
    let params = [
        greedy(),
        drawn(),
        SamplingParams { top_k: 4, ..drawn() },
        SamplingParams { top_p: 0.8, ..drawn() },
        SamplingParams { min_p: 0.1, ..drawn() },
        SamplingParams { top_k: 6, top_p: 0.9, min_p: 0.05, temperature: 1.3, ..greedy() },
        penalised(),
        SamplingParams { temperature: 0.0, ..penalised() },
        SamplingParams { logit_bias: [biased(), banned(&[2, 7])].concat(), ..drawn() },
        SamplingParams { logit_bias: biased(), top_p: 0.7, ..penalised() },
    ];
    let masks: [fn(usize) -> RowMask; 3] = [
        all_free,
        |place| match place % 4 {
            0 => RowMask::Ban(vec![0, 1, place as u32 % 11]),
            1 => RowMask::Allow(set(&[1, 4, 6, 9])),
            2 => RowMask::Free,
            _ => RowMask::Force(place as u32 % 11),
        },
        |place| if place < 3 { RowMask::Ban(vec![4, 8]) } else { RowMask::Free },
    ];
    let mut asked = Vec::new();
    for mask in masks {
        for params in &params {
            let seed = 100 + asked.len() as u64;
            let prompt = vec![1, seed as u32 % 11, 5];
            asked.push(Asked { params: params.clone(), seed, prompt, mask });
        }
    }
    asked
}

fn set(ids: &[u32]) -> TokenSet {
    let mut set = TokenSet::new(VOCAB);
    ids.iter().for_each(|id| set.insert(*id));
    set
}

/// Numbers for the tests' own choices.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 += 1;
        (random::unit(self.0, 0) * bound as f32) as usize
    }
}

fn logits_after(context: &[u32]) -> Vec<f32> {
    let last = context.iter().rev().take(2).fold(3, |state, id| state * 31 + u64::from(*id));
    (0..VOCAB).map(|id| (random::unit(last, id) - 0.5) * 6.0).collect()
}

fn tensor(values: Vec<f32>, width: usize) -> Tensor<2> {
    let shape = [values.len() / width, width];
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F32))
}

fn ids<const D: usize>(tensor: &Tensor<D, Int>) -> Vec<u32> {
    tensor.to_data().try_to_vec_as().unwrap()
}

/// A step of a batch, each sequence with its drafts; padded rows hold NaN. With `shift` the host
/// does not yet know how many drafts of the step before were accepted.
fn sample(
    sampler: &mut Sampler,
    running: &mut [Running],
    drafts: &[Vec<u32>],
    shift: Option<Tensor<1, Int>>,
) -> Sampled {
    let width = 1 + drafts.iter().map(Vec::len).max().unwrap();
    let sequences = running.len().next_power_of_two();
    let mut logits = vec![f32::NAN; sequences * width * VOCAB];
    let mut draft_ids = vec![VOCAB as i32; sequences * (width - 1)];
    let mut masks: Vec<Vec<RowMask>> = Vec::new();
    for (index, (running, drafts)) in running.iter_mut().zip(drafts).enumerate() {
        let known = running.output.len();
        running.place = if shift.is_some() { running.place + 1 } else { known };
        for row in 0..=drafts.len() {
            let context = [running.context().as_slice(), &drafts[..row]].concat();
            let start = (index * width + row) * VOCAB;
            logits[start..start + VOCAB].copy_from_slice(&logits_after(&context));
        }
        for (row, id) in drafts.iter().enumerate() {
            draft_ids[index * (width - 1) + row] = *id as i32;
        }
        masks.push((0..=drafts.len()).map(|row| (running.asked.mask)(known + row)).collect());
    }
    let shares: Vec<SampledShare<'_>> = running
        .iter()
        .zip(drafts)
        .zip(&masks)
        .map(|((running, drafts), masks)| SampledShare {
            slot: running.slot,
            drafts: drafts.len(),
            output_index: running.place,
            shifted: shift.is_some(),
            masks,
            logprobs: None,
        })
        .collect();
    let drafted = TensorData::new(draft_ids, [sequences, width - 1]);
    let drafted = (width > 1).then(|| Tensor::from_data(drafted, &Device::flex()));
    sampler.sample(tensor(logits, VOCAB), &shares, width, drafted, shift)
}

/// [`sample`], and what came of it is read and becomes part of the answers.
fn step(
    sampler: &mut Sampler,
    running: &mut [Running],
    drafts: &[Vec<u32>],
    shift: Option<Tensor<1, Int>>,
) -> Tensor<1, Int> {
    let sampled = sample(sampler, running, drafts, shift);
    let width = sampled.ids.dims()[1];
    let (chosen, accepted) = (ids(&sampled.ids), ids(&sampled.accepted));
    let last = ids(&sampled.last);
    for (index, running) in running.iter_mut().enumerate() {
        let accepted = accepted[index] as usize;
        let tokens = &chosen[index * width..][..=accepted];
        assert_eq!(tokens[..accepted], drafts[index][..accepted]);
        assert_eq!(last[index], tokens[accepted]);
        assert!(tokens.iter().all(|id| (*id as usize) < TOKENS));
        running.output.extend(tokens);
    }
    sampled.accepted
}

/// The answer of `length` tokens, computed alone and without drafts.
fn alone(asked: &Asked, length: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(1, VOCAB, TOKENS, &Device::flex());
    let mut running = [Running::open(asked, 0, &mut sampler)];
    (0..length).for_each(|_| drop(step(&mut sampler, &mut running, &[Vec::new()], None)));
    running[0].output.clone()
}
