//! The routed experts on the CPU: only weights of chosen experts are read, in place and in the type in
//! which they are held, and nothing is launched for an expert.
#![expect(unsafe_code, reason = "threads write to places of their own")]

mod apart;
mod chosen;
mod inputs;

use std::borrow::Cow;
use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};

use self::apart::Stack;
use self::chosen::Chosen;
use self::inputs::Inputs;
use super::ExpertWeights;
use crate::cpu::{Isa, Matrix, Shared, Sink, Tokens, in_pieces, math};
use crate::fp8::Activations;
use crate::ops::Routed;
use crate::ops::flex::{HeldWeight, WeightForm, integers};

pub(crate) use self::apart::Apart;
pub(crate) use self::chosen::Group;

/// Weights of the chosen experts' down projections, and multiply-adds with them, from which a second
/// thread pays.
const PARALLEL: (usize, usize) = (1 << 16, 1 << 20);
/// Tokens whose results are added in one piece.
const TOKENS: usize = 16;

/// Experts as Flex has them.
#[backend_extension(Flex)]
pub(crate) trait MoeExperts: Backend {
    /// `x [tokens, hidden]` in f32, `experts` and `weights` `[tokens, choices]`, `gate_up
    /// [count * 2 * width, hidden]`, `down [count * hidden, width]` → what the experts of the group
    /// add, `[tokens, hidden]` in f32.
    fn run_experts(
        x: FloatTensor<Self>,
        experts: IntTensor<Self>,
        weights: FloatTensor<Self>,
        #[extension_type] gate_up: HeldWeight<Self>,
        #[extension_type] down: HeldWeight<Self>,
        forms: [WeightForm; 2],
        group: Group,
    ) -> FloatTensor<Self>;

    /// The same of all experts, each where it lies.
    fn run_experts_apart(
        x: FloatTensor<Self>,
        experts: IntTensor<Self>,
        weights: FloatTensor<Self>,
        apart: Apart,
    ) -> FloatTensor<Self>;
}

impl MoeExperts for Flex {
    fn run_experts(
        x: FloatTensor<Self>,
        experts: IntTensor<Self>,
        weights: FloatTensor<Self>,
        gate_up: HeldWeight<Self>,
        down: HeldWeight<Self>,
        forms: [WeightForm; 2],
        group: Group,
    ) -> FloatTensor<Self> {
        let (gate_up, down) = (gate_up.contiguous(), down.contiguous());
        let (gate_up, down) = (gate_up.matrix(&forms[0]), down.matrix(&forms[1]));
        run(&x, &experts, &weights, Stack::one(gate_up), Stack::one(down), forms, &group)
    }

    fn run_experts_apart(
        x: FloatTensor<Self>,
        experts: IntTensor<Self>,
        weights: FloatTensor<Self>,
        apart: Apart,
    ) -> FloatTensor<Self> {
        let group = Group { first: 0, count: apart.count() };
        let [gate_up, down] = apart.stacks();
        run(&x, &experts, &weights, gate_up, down, apart.forms(), &group)
    }
}

fn run(
    x: &FloatTensor<Flex>,
    experts: &IntTensor<Flex>,
    weights: &FloatTensor<Flex>,
    gate_up: Stack<'_>,
    down: Stack<'_>,
    forms: [WeightForm; 2],
    group: &Group,
) -> FloatTensor<Flex> {
    let (x, weights) = (x.to_contiguous(), weights.to_contiguous());
    let [tokens, hidden] = x.layout().shape().dims();
    let [_, choices] = weights.layout().shape().dims();
    let step = Step {
        isa: Isa::current(),
        x: Inputs::new(x.as_slice().expect("contiguous"), hidden, forms[0].activations),
        gate_up,
        down,
        activations: forms[1].activations,
    };
    let chosen = Chosen::new(&integers(experts), choices, group);
    let out = step.run(&chosen, weights.as_slice().expect("contiguous"), tokens);
    FloatTensor::<Flex>::from_data(TensorData::new(out, [tokens, hidden]))
}

/// Whether these kernels take a step: everything but weights is in f32.
pub(super) fn takes(x: &Tensor<2>) -> bool {
    crate::ops::flex::takes(&x.device(), x.dtype())
}

/// See [`super::moe_experts`].
pub(super) fn moe_experts(x: &Tensor<2>, routed: &Routed, weights: &ExpertWeights) -> Tensor<2> {
    if let Some(apart) = &weights.apart {
        return Tensor::from_dispatch(Dispatch::run_experts_apart(
            x.clone().into_dispatch(),
            routed.experts.clone().into_dispatch(),
            routed.weights.clone().into_dispatch(),
            apart.clone(),
        ));
    }
    let mut first = 0;
    let parts = weights.groups.iter().map(|group| {
        let place = Group { first, count: group.experts };
        first += group.experts;
        Tensor::<2>::from_dispatch(Dispatch::run_experts(
            x.clone().into_dispatch(),
            routed.experts.clone().into_dispatch(),
            routed.weights.clone().into_dispatch(),
            (&group.gate_up).into(),
            (&group.down).into(),
            [WeightForm::of(&group.gate_up), WeightForm::of(&group.down)],
            place,
        ))
    });
    parts.reduce(|sum, part| sum + part).expect("a group of experts")
}

