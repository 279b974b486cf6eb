//! Norms on the CPU, in one pass over a row.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};

use crate::cpu::{Isa, Shared, in_pieces, math};
use crate::ops::flex::{ROWS, shape_of};

/// Norms as Flex has them.
#[backend_extension(Flex)]
pub(crate) trait RmsNorm: Backend {
    /// `x [.., width]` and `weight [width]` in f32 → `[.., width]`.
    fn norm_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    /// The sum of `x` and `added`, and its norm.
    fn add_and_norm_rows(
        x: FloatTensor<Self>,
        added: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl RmsNorm for Flex {
    fn norm_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let weight: &[f32] = weight.as_slice().expect("contiguous");
        let out = normed(x.as_slice().expect("contiguous"), weight, eps);
        FloatTensor::<Flex>::from_data(TensorData::new(out, shape_of(&x)))
    }

    fn add_and_norm_rows(
        x: FloatTensor<Self>,
        added: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, added, weight) = (x.to_contiguous(), added.to_contiguous(), weight.to_contiguous());
        let weight: &[f32] = weight.as_slice().expect("contiguous");
        let mut sum = x.as_slice::<f32>().expect("contiguous").to_vec();
        let added = added.as_slice::<f32>().expect("contiguous");
        math::add_scaled(Isa::current(), &mut sum, added, 1.0);
        let out = normed(&sum, weight, eps);
        let of = |values| FloatTensor::<Flex>::from_data(TensorData::new(values, shape_of(&x)));
        (of(sum), of(out))
    }
}

fn normed(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let (width, isa) = (weight.len(), Isa::current());
    let mut out = vec![0.0; x.len()];
    let rows = x.len() / width;
    let shared = Shared::new(&mut out);
    in_pieces(rows.div_ceil(ROWS), rows > 2 * ROWS, |piece| {
        for row in piece * ROWS..rows.min((piece + 1) * ROWS) {
            let x = &x[row * width..][..width];
            // SAFETY: each piece has rows of its own.
            let into = unsafe { shared.part(row * width, width) };
            math::rms_norm(isa, x, weight, eps, into);
        }
    });
    out
}

pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::norm_rows(x, weight, eps as f32))
}

pub(super) fn add_rms_norm(
    x: Tensor<2>,
    added: Tensor<2>,
    weight: Tensor<1>,
    eps: f64,
) -> (Tensor<2>, Tensor<2>) {
    let [x, added] = [x, added].map(Tensor::into_dispatch);
    let (sum, normed) = Dispatch::add_and_norm_rows(x, added, weight.into_dispatch(), eps as f32);
    (Tensor::from_dispatch(sum), Tensor::from_dispatch(normed))
}
