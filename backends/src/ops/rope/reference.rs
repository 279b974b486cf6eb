use burn::tensor::{DType, Tensor, s};

use super::{RopeOrder, Rotation};

pub(super) fn rope(x: Tensor<3>, rotation: &Rotation) -> Tensor<3> {
    let [tokens, heads, head_dim] = x.dims();
    let (cos, sin) = rotation.gathered();
    let [_, pairs] = cos.dims();
    let dtype = x.dtype();
    let cos = cos.unsqueeze_dim::<3>(1);
    let sin = sin.unsqueeze_dim::<3>(1);

    let wide = x.clone().slice(s![.., .., 0..2 * pairs]).cast(DType::F32);
    // Both values of a pair differ only in this axis.
    let (split, axis) = match rotation.order {
        RopeOrder::HalfSplit => ([tokens, heads, 2, pairs], 2),
        RopeOrder::Interleaved => ([tokens, heads, pairs, 2], 3),
    };
    let wide = wide.reshape(split);
    let half = |index| wide.clone().narrow(axis, index, 1).reshape([tokens, heads, pairs]);
    let (first, second) = (half(0), half(1));
    let rotated = vec![
        first.clone() * cos.clone() - second.clone() * sin.clone(),
        second * cos + first * sin,
    ];
    let rotated: Tensor<4> = Tensor::stack(rotated, axis);
    let rotated = rotated.reshape([tokens, heads, 2 * pairs]).cast(dtype);
    match head_dim > 2 * pairs {
        true => Tensor::cat(vec![rotated, x.slice(s![.., .., 2 * pairs..])], 2),
        false => rotated,
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::super::RotaryTable;
    use super::*;

    /// Position 1, theta 10000, four rotated values of six: angles 1 and 0.01.
    #[test]
    fn rotates_pairs_in_place_and_passes_the_rest() {
        let device = Device::flex();
        let (s, c) = 1f32.sin_cos();
        let (s2, c2) = 0.01f32.sin_cos();
        for (order, want) in [
            (
                RopeOrder::HalfSplit,
                [c - 3.0 * s, 2.0 * c2 - 4.0 * s2, 3.0 * c + s, 4.0 * c2 + 2.0 * s2, 5.0, 6.0],
            ),
            (
                RopeOrder::Interleaved,
                [c - 2.0 * s, 2.0 * c + s, 3.0 * c2 - 4.0 * s2, 4.0 * c2 + 3.0 * s2, 5.0, 6.0],
            ),
        ] {
            let table = RotaryTable::new(4, 4, 10_000.0, order, &device);
            let x = Tensor::<3>::from_data([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]], &device);
            let rotation = table.at(Tensor::from_data([1], &device));
            let got = rope(x, &rotation).to_data().try_to_vec_as::<f32>().unwrap();
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-6, "{order:?}: {got} {want}");
            }
        }
    }
}
