use burn::tensor::{Int, Tensor};
use glm_backends::ops;

use crate::weights::{LoadError, Weights};

/// Token embedding, `[vocab_size, hidden]`.
#[derive(Debug)]
pub(crate) struct Embedding {
    table: Tensor<2>,
}

impl Embedding {
    pub(crate) fn load(w: &Weights<'_>, shape: [usize; 2]) -> Result<Self, LoadError> {
        Ok(Self { table: w.tensor("weight", shape)? })
    }

    /// `token_ids [tokens]` → `[tokens, hidden]`
    pub(crate) fn forward(&self, token_ids: Tensor<1, Int>) -> Tensor<2> {
        ops::embedding(self.table.clone(), token_ids)
    }

    /// The table, for a head that is tied to it.
    pub(crate) fn table(&self) -> Tensor<2> {
        self.table.clone()
    }
}
