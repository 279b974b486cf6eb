//! Projections on the CPU for steps with few tokens: the weight is read once and in place.
#![expect(unsafe_code, reason = "a prefetch")]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::ops::linear::Tokens;

/// Rows of the weight that one thread takes at a time.
const BLOCK: usize = 96;

/// Projections as Flex has them.
#[backend_extension(Flex)]
pub(crate) trait Project: Backend {
    /// `x [tokens, in]`, `weight [out, in]`, all in f32 → `[tokens, out]`.
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Project for Flex {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let [tokens, width] = x.layout().shape().dims();
        let [rows, _] = weight.layout().shape().dims();
        let out = run(
            x.as_slice().expect("contiguous"),
            weight.as_slice().expect("contiguous"),
            [tokens, rows, width],
        );
        FloatTensor::<Flex>::from_data(TensorData::new(out, [tokens, rows]))
    }
}

/// `x · weightᵀ`, everything in f32.
pub(super) fn project(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::project(x.into_dispatch(), weight.into_dispatch()))
}

fn run(x: &[f32], weight: &[f32], [tokens, rows, width]: [usize; 3]) -> Vec<f32> {
    let x = Tokens::new(x, width);
    if !x.want_threads(rows * width) {
        return x.times(weight);
    }
    let blocks = weight.par_chunks(BLOCK * width).map(|rows| x.times(rows));
    let blocks: Vec<Vec<f32>> = blocks.collect();
    let mut out = vec![0.0; tokens * rows];
    let mut first = 0;
    for block in blocks {
        let count = block.len() / tokens;
        for (token, values) in block.chunks_exact(count).enumerate() {
            out[token * rows + first..][..count].copy_from_slice(values);
        }
        first += count;
    }
    out
}

/// Asks for a value `offset` values after the start of `row`, perhaps past its end, for it is needed
/// soon.
#[inline(always)]
pub(super) fn prefetch(row: &[f32], offset: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = row.as_ptr().wrapping_add(offset).cast();
        // SAFETY: a prefetch changes nothing but caches, and one of any address is without effect
        // at worst.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, offset);
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::ops::case::Inputs;
    use crate::ops::linear::reference;
    use crate::weight::Weight;

    fn floats(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_into_vec_as::<f32>().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_kernel_agrees_with_the_reference(
            (tokens, rows, width) in (1..40_usize, 1..150_usize, 1..300_usize),
            seed: u64,
        ) {
            let mut inputs = Inputs::new(seed, &Device::flex());
            let x = inputs.floats([tokens, width], 1.0);
            let weight = inputs.floats([rows, width], 0.3);
            let got = floats(project(x.clone(), weight.clone()));
            let want = floats(reference::linear(x, &Weight::Dense(weight), None));
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{got} {want}");
            }
        }
    }

    /// By one thread or several, whoever the other tokens are: the same bits.
    #[test]
    fn threads_and_neighbours_do_not_change_a_bit() {
        let mut inputs = Inputs::new(4, &Device::flex());
        let (x, weight) = (inputs.floats([28, 301], 1.0), inputs.floats([1390, 301], 0.3));
        let together = floats(project(x.clone(), weight.clone()));
        for first in [0, 3, 24] {
            let some = floats(project(x.clone().narrow(0, first, 4), weight.clone()));
            assert_eq!(together[first * 1390..(first + 4) * 1390], some);
        }
    }
}
