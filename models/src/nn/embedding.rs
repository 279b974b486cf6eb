use burn::tensor::{DType, Int, Tensor};
use glm_backends::ops;

use crate::weights::{LoadError, Weights};

/// Token embedding, `[vocab_size, hidden]`.
#[derive(Debug)]
pub(crate) struct Embedding {
    table: Tensor<2>,
    /// Of activations.
    dtype: DType,
}

impl Embedding {
    pub(crate) fn load(w: &Weights<'_>, shape: [usize; 2]) -> Result<Self, LoadError> {
        Ok(Self { table: w.table("weight", shape)?, dtype: w.dtype() })
    }

    /// `token_ids [tokens]` → `[tokens, hidden]`
    pub(crate) fn forward(&self, token_ids: Tensor<1, Int>) -> Tensor<2> {
        ops::embedding(self.table.clone(), token_ids).cast(self.dtype)
    }

    /// The table, for a head that is tied to it.
    pub(crate) fn table(&self) -> Tensor<2> {
        self.table.clone()
    }
}
