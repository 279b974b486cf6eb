//! The routed experts on the CPU, for steps with few tokens an expert: weights are read once and in
//! place, and nothing is launched for an expert.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::ExpertWeights;
use crate::ops::Routed;
use crate::ops::flex::integers;
use crate::ops::linear::Tokens;
use crate::weight::Weight;

/// Rows of a weight that one thread takes at a time.
const BLOCK: usize = 48;
/// Weights of the chosen experts' down projections, and multiply-adds with them, from which a second
/// thread pays.
const PARALLEL: (usize, usize) = (1 << 16, 1 << 20);

/// The experts of one buffer.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    first: usize,
    count: usize,
}

/// Experts as Flex has them.
#[backend_extension(Flex)]
pub(crate) trait MoeExperts: Backend {
    /// `x [tokens, hidden]`, `experts` and `weights` `[tokens, choices]`, `gate_up
    /// [count * 2 * width, hidden]`, `down [count * hidden, width]`, all in f32 → what the experts of
    /// the group add, `[tokens, hidden]`.
    fn run_experts(
        x: FloatTensor<Self>,
        experts: IntTensor<Self>,
        weights: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        group: Group,
    ) -> FloatTensor<Self>;
}

impl MoeExperts for Flex {
    fn run_experts(
        x: FloatTensor<Self>,
        experts: IntTensor<Self>,
        weights: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        group: Group,
    ) -> FloatTensor<Self> {
        let (x, weights) = (x.to_contiguous(), weights.to_contiguous());
        let (gate_up, down) = (gate_up.to_contiguous(), down.to_contiguous());
        let [tokens, hidden] = x.layout().shape().dims();
        let [_, choices] = weights.layout().shape().dims();
        let [_, width] = down.layout().shape().dims();
        let shape = [tokens, hidden];
        let step = Step {
            x: x.as_slice().expect("contiguous"),
            gate_up: gate_up.as_slice().expect("contiguous"),
            down: down.as_slice().expect("contiguous"),
            hidden,
            width,
        };
        let chosen = Chosen::new(&integers(&experts), choices, &group);
        let out = step.run(&chosen, weights.as_slice().expect("contiguous"), tokens);
        FloatTensor::<Flex>::from_data(TensorData::new(out, shape))
    }
}

/// Everything in f32; see [`super::moe_experts`].
pub(super) fn moe_experts(x: &Tensor<2>, routed: &Routed, weights: &ExpertWeights) -> Tensor<2> {
    let mut first = 0;
    let parts = weights.groups.iter().map(|group| {
        let place = Group { first, count: group.experts };
        first += group.experts;
        let dense = |weight: &Weight| match weight {
            Weight::Dense(weight) => weight.clone().into_dispatch(),
            Weight::Fp8(_) => unreachable!("weights in f32"),
        };
        Tensor::<2>::from_dispatch(Dispatch::run_experts(
            x.clone().into_dispatch(),
            routed.experts.clone().into_dispatch(),
            routed.weights.clone().into_dispatch(),
            dense(&group.gate_up),
            dense(&group.down),
            place,
        ))
    });
    parts.reduce(|sum, part| sum + part).expect("a group of experts")
}

/// Which tokens chose each expert of a group.
struct Chosen {
    /// Expert within the group and its part of `places`; experts that nobody chose are left out.
    experts: Vec<(usize, Range<usize>)>,
    /// Token and place in the flattened `[tokens, choices]` table, by expert.
    places: Vec<(usize, usize)>,
}

impl Chosen {
    fn new(ids: &[usize], choices: usize, group: &Group) -> Self {
        let mut by_expert = vec![Vec::new(); group.count];
        for (place, id) in ids.iter().enumerate() {
            // A padded token names the first id past the experts.
            if let Some(list) = id.checked_sub(group.first).and_then(|id| by_expert.get_mut(id)) {
                list.push((place / choices, place));
            }
        }
        let (mut experts, mut places) = (Vec::new(), Vec::new());
        for (expert, list) in by_expert.into_iter().enumerate().filter(|(_, it)| !it.is_empty()) {
            experts.push((expert, places.len()..places.len() + list.len()));
            places.extend(list);
        }
        Chosen { experts, places }
    }
}

/// What all threads read.
struct Step<'a> {
    x: &'a [f32],
    gate_up: &'a [f32],
    down: &'a [f32],
    hidden: usize,
    width: usize,
}

