//! Chooses the next token on the device. Only the id leaves it.

use std::hash::{BuildHasher, RandomState};

use burn::tensor::{Bool, DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use glm_backends::ops::{self, Draw, Penalties};

use crate::request::SamplingParams;

/// Logit of what must not be chosen; finite, because shader languages have no infinity.
const NEVER: f32 = -1e30;

/// The choice of tokens for one sequence.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Biases of single tokens, `[1, vocab_size]`.
    bias: Option<Tensor<2>>,
    /// Rows of the vocabulary without a token, `[1, vocab_size]`.
    padding: Option<Tensor<2, Bool>>,
    penalties: Option<Penalties>,
    draw: Option<Draw>,
    random: Random,
}

impl Sampler {
    /// A sampler for one request.
    ///
    /// `vocab_size` is the number of logits, of which those from `tokens` on are padding.
    pub(crate) fn new(
        params: &SamplingParams,
        prompt: &[u32],
        vocab_size: usize,
        tokens: usize,
        device: &Device,
    ) -> Self {
        let seed = params.seed.unwrap_or_else(|| RandomState::new().hash_one("glm"));
        Sampler {
            bias: bias(params, vocab_size, device),
            padding: padding(vocab_size, tokens, device),
            penalties: penalties(params, prompt, vocab_size, device),
            draw: draw(params, device),
            random: Random { seed, drawn: 0 },
        }
    }

    /// The next token: `logits [1, vocab_size]` → `[1]`.
    pub(crate) fn sample(&mut self, mut logits: Tensor<2>) -> Tensor<1, Int> {
        let device = logits.device();
        if let Some(penalties) = &self.penalties {
            logits = ops::penalise(logits, penalties);
        }
        if let Some(bias) = &self.bias {
            logits = logits + bias.clone();
        }
        if let Some(padding) = &self.padding {
            logits = logits.mask_fill(padding.clone(), NEVER);
        }
        let chosen = match &mut self.draw {
            None => ops::argmax(logits),
            Some(draw) => {
                draw.uniform = row([self.random.next_unit()], &device);
                ops::sample(logits, draw)
            }
        };
        if let Some(penalties) = &mut self.penalties {
            let place = chosen.clone().unsqueeze_dim::<2>(0);
            let one = Tensor::ones([1, 1], (&device, DType::F32));
            penalties
                .output_counts
                .inplace(|counts| counts.scatter(1, place, one, IndexingUpdateOp::Add));
        }
        chosen
    }
}

fn draw(params: &SamplingParams, device: &Device) -> Option<Draw> {
    if params.temperature == 0.0 {
        return None;
    }
    let part = |used: bool, value: f32| used.then(|| row([value], device));
    Some(Draw {
        temperature: row([params.temperature], device),
        top_k: part(params.top_k > 0, params.top_k as f32),
        top_p: part(params.top_p < 1.0, params.top_p),
        min_p: part(params.min_p > 0.0, params.min_p),
        uniform: row([0.5], device),
    })
}

fn penalties(
    params: &SamplingParams,
    prompt: &[u32],
    vocab_size: usize,
    device: &Device,
) -> Option<Penalties> {
    let off = params.repetition_penalty == 1.0
        && params.presence_penalty == 0.0
        && params.frequency_penalty == 0.0;
    if off {
        return None;
    }
    let mut in_prompt = vec![0.0; vocab_size];
    for id in prompt {
        in_prompt[*id as usize] = 1.0;
    }
    Some(Penalties {
        repetition: row([params.repetition_penalty], device),
        presence: row([params.presence_penalty], device),
        frequency: row([params.frequency_penalty], device),
        in_prompt: Tensor::<1>::from_data(in_prompt.as_slice(), (device, DType::F32)).unsqueeze(),
        output_counts: Tensor::zeros([1, vocab_size], (device, DType::F32)),
    })
}

fn bias(params: &SamplingParams, vocab_size: usize, device: &Device) -> Option<Tensor<2>> {
    if params.logit_bias.is_empty() {
        return None;
    }
    let mut bias = vec![0.0; vocab_size];
    for (id, value) in &params.logit_bias {
        bias[*id as usize] += value;
    }
    Some(Tensor::from_data(TensorData::new(bias, [1, vocab_size]), (device, DType::F32)))
}

fn padding(vocab_size: usize, tokens: usize, device: &Device) -> Option<Tensor<2, Bool>> {
    (tokens < vocab_size).then(|| {
        let index = Tensor::<1, Int>::arange(0..vocab_size as i64, device);
        index.greater_equal_elem(tokens as i64).unsqueeze()
    })
}

fn row<const N: usize>(values: [f32; N], device: &Device) -> Tensor<1> {
    Tensor::from_data(values, (device, DType::F32))
}

/// Numbers that depend on the seed and on how many were drawn, and on nothing else.
#[derive(Debug)]
struct Random {
    seed: u64,
    drawn: u64,
}

impl Random {
    /// The next number in (0, 1), with 20 bits, so that both ends stay clear in f32.
    fn next_unit(&mut self) -> f32 {
        // SplitMix64 over the counter (Steele et al. 2014), started from a scrambled seed.
        let state = mix(self.seed).wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.drawn += 1;
        ((mix(state) >> 44) as f32 + 0.5) / (1u32 << 20) as f32
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    fn logits(values: [f32; 5], device: &Device) -> Tensor<2> {
        Tensor::from_data([values], (device, DType::F32))
    }

    fn run(params: &SamplingParams, prompt: &[u32], count: usize) -> Vec<u32> {
        let device = Device::flex();
        let mut sampler = Sampler::new(params, prompt, 5, 4, &device);
        let even = [1.0, 1.0, 1.0, 1.0, 9.0];
        (0..count).map(|_| sampler.sample(logits(even, &device)).into_scalar::<u32>()).collect()
    }

    #[test]
    fn padding_is_never_chosen() {
        assert_eq!(run(&SamplingParams::greedy(), &[], 1), [0]);
        let drawn = run(&SamplingParams { temperature: 5.0, ..SamplingParams::greedy() }, &[], 200);
        assert!(drawn.iter().all(|id| *id < 4));
        assert!((0..4).all(|id| drawn.contains(&id)));
    }

    #[test]
    fn a_seed_repeats_its_draws_and_another_does_not() {
        let params = |seed| SamplingParams {
            temperature: 1.0,
            seed: Some(seed),
            ..SamplingParams::greedy()
        };
        assert_eq!(run(&params(7), &[], 40), run(&params(7), &[], 40));
        assert_ne!(run(&params(7), &[], 40), run(&params(8), &[], 40));
    }

    #[test]
    fn penalties_see_prompt_and_output() {
        // Equal logits: each token is pushed down once it occurred.
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::greedy() };
        assert_eq!(run(&params, &[0, 2], 4), [1, 3, 0, 0]);
        let params = SamplingParams { frequency_penalty: 0.1, ..SamplingParams::greedy() };
        assert_eq!(run(&params, &[0, 2], 6), [0, 1, 2, 3, 0, 1]);
    }

    #[test]
    fn a_bias_moves_single_tokens() {
        let params =
            SamplingParams { logit_bias: vec![(2, 0.5), (4, 100.0)], ..SamplingParams::greedy() };
        assert_eq!(run(&params, &[], 1), [2]);
    }
}