/// What all threads read.
struct Step<'a> {
    isa: Isa,
    /// Of the tokens.
    x: Inputs<'a>,
    gate_up: Stack<'a>,
    down: Stack<'a>,
    /// What the down projections are multiplied with.
    activations: Activations,
}

/// Rows of one expert's matrix, for the tokens that chose it.
struct Piece<'a> {
    expert: usize,
    /// Place of the first token in the order by expert.
    first: usize,
    tokens: &'a Tokens,
    rows: Range<usize>,
}

impl Step<'_> {
    fn run(&self, chosen: &Chosen, weights: &[f32], tokens: usize) -> Vec<f32> {
        let (hidden, width) = (self.gate_up.first().width(), self.down.first().width());
        let parallel = self.want_threads(chosen);
        let places = chosen.places.len();
        if places == 0 {
            return vec![0.0; tokens * hidden];
        }

        // silu(gate · x) * (up · x) of each place.
        let inputs = self.inputs(chosen, parallel, self.gate_up.first(), tokens == 1, |place| {
            let (token, _) = chosen.places[place];
            self.x.row(token)
        });
        let pieces = pieces(chosen, &inputs, width);
        let mut inner = vec![0.0; places * width];
        let shared = Shared::new(&mut inner);
        in_pieces(pieces.len(), parallel, |index| {
            let Piece { expert, first, tokens, rows } = &pieces[index];
            let (count, row) = (rows.len(), expert * 2 * width + rows.start);
            let mut both = vec![0.0; 2 * tokens.count() * count];
            let half = both.len() / 2;
            for (part, row) in [(0, row), (half, row + width)] {
                let out = Shared::new(&mut both);
                let matrix = self.gate_up.part(row..row + count);
                // SAFETY: `both` is this piece's own.
                unsafe { tokens.times(&matrix, Sink { out, first: part, stride: count }) };
            }
            if self.x.has_scales() {
                for (index, products) in both.chunks_exact_mut(count).enumerate() {
                    let (token, _) = chosen.places[first + index % tokens.count()];
                    let scale = self.x.scale(token);
                    products.iter_mut().for_each(|product| *product *= scale);
                }
            }
            let (gate, up) = both.split_at_mut(half);
            math::swiglu(self.isa, gate, up);
            for (token, up) in up.chunks_exact(count).enumerate() {
                let place = (first + token) * width + rows.start;
                // SAFETY: a piece has rows or places of its own.
                unsafe { shared.part(place, count) }.copy_from_slice(up);
            }
        });

        let inner = Inputs::new(inner, width, self.activations);
        let inputs =
            self.inputs(chosen, parallel, self.down.first(), false, |place| inner.row(place));
        let pieces = self::pieces(chosen, &inputs, hidden);
        let mut outer = vec![0.0; places * hidden];
        let shared = Shared::new(&mut outer);
        in_pieces(pieces.len(), parallel, |index| {
            let Piece { expert, first, tokens, rows } = &pieces[index];
            let row = expert * hidden + rows.start;
            let matrix = self.down.part(row..row + rows.len());
            let sink = Sink { out: shared, first: first * hidden + rows.start, stride: hidden };
            // SAFETY: a piece has rows or places of its own.
            unsafe { tokens.times(&matrix, sink) };
        });

        // Of each token in the order of its choices, whatever else is in the step.
        let choices = weights.len() / tokens.max(1);
        let mut order = vec![None; weights.len()];
        for (index, (_, place)) in chosen.places.iter().enumerate() {
            order[*place] = Some(index);
        }
        let mut out = vec![0.0; tokens * hidden];
        let shared = Shared::new(&mut out);
        in_pieces(tokens.div_ceil(TOKENS), parallel && tokens > TOKENS, |piece| {
            for token in piece * TOKENS..tokens.min((piece + 1) * TOKENS) {
                // SAFETY: a piece has tokens of its own.
                let sum = unsafe { shared.part(token * hidden, hidden) };
                for place in token * choices..(token + 1) * choices {
                    if let Some(index) = order[place] {
                        let y = &outer[index * hidden..][..hidden];
                        math::add_scaled(self.isa, sum, y, weights[place] * inner.scale(index));
                    }
                }
            }
        });
        out
    }

    /// The tokens of each chosen expert, laid out for rows like those of `matrix`; `row` is that of a
    /// place in the order by expert. Just one where it is the `same` for all.
    fn inputs<'a>(
        &self,
        chosen: &Chosen,
        parallel: bool,
        matrix: &Matrix<'_>,
        same: bool,
        row: impl Fn(usize) -> &'a [f32] + Sync,
    ) -> Vec<Tokens> {
        if same {
            let token = Tokens::of_rows(self.isa, 1, |_| Cow::Borrowed(row(0)), matrix);
            return vec![token];
        }
        let mut inputs: Vec<Option<Tokens>> = chosen.experts.iter().map(|_| None).collect();
        let shared = Shared::new(&mut inputs);
        let many = chosen.places.len() > 2 * chosen.experts.len();
        in_pieces(chosen.experts.len(), parallel && many, |index| {
            let (_, places) = &chosen.experts[index];
            let row = |token: usize| Cow::Borrowed(row(places.start + token));
            let tokens = Tokens::of_rows(self.isa, places.len(), row, matrix);
            // SAFETY: each expert has a place of its own.
            let place = unsafe { shared.part(index, 1) };
            place[0] = Some(tokens);
        });
        inputs.into_iter().flatten().collect()
    }

    /// As [`Tokens::want_threads`], for the tokens of all experts.
    fn want_threads(&self, chosen: &Chosen) -> bool {
        let weights = self.gate_up.first().width() * self.down.first().width();
        chosen.experts.len() * weights >= PARALLEL.0 || chosen.places.len() * weights >= PARALLEL.1
    }
}