impl Step<'_> {
    fn run(&self, chosen: &Chosen, weights: &[f32], tokens: usize) -> Vec<f32> {
        let (hidden, width) = (self.hidden, self.width);
        let parallel = self.want_threads(chosen);

        // silu(gate · x) * (up · x) of each place.
        let inputs = chosen.experts.iter().map(|(_, places)| {
            let mut rows = Vec::with_capacity(places.len() * hidden);
            for (token, _) in &chosen.places[places.clone()] {
                rows.extend_from_slice(&self.x[token * hidden..][..hidden]);
            }
            Tokens::new(rows, hidden)
        });
        let inputs: Vec<_> = inputs.collect();
        let inner = self.by_blocks(chosen, &inputs, width, parallel, |expert, x, rows| {
            let first = expert * 2 * width + rows.start;
            let matrix = |first: usize| &self.gate_up[first * hidden..][..rows.len() * hidden];
            let gate = x.times(matrix(first));
            let mut up = x.times(matrix(first + width));
            for (up, gate) in up.iter_mut().zip(gate) {
                *up *= gate / (1.0 + (-gate).exp());
            }
            up
        });
        let inputs = chosen.experts.iter().map(|(_, places)| {
            Tokens::new(&inner[places.start * width..places.end * width], width)
        });
        let inputs: Vec<_> = inputs.collect();
        let outer = self.by_blocks(chosen, &inputs, hidden, parallel, |expert, x, rows| {
            let first = (expert * hidden + rows.start) * width;
            x.times(&self.down[first..][..rows.len() * width])
        });

        // Experts in their order, whatever else is in the step.
        let mut out = vec![0.0; tokens * hidden];
        for ((token, place), y) in chosen.places.iter().zip(outer.chunks_exact(hidden)) {
            for (out, y) in out[token * hidden..][..hidden].iter_mut().zip(y) {
                *out += weights[*place] * y;
            }
        }
        out
    }

    /// As [`Tokens::want_threads`], for the tokens of all experts.
    fn want_threads(&self, chosen: &Chosen) -> bool {
        let weights = self.hidden * self.width;
        chosen.experts.len() * weights >= PARALLEL.0 || chosen.places.len() * weights >= PARALLEL.1
    }

    /// `[places, rows]`, made in blocks of rows of one expert by `make`, which gets the expert, its
    /// tokens and the rows and returns `[tokens, rows]`.
    fn by_blocks(
        &self,
        chosen: &Chosen,
        tokens: &[Tokens<'_>],
        rows: usize,
        parallel: bool,
        make: impl Fn(usize, &Tokens<'_>, Range<usize>) -> Vec<f32> + Sync,
    ) -> Vec<f32> {
        let blocks: Vec<_> = (chosen.experts.iter().zip(tokens))
            .flat_map(|((expert, places), tokens)| {
                let starts = (0..rows).step_by(BLOCK);
                let end = move |start: usize| rows.min(start + BLOCK);
                starts.map(move |start| (*expert, places.start, tokens, start..end(start)))
            })
            .collect();
        let make = |(expert, _, tokens, block): &(usize, usize, &Tokens<'_>, Range<usize>)| {
            make(*expert, tokens, block.clone())
        };
        let made: Vec<Vec<f32>> = match parallel {
            true => blocks.par_iter().map(make).collect(),
            false => blocks.iter().map(make).collect(),
        };
        let mut out = vec![0.0; chosen.places.len() * rows];
        for ((_, first, tokens, block), values) in blocks.iter().zip(made) {
            let places = *first..first + tokens.count();
            for (place, values) in places.zip(values.chunks_exact(block.len())) {
                out[place * rows..][block.clone()].copy_from_slice(values);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::super::{ExpertGroup, reference};
    use super::*;
    use crate::ops::case::Inputs;

    fn experts(sizes: &[usize], hidden: usize, width: usize, inputs: &mut Inputs) -> ExpertWeights {
        let group = |count: &usize| ExpertGroup {
            experts: *count,
            gate_up: Weight::Dense(inputs.floats([count * 2 * width, hidden], 0.3)),
            down: Weight::Dense(inputs.floats([count * hidden, width], 0.3)),
        };
        ExpertWeights::new(sizes.iter().map(group).collect(), sizes[0])
    }

    fn floats(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_into_vec_as::<f32>().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Also for a token, which is the last here, that chose none because it is padding.
        #[test]
        fn the_kernel_agrees_with_the_reference(
            tokens in 1..12_usize,
            (hidden, width) in (1..90_usize, 1..70_usize),
            (most, last, choices) in (2..6_usize, 1..3_usize, 1..4_usize),
            ids in prop::collection::vec(any::<usize>(), 48),
            seed: u64,
        ) {
            let device = Device::flex();
            let mut inputs = Inputs::new(seed, &device);
            let count = most + last;
            let weights = experts(&[most, last], hidden, width, &mut inputs);
            let mut ids: Vec<i32> =
                ids[..tokens * choices].iter().map(|id| (id % count) as i32).collect();
            ids[(tokens - 1) * choices..].fill(count as i32);
            let routed = Routed {
                experts: Tensor::<1, burn::tensor::Int>::from_data(ids.as_slice(), &device)
                    .reshape([tokens, choices]),
                weights: inputs.floats([tokens, choices], 1.0),
                grouped: None,            };
            let x = inputs.floats([tokens, hidden], 1.0);
            let got = floats(moe_experts(&x, &routed, &weights));
            let want = floats(reference::moe_experts(&x, &routed, &weights));
            prop_assert!(got[(tokens - 1) * hidden..].iter().all(|value| *value == 0.0));
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{got} {want}");
            }
        }
    }
}
