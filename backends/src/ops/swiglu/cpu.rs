//! The gate on the CPU, in one pass.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};

use crate::cpu::{Isa, Shared, in_pieces, math};
use crate::ops::flex::ROWS;

/// The gate as Flex has it.
#[backend_extension(Flex)]
pub(crate) trait Swiglu: Backend {
    /// `x [tokens, 2 * width]` in f32, gates first → `[tokens, width]`.
    fn gate_halves(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Swiglu for Flex {
    fn gate_halves(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, isa) = (x.to_contiguous(), Isa::current());
        let [tokens, both] = x.layout().shape().dims();
        let values: &[f32] = x.as_slice().expect("contiguous");
        let width = both / 2;
        let mut out = vec![0.0; tokens * width];
        let shared = Shared::new(&mut out);
        in_pieces(tokens.div_ceil(ROWS), tokens > 2 * ROWS, |piece| {
            for token in piece * ROWS..tokens.min((piece + 1) * ROWS) {
                let (gate, up) = values[token * both..][..both].split_at(width);
                // SAFETY: each piece has tokens of its own.
                let out = unsafe { shared.part(token * width, width) };
                out.copy_from_slice(up);
                math::swiglu(isa, gate, out);
            }
        });
        FloatTensor::<Flex>::from_data(TensorData::new(out, [tokens, width]))
    }
}

pub(super) fn swiglu_joint(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::gate_halves(x.into_dispatch()))
}
