//! Activations on the grid of E4M3, row by row.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};

use super::{Fp8Activations, scale_fp8};
use crate::cpu::{Shared, in_pieces};
use crate::fp8::nearest;
use crate::ops::flex::ROWS;

/// Quantising as Flex has it.
#[backend_extension(Flex)]
pub(crate) trait Quantise: Backend {
    /// `x [tokens, width]` in f32 → values on the grid, `[tokens, width]`, and scales `[tokens,
    /// ⌈width / group⌉]`.
    fn to_grid_of_fp8(x: FloatTensor<Self>, group: usize)
    -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl Quantise for Flex {
    fn to_grid_of_fp8(
        x: FloatTensor<Self>,
        group: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let x = x.to_contiguous();
        let [tokens, width] = x.layout().shape().dims();
        let mut values = x.as_slice::<f32>().expect("contiguous").to_vec();
        let scales = rows_to_grid(&mut values, width, group);
        let groups = width.div_ceil(group);
        (
            FloatTensor::<Flex>::from_data(TensorData::new(values, [tokens, width])),
            FloatTensor::<Flex>::from_data(TensorData::new(scales, [tokens, groups])),
        )
    }
}

pub(super) fn quantise_fp8(x: Tensor<2>, group: usize) -> Fp8Activations {
    let (values, scales) = Dispatch::to_grid_of_fp8(x.into_dispatch(), group);
    let [values, scales] = [values, scales].map(Tensor::from_dispatch);
    Fp8Activations { values, scales, group }
}

/// Puts rows on the grid, with a scale for each group of columns, and returns the scales: `[rows, width]`
/// → `[rows, ⌈width / group⌉]`.
pub(crate) fn rows_to_grid(values: &mut [f32], width: usize, group: usize) -> Vec<f32> {
    let (rows, groups) = (values.len() / width, width.div_ceil(group));
    let mut scales = vec![0.0; rows * groups];
    let (to_values, to_scales) = (Shared::new(values), Shared::new(&mut scales));
    in_pieces(rows.div_ceil(ROWS), rows > 2 * ROWS, |piece| {
        for row in piece * ROWS..rows.min((piece + 1) * ROWS) {
            // SAFETY: each piece has rows of its own.
            let (values, scales) = unsafe {
                (to_values.part(row * width, width), to_scales.part(row * groups, groups))
            };
            for (values, scale) in values.chunks_mut(group).zip(scales) {
                *scale = to_grid(values);
            }
        }
    });
    scales
}

/// Divides values by a scale that they share, puts them on the grid and returns the scale.
fn to_grid(values: &mut [f32]) -> f32 {
    let largest = values.iter().fold(0f32, |largest, value| match value.abs() > largest {
        true => value.abs(),
        false => largest,
    });
    let scale = scale_fp8(largest);
    for value in values {
        *value = nearest(*value / scale);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp8;
    use crate::ops::quantise_fp8::reference;

    /// Every code, the middle of every two neighbours, and what lies just beside it.
    #[test]
    fn the_nearest_value_is_that_of_the_nearest_code() {
        let mut values = vec![500.0, f32::MAX, f32::INFINITY, 448.0, 1e-10, 0.0];
        for code in 0..0x7e_u8 {
            let middle = (fp8::decode(code) + fp8::decode(code + 1)) / 2.0;
            values.extend([fp8::decode(code), middle, middle.next_down(), middle.next_up()]);
        }
        for value in values.into_iter().flat_map(|value| [value, -value]) {
            let want = fp8::decode(fp8::encode(value));
            assert_eq!(nearest(value).to_bits(), want.to_bits(), "{value}");
        }
        assert!(nearest(f32::NAN).is_nan());
    }

    #[test]
    fn tokens_and_groups_are_those_of_the_reference() {
        let device = burn::tensor::Device::flex();
        let mut inputs = crate::ops::case::Inputs::new(3, &device);
        let x = inputs.floats([37, 300], 3.0);
        for group in [300, 128] {
            let got = quantise_fp8(x.clone(), group);
            let want = reference::quantise_fp8(x.clone(), group);
            for [got, want] in [[got.values, want.values], [got.scales, want.scales]] {
                let floats = |it: Tensor<2>| it.into_data().try_into_vec_as::<f32>().unwrap();
                assert_eq!(floats(got), floats(want), "{group}");
            }
        }
    }
}