/// The matrices of all chosen experts, `rows` each, in pieces.
fn pieces<'a>(chosen: &Chosen, tokens: &'a [Tokens], rows: usize) -> Vec<Piece<'a>> {
    let of_expert = |(index, (expert, places)): (usize, &(usize, Range<usize>))| {
        let tokens = &tokens[index.min(tokens.len() - 1)];
        let (expert, first, step) = (*expert, places.start, tokens.rows_of_piece());
        let piece = move |start: usize| {
            let rows = start..rows.min(start + step);
            Piece { expert, first, tokens, rows }
        };
        (0..rows).step_by(step).map(piece)
    };
    chosen.experts.iter().enumerate().flat_map(of_expert).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use proptest::prelude::*;

    use super::super::{ExpertGroup, ExpertMatrices, reference};
    use super::*;
    use crate::ops::case::Inputs;
    use crate::weight::Weight;

    fn experts(sizes: &[usize], hidden: usize, width: usize, inputs: &mut Inputs) -> ExpertWeights {
        let group = |count: &usize| ExpertGroup {
            experts: *count,
            gate_up: Weight::Dense(inputs.floats([count * 2 * width, hidden], 0.3)),
            down: Weight::Dense(inputs.floats([count * hidden, width], 0.3)),
        };
        ExpertWeights::new(sizes.iter().map(group).collect(), sizes[0])
    }

    fn taken_apart(weights: &ExpertWeights) -> ExpertWeights {
        let expert = |id| {
            let (gate_up, down) = weights.expert(id);
            let [gate_up, down] = [gate_up, down].map(|weight| weight.dense(DType::F32));
            let [gate, up] = gate_up.chunk(2, 0).try_into().expect("two halves");
            ExpertMatrices { gate, up, down }
        };
        ExpertWeights::apart((0..weights.count()).map(expert).collect())
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
                grouped: None,
            };
            let x = inputs.floats([tokens, hidden], 1.0);
            let got = floats(moe_experts(&x, &routed, &weights));
            let apart = floats(moe_experts(&x, &routed, &taken_apart(&weights)));
            for (apart, got) in apart.iter().zip(&got) {
                // Groups are added otherwise.
                prop_assert!((apart - got).abs() < 1e-5 * got.abs().max(1.0), "{apart} {got}");
            }
            let want = floats(reference::moe_experts(&x, &routed, &weights));
            prop_assert!(got[(tokens - 1) * hidden..].iter().all(|value| *value == 0.0));
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{got} {want}");
            }
        }
    }

    /// Quantised anew between the two products: a sum in another order may take the neighbouring code.
    #[test]
    fn activations_are_quantised_as_by_the_reference() {
        let device = Device::flex();
        for activations in [Activations::PerToken, Activations::PerGroup(32)] {
            let mut inputs = Inputs::new(11, &device);
            let (tokens, hidden, width, count) = (40, 100, 72, 3);
            let mut fp8 = |shape: [usize; 2]| inputs.fp8(shape, shape[1], activations).into();
            let group = ExpertGroup {
                experts: count,
                gate_up: fp8([count * 2 * width, hidden]),
                down: fp8([count * hidden, width]),
            };
            let weights = ExpertWeights::new(vec![group], count);
            let ids: Vec<i32> = (0..tokens * 2).map(|place| (place * 7 % 3) as i32).collect();
            let routed = Routed {
                experts: Tensor::<1, burn::tensor::Int>::from_data(ids.as_slice(), &device)
                    .reshape([tokens, 2]),
                weights: inputs.floats([tokens, 2], 1.0),
                grouped: None,
            };
            let x = inputs.floats([tokens, hidden], 1.0);
            let got = floats(moe_experts(&x, &routed, &weights));
            let want = floats(reference::moe_experts(&x, &routed, &weights));
            let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
            let error = square(&mut got.iter().zip(&want).map(|(got, want)| got - want));
            let size = square(&mut want.iter().copied());
            assert!(error.sqrt() < 5e-3 * size.sqrt(), "{activations:?}: {error} of {size}");
        }
    }
}
