use burn::tensor::{DType, Tensor, s};

use super::Rotation;

pub(super) fn rope(x: Tensor<3>, rotation: &Rotation) -> Tensor<3> {
    let [_, _, head_dim] = x.dims();
    let [_, pairs] = rotation.cos.dims();
    let dtype = x.dtype();
    let cos = rotation.cos.clone().unsqueeze_dim::<3>(1);
    let sin = rotation.sin.clone().unsqueeze_dim::<3>(1);

    let first = x.clone().slice(s![.., .., 0..pairs]).cast(DType::F32);
    let second = x.clone().slice(s![.., .., pairs..2 * pairs]).cast(DType::F32);
    let mut parts = vec![
        (first.clone() * cos.clone() - second.clone() * sin.clone()).cast(dtype),
        (second * cos + first * sin).cast(dtype),
    ];
    if head_dim > 2 * pairs {
        parts.push(x.slice(s![.., .., 2 * pairs..]));
    }
    Tensor::cat(parts, 2)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::super::RotaryTable;
    use super::*;

    /// Position 1, theta 10000, four rotated values of six: angles 1 and 0.01.
    #[test]
    fn rotates_pairs_half_a_width_apart_and_passes_the_rest() {
        let device = Device::flex();
        let table = RotaryTable::new(4, 4, 10_000.0, &device);
        let x = Tensor::<3>::from_data([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]], &device);
        let rotation = table.at(Tensor::from_data([1], &device));
        let got = rope(x, &rotation).to_data().try_to_vec_as::<f32>().unwrap();
        let (s, c) = 1f32.sin_cos();
        let (s2, c2) = 0.01f32.sin_cos();
        let want = [c - 3.0 * s, 2.0 * c2 - 4.0 * s2, 3.0 * c + s, 4.0 * c2 + 2.0 * s2, 5.0, 6.0];
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }
}
