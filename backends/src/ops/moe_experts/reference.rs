use burn::tensor::{DType, IndexingUpdateOp, Tensor, TensorData};

use super::ExpertWeights;
use crate::ops::{Routed, linear, swiglu};

/// Reads the chosen ids to the host and runs one small network per expert that was chosen.
pub(super) fn moe_experts(x: &Tensor<2>, routed: &Routed, weights: &ExpertWeights) -> Tensor<2> {
    let device = x.device();
    let dtype = x.dtype();
    let [_, choices] = routed.experts.dims();
    let flat_weights = routed.weights.clone().reshape([-1, 1]);
    let mut sum = x.clone().cast(DType::F32).zeros_like();

    for (expert, places) in places_by_expert(routed, weights.count()).into_iter().enumerate() {
        if places.is_empty() {
            continue;
        }
        let index = |values: Vec<i32>| {
            let count = values.len();
            Tensor::<1, burn::tensor::Int>::from_data(TensorData::new(values, [count]), &device)
        };
        let tokens = index(places.iter().map(|place| (place / choices) as i32).collect());
        let places = index(places.into_iter().map(|place| place as i32).collect());

        let (gate_up, down) = weights.expert(expert);
        let halves = linear(x.clone().select(0, tokens.clone()), &gate_up, None).chunk(2, 1);
        let [gate, up]: [Tensor<2>; 2] = halves.try_into().expect("an even number of rows");
        let y = linear(swiglu(gate, up), &down, None).cast(DType::F32);
        let y = y * flat_weights.clone().select(0, places);
        sum = sum.select_assign(0, tokens, y, IndexingUpdateOp::Add);
    }
    sum.cast(dtype)
}

/// Places in the flattened `[tokens, choices]` table that chose each expert.
fn places_by_expert(routed: &Routed, experts: usize) -> Vec<Vec<usize>> {
    let ids = routed.experts.to_data().try_to_vec_as::<i64>().expect("expert ids are integers");
    let mut places = vec![Vec::new(); experts];
    for (place, id) in ids.into_iter().enumerate() {
        // A padded token names the first id past the experts.
        if let Some(list) = places.get_mut(id as usize) {
            list.push(place);
        }
    }
    places
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::super::ExpertGroup;
    use super::*;
    use crate::weight::Weight;

    /// One hidden value, width one: expert e computes silu(x) * x * (e + 1).
    #[test]
    fn groups_padding_and_weights_add_up() {
        let device = Device::flex();
        let group = |ids: std::ops::Range<i32>| ExpertGroup {
            experts: ids.len(),
            gate_up: Weight::Dense(Tensor::ones([2 * ids.len(), 1], &device)),
            down: Weight::Dense(
                Tensor::<1>::from_data(
                    ids.map(|id| id as f32 + 1.0).collect::<Vec<_>>().as_slice(),
                    &device,
                )
                .reshape([-1, 1]),
            ),
        };
        let weights = ExpertWeights::new(vec![group(0..2), group(2..3)], 2);
        let routed = Routed {
            experts: Tensor::from_data([[2, 0], [1, 2], [3, 3]], &device),
            weights: Tensor::from_data([[1.0, 10.0], [0.5, 0.0], [1.0, 1.0]], &device),
            grouped: None,
        };
        let x = Tensor::from_data([[1.0], [2.0], [3.0]], &device);
        let got = moe_experts(&x, &routed, &weights).to_data().try_to_vec_as::<f32>().unwrap();
        let silu = |x: f32| x / (1.0 + (-x).exp());
        let want = [silu(1.0) * 13.0, 2.0 * silu(2.0), 0.0];
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}
