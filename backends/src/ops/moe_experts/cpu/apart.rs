//! Experts whose matrices lie apart.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::Tensor;

use super::super::ExpertMatrices;
use crate::cpu::Matrix;
use crate::ops::flex::{HeldWeight, WeightForm, held};
use crate::weight::Weight;

/// The matrices of each expert where they lie.
#[derive(Debug, Clone)]
pub(crate) struct Apart(Arc<Held>);

#[derive(Debug)]
struct Held {
    experts: Vec<ExpertMatrices>,
    /// Gate and up of each expert, as Flex has them.
    gate_up: Vec<HeldWeight<Flex>>,
    down: Vec<HeldWeight<Flex>>,
    forms: [WeightForm; 2],
}

impl Apart {
    pub(in crate::ops::moe_experts) fn new(experts: Vec<ExpertMatrices>) -> Self {
        let kind = |it: &ExpertMatrices| {
            [&it.gate, &it.up, &it.down].map(|matrix| (matrix.dims(), matrix.dtype()))
        };
        let first = experts.first().expect("an expert");
        let [([width, hidden], dtype), ..] = kind(first);
        let wanted = [[width, hidden], [width, hidden], [hidden, width]].map(|dims| (dims, dtype));
        assert!(experts.iter().all(|it| kind(it) == wanted), "equal experts: {wanted:?}");
        let form = |matrix: &Tensor<2>| WeightForm::of(&Weight::Dense(matrix.clone()));
        Apart(Arc::new(Held {
            gate_up: experts.iter().flat_map(|it| [held(&it.gate), held(&it.up)]).collect(),
            down: experts.iter().map(|it| held(&it.down)).collect(),
            forms: [form(&first.gate), form(&first.down)],
            experts,
        }))
    }

    pub(super) fn count(&self) -> usize {
        self.0.experts.len()
    }

    pub(super) fn forms(&self) -> [WeightForm; 2] {
        self.0.forms
    }

    /// Gate-up and down of all.
    pub(super) fn stacks(&self) -> [Stack<'_>; 2] {
        let [gate_up, down] = &self.0.forms;
        [(&self.0.gate_up, gate_up), (&self.0.down, down)].map(|(held, form)| Stack {
            parts: held.iter().map(|held| held.matrix(form)).collect(),
        })
    }

    /// Gate-up and down of one, in a buffer of their own.
    pub(in crate::ops::moe_experts) fn expert(&self, id: usize) -> (Weight, Weight) {
        let ExpertMatrices { gate, up, down } = self.0.experts[id].clone();
        (Weight::Dense(Tensor::cat(vec![gate, up], 0)), Weight::Dense(down))
    }
}

/// Rows of matrices of equal shapes, one below the other.
pub(super) struct Stack<'a> {
    parts: Vec<Matrix<'a>>,
}

impl<'a> Stack<'a> {
    pub(super) fn one(matrix: Matrix<'a>) -> Self {
        Stack { parts: vec![matrix] }
    }

    pub(super) fn first(&self) -> &Matrix<'a> {
        &self.parts[0]
    }

    /// Some of the rows, which one matrix has.
    pub(super) fn part(&self, rows: Range<usize>) -> Matrix<'a> {
        let of_part = self.first().rows();
        let first = rows.start % of_part;
        self.parts[rows.start / of_part].part(first..first + rows.len())
    }
}
