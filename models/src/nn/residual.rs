use burn::tensor::Tensor;
use glm_backends::ops::Normed;

use super::RmsNorm;

/// The residual stream: a sum, and what was not added to it yet, because the next norm adds it on
/// the way.
#[derive(Debug)]
pub(crate) struct Residual {
    sum: Tensor<2>,
    pending: Option<Tensor<2>>,
}

impl Residual {
    /// A stream that begins with `x [tokens, hidden]`.
    pub(crate) fn new(x: Tensor<2>) -> Self {
        Residual { sum: x, pending: None }
    }

    /// Adds `y [tokens, hidden]`.
    pub(crate) fn add(&mut self, y: Tensor<2>) {
        self.sum = self.total();
        self.pending = Some(y);
    }

    /// The norm of the sum, `[tokens, hidden]`.
    pub(crate) fn norm(&mut self, norm: &RmsNorm) -> Tensor<2> {
        match self.pending.take() {
            None => norm.forward(self.sum.clone()),
            Some(added) => {
                let (sum, normed) = norm.forward_added(self.sum.clone(), added);
                self.sum = sum;
                normed
            }
        }
    }

    /// What `product` makes of the norm of the sum: it returns the sum too.
    pub(crate) fn project(
        &mut self,
        norm: &RmsNorm,
        product: impl FnOnce(Normed<'_>) -> (Tensor<2>, Tensor<2>),
    ) -> Tensor<2> {
        let input = Normed { x: self.sum.clone(), added: self.pending.take(), norm: norm.op() };
        let (sum, y) = product(input);
        self.sum = sum;
        y
    }

    /// The sum, `[tokens, hidden]`.
    pub(crate) fn total(&self) -> Tensor<2> {
        match &self.pending {
            None => self.sum.clone(),
            Some(added) => self.sum.clone() + added.clone(),
        }
    }
}
